"""What the tests of the Python package share.

Environment: MSADB_TEST_MODEL, a tiny model folder; MSADB_SOURCE_DIR, the source tree; MSADB_BIN, the
msadb program; MSADB_TEST_SERVER, the program of wire_server.cc, or nothing in builds without a client
library. PYTHONPATH holds the package.
"""

import contextlib
import os
import pathlib
import subprocess

import msadb
import pytest

MODEL = os.environ["MSADB_TEST_MODEL"]
SOURCE = pathlib.Path(os.environ["MSADB_SOURCE_DIR"])


def open_folder(folder, **options):
    """A database of the tiny model, quick to write to."""
    options = {"model": MODEL, "threads": 1, "durability": "buffered", **options}
    return msadb.open(folder, **options)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "db"


@contextlib.contextmanager
def served(folder):
    """The address of a server of this folder."""
    process = subprocess.Popen([os.environ["MSADB_TEST_SERVER"], folder, MODEL],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(timeout=60)
    assert process.returncode == 0


@pytest.fixture(params=["embedded", "remote"])
def database(request, folder):
    """The same behaviour is asked of a folder in this process and of a server."""
    if request.param == "embedded":
        with open_folder(folder) as opened:
            yield opened
    elif not os.environ.get("MSADB_TEST_SERVER"):
        pytest.skip("this build has no client library")
    else:
        with served(folder) as address, msadb.connect(address) as connected:
            yield connected


@pytest.fixture
def notes(database):
    return database.collection()
