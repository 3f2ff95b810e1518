"""Transactions, conflicts and snapshots."""

import msadb
import pytest


def test_a_block_commits_everything_together(notes):
    notes.insert("old phone", key="phone")
    with notes.transaction() as change:
        office = change.insert("The office is in Mill Lane.", key="office")
        change.upsert("new phone", key="phone")
        change.insert("temporary", key="t")
        change.delete(key="t")
        assert change.get(office).text == "The office is in Mill Lane."
        assert change.get(key="phone").text == "new phone"
        assert notes.count() == 1 and notes.get(key="phone").text == "old phone"
    assert sorted(document.text for document in notes) == ["The office is in Mill Lane.", "new phone"]
    assert notes.get(office).key == "office"


def test_an_exception_rolls_back(notes):
    with pytest.raises(RuntimeError, match="mind changed"):
        with notes.transaction() as change:
            change.insert("never")
            raise RuntimeError("mind changed")
    assert notes.count() == 0
    with notes.transaction() as change:
        change.insert("never")
        change.rollback()
    assert notes.count() == 0


def test_a_refused_operation_leaves_the_transaction_usable(notes):
    with notes.transaction() as change:
        change.insert("kept", key="k")
        with pytest.raises(msadb.AlreadyExists):
            change.insert("second", key="k")
        with pytest.raises(msadb.NotFound):
            change.delete(99)
        with pytest.raises(msadb.InvalidArgument):
            change.insert("")
    assert [document.text for document in notes] == ["kept"]


def test_the_first_committer_wins(notes):
    notes.insert("start", key="k")
    first, second = notes.transaction(), notes.transaction()
    first.upsert("first", key="k")
    second.upsert("second", key="k")
    second.insert("not stored either")
    first.commit()
    with pytest.raises(msadb.Conflict) as raised:
        second.commit()
    assert raised.value.code == "Conflict" and raised.value.number == 8
    assert [document.text for document in notes] == ["first"]


def test_a_conflict_leaves_the_block(notes):
    notes.insert("start", key="k")
    with pytest.raises(msadb.Conflict):
        with notes.transaction() as change:
            change.upsert("mine", key="k")
            notes.upsert("theirs", key="k")
    assert notes.get(key="k").text == "theirs"


def test_a_transaction_ends_once(notes):
    change = notes.transaction()
    change.insert("once")
    change.commit()
    for call in (change.commit, lambda: change.insert("more")):
        with pytest.raises(msadb.FailedPrecondition):
            call()
    assert notes.count() == 1


def test_a_forgotten_transaction_leaves_nothing(notes):
    change = notes.transaction()
    change.insert("dropped")
    del change
    assert notes.count() == 0


def test_a_snapshot_does_not_change(notes):
    kept = notes.insert("The office is in Harbour Street.", key="office")
    with notes.snapshot() as view:
        notes.upsert("The office is in Mill Lane.", key="office")
        notes.insert("later")
        assert view.name == "default"
        assert view.count() == len(view) == 1
        assert view.get(kept).text == view.get(key="office").text == "The office is in Harbour Street."
        assert [document.id for document in view] == [kept]
        assert [hit.id for hit in view.search("office")] == [kept]
        assert {citation.id for citation in view.ask("Where is the office?").citations} <= {kept}
        assert notes.count() == 2
    with pytest.raises(msadb.Unavailable):
        view.count()


def test_a_snapshot_holds_back_compaction(database, notes):
    notes.insert("secret", key="s")
    with notes.snapshot():
        notes.delete(key="s")
        with pytest.raises(msadb.FailedPrecondition):
            database.compact()
    database.compact()
