"""Opening and closing, threads, and the GIL."""

import gc
import os
import subprocess
import sys
import threading
import time

import msadb
import pytest

from conftest import MODEL, open_folder


def test_the_data_is_there_after_closing(folder):
    with open_folder(folder) as database:
        id = database.collection().insert("kept", key="k")
    with open_folder(folder, model=None) as database:  # the database remembers its model
        assert database.open_collection("default").get(id).text == "kept"
        assert database.model.document_tokens_max > 0
        assert len(database.model.fingerprint) == 64
        assert database.verify().ok
        assert database.stats().model_fingerprint == database.model.fingerprint


def test_a_folder_is_open_once(folder):
    with open_folder(folder):
        with pytest.raises(msadb.Unavailable):
            open_folder(folder)
    open_folder(folder).close()


def test_open_refuses_what_it_should(folder, tmp_path, monkeypatch):
    with pytest.raises(msadb.NotFound):
        open_folder(folder, create_if_missing=False)
    assert not folder.exists()
    with pytest.raises(msadb.NotFound):
        msadb.open(folder, model=tmp_path / "nothing")
    open_folder(folder).close()
    with pytest.raises(msadb.AlreadyExists):
        open_folder(folder, error_if_exists=True)
    with pytest.raises(msadb.InvalidArgument):
        open_folder(folder, durability="sometimes")
    with pytest.raises(msadb.InvalidArgument, match="'float' or 'int8'"):
        open_folder(folder, routing_keys="fp8")
    with pytest.raises(TypeError):
        open_folder(folder, threads="two")
    with open_folder(folder, read_only=True) as database:
        with pytest.raises(msadb.FailedPrecondition):
            database.create_collection("new")


def test_each_opening_chooses_its_routing_keys(folder):
    text = "The spare key is under the blue flowerpot."
    scores = {}
    with open_folder(folder) as database:
        database.collection().insert(text)
    for keys in ("float", "int8", "float"):
        with open_folder(folder, routing_keys=keys) as database:
            (hit,) = database.collection().search("key")
            assert hit.text == text
            assert scores.setdefault(keys, hit.score) == hit.score
    assert scores["int8"] == pytest.approx(scores["float"], abs=0.02)


def test_a_new_database_says_where_a_model_could_be(folder, monkeypatch):
    monkeypatch.delenv("MSADB_MODEL", raising=False)
    monkeypatch.setattr("msadb._model.SOURCE_MODEL", "/nonexistent/models/default")
    with pytest.raises(msadb.NotFound, match="MSADB_MODEL"):
        msadb.open(folder)
    monkeypatch.setenv("MSADB_MODEL", MODEL)
    msadb.open(folder, threads=1).close()


def test_closing_closes_everything(folder):
    database = open_folder(folder)
    notes = database.collection()
    notes.insert("x")
    view = notes.snapshot()
    change = notes.transaction()
    pieces = notes.ask("x", stream=True, answer_tokens_max=2048)
    database.close()
    for call in (database.list_collections, notes.count, view.count, change.commit, lambda: next(pieces)):
        with pytest.raises(msadb.Unavailable):
            call()
    database.close()
    open_folder(folder).close()  # nothing holds the folder


def test_a_collection_keeps_its_database_open(folder):
    notes = open_folder(folder).collection()
    gc.collect()
    notes.insert("x")
    with pytest.raises(msadb.Unavailable):
        open_folder(folder)
    del notes
    gc.collect()
    open_folder(folder).close()


def test_leaving_the_interpreter_while_an_answer_streams(folder):
    program = (
        "import msadb, sys\n"
        f"notes = msadb.open({str(folder)!r}, model={MODEL!r}, threads=1).collection()\n"
        "notes.insert('The key is under the pot.')\n"
        "pieces = notes.ask('Where?', stream=True, answer_tokens_max=2048, temperature=1.0)\n"
        "next(pieces, None)\n"
        "print('leaving')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


class Witness:
    """Another Python thread that counts while it runs. It can only run when somebody lets go of the
    GIL, because the interpreter is told never to take it away."""

    def __enter__(self):
        self.count = 0
        self._stop = False
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(1000.0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        while not self._stop:
            self.count += 1
            time.sleep(0)

    def __exit__(self, *_):
        self._stop = True
        self._thread.join()
        sys.setswitchinterval(self._interval)


@pytest.mark.parametrize("call", [
    lambda notes: notes.ask("Where is the key?", answer_tokens_max=32),
    lambda notes: list(notes.ask("Where is the key?", answer_tokens_max=32, stream=True)),
    lambda notes: notes.search("Where is the key?"),
    lambda notes: notes.insert("another document of a few words"),
    lambda notes: notes.insert_many(["a text", "another text"] * 20),
    lambda notes: notes.transaction().insert("another document of a few words"),
], ids=["ask", "stream", "search", "insert", "insert_many", "transaction"])
def test_other_python_threads_run_meanwhile(notes, call):
    notes.insert("The key is under the pot.")
    with Witness() as witness:
        before = witness.count
        sum(range(100_000))  # holds the GIL throughout
        held = witness.count
        # On a busy machine the witness may not get a processor within one short call.
        for _ in range(1000):
            call(notes)
            if witness.count > held:
                break
        after = witness.count
    assert held == before
    assert after > held


def test_callbacks_hold_the_gil_and_run_in_the_calling_thread(notes):
    threads = []
    notes.insert_many(["text"] * 5, on_progress=lambda *_: threads.append(threading.current_thread()))
    assert set(threads) == {threading.current_thread()}


def test_many_threads_use_one_database(database):
    notes = database.collection()
    failures = []

    def work(number):
        try:
            for i in range(6):
                key = f"{number}/{i}"
                id = notes.insert(f"text {key}", key=key, metadata={"thread": number})
                assert notes.get(id).key == key
                assert notes.search(f"text {key}", top_k=3)
                if i == 2:
                    notes.ask("What?", answer_tokens_max=4)
                if i % 2:
                    notes.delete(id)
        except BaseException as error:  # noqa: BLE001 reported below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert notes.count() == 18
    assert notes.count() == len(list(notes.list(page_size=4)))


def test_one_transaction_survives_use_by_many_threads(notes):
    change = notes.transaction()
    threads = [threading.Thread(target=change.insert, args=(f"text {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    change.commit()
    assert notes.count() == 8


def test_every_code_has_its_exception():
    from msadb import _errors

    header = (os.environ["MSADB_SOURCE_DIR"] + "/include/msadb/status.h")
    codes = {}
    with open(header, encoding="utf-8") as lines:
        for line in lines:
            words = line.replace(",", " ").split()
            if len(words) > 2 and words[0].startswith("k") and words[1] == "=" and words[2].isdigit():
                codes[int(words[2])] = words[0][1:]
    del codes[0]
    assert {number: cls.code for number, cls in _errors._BY_NUMBER.items()} == codes
    for number, name in codes.items():
        error = _errors.error_of(number, "why")
        assert isinstance(error, msadb.Error)
        assert (error.code, error.number, error.message, str(error)) == (name, number, "why",
                                                                         f"{name}: why")


def test_reencode_adopts_another_model(folder):
    other = os.path.join(os.path.dirname(MODEL), "llama-int8")
    with open_folder(folder) as database:
        database.collection().insert("kept", key="k")
        first = database.model.fingerprint
    with pytest.raises(msadb.FailedPrecondition):
        msadb.open(folder, model=other)
    progress = []
    msadb.reencode(folder, model=other, threads=1, on_progress=lambda *now: progress.append(now))
    assert progress
    with msadb.open(folder, threads=1) as database:
        assert database.model.fingerprint != first
        assert database.open_collection("default").get(key="k").text == "kept"
