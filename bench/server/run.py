#!/usr/bin/env python3
"""Requests per second and latency of get, insert, search and ask: embedded, binary and HTTP.

    bench/server/run.py [BUILD_FOLDER] [--model FOLDER] [--seconds N] [--connections 1,16,256]
                        [--batching-model FOLDER]

One `msadb serve` answers both ports. HTTP is driven by wrk (Debian), the binary port by
BUILD_FOLDER/bench/server/wire_bench, once through the client library and once in wrk's manner; that
also measures the embedded API. All of a line is measured one right after the other. Without
--model: the tiny model of the tests, so that what is measured is the way in, not the model. Answers
are checked and errors counted.

Last comes what 8 questions at once gain from sharing the model's passes, next to the same 8 one
after the other (bench/kernels/bench_callers), with a real model: sharing is about its weights.
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
WAYS = ("embedded", "client", "binary", "HTTP")
COLLECTION = "/v1/collections/notes"
HTTP_CALLS = {  # what wire_bench calls
    "get": ("GET", COLLECTION + "/keys/k%m", None),
    "insert": ("POST", "/v1/collections/grows/documents", {"text": "Written meanwhile, number %d"}),
    "search": ("POST", COLLECTION + "/search", {"query": "number %d"}),
    "ask": ("POST", COLLECTION + "/ask",
            {"question": "What is number %d?", "answer_tokens_max": 8, "rounds_max": 1}),
}


class Server:
    def __init__(self, program, folder):
        self.process = subprocess.Popen(
            [program, "serve", folder, "--listen", "127.0.0.1:0", "--binary-listen", "127.0.0.1:0",
             "--json", "--no-log", "--queue", "100000"], stdout=subprocess.PIPE)
        started = json.loads(self.process.stdout.readline())
        self.url, self.token = started["listening"].rstrip("/"), started["token"]
        self.binary_port = started["binary"].rsplit(":", 1)[1]

    def send(self, method, path, body=None):
        request = urllib.request.Request(
            self.url + path, method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def check(self):
        """One call of each verb, as wrk will make many."""
        assert self.send("GET", COLLECTION + "/keys/k7")["key"] == "k7"
        assert len(self.send(*HTTP_CALLS["search"])["hits"]) == 10
        assert self.send(*HTTP_CALLS["ask"])["generated_tokens"] > 0
        assert self.send(*HTTP_CALLS["insert"])["id"] > 0

    def stop(self):
        self.process.terminate()
        self.process.wait()


def measure_http(server, verb, connections, seconds):
    """requests/s, p50 and p99 in microseconds, errors."""
    method, target, body = HTTP_CALLS[verb]
    environment = {**os.environ, "METHOD": method, "TARGET": target, "TOKEN": server.token,
                   "BODY": "" if body is None else json.dumps(body), "MODULUS": str(DOCUMENTS)}
    outcome = subprocess.run(
        ["wrk", f"-t{min(2, connections)}", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s",
         "-s", ROOT / "bench/server/request.lua", server.url], env=environment,
        capture_output=True, text=True, check=True)
    line = next(line for line in outcome.stdout.splitlines() if line.startswith("RESULT "))
    requests, microseconds, p50, p99, errors = map(float, line.split()[1:])
    return requests / microseconds * 1e6, p50, p99, int(errors)


def measure_others(build, server, verb, connections, arguments):
    """{way: (requests/s, p50, p99)}"""
    outcome = subprocess.run(
        [build / "bench/server/wire_bench", "--model", arguments.model, "--server",
         server.binary_port, "--token", server.token, "--seconds", str(arguments.seconds), "--verb",
         verb, "--connections", str(connections), "--documents", str(DOCUMENTS)],
        stdout=subprocess.PIPE, text=True, check=True)
    cells = {}
    for line in outcome.stdout.splitlines():
        _, _, _, way, *figures = line.split()
        cells[way] = tuple(map(float, figures))
    return cells


def milliseconds(microseconds):
    value = microseconds / 1000
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", nargs="?", default=ROOT / "build/release", type=pathlib.Path)
    parser.add_argument("--model", default=ROOT / "tests/data/msa/qwen3-decoupled-cosine")
    parser.add_argument("--batching-model", default=ROOT / "models/default")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", default="1,16,256")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    program = arguments.build / "cli/msadb"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f} before; clients and server on the same machine; model "
          f"{pathlib.Path(arguments.model).name}; {DOCUMENTS} documents; {arguments.seconds} s a "
          "cell; ms\n")
    print("| verb | callers |" + "".join(f" {way} /s | p50 | p99 |" for way in WAYS) + " errors |")
    print("| --- | ---: |" + " ---: |" * (3 * len(WAYS) + 1), flush=True)
    with tempfile.TemporaryDirectory(prefix="msadb-bench-") as folder:
        database = folder + "/db"
        created = subprocess.run([program, "create", database, "--model", arguments.model],
                                 capture_output=True, text=True, check=False)
        if created.returncode != 0:
            sys.exit(created.stderr)
        server = Server(program, database)
        try:
            for verb in ("ping", *HTTP_CALLS):
                for callers in map(int, arguments.connections.split(",")):
                    cells = measure_others(arguments.build, server, verb, callers, arguments)
                    errors = "-"
                    if verb in HTTP_CALLS:
                        server.check()
                        *figures, errors = measure_http(server, verb, callers, arguments.seconds)
                        cells["HTTP"] = figures
                    line = f"| {verb} | {callers} |"
                    for way in WAYS:
                        if way not in cells:
                            line += " | | |"
                            continue
                        rate, p50, p99 = cells[way]
                        line += f" {rate:,.0f} | {milliseconds(p50)} | {milliseconds(p99)} |"
                    print(f"{line} {errors} |", flush=True)
        finally:
            server.stop()

    callers = arguments.build / "bench/kernels/bench_callers"
    print("\nQuestions at once, one after the other and sharing the model's passes:", flush=True)
    subprocess.run([callers, arguments.batching_model], check=True)


if __name__ == "__main__":
    main()
