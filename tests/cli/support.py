"""What the tests of the command line share: running the real program on a temporary folder.

Environment: MSADB_BIN, the program; MSADB_MODEL_A and MSADB_MODEL_B, two tiny model folders.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

OK, NOT_FOUND, USAGE, STATE, CORRUPTION, RESOURCES, UNAVAILABLE, DEADLINE = range(8)
CANCELLED = 130

BIN = os.environ["MSADB_BIN"]
MODEL_A = os.environ["MSADB_MODEL_A"]
MODEL_B = os.environ["MSADB_MODEL_B"]
TIMEOUT_S = 120  # of one command; far above what any needs


class Outcome:
    def __init__(self, arguments, process):
        self.arguments = arguments
        self.code = process.returncode
        self.out = process.stdout.decode("utf-8", errors="replace")
        self.err = process.stderr.decode("utf-8", errors="replace")

    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"msadb {self.arguments} -> {self.code}\nstdout: {self.out}\nstderr: {self.err}"


class CliTest(unittest.TestCase):
    """A test with a folder of its own, removed afterwards; self.db is made by create()."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="msadb-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.db = str(self.folder / "db")

    @staticmethod
    def environment():
        environment = dict(os.environ)
        environment.pop("MSADB_MODEL", None)
        environment.pop("GTEST_OUTPUT", None)
        return environment

    def run_cli(self, *arguments, stdin=b"", environment=None):
        arguments = [str(argument) for argument in arguments]
        process = subprocess.run([BIN, *arguments], input=stdin, capture_output=True,
                                 timeout=TIMEOUT_S, cwd=self.folder,
                                 env=environment or self.environment(), check=False)
        return Outcome(arguments, process)

    def start_cli(self, *arguments, **options):
        process = subprocess.Popen([BIN, *[str(argument) for argument in arguments]],
                                   cwd=self.folder, env=self.environment(), **options)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()

    def wait_until_open(self, process):
        """Returns once `process` has the database open, not only its lock file."""
        limit = time.monotonic() + 60
        while self.open_files(process) < 4:
            self.assertIsNone(process.poll(), "it ended before it had the database open")
            self.assertLess(time.monotonic(), limit, "it never opened the database")
            time.sleep(0.01)

    def open_files(self, process):
        count = 0
        descriptors = pathlib.Path(f"/proc/{process.pid}/fd")
        try:
            for descriptor in descriptors.iterdir():
                try:
                    count += os.readlink(descriptor).startswith(self.db + "/")
                except FileNotFoundError:
                    pass
        except FileNotFoundError:
            pass
        return count

    def succeed(self, *arguments, **options):
        outcome = self.run_cli(*arguments, **options)
        self.assertEqual(outcome.code, OK, outcome)
        return outcome

    def result(self, *arguments, **options):
        """The JSON value that a succeeding command prints."""
        return self.succeed(*arguments, "--json", **options).json()

    def fail_with(self, exit_code, error_code, *arguments, **options):
        """Runs it with and without --json; both must fail alike. Returns the message."""
        plain = self.run_cli(*arguments, **options)
        self.assertEqual(plain.code, exit_code, plain)
        self.assertIn("msadb: ", plain.err, plain)
        outcome = self.run_cli(*arguments, "--json", **options)
        self.assertEqual(outcome.code, exit_code, outcome)
        value = outcome.json()
        self.assertEqual(set(value), {"error"}, outcome)
        self.assertEqual(value["error"]["code"], error_code, outcome)
        self.assertTrue(value["error"]["message"], outcome)
        return value["error"]["message"]

    def create(self):
        self.succeed("create", self.db, "--model", MODEL_A)

    def insert(self, text, *options):
        return self.result("insert", self.db, text, *options)["id"]

    def count(self, collection="default"):
        return len(self.result("list", self.db, "-c", collection, "--limit", 10000)["documents"])
