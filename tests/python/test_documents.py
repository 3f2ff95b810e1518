"""Storing, reading, listing and deleting documents, and what is refused."""

import datetime
import itertools
import time

import msadb
import pytest

UTC = datetime.timezone.utc


def test_a_document_comes_back_as_it_was_stored(notes):
    before = datetime.datetime.now(UTC)
    metadata = {
        "topic": "house", "year": 2026, "share": 0.25, "public": True, "tags": ["key", "garden"],
        "big": 2**63 - 1, "small": -(2**63),
    }
    id = notes.insert(
        "The spare key is under the blue flowerpot. Größe: 3 m² \U0001f511",
        key="house/key", metadata=metadata, source="Ada",
    )
    stored = notes.get(id)
    assert stored == notes.get(key="house/key")
    assert stored.id == id
    assert stored.text == "The spare key is under the blue flowerpot. Größe: 3 m² \U0001f511"
    assert stored.key == "house/key"
    assert stored.metadata == metadata
    assert {name: type(value) for name, value in stored.metadata.items()} == {
        name: type(value) for name, value in metadata.items()
    }
    assert stored.source == "Ada"
    assert before - datetime.timedelta(seconds=1) <= stored.created_at
    assert stored.created_at.tzinfo is not None
    assert stored.expires_at is None
    [part] = stored.parts
    assert (part.number, part.text_offset, part.text_size) == (id, 0, len(stored.text.encode()))
    assert part.token_count > 0 and part.chunk_count > 0


def test_given_times_are_kept_to_the_microsecond(notes):
    created = datetime.datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
    zone = datetime.timezone(datetime.timedelta(hours=5))
    expires = datetime.datetime(2999, 1, 1, 0, 0, 0, 1, tzinfo=zone)
    stored = notes.get(notes.insert("dated", created_at=created, expires_at=expires))
    assert stored.created_at == created
    assert stored.expires_at == expires


def test_upsert_replaces_under_a_new_id(notes):
    first = notes.upsert("The office is in Harbour Street.", key="office")
    second = notes.upsert("The office is in Mill Lane.", key="office")
    assert second > first
    assert notes.get(key="office").text == "The office is in Mill Lane."
    assert notes.count() == 1
    with pytest.raises(msadb.NotFound):
        notes.get(first)


def test_insert_many_takes_texts_dicts_and_objects_and_skips_known_keys(notes):
    progress = []
    stored = notes.insert_many(
        (document for document in [
            "a text",
            {"text": "a dict", "key": "d", "metadata": {"n": 1}},
            msadb.NewDocument("an object", key="o"),
        ]),
        on_progress=lambda done, total, tokens: progress.append((done, total)),
    )
    assert stored == 3
    assert progress and progress[-1] == (3, 3)
    assert notes.insert_many([{"text": "other", "key": "d"}, {"text": "new", "key": "n"}]) == 1
    assert notes.get(key="d").text == "a dict"
    assert notes.insert_many([{"text": "other", "key": "d"}], replace_existing=True) == 1
    assert notes.get(key="d").text == "other"


def test_insert_many_stops_when_its_callback_says_so_or_raises(notes):
    documents = [{"text": f"number {i}", "key": str(i)} for i in range(300)]
    with pytest.raises(msadb.Cancelled):
        notes.insert_many(documents, on_progress=lambda *_: False)

    def broken(*_):
        raise ZeroDivisionError("from the callback")

    with pytest.raises(ZeroDivisionError, match="from the callback"):
        notes.insert_many(documents, on_progress=broken)
    assert notes.insert_many(documents) < 300  # what was committed stayed
    assert notes.count() == 300


def test_list_is_lazy_and_pages(notes):
    ids = []
    notes.insert_many([{"text": f"number {i}", "metadata": {"even": i % 2 == 0}} for i in range(25)])
    ids = [document.id for document in notes.list(page_size=10)]
    assert ids == sorted(ids) and len(ids) == 25
    assert [document.id for document in notes] == ids
    assert len(notes) == 25
    assert [document.id for document in notes.list(start_after=ids[19])] == ids[20:]
    assert [d.text for d in itertools.islice(notes.list(page_size=1), 2)] == ["number 0", "number 1"]
    assert all(document.text == "" for document in notes.list(include_text=False))
    evens = [document.text for document in notes.list(where={"even": True}, page_size=4)]
    assert evens == [f"number {i}" for i in range(0, 25, 2)]

    page = notes.list_page(limit=20)
    assert [document.id for document in page.documents] == ids[:20]
    assert [d.id for d in notes.list_page(start_after=page.next, limit=20).documents] == ids[20:]
    # Documents that come while one iterates are seen; those that went are not.
    walk = notes.list(page_size=1)
    assert next(walk).id == ids[0]
    notes.delete(ids[1])
    assert next(walk).id == ids[2]


def test_delete_by_id_key_and_filter(notes):
    first = notes.insert("one", metadata={"n": 1})
    notes.insert("two", key="two", metadata={"n": 2})
    notes.insert_many([{"text": "x", "metadata": {"n": 3}}] * 3)
    assert notes.delete(first) == 1
    assert notes.delete(key="two") == 1
    assert notes.delete(where={"n": {"$gte": 3}}) == 3
    assert notes.count() == 0
    assert notes.delete(where={}) == 0
    for which in ({"id": first}, {"key": "two"}):
        with pytest.raises(msadb.NotFound):
            notes.delete(**which)


@pytest.mark.parametrize("where, found", [
    (None, "abcd"),
    ({}, "abcd"),
    ({"topic": "garden"}, "ab"),
    ({"year": {"$gte": 2021, "$lt": 2023}}, "bc"),
    ({"$or": [{"year": 2020}, {"tags": {"$contains": "x"}}]}, "ad"),
    ({"year": {"$in": [2020, 2022]}}, "ac"),
    ({"topic": {"$exists": False}}, "d"),
    ({"$not": {"topic": "garden"}}, "cd"),
    ({"public": True}, "a"),
])
def test_filters(notes, where, found):
    for name, metadata in {
        "a": {"topic": "garden", "year": 2020, "public": True},
        "b": {"topic": "garden", "year": 2021, "public": False},
        "c": {"topic": "house", "year": 2022},
        "d": {"year": 2023, "tags": ["x", "y"]},
    }.items():
        notes.insert(name, metadata=metadata)
    assert "".join(document.text for document in notes.list(where=where)) == found
    assert {hit.text for hit in notes.search("a", where=where)} == set(found)


def test_expired_documents_are_gone(notes):
    now = datetime.datetime.now(UTC)
    past = notes.insert("soon", expires_at=datetime.timedelta(seconds=2), key="k")
    kept = notes.insert("later", expires_at=datetime.timedelta(days=1))
    limit = now + datetime.timedelta(seconds=60)
    while True:
        try:
            notes.get(past)
        except msadb.NotFound:
            break
        assert datetime.datetime.now(UTC) < limit
        time.sleep(0.02)
    assert [document.id for document in notes] == [kept]
    notes.insert("the key is free again", key="k")


def test_collections_are_isolated(database):
    work = database.create_collection("work")
    home = database.collection("home")
    work.insert("at work")
    assert home.count() == 0
    assert sorted(database.list_collections()) == ["home", "work"]
    assert database.open_collection("work").count() == 1
    with pytest.raises(msadb.AlreadyExists):
        database.create_collection("work")
    with pytest.raises(msadb.NotFound):
        database.open_collection("elsewhere")
    database.drop_collection("work")
    assert database.list_collections() == ["home"]
    with pytest.raises(msadb.NotFound):
        work.count()
    with pytest.raises(msadb.NotFound):
        database.drop_collection("work")


def test_statistics(database, notes):
    notes.insert("one text")
    stats = notes.stats()
    assert (stats.name, stats.documents, stats.text_bytes) == ("default", 1, len("one text"))
    whole = database.stats()
    assert [collection.documents for collection in whole.collections] == [1]
    assert whole.disk_bytes > 0


@pytest.mark.parametrize("error, call", [
    (msadb.InvalidArgument, lambda notes: notes.insert("")),
    (msadb.InvalidArgument, lambda notes: notes.insert(" \n")),
    (msadb.InvalidArgument, lambda notes: notes.insert("\ud800 is no character")),
    (msadb.InvalidArgument, lambda notes: notes.insert("x", key="")),
    (msadb.InvalidArgument, lambda notes: notes.insert("x", key="k" * 2000)),
    (msadb.InvalidArgument, lambda notes: notes.insert("x", metadata={"$a": 1})),
    (msadb.InvalidArgument, lambda notes: notes.insert("x", metadata={"a": float("nan")})),
    (msadb.InvalidArgument, lambda notes: notes.insert("x", metadata={"a": 2**63})),
    (msadb.InvalidArgument, lambda notes: notes.insert("x", expires_at=datetime.datetime.now())),
    (msadb.InvalidArgument, lambda notes: notes.list_page(where={"a": {"$near": 1}})),
    (msadb.InvalidArgument, lambda notes: notes.list_page(where={"a": object()})),
    (msadb.InvalidArgument, lambda notes: notes.list_page(where={"a": float("inf")})),
    (msadb.InvalidArgument, lambda notes: notes.list_page(limit=0)),
    (msadb.InvalidArgument, lambda notes: notes.list_page(start_after=-1)),
    (msadb.InvalidArgument, lambda notes: notes.search("")),
    (msadb.InvalidArgument, lambda notes: notes.search("x", top_k=0)),
    (msadb.InvalidArgument, lambda notes: notes.ask("x", temperature=-1)),
    (msadb.InvalidArgument, lambda notes: notes.ask("x", timeout=-1)),
    (msadb.InvalidArgument, lambda notes: notes.ask("x", seed=2**64)),
    (msadb.NotFound, lambda notes: notes.get(12345)),
    (msadb.NotFound, lambda notes: notes.get(key="nobody")),
    (TypeError, lambda notes: notes.insert(b"bytes")),
    (TypeError, lambda notes: notes.insert("x", key=7)),
    (TypeError, lambda notes: notes.insert("x", metadata={"a": None})),
    (TypeError, lambda notes: notes.insert("x", metadata={"a": [1]})),
    (TypeError, lambda notes: notes.insert("x", metadata={1: "a"})),
    (TypeError, lambda notes: notes.insert("x", expires_at="tomorrow")),
    (TypeError, lambda notes: notes.insert_many([17])),
    (TypeError, lambda notes: notes.insert_many([{"txt": "misspelt"}])),
    (TypeError, lambda notes: notes.get()),
    (TypeError, lambda notes: notes.get(1, key="both")),
    (TypeError, lambda notes: notes.get("1")),
    (TypeError, lambda notes: notes.get(True)),
    (TypeError, lambda notes: notes.search(5)),
    (TypeError, lambda notes: notes.ask(None)),
    (TypeError, lambda notes: notes.delete(1, where={})),
])
def test_bad_input_is_refused_and_changes_nothing(notes, error, call):
    notes.insert("kept")
    with pytest.raises(error) as raised:
        call(notes)
    assert str(raised.value)
    if issubclass(error, msadb.Error):
        assert raised.value.code == error.code
        assert str(raised.value) == f"{error.code}: {raised.value.message}"
    assert [document.text for document in notes] == ["kept"]


def test_a_taken_key_is_refused(notes):
    notes.insert("first", key="k")
    with pytest.raises(msadb.AlreadyExists):
        notes.insert("second", key="k")
    assert notes.get(key="k").text == "first"
