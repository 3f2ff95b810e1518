"""What is not a request, or a wrong one: a typed error or a closed connection, and nothing lost."""

import json
import random
import unittest

import support

SEED = random.SystemRandom().randrange(1 << 32)
ROUNDS = 10_000
GROWTH_KIB_MAX = 16 * 1024


def head(method, path, *fields, token=None):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode()


class BadInputTest(support.ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.call("POST", "/v1/collections", {"name": "c"})
        cls.path = "/v1/collections/c"
        cls.kept = cls.call("POST", cls.path + "/documents", {"text": "Kept."}).json()["id"]

    def tearDown(self):
        document = self.ok("GET", f"{self.path}/documents/{self.kept}")
        self.assertEqual(document["text"], "Kept.")
        self.assertIsNone(self.server.process.poll())

    def status_of(self, data, finish=True):
        answer = self.server.raw(data, finish)
        return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else None

    def test_json_bodies(self):
        deep = b'{"where":' * 5000 + b"1" + b"}" * 5000
        bad = [b"", b"{", b"nul", b"[]", b"1", b'"text"', b'{"text":}', b"{'text':'x'}",
               b'{"text":"x"}}', b'{"text":"\xff"}', b'{"text":"x","text":"y"}', deep,
               b'{"text":1}', b'{"text":""}', b'{"text":"   "}', b'{"unknown":"x","text":"x"}',
               b'{"text":"x","key":""}', b'{"text":"x","metadata":{"a":{"b":1}}}',
               b'{"text":"x","metadata":{"$a":1}}', b'{"text":"x","metadata":{"a":1e999}}',
               b'{"text":"x","metadata":{"a":9223372036854775808}}',
               b'{"text":"x","expires_at":"yesterday"}', b'{"text":"x","expires_at":17}',
               b'{"text":"x","key":"' + b"k" * 2000 + b'"}']
        for body in bad:
            self.refused(400, "InvalidArgument", "POST", self.path + "/documents", body)

    def test_numbers_and_fields_of_questions(self):
        for fields in ({"top_k": 0}, {"top_k": 1001}, {"top_k": -1}, {"top_k": 1.5},
                       {"top_k": "3"}, {"top_k": 10**30}, {"where": 1}, {"where": {"$no": 1}},
                       {"typo": 1}, {"query": 7}, {"query": ""}, {"include_text": "yes"}):
            self.refused(400, "InvalidArgument", "POST", self.path + "/search",
                         {"query": "x", **fields})
        for fields in ({"temperature": -1}, {"temperature": 101}, {"top_p": 2}, {"seed": -1},
                       {"seed": 2**64}, {"rounds_max": 65}, {"answer_tokens_max": 0},
                       {"answer_tokens_max": 2**40}, {"deadline_ms": 0}, {"stream": 1},
                       {"question": None}, {"question": "q" * 300_000}):
            self.refused(400, "InvalidArgument", "POST", self.path + "/ask",
                         {"question": "x", **fields})
        chat = {"model": "c", "messages": [{"role": "user", "content": "x"}]}
        for fields, status in (({"messages": []}, 400), ({"messages": "x"}, 400), ({"n": 2}, 400),
                               ({"model": 1}, 400), ({"model": "absent"}, 404),
                               ({"tools": [{}]}, 400), ({"unknown": 1}, 400),
                               ({"messages": [{"role": "tool", "content": "x"}]}, 400),
                               ({"messages": [{"role": "assistant", "content": "x"}]}, 400),
                               ({"msadb": {"typo": 1}}, 400), ({"msadb": 1}, 400),
                               ({"temperature": 3}, 400)):
            reply = self.call("POST", "/v1/chat/completions", {**chat, **fields})
            self.assertEqual(reply.status, status, f"{fields}: {reply}")

    def test_changes(self):
        for changes in ([], {}, [1], [{}], [{"op": "drop"}], [{"op": "insert"}],
                        [{"op": "insert", "document": {"text": "x"}, "id": 1}],
                        [{"op": "delete"}], [{"op": "delete", "id": 1, "key": "k"}],
                        [{"op": "delete", "id": 0}], [{"op": "insert", "document": "x"}]):
            self.refused(400, "InvalidArgument", "POST", self.path + "/transaction",
                         {"changes": changes})
        self.refused(400, "InvalidArgument", "POST", self.path + "/delete", {})

    def test_addresses(self):
        for target, status in (("/nothing", 404), ("/v1/collections/", 404), ("//", 404),
                               (self.path + "/documents/0", 400),
                               (self.path + "/documents/x", 400),
                               (self.path + "/documents/-1", 400),
                               (self.path + "/documents/18446744073709551616", 400),
                               (self.path + "/documents/%zz", 400),
                               (self.path + "/keys/%ff", 400), ("/v1/collections/%2e%2e", 400),
                               (self.path + "/documents?limit=0", 400),
                               (self.path + "/documents?limit=10001", 400),
                               (self.path + "/documents?limit=99999999999999999999", 400),
                               (self.path + "/documents?limit=1&limit=1", 400),
                               (self.path + "/documents?typo=1", 400),
                               (self.path + "/documents?text=maybe", 400),
                               (self.path + "/documents?where={", 400), ("/healthz?x=1", 400)):
            reply = self.call("GET", target)
            self.assertEqual(reply.status, status, f"{target}: {reply}")
        reply = self.call("PATCH", self.path)
        self.assertEqual(reply.status, 405)
        self.assertIn("GET", reply.fields["Allow"].split(", "))
        self.assertEqual(self.call("GET", "/healthz", b"{}").status, 400)

    def test_protocol(self):
        token = self.server.admin
        post = ("POST", self.path + "/search")
        kind = "Content-Type: application/json"
        chunked = head(*post, kind, "Transfer-Encoding: chunked", token=token)
        cases = [
            (b"\x16\x03\x01\x00\xa5\x01\x00", 400), (b"GET\r\n\r\n", 400), (b"\0" * 100, 400),
            (b"GET / HTTP/9.9\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 403),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431),
            (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
            (head(*post, kind, "Content-Length: -1", token=token), 400),
            (head(*post, kind, "Content-Length: 99999999999999999999", token=token), 400),
            (head(*post, kind, "Content-Length: 1, 2", token=token), 400),
            (head(*post, kind, "Content-Length: 1048577", token=token), 413),
            (head(*post, kind, "Content-Length: 9223372036854775807", token=token), 413),
            (head(*post, kind, "Content-Length: 2", "Transfer-Encoding: chunked", token=token), 400),
            (chunked + b"zz\r\n", 400), (chunked + b"-1\r\n", 400), (chunked + b"5\r\nabcdeXYZ\r\n", 400),
            (chunked + b"ffffffffffffffffff\r\n", 400),
            (chunked + b"fffffff\r\n" + b"x" * 100, None),
            (chunked + b"5;" + b"x" * 200_000, 400),
        ]
        for data, status in cases:
            got = self.status_of(data)
            # A chunk larger than allowed may be refused at once or when its bytes stop.
            allowed = (None, 413) if status is None else (status,)
            self.assertIn(got, allowed, data[:300])

    def test_requests_cut_short_at_every_byte(self):
        body = b'{"query":"heron","top_k":3}'
        whole = head("POST", self.path + "/search", "Content-Type: application/json",
                     f"Content-Length: {len(body)}", token=self.server.admin) + body
        for size in range(len(whole)):
            self.assertEqual(self.server.raw(whole[:size], finish=True), b"", size)
        self.assertEqual(self.status_of(whole, finish=False), 200)

    def leave_a_stream(self, bytes_read):
        """Asks, reads so much of the streamed answer, and hangs up."""
        body = json.dumps({"question": "What is kept?", "stream": True, "trace": True,
                           "answer_tokens_max": 32, "rounds_max": 1}).encode()
        with self.server.connect() as connection:
            connection.sendall(head("POST", self.path + "/ask", "Content-Type: application/json",
                                    f"Content-Length: {len(body)}", token=self.server.admin) + body)
            while bytes_read > 0 and (piece := connection.recv(bytes_read)):
                bytes_read -= len(piece)

    def test_hanging_up_in_the_middle_of_a_stream(self):
        for bytes_read in range(0, 2000, 20):
            self.leave_a_stream(bytes_read)
        # Nothing of them is left behind.
        support.wait_for(lambda: self.call("GET", "/metrics").body.decode(), lambda text: all(
            line in text.splitlines() for line in (
                'msadb_calls_running{lane="model"} 0', 'msadb_calls_waiting{lane="model"} 0',
                "msadb_http_connections 1")))

    def test_many_of_them_take_no_memory(self):
        print(f"seed {SEED}")
        chance = random.Random(SEED)
        token = self.server.admin
        body = json.dumps({"query": "heron", "top_k": 3}).encode()
        good = head("POST", self.path + "/search", "Content-Type: application/json",
                    f"Content-Length: {len(body)}", token=token) + body

        def bad_request():
            if chance.randrange(20) == 0:
                return self.leave_a_stream(chance.randrange(2000))
            self.server.raw(bad_bytes(), finish=True)

        def bad_bytes():
            kind = chance.randrange(4)
            if kind == 0:
                return good[:chance.randrange(len(good))]
            data = bytearray(good)
            if kind == 1:  # a few bytes of the head
                for _ in range(chance.randrange(1, 4)):
                    data[chance.randrange(len(good) - len(body))] = chance.randrange(256)
            elif kind == 2:  # a byte of the body that makes it wrong
                data[len(good) - len(body) + chance.randrange(2)] = ord("!")
            else:
                data = bytearray(chance.randbytes(chance.randrange(1, 400)))
            return bytes(data)

        for _ in range(ROUNDS // 10):
            bad_request()
        before = self.server.memory_kib()
        for _ in range(ROUNDS):
            bad_request()
        growth = self.server.memory_kib() - before
        print(f"memory after {ROUNDS} bad requests: {before} KiB, then {growth:+} KiB")
        if support.MEMORY_TELLS:
            self.assertLess(growth, GROWTH_KIB_MAX)
        support.wait_for(lambda: self.call("GET", "/metrics").body.decode(),
                      lambda text: "msadb_calls_waiting{lane=\"model\"} 0\n" in text)


if __name__ == "__main__":
    unittest.main()
