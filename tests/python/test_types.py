"""The package's types, as a type checker sees them."""

import os
import pathlib
import subprocess
import sys

SOURCE = pathlib.Path(os.environ["MSADB_SOURCE_DIR"])
PACKAGE = pathlib.Path(os.environ["PYTHONPATH"])

PROGRAM = """
from datetime import timedelta
from typing import Iterator, Optional
from typing_extensions import assert_type

import msadb

with msadb.open("notes", durability="buffered") as database:
    notes = database.collection()
    assert_type(notes, msadb.Collection)
    assert_type(notes.insert("x", key="k", metadata={"a": 1, "b": ["c"]}, expires_at=timedelta(1)), int)
    assert_type(notes.ask("x"), msadb.Answer)
    assert_type(notes.ask("x", stream=True), msadb.AnswerStream)
    assert_type(notes.list(), Iterator[msadb.Document])
    assert_type(notes.get(key="k").key, Optional[str])
    with notes.transaction() as change:
        assert_type(change, msadb.Transaction)
    with notes.snapshot() as view:
        assert_type(view, msadb.Snapshot)
        assert_type(view.search("x")[0].score, float)
    for piece in notes.ask("x", stream=True):
        assert_type(piece, str)
"""

WRONG = """
import msadb

notes = msadb.open("notes").collection()
notes.insert(17)  # an int
notes.ask("x", streem=True)  # a misspelling
with notes.snapshot() as view:
    view.insert("x")  # a snapshot is frozen
"""


def check(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "mypy", "--config-file", SOURCE / "pyproject.toml",
                           *arguments], capture_output=True, text=True, check=False, **options)


def test_the_package_and_its_users(tmp_path):
    """In one run, for the checker takes longest to start."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    environment = {**os.environ, "MYPYPATH": str(PACKAGE)}
    environment.pop("PYTHONPATH")
    done = check("-p", "msadb", "-m", "program", "-m", "wrong", cwd=tmp_path, env=environment)
    places = {line.split(": error:")[0] for line in done.stdout.splitlines() if ": error:" in line}
    assert places == {"wrong.py:5", "wrong.py:6", "wrong.py:8"}, done.stdout + done.stderr


def test_everything_public_is_documented():
    import inspect

    import msadb

    for name in msadb.__all__:
        thing = getattr(msadb, name)
        if not inspect.isclass(thing) and not inspect.isfunction(thing):
            continue
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for method, member in inspect.getmembers(thing):
                if method.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
                    continue
                assert inspect.getdoc(member), f"{name}.{method}"
