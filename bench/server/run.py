#!/usr/bin/env python3
"""Requests per second and latency of get, insert, search and ask: embedded, binary and HTTP.

    bench/server/run.py [BUILD_FOLDER] [--model FOLDER] [--seconds N] [--connections 1,16,256]

HTTP is driven by wrk (Debian). The embedded API and the binary protocol are measured by
BUILD_FOLDER/bench/server/wire_bench, when it was built; its table comes first. Without --model: the
tiny model of the tests, so that what is measured is the way in, not the model.
Every call's answer is checked once before it is measured, and errors are counted.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = 200


def text(i):
    """The documents of wire_bench, so that the columns compare."""
    return f"Document number {i} says that the answer is {i * 7 % 100}."


class Calls:
    def __init__(self, program, folder):
        self.process = subprocess.Popen(
            [program, "serve", folder, "--listen", "127.0.0.1:0", "--json", "--no-log",
             "--queue", "100000"], stdout=subprocess.PIPE)
        started = json.loads(self.process.stdout.readline())
        self.url, self.token = started["listening"].rstrip("/"), started["token"]

    def send(self, method, path, body=None):
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def measure(calls, method, target, body, connections, seconds):
    """requests/s, p50 and p99 in microseconds, errors."""
    environment = {**os.environ, "METHOD": method, "TARGET": target, "TOKEN": calls.token,
                   "BODY": "" if body is None else json.dumps(body)}
    threads = min(2, connections)
    outcome = subprocess.run(
        ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s",
         "-s", ROOT / "bench/server/request.lua", calls.url], env=environment,
        capture_output=True, text=True, check=True)
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("RESULT "))
    requests, microseconds, p50, p99, errors = map(float, line.split()[1:])
    return requests / microseconds * 1e6, 1000 * p50, 1000 * p99, int(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", nargs="?", default=ROOT / "build/release", type=pathlib.Path)
    parser.add_argument("--model", default=ROOT / "tests/data/msa/qwen3-decoupled-cosine")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", default="1,16,256")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    program = arguments.build / "cli/msadb"
    counts = [int(count) for count in arguments.connections.split(",")]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, client and server "
          f"on the same; model {pathlib.Path(arguments.model).name}; {DOCUMENTS} documents; "
          f"{arguments.seconds} s each")
    sys.stdout.flush()
    other = arguments.build / "bench/server/wire_bench"
    if other.exists():
        subprocess.run([other, "--model", arguments.model, "--seconds", str(arguments.seconds),
                        "--connections", arguments.connections], check=True)

    print(f"\n{'verb':<8} {'callers':>8} | {'HTTP/s':>12} {'p50 us':>10} {'p99 us':>10} | {'errors':>6}",
          flush=True)
    with tempfile.TemporaryDirectory(prefix="msadb-bench-") as folder:
        database = folder + "/db"
        created = subprocess.run([program, "create", database, "--model", arguments.model],
                                 capture_output=True, text=True, check=False)
        if created.returncode != 0:
            sys.exit(created.stderr)
        calls = Calls(program, database)
        try:
            calls.send("POST", "/v1/collections", {"name": "c"})
            calls.send("POST", "/v1/collections", {"name": "grows"})
            path = "/v1/collections/c"
            calls.send("POST", path + "/batch",
                       {"documents": [{"text": text(i), "key": f"k{i}"}
                                      for i in range(1, DOCUMENTS + 1)]})
            assert calls.send("GET", path + "/documents/7")["text"] == text(7)
            search = {"query": "number %d"}
            assert len(calls.send("POST", path + "/search", search)["hits"]) == 10
            ask = {"question": "What is number %d?", "answer_tokens_max": 8, "rounds_max": 1}
            assert calls.send("POST", path + "/ask", ask)["generated_tokens"] > 0
            for name, method, target, body in (
                    ("get", "GET", path + "/documents/7", None),
                    ("insert", "POST", "/v1/collections/grows/documents",
                     {"text": "Written meanwhile, number %d"}),
                    ("search", "POST", path + "/search", search), ("ask", "POST", path + "/ask", ask)):
                for connections in counts:
                    rate, p50, p99, errors = measure(calls, method, target, body, connections,
                                                     arguments.seconds)
                    print(f"{name:<8} {connections:>8} | {rate:>12.0f} {p50:>10.0f} {p99:>10.0f} | "
                          f"{errors:>6}", flush=True)
        finally:
            calls.stop()


if __name__ == "__main__":
    main()
