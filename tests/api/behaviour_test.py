"""The behaviours of behaviour_test.cc, asked of the Python package: embedded and over the binary port.

Environment: MSADB_SOURCE_DIR; MSADB_TEST_MODEL, a tiny model folder; MSADB_API_SERVER, the program of
serve.cc. PYTHONPATH holds the package. The model is not the one of the C++ tests, so what an answer
says is not looked at here.
"""

import datetime
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import msadb
import pytest

MODEL = os.environ["MSADB_TEST_MODEL"]
UTC = datetime.timezone.utc


class Embedded:
    def __init__(self, folder):
        self.folder, self.database = folder, None

    def stored(self, written_by):
        """What is stored when a caller says that."""
        return written_by

    def open(self, read_only=False):
        self.close()
        self.database = msadb.open(self.folder, model=MODEL, threads=1, durability="buffered",
                                   encode_batch_tokens=64, read_only=read_only)

    def close(self):
        if self.database is not None:
            self.database.close()
        self.database = None


class Remote(Embedded):
    process = None

    def stored(self, written_by):
        return "anyone"  # a server without tokens

    def open(self, read_only=False):
        self.close()
        self.process = subprocess.Popen(
            [os.environ["MSADB_API_SERVER"], self.folder, MODEL, str(int(read_only))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.database = msadb.connect(f"127.0.0.1:{int(self.process.stdout.readline())}")

    def close(self):
        super().close()
        if self.process is not None:
            with self.process as process:
                process.stdin.close()
                assert process.wait(timeout=60) == 0
        self.process = None


@pytest.fixture(params=[Embedded, Remote])
def backend(request, tmp_path):
    opened = request.param(tmp_path / "db")
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def database(backend):
    return backend.database


@pytest.fixture
def notes(database):
    return database.collection("notes")


def ids(reader):
    return [document.id for document in reader]


def refused(error, call, *arguments, **named):
    with pytest.raises(error) as raised:
        call(*arguments, **named)
    assert raised.value.message
    return raised.value


def test_collections_come_and_go(database, notes):
    assert notes.name == "notes"
    refused(msadb.AlreadyExists, database.create_collection, "notes")
    refused(msadb.NotFound, database.open_collection, "others")
    database.create_collection("others")
    others = database.open_collection("others")
    assert sorted(database.list_collections()) == ["notes", "others"]
    for name in ("", "a/b", "a\nb", "x" * 129, ".", "..", "*"):
        for call in (database.create_collection, database.open_collection, database.collection,
                     database.drop_collection):
            refused(msadb.InvalidArgument, call, name)
    others.insert("something")
    database.drop_collection("others")
    refused(msadb.NotFound, database.drop_collection, "others")
    refused(msadb.NotFound, others.count)
    refused(msadb.NotFound, others.insert, "late")
    refused(msadb.NotFound, others.search, "late")


def test_gives_back_everything_that_was_inserted(backend, notes):
    text = "The spare key is under the blue flowerpot.\n\N{SEEDLING}"
    metadata = {"s": "text", "empty": "", "i": -2**63, "d": 0.1, "whole": 1.0, "b": True,
                "l": ["x", "", "y"], "none": []}
    expires = datetime.datetime(2099, 1, 1, microsecond=1, tzinfo=UTC)
    created = datetime.datetime(1970, 1, 1, microsecond=3, tzinfo=UTC)
    number = notes.upsert(text, key="key 1", metadata=metadata, source="a test", expires_at=expires,
                          created_at=created)
    for _ in range(2):
        for out in (notes.get(number), notes.get(key="key 1")):
            assert (out.id, out.text, out.key, out.source) == (number, text, "key 1", "a test")
            assert out.metadata == metadata
            assert {name: type(value) for name, value in out.metadata.items()} == {
                name: type(value) for name, value in metadata.items()}
            assert (out.expires_at, out.created_at) == (expires, created)
            assert out.parts[0].number == number
            assert sum(part.text_size for part in out.parts) == len(text.encode())
            assert all(part.token_count > 0 and part.chunk_count > 0 for part in out.parts)
        backend.open()
        notes = backend.database.open_collection("notes")
    refused(msadb.InvalidArgument, notes.insert, "text", key="")
    plain = notes.get(notes.insert("text"))
    assert plain.key is None and plain.expires_at is None and plain.metadata == {}


def test_bad_input_has_its_code_and_changes_nothing(notes):
    def refuses(text, **fields):
        refused(msadb.InvalidArgument, notes.insert, text, **fields)
        refused(msadb.InvalidArgument, notes.insert_many, [{"text": text, **fields}])
        with notes.transaction() as change:
            refused(msadb.InvalidArgument, change.insert, text, **fields)

    refuses("")
    refuses("  \n")
    refuses("bad \udcff utf-8")
    refuses("text", key="bad \udcc3 key")
    refuses("text", key="k" * 1025)
    refuses("text", metadata={"$where": "x"})
    refuses("text", metadata={"": "x"})
    refuses("text", metadata={"x": float("nan")})
    refuses("text", metadata={"x": "\udcff"})
    early = datetime.datetime(1969, 12, 31, tzinfo=UTC)
    refuses("text", created_at=early)
    refuses("text", expires_at=early)
    refuses("text", expires_at=datetime.datetime(1970, 1, 1, microsecond=1, tzinfo=UTC))
    refused(msadb.InvalidArgument, notes.upsert, "no key", key="")
    refused(msadb.NotFound, notes.get, 1)
    refused(msadb.InvalidArgument, notes.get, 0)
    refused(msadb.NotFound, notes.get, key="none")
    refused(msadb.InvalidArgument, notes.get, key="")
    refused(msadb.NotFound, notes.delete, 7)
    refused(msadb.NotFound, notes.delete, key="none")
    for limit in (0, 10_001, 2**64 - 1):
        refused(msadb.InvalidArgument, notes.list_page, limit=limit)
    for top_k in (0, 1001, 2**64 - 1):
        refused(msadb.InvalidArgument, notes.search, "x", top_k=top_k)
    refused(msadb.InvalidArgument, notes.search, "")
    refused(msadb.InvalidArgument, notes.search, "\udcff")
    refused(msadb.InvalidArgument, notes.ask, "")
    refused(msadb.InvalidArgument, notes.ask, "x", rounds_max=-1)
    refused(msadb.InvalidArgument, notes.ask, "x", answer_tokens_max=-1)
    refused(msadb.InvalidArgument, notes.ask, "x", temperature=-1.0)
    refused(msadb.InvalidArgument, notes.ask, "x", top_p=2.0)
    assert notes.count() == 0


def test_limits_are_those_of_the_database(notes):
    # The package has no setting for them, so they are the defaults.
    notes.insert("text", key="k" * 1024, source="s" * 1024)
    refused(msadb.InvalidArgument, notes.insert, "text", key="k" * 1025)
    refused(msadb.InvalidArgument, notes.insert, "text", source="s" * 1025)
    error = refused(msadb.InvalidArgument, notes.insert_many,
                    ["good", {"text": "text", "source": "s" * 1025}])
    assert "document 1" in error.message
    refused(msadb.InvalidArgument, notes.search, "a" * (256 * 1024 + 1))
    assert notes.count() == 1
    refused(msadb.InvalidArgument, notes.insert, "a" * (40 << 20))
    assert notes.count() == 1


def test_upsert_replaces_and_delete_removes(notes):
    first = notes.upsert("version one", key="k")
    refused(msadb.AlreadyExists, notes.insert, "version two", key="k")
    second = notes.upsert("version two", key="k")
    assert second > first
    refused(msadb.NotFound, notes.get, first)
    assert notes.get(key="k").text == "version two"
    third = notes.insert("another")
    notes.delete(key="k")
    refused(msadb.NotFound, notes.get, key="k")
    assert ids(notes) == [third]
    notes.delete(third)
    refused(msadb.NotFound, notes.delete, third)
    assert ids(notes) == []


def test_lists_in_pages(notes):
    documents = [{"text": f"page {i} " + "word " * (40 if i % 9 == 3 else 2),
                  "metadata": {"third": i % 3 == 0, "n": i}} for i in range(60)]
    assert notes.insert_many(documents) == 60
    everything = ids(notes.list_page(limit=1000).documents)
    assert len(everything) == 60 and everything == sorted(everything)
    for limit in (1, 7, 16, 17, 59, 60, 10_000):
        seen, position = [], 0
        while position is not None:
            page = notes.list_page(start_after=position, limit=limit)
            assert len(page.documents) == limit or page.next is None
            seen += ids(page.documents)
            position = page.next
        assert seen == everything == ids(notes.list(page_size=limit)), limit
    page = notes.list_page(where={"third": True}, include_text=False, limit=25)
    assert len(page.documents) == 20
    assert all(document.text == "" and document.metadata["third"] for document in page.documents)


def test_every_way_to_a_document_tells_its_provenance(backend, notes):
    when = [datetime.datetime(2026, 11, 22, hour, tzinfo=UTC) for hour in range(6)]
    with notes.transaction() as change:
        change.insert("one red box", source="chat", created_at=when[0], written_by="ada")
        change.upsert("two red boxes", key="two", source="chat", created_at=when[1])
    notes.insert("three red boxes", source="diary", created_at=when[2], written_by="agent")
    notes.upsert("four red boxes", key="four", source="diary", created_at=when[3], written_by="ada")
    notes.insert_many([
        msadb.NewDocument("five red boxes", source="list", created_at=when[4], written_by="agent"),
        {"text": "six red boxes", "source": "list", "created_at": when[5], "written_by": "ada"}])
    said = ["ada", "", "agent", "ada", "agent", "ada"]
    expected = [(backend.stored(name), source, time) for name, source, time in
                zip(said, ["chat"] * 2 + ["diary"] * 2 + ["list"] * 2, when)]

    def provenance(item):
        return item.written_by, item.source, item.created_at

    everything = list(notes)
    assert [provenance(document) for document in everything] == expected
    assert [provenance(notes.get(document.id)) for document in everything] == expected
    assert provenance(notes.get(key="four")) == expected[3]
    known = {document.id: provenance(document) for document in everything}
    hits = notes.search("red box", top_k=10)
    assert len(hits) == 6 and all(known[hit.id] == provenance(hit) for hit in hits)
    for citation in notes.ask("which box", answer_tokens_max=16).citations:
        assert known[citation.id] == provenance(citation)

    for where, wanted in [
            ({"$written_by": backend.stored("ada")},
             [i for i in range(6) if expected[i][0] == backend.stored("ada")]),
            ({"$source": {"$in": ["chat", "list"]}}, [0, 1, 4, 5]),
            ({"$created_at": {"$gte": "2026-11-22T02:00:00Z", "$lt": when[4]}}, [2, 3]),
            ({"$source": "diary", "$created_at": {"$gt": when[2]}}, [3])]:
        assert [provenance(d) for d in notes.list(where=where)] == [expected[i] for i in wanted]
        assert {hit.id for hit in notes.search("red box", top_k=10, where=where)} == {
            everything[i].id for i in wanted}
    assert notes.delete(where={"$source": "chat"}) == 2
    assert notes.delete(where={"$written_by": backend.stored("ada"), "$created_at": when[5]}) == 1
    assert len(notes) == 3
    assert notes.delete(where={"$written_by": {"$ne": "nobody"}}) == 3
    for bad in ({"$created_at": "noon"}, {"$created_at": datetime.datetime(2026, 1, 1)},
                {"$writer": "x"}, {"n": object()}):
        refused(msadb.InvalidArgument, notes.list_page, where=bad)


def test_large_documents_travel(notes):
    text = "".join(f"word{i % 97}. " for i in range(30_000))
    metadata = {f"name{i}": "v" * 100 for i in range(250)}
    number = notes.insert(text, key="large", metadata=metadata)
    out = notes.get(number)
    assert out.text == text and out.metadata == metadata and len(out.parts) > 1
    assert [document.text for document in notes] == [text]


def test_searches_and_asks(notes):
    pot = notes.insert("spare key under the flowerpot")
    milk = notes.insert("milk eggs bread")
    train = notes.insert("train leaves at noon", key="train", metadata={"kind": "plan"})
    stored = {document.id: document for document in notes}
    hits = notes.search("when train leaves")
    assert sorted(hit.id for hit in hits) == [pot, milk, train]
    for hit in hits:
        document = stored[hit.id]
        assert (hit.part, hit.text, hit.key, hit.metadata) == (
            document.id, document.text, document.key, document.metadata)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    bare, = notes.search("when train leaves", top_k=1, include_text=False)
    assert (bare.id, bare.score, bare.text) == (hits[0].id, hits[0].score, "")
    others = notes.search("when train leaves", where={"kind": {"$ne": "plan"}})
    assert sorted(hit.id for hit in others) == [pot, milk]

    question = "where is the spare key"
    with notes.ask(question, stream=True, trace=True, answer_tokens_max=16) as pieces:
        streamed = "".join(pieces)
        answer = pieces.answer
    assert streamed == answer.text == notes.ask(question, answer_tokens_max=16).text
    assert answer.generated_tokens > 0
    for citation in answer.citations:
        assert citation.text == stored[citation.id].text
    assert answer.trace and answer.trace[0].layers
    assert {routed.number for layer in answer.trace[0].layers
            for routed in layer.documents} <= set(stored)

    limited = notes.ask(question, where={"kind": "plan"}, answer_tokens_max=16)
    assert limited.trace == ()
    assert {citation.id for citation in limited.citations} <= {train}


def test_answers_from_an_empty_memory(notes):
    answer = notes.ask("anything?", answer_tokens_max=8)
    assert answer.citations == ()
    assert notes.search("anything?") == []


def test_ask_stops_when_asked(notes):
    notes.insert("some text")
    refused(msadb.DeadlineExceeded, notes.ask, "text", timeout=0)
    token = msadb.CancelToken()
    token.cancel()
    refused(msadb.Cancelled, notes.ask, "text", cancel=token)
    with notes.ask("text", stream=True, answer_tokens_max=2048) as pieces:
        pieces.cancel()
        refused(msadb.Cancelled, list, pieces)
    notes.ask("text", answer_tokens_max=4)


def test_insert_many_reports_and_skips(database, notes):
    documents = [{"text": "word " * 10, "key": f"k{i}"} for i in range(40)]
    reports = []
    assert notes.insert_many(documents, on_progress=lambda *report: reports.append(report)) == 40
    assert len(reports) > 1 and reports[-1][0] == 40
    assert {total for _, total, _ in reports} == {40}
    for before, after in zip(reports, reports[1:]):
        assert after[0] > before[0] and after[2] > before[2]
    assert notes.insert_many(documents) == 0
    assert notes.insert_many(documents, replace_existing=True) == 40
    assert notes.count() == 40
    assert notes.insert_many([]) == 0
    others = database.create_collection("others")
    error = refused(msadb.Cancelled, others.insert_many, documents, on_progress=lambda *_: False)
    committed = others.count()
    assert committed > 0 and f"({committed} of 40" in error.message


def test_insert_many_spans_many_messages(notes):
    # 2000 tables are the most of one message; here are 3000.
    documents = [{"text": f"document number {i}", "metadata": {f"m{j}": j for j in range(9)}}
                 for i in range(300)]
    assert notes.insert_many(documents) == len(documents)
    page = notes.list_page(limit=10_000)
    assert [document.text for document in page.documents] == [
        document["text"] for document in documents]


def test_deletes_what_a_filter_matches(notes):
    for i in range(10):
        notes.insert("text", metadata={"n": i})
    assert notes.delete(where={"n": {"$gte": 4}}) == 6
    assert notes.delete(where={"n": {"$gte": 4}}) == 0
    assert notes.delete(where={}) == 4


def test_expired_documents_are_gone(notes):
    expires = datetime.datetime.now(UTC) + datetime.timedelta(milliseconds=500)
    number = notes.insert("for a moment", key="soon", expires_at=expires)
    while True:
        try:
            notes.get(number)
        except msadb.NotFound:
            break
        time.sleep(0.005)
    assert datetime.datetime.now(UTC) >= expires
    refused(msadb.NotFound, notes.get, key="soon")
    assert ids(notes) == [] and notes.search("for a moment") == []
    notes.insert("another", key="soon")


def test_transactions_are_whole_or_nothing(notes):
    old = notes.insert("old text", key="k")
    change = notes.transaction()
    added = change.insert("added")
    change.upsert("new text", key="k")
    refused(msadb.AlreadyExists, change.insert, "again", key="k")
    refused(msadb.NotFound, change.delete, 999)
    refused(msadb.NotFound, change.delete, key="none")
    assert change.get(key="k").text == "new text" and change.get(added).text == "added"
    refused(msadb.NotFound, notes.get, added)
    assert notes.get(key="k").id == old
    change.commit()
    assert notes.get(added).text == "added" and notes.get(key="k").text == "new text"
    refused(msadb.FailedPrecondition, change.commit)
    refused(msadb.FailedPrecondition, change.insert, "late")
    refused(msadb.FailedPrecondition, change.get, added)
    change = notes.transaction()
    change.delete(key="k")
    refused(msadb.NotFound, change.get, key="k")
    change.rollback()
    refused(msadb.FailedPrecondition, change.delete, key="k")
    assert notes.get(key="k")
    change = notes.transaction()
    change.delete(key="k")
    del change
    assert notes.get(key="k")


def test_first_committer_wins(notes):
    notes.insert("text", key="k")
    one, two = notes.transaction(), notes.transaction()
    one.upsert("one", key="k")
    two.upsert("two", key="k")
    one.commit()
    refused(msadb.Conflict, two.commit)
    assert notes.get(key="k").text == "one"
    refused(msadb.FailedPrecondition, two.commit)


def test_snapshots_do_not_move(database, notes):
    first = notes.insert("first apple", key="a")
    second = notes.insert("second pear", key="b")
    with notes.snapshot() as view:
        assert view.name == "notes"
        notes.delete(first)
        notes.insert("third plum")
        assert ids(view) == [first, second] and view.count() == 2
        assert view.get(key="a").id == first
        assert sorted(hit.id for hit in view.search("first apple")) == [first, second]
        answer = view.ask("first apple", answer_tokens_max=8)
        assert {citation.id for citation in answer.citations} <= {first, second}
        refused(msadb.FailedPrecondition, database.compact)
    database.compact()


def test_statistics_and_verify(database, notes):
    notes.insert("first apple")
    notes.insert("long " * 1500)
    stats = notes.stats()
    assert stats.name == "notes" and stats.documents == 2 and stats.parts > 2
    assert stats.tokens > 200 and stats.text_bytes > 0
    everything = database.stats()
    only, = everything.collections
    assert (only.documents, only.content_bytes) == (2, stats.content_bytes)
    assert everything.disk_bytes > 0
    report = database.verify()
    assert report.ok and report.documents_checked == 2
    assert database.model is not None
    assert database.model.fingerprint == everything.model_fingerprint
    assert database.model.document_tokens_max > 0 and database.model.description


def test_read_only_refuses_changes(backend, notes):
    number = notes.insert("text")
    backend.open(read_only=True)
    notes = backend.database.open_collection("notes")
    refused(msadb.FailedPrecondition, notes.insert, "more")
    refused(msadb.FailedPrecondition, notes.delete, number)
    refused(msadb.FailedPrecondition, notes.transaction)
    refused(msadb.FailedPrecondition, backend.database.create_collection, "other")
    assert notes.get(number).text == "text"


def test_exports_and_imports(database, notes):
    notes.insert_many([{"text": f"text {i}", "key": f"k{i}"} for i in range(30)])
    copy = database.create_collection("copy")
    # What a list gives can be inserted; this is how the package copies.
    assert copy.insert_many(
        msadb.NewDocument(document.text, document.key, document.metadata, document.source,
                          document.expires_at, document.created_at) for document in notes) == 30
    original, copied = notes.get(key="k17"), copy.get(key="k17")
    assert copied.text == "text 17" and copied.created_at == original.created_at


def test_many_threads_share_one_database(notes):
    failures = []

    def work(thread):
        try:
            for i in range(10):
                key = f"{thread}-{i}"
                number = notes.insert(f"thread {key}", key=key)
                assert notes.get(number).key == key and notes.get(key=key).id == number
                assert len(notes.search(f"thread {key}", top_k=1)) == 1
        except Exception as error:  # what a thread raises must not be lost with it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert notes.count() == 80


def test_these_are_the_behaviours_of_the_suite_in_cpp():
    source = pathlib.Path(os.environ["MSADB_SOURCE_DIR"], "tests/api/behaviour_test.cc").read_text()
    names = re.findall(r"^TEST_P\(Behaviour, (\w+)\)", source, re.MULTILINE)
    assert len(names) > 20
    expected = {"test" + re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)
                for name in names}
    here = {name for name, value in vars(sys.modules[__name__]).items()
            if name.startswith("test_") and callable(value)}
    assert here - {"test_these_are_the_behaviours_of_the_suite_in_cpp"} == expected
