"""What the tests of the server share: the real program on a temporary folder.

Environment: MSADB_BIN, the program; MSADB_MODEL_A, a tiny model folder.
"""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

BIN = os.environ["MSADB_BIN"]
MODEL = os.environ["MSADB_MODEL_A"]
# A sanitizer keeps freed memory for a while, so what a server takes says nothing there.
MEMORY_TELLS = not os.environ.get("MSADB_SANITIZE")
TIMEOUT_S = 120  # of one step; far above what any needs


class Reply:
    def __init__(self, status, fields, body):
        self.status = status
        self.fields = fields
        self.body = body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"HTTP {self.status} {self.body[:500]!r}"


class Server:
    """`msadb serve` with options of its own, until stop()."""

    def __init__(self, folder, *options, listen="127.0.0.1:0"):
        self.folder = str(folder)
        self.log_path = self.folder + ".log"
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [BIN, "serve", self.folder, "--listen", listen, "--json", *options],
            stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline()
        self.started = json.loads(line) if line else {}
        if "listening" not in self.started:
            self.stop()
            raise RuntimeError(f"the server did not start: {line!r} {self.log_text()}")
        self.url = self.started["listening"].rstrip("/")
        self.port = int(self.url.rsplit(":", 1)[1])
        self.admin = self.started.get("token")

    def log_text(self):
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def stop(self, how=signal.SIGTERM):
        """Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(TIMEOUT_S)
        self.process.stdout.close()
        self.log.close()
        return code

    def add_token(self, name, *grants):
        outcome = subprocess.run([BIN, "tokens", "add", self.folder, name, *grants, "--json"],
                                 capture_output=True, timeout=TIMEOUT_S, check=True)
        return json.loads(outcome.stdout)["token"]

    def call(self, method, path, body=None, token=None, headers=None):
        """One request on a connection of its own. `body` is sent as JSON unless it is bytes."""
        fields = {"Authorization": f"Bearer {self.admin if token is None else token}"}
        if token == "":
            del fields["Authorization"]
        if body is not None:
            fields["Content-Type"] = "application/json"
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields.update(headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, fields)
            reply = connection.getresponse()
            return Reply(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def raw(self, data, finish=False):
        """Sends bytes, reads until the server closes."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
                if finish:
                    connection.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
                return answer
            except (ConnectionResetError, BrokenPipeError):
                return b""

    def memory_kib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")


class ServerTest(unittest.TestCase):
    """One server and database for all tests of a class, with a token of every kind."""

    options = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="msadb-server-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        database = cls.folder / "db"
        subprocess.run([BIN, "create", str(database), "--model", MODEL], check=True,
                       stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)
        cls.server = Server(database, *cls.options)
        cls.addClassCleanup(cls.server.stop)
        cls.call = staticmethod(cls.server.call)

    def ok(self, method, path, body=None, token=None, status=200):
        reply = self.call(method, path, body, token)
        self.assertEqual(reply.status, status, f"{method} {path}: {reply}")
        return reply.json()

    def refused(self, status, code, method, path, body=None, token=None):
        """The error's message."""
        reply = self.call(method, path, body, token)
        self.assertEqual(reply.status, status, f"{method} {path} {body!r:.200}: {reply}")
        error = reply.json()["error"]
        self.assertEqual(error["code"], code, reply)
        self.assertTrue(error["message"], reply)
        return error["message"]

    def make(self, name):
        self.ok("POST", "/v1/collections", {"name": name}, status=201)
        return f"/v1/collections/{name}"


def wait_for(look, is_it):
    """What look() gives, as soon as is_it(that)."""
    limit = time.monotonic() + TIMEOUT_S
    while not is_it(seen := look()):
        if time.monotonic() > limit:
            raise AssertionError(f"never came: {seen!r:.2000}")
        time.sleep(0.01)
    return seen


def in_parallel(work, count):
    """Runs work(i) in `count` threads and returns the results in order."""
    results = [None] * count

    def run(i):
        results[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    return results
