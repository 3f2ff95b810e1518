"""What the REST calls do, and that their answers are as /openapi.json describes them."""

import contextlib
import http.client
import json
import pathlib
import signal
import socket
import ssl
import subprocess
import unittest

import support

try:
    import jsonschema
except ImportError:
    jsonschema = None

ASK = {"question": "Where is the key?", "answer_tokens_max": 8, "rounds_max": 1}


def read_events(body):
    events = []
    for part in body.decode().split("\n\n")[:-1]:
        name, data = part.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def statuses(server, route):
    """Of all requests to a route, from the log."""
    lines = [json.loads(line) for line in server.log_text().splitlines()]
    return [line["status"] for line in lines if line["route"] == route]


class RestTest(support.ServerTest):
    options = ("--binary-listen", "127.0.0.1:0")

    def test_documents(self):
        path = self.make("documents")
        first = self.ok("POST", path + "/documents",
                        {"text": "The key is under the pot.", "key": "a/key", "source": "ada",
                         "metadata": {"year": 2026, "tags": ["x", "y"]},
                         "expires_at": "2999-01-01T00:00:00Z"}, status=201)["id"]
        document = self.ok("GET", f"{path}/documents/{first}")
        self.assertEqual(document["text"], "The key is under the pot.")
        self.assertEqual(document["metadata"], {"year": 2026, "tags": ["x", "y"]})
        self.assertEqual(document["expires_at"], "2999-01-01T00:00:00.000000Z")
        self.assertEqual(self.ok("GET", f"{path}/keys/a%2Fkey"), document)
        self.refused(409, "AlreadyExists", "POST", path + "/documents",
                     {"text": "again", "key": "a/key"})
        second = self.ok("PUT", path + "/documents",
                         {"text": "The key is in the shed.", "key": "a/key"})["id"]
        self.assertGreater(second, first)
        self.refused(404, "NotFound", "GET", f"{path}/documents/{first}")
        self.assertEqual(self.ok("DELETE", f"{path}/keys/a%2Fkey"), {"deleted": 1})
        self.refused(404, "NotFound", "DELETE", f"{path}/documents/{second}")

    def test_pages_filters_and_batches(self):
        path = self.make("pages")
        documents = [{"text": f"Note {i}.", "key": str(i), "metadata": {"n": i}}
                     for i in range(150)]
        self.assertEqual(self.ok("POST", path + "/batch", {"documents": documents}, status=201),
                         {"inserted": 150})
        self.assertEqual(self.ok("POST", path + "/batch", {"documents": documents}, status=201),
                         {"inserted": 0})
        seen, after = [], 0
        while after is not None:
            page = self.ok("GET", f"{path}/documents?limit=70&after={after}")
            self.assertLessEqual(len(page["documents"]), 70)
            seen += [item["text"] for item in page["documents"]]
            after = page["next"]
        self.assertEqual(seen, [item["text"] for item in documents])
        page = self.ok("GET", path + "/documents?text=false&where=%7B%22n%22:%7B%22$lt%22:3%7D%7D")
        self.assertEqual([item["key"] for item in page["documents"]], ["0", "1", "2"])
        self.assertNotIn("text", page["documents"][0])
        self.assertEqual(self.ok("POST", path + "/delete", {"where": {"n": {"$gte": 100}}}),
                         {"deleted": 50})
        self.assertEqual(self.ok("GET", path)["documents"], 100)

    def test_a_transaction_is_whole_or_not_at_all(self):
        path = self.make("transactions")
        old = self.ok("POST", path + "/documents", {"text": "old", "key": "o"}, status=201)["id"]
        changes = [{"op": "insert", "document": {"text": "new", "key": "n"}},
                   {"op": "upsert", "document": {"text": "newer", "key": "o"}},
                   {"op": "delete", "key": "n"}]
        ids = self.ok("POST", path + "/transaction", {"changes": changes})["ids"]
        self.assertEqual([type(number) for number in ids], [int, int, type(None)])
        self.assertEqual(self.ok("GET", path + "/keys/o")["text"], "newer")
        self.refused(404, "NotFound", "GET", path + "/keys/n")
        message = self.refused(404, "NotFound", "POST", path + "/transaction", {"changes": [
            {"op": "insert", "document": {"text": "lost", "key": "l"}},
            {"op": "delete", "id": old}]})
        self.assertTrue(message.startswith("changes[1]: "), message)
        self.refused(404, "NotFound", "GET", path + "/keys/l")

    def test_who_wrote_it_is_what_the_token_says(self):
        path = self.make("written")
        ada = self.server.add_token("ada", "written:write")
        agent = self.server.add_token("agent", "written:write")
        forged = {"text": "The key is under the pot.", "written_by": "admin", "source": "a letter",
                  "created_at": "2020-05-06T07:08:09Z"}
        self.ok("POST", path + "/documents", forged, token=ada, status=201)
        self.ok("PUT", path + "/documents", {**forged, "key": "k"}, token=agent)
        self.ok("POST", path + "/batch", {"documents": [forged, {"text": "x"}]}, token=agent,
                status=201)
        self.ok("POST", path + "/transaction", token=agent, body={"changes": [
            {"op": "insert", "document": forged},
            {"op": "upsert", "document": {**forged, "key": "t"}}]})
        self.ok("POST", path + "/documents", {"text": "Mine."}, status=201)
        documents = self.ok("GET", path + "/documents")["documents"]
        self.assertEqual([document["written_by"] for document in documents],
                         ["ada"] + ["agent"] * 5 + ["admin"])
        self.assertEqual((documents[0]["source"], documents[0]["created_at"]),
                         ("a letter", "2020-05-06T07:08:09.000000Z"))
        self.assertEqual(self.ok("GET", path + "/keys/k")["written_by"], "agent")
        # Whoever replaces a document wrote it; reading and sending it back changes nothing there.
        self.ok("PUT", path + "/documents",
                {name: value for name, value in self.ok("GET", path + "/keys/k").items()
                 if name != "parts"}, token=ada)
        self.assertEqual(self.ok("GET", path + "/keys/k")["written_by"], "ada")

        where = {"$written_by": "ada", "$created_at": {"$lt": "2021-01-01T00:00:00Z"}}
        hits = self.ok("POST", path + "/search", {"query": "key", "where": where})["hits"]
        self.assertEqual([(hit["written_by"], hit["source"], hit["created_at"]) for hit in hits],
                         [("ada", "a letter", "2020-05-06T07:08:09.000000Z")] * 2)
        for citation in self.ok("POST", path + "/ask", {**ASK, "where": where})["citations"]:
            self.assertEqual((citation["written_by"], citation["created_at"][:4]), ("ada", "2020"))
        self.refused(400, "InvalidArgument", "POST", path + "/search",
                     {"query": "key", "where": {"$created_at": "yesterday"}})
        self.assertEqual(self.ok("POST", path + "/delete", {"where": {"$written_by": "agent"}},
                                 token=ada), {"deleted": 4})
        listed = self.ok("GET", path + "/documents?where=%7B%22$source%22:%22a%20letter%22%7D")
        self.assertEqual(len(listed["documents"]), 2)
        self.assertEqual(self.ok("GET", path)["documents"], 3)

    def test_the_tools_of_mcp_write_under_the_name_of_the_token(self):
        self.make("tools")
        agent = self.server.add_token("tool-user", "tools:write")

        def call(tool, arguments):
            return self.ok("POST", "/mcp?collection=tools", {
                "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": tool, "arguments": arguments}}, token=agent)["result"]

        self.assertFalse(call("remember", {"text": "Plums.", "source": "admin"})["isError"])
        self.assertTrue(call("remember", {"text": "Plums.", "written_by": "admin"})["isError"])
        [document] = call("list", {})["structuredContent"]["documents"]
        self.assertEqual((document["written_by"], document["source"]), ("tool-user", "admin"))

    def test_search_and_ask(self):
        path = self.make("questions")
        for text in ("The key is under the pot.", "The heron stands at the pond."):
            self.ok("POST", path + "/documents", {"text": text, "metadata": {"n": len(text)}},
                    status=201)
        hits = self.ok("POST", path + "/search", {"query": "key", "top_k": 2})["hits"]
        self.assertEqual({hit["id"] for hit in hits}, {1, 2})
        self.assertGreaterEqual(hits[0]["score"], hits[1]["score"])
        only = self.ok("POST", path + "/search", {"query": "key", "where": {"n": 25},
                                                  "include_text": False})["hits"]
        self.assertEqual([(hit["id"], hit["text"]) for hit in only], [(1, "")])

        plain = self.ok("POST", path + "/ask", ASK)
        self.assertNotIn("trace", plain)
        traced = self.ok("POST", path + "/ask", {**ASK, "trace": True})
        self.assertEqual(traced["answer"], plain["answer"])
        self.assertTrue(traced["trace"][0]["layers"])

        reply = self.call("POST", path + "/ask", {**ASK, "stream": True, "trace": True})
        self.assertEqual(reply.status, 200)
        self.assertTrue(reply.fields["Content-Type"].startswith("text/event-stream"))
        events = read_events(reply.body)
        self.assertEqual([name for name, _ in events[:-1]], ["text"] * (len(events) - 1))
        name, answer = events[-1]
        self.assertEqual(name, "answer")
        self.assertEqual("".join(data["text"] for _, data in events[:-1]), answer["answer"])
        self.assertEqual(answer["citations"], traced["citations"])
        self.refused(404, "NotFound", "POST", "/v1/collections/absent/ask",
                     {**ASK, "stream": True})
        self.refused(504, "DeadlineExceeded", "POST", path + "/ask",
                     {**ASK, "deadline_ms": 1, "answer_tokens_max": 2048})

    def test_questions_at_the_same_time_get_the_answers_of_questions_alone(self):
        path = self.make("concurrent")
        for i in range(6):
            self.ok("POST", path + "/documents", {"text": f"Box {i} is colour {i}."}, status=201)
        questions = [{**ASK, "question": f"What colour is box {i}?"} for i in range(6)]
        alone = [self.ok("POST", path + "/ask", question)["answer"] for question in questions]
        together = support.in_parallel(
            lambda i: self.ok("POST", path + "/ask", questions[i])["answer"], 6)
        self.assertEqual(alone, together)

    def test_collections_and_statistics(self):
        self.make("a%20b".replace("%20", " "))
        self.assertEqual(self.ok("GET", "/v1/collections/a%20b")["documents"], 0)
        self.refused(409, "AlreadyExists", "POST", "/v1/collections", {"name": "a b"})
        self.assertEqual(self.ok("DELETE", "/v1/collections/a%20b"), {"dropped": "a b"})
        self.refused(404, "NotFound", "GET", "/v1/collections/a%20b")
        self.assertGreater(self.ok("GET", "/v1/stats")["disk_bytes"], 0)

    def test_health_metrics_and_log(self):
        path = self.make("secret-name")
        self.ok("POST", path + "/documents", {"text": "Unmistakable words."}, status=201)
        self.assertEqual(self.call("GET", "/healthz", token="").json(), {"status": "ok"})
        self.assertEqual(self.call("GET", "/readyz", token="").json(), {"status": "ready"})
        # A request is counted when its reply is sent, which may be a moment after it was read.
        counted = 'msadb_http_requests_total{route="insertDocument",code="201"}'
        text = support.wait_for(lambda: self.call("GET", "/metrics").body.decode(),
                             lambda text: counted in text)
        for line in text.splitlines():
            self.assertRegex(line, r'^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[^}]*\})? [-+.e0-9]+)$')
        log = self.server.log_text()
        lines = [json.loads(line) for line in log.splitlines()]
        self.assertTrue(any(line["route"] == "insertDocument" and line["status"] == 201
                            and line["token"] == "admin" for line in lines), log[-2000:])
        for word in ("Unmistakable", "secret-name", self.server.admin):
            self.assertNotIn(word, log + text)

    def test_metrics_and_log_tell_of_both_ports(self):
        port = int(self.server.started["binary"].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=support.TIMEOUT_S) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(stranger.recv(1), b"")
        support.wait_for(lambda: self.call("GET", "/metrics").body.decode(),
                         lambda text: "\nmsadb_binary_connections_cut_total 1\n" in text)
        self.assertTrue(self.server.raw(b"\x16\x03\x01").startswith(b"HTTP/1.1 400 "))
        lines = [json.loads(line) for line in self.server.log_text().splitlines()]
        told = [(line.get("port"), line["status"]) for line in lines
                if line["route"] == "none" and line["remote"] == "127.0.0.1"]
        self.assertIn(("binary", "cut"), told)
        self.assertIn((None, 400), told)

    def test_a_client_that_leaves_with_its_reply_was_served(self):
        path = self.make("quick")
        count = 300
        for _ in range(count):
            self.ok("GET", path)
        served = support.wait_for(lambda: statuses(self.server, "getCollection"),
                                  lambda seen: len(seen) >= count)
        self.assertNotIn(0, served)

    def test_numbers_are_bounded_as_described(self):
        schemas = self.ok("GET", "/openapi.json")["components"]["schemas"]
        path = self.make("bounded")
        # So short that no value in bounds makes a call long, whatever becomes of it.
        ask = {**ASK, "deadline_ms": 1}
        chat = {"model": "bounded", "max_tokens": 4, "messages": [{"role": "user", "content": "Who?"}]}
        calls = {"Ask": (path + "/ask", ask), "Search": (path + "/search", {"query": "x"}),
                 "Chat": ("/v1/chat/completions", chat)}
        checked = 0
        for name, (target, body) in calls.items():
            for field, schema in schemas[name]["properties"].items():
                step = 1 if schema.get("type") == "integer" else 0.5
                tries = []
                if "minimum" in schema:
                    tries += [(schema["minimum"], True), (schema["minimum"] - step, False)]
                if "exclusiveMinimum" in schema:
                    tries += [(schema["exclusiveMinimum"], False)]
                if "maximum" in schema:
                    tries += [(schema["maximum"], True), (schema["maximum"] + step, False)]
                for value, taken in tries:
                    reply = self.call("POST", target, {**body, field: value})
                    # More tokens than this model has positions are refused in other words.
                    out_of_bounds = reply.status == 400 and b"must be" in reply.body
                    self.assertEqual(out_of_bounds, not taken, f"{name} {field} {value}: {reply}")
                    checked += 1
        self.assertGreater(checked, 30)

    @unittest.skipIf(jsonschema is None, "the Python package jsonschema is not installed")
    def test_answers_are_as_described(self):
        description = self.ok("GET", "/openapi.json")
        path = self.make("described")
        document = {"text": "A heron.", "key": "h", "metadata": {"a": 1.5, "b": True}}
        chat = {"model": "described", "max_tokens": 4,
                "messages": [{"role": "user", "content": "Who?"}]}
        # In an order in which each succeeds; the bodies are also checked against the description.
        requests = {
            "console": None, "openapi": None, "health": None, "ready": None, "metrics": None,
            "createCollection": {"name": "described-2"},
            "insertDocument": document, "upsertDocument": document, "getDocument": None,
            "insertDocuments": {"documents": [{"text": "x y"}], "replace_existing": False},
            "applyTransaction": {"changes": [{"op": "insert", "document": {"text": "z"}},
                                             {"op": "upsert", "document": document},
                                             {"op": "insert", "document": {"text": "y", "key": "y"}},
                                             {"op": "delete", "key": "y"}]},
            "listCollections": None, "stats": None, "getCollection": None, "listDocuments": None,
            "getDocumentByKey": None,
            "search": {"query": "heron", "top_k": 2, "where": {"a": 1.5}, "include_text": True},
            "ask": {**ASK, "trace": True, "stream": False, "seed": 1, "deadline_ms": 60_000},
            "listModels": None, "getModel": None,
            "completeChat": {**chat, "msadb": {"trace": True, "remember": True}},
            "mcp": {"jsonrpc": "2.0", "id": 1, "method": "ping"},
            "deleteDocuments": {"where": {"none": 1}}, "deleteDocumentByKey": None,
            "deleteDocument": None, "dropCollection": None,
        }
        operations = {operation["operationId"]: (method, pattern, operation)
                      for pattern, methods in description["paths"].items()
                      for method, operation in methods.items()}
        self.assertEqual(set(requests), set(operations))
        schemas = {"components": description["components"]}
        for schema in description["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)
        number = 1
        for name, body in requests.items():
            method, pattern, operation = operations[name]
            status, response = next((code, value) for code, value in operation["responses"].items()
                                    if code != "default")
            address = pattern.format(collection="described", key="h", id=number)
            reply = self.call(method.upper(), address, body)
            self.assertEqual(reply.status, int(status), f"{name}: {reply}")
            [(kind, content)] = response["content"].items()
            self.assertTrue(reply.fields["Content-Type"].startswith(kind), name)
            if body is not None:
                sent = operation["requestBody"]["content"]["application/json"]["schema"]
                jsonschema.validate(body, {**sent, **schemas})
            if "schema" in content and kind == "application/json":
                jsonschema.validate(reply.json(), {**content["schema"], **schemas})
            if name == "upsertDocument":
                number = reply.json()["id"]  # what getDocument gets
            if name == "deleteDocumentByKey":
                number = self.ok("POST", path + "/documents",
                                 {"text": "last"}, status=201)["id"]
        error = self.call("GET", path).json()
        jsonschema.validate(error, {"$ref": "#/components/schemas/Error", **schemas})


class DefaultsTest(support.ServerTest):
    """Who may connect, and how."""

    def test_hosts_and_origins(self):
        port = self.server.port
        for host, status in ((f"127.0.0.1:{port}", 200), (f"localhost:{port}", 200),
                             ("evil.example", 403), (f"evil.example:{port}", 403), ("", 403)):
            reply = self.call("GET", "/v1/collections", headers={"Host": host})
            self.assertEqual(reply.status, status, host)
        for origin, status in ((f"http://127.0.0.1:{port}", 200), ("http://evil.example", 403),
                               ("null", 403), (f"https://127.0.0.1:{port}", 403)):
            reply = self.call("GET", "/v1/collections", headers={"Origin": origin})
            self.assertEqual(reply.status, status, origin)
            self.assertFalse([name for name in reply.fields if name.lower().startswith("access-")])

    def test_bodies_must_be_json(self):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
            reply = self.call("POST", "/v1/collections", {"name": "x"},
                              headers={"Content-Type": kind})
            self.assertEqual(reply.status, 415, kind)
        reply = self.call("POST", "/v1/collections", {"name": "json"},
                          headers={"Content-Type": "Application/JSON; charset=utf-8"})
        self.assertEqual(reply.status, 201, reply)

    def test_the_token_file_is_private(self):
        path = pathlib.Path(self.server.folder) / "tokens.json"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertNotIn(self.server.admin.removeprefix("msadb_"), path.read_text())

    def test_other_addresses_need_tls_or_a_word(self):
        outcome = subprocess.run(
            [support.BIN, "serve", str(self.folder / "none"), "--listen", "0.0.0.0:0", "--json"],
            capture_output=True, timeout=support.TIMEOUT_S, check=False)
        self.assertEqual(outcome.returncode, 2)
        self.assertIn("--tls-cert", json.loads(outcome.stdout)["error"]["message"])

    @unittest.skipUnless(socket.has_dualstack_ipv6(), "this machine has no IPv6")
    def test_ipv4_clients_of_a_port_for_both_are_known_by_their_address(self):
        database = self.folder / "both"
        subprocess.run([support.BIN, "create", str(database), "--model", support.MODEL],
                       check=True, stdout=subprocess.DEVNULL, timeout=support.TIMEOUT_S)
        server = support.Server(database, "--insecure", listen="[::]:0")
        try:
            for host in ("127.0.0.1", "localhost"):
                reply = server.call("GET", "/v1/stats", headers={"Host": f"{host}:{server.port}"})
                self.assertEqual(reply.status, 200, reply)
            reply = server.call("GET", "/v1/stats", headers={"Host": "example.org"})
            self.assertEqual(reply.status, 403, reply)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_early_refusals_reach_a_client_that_is_still_sending(self):
        head = (f"POST /v1/collections HTTP/1.1\r\nHost: localhost\r\n"
                f"Content-Type: application/json\r\nContent-Length: 300000\r\n\r\n").encode()
        answer = self.server.raw(head + b"x" * 300000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 401 "), answer[:200])


class ManyCollectionsTest(support.ServerTest):
    """Thousands of collections, of which few are used at a time."""

    COUNT, USED = 2000, 10
    GROWTH_KIB_MAX = 32 * 1024

    def loaded(self):
        return {item["name"] for item in self.ok("GET", "/v1/stats")["collections"]
                if item["index_loaded"]}

    def test_memory_is_taken_for_those_in_use(self):
        before = self.server.memory_kib()
        names = [f"c{i:04}" for i in range(self.COUNT)]
        for name in names:
            self.make(name)
        used = set(names[::self.COUNT // self.USED])
        for name in used:
            self.ok("POST", f"/v1/collections/{name}/documents", {"text": f"This is {name}."},
                    status=201)
        admin = self.server.admin
        self.server.stop()
        again = support.Server(self.server.folder)
        self.addCleanup(again.stop)
        type(self).call = staticmethod(lambda method, path, body=None, token=None: again.call(
            method, path, body, admin if token is None else token))

        listed = self.ok("GET", "/v1/collections")["collections"]
        self.assertEqual({item["name"] for item in listed if item["documents"]}, used)
        self.assertEqual(len(listed), self.COUNT + 1)
        self.assertEqual(self.loaded(), set())
        some = sorted(used)[:3]
        for name in some:
            hits = self.ok("POST", f"/v1/collections/{name}/search", {"query": "this"})["hits"]
            self.assertEqual([hit["text"] for hit in hits], [f"This is {name}."])
        self.assertEqual(self.loaded(), set(some))
        growth = again.memory_kib() - before
        print(f"{self.COUNT} collections, 3 in use: {growth:+} KiB")
        if support.MEMORY_TELLS:
            self.assertLess(growth, self.GROWTH_KIB_MAX)


class LifecycleTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(support.tempfile.mkdtemp(prefix="msadb-server-"))
        self.addCleanup(support.shutil.rmtree, self.folder, ignore_errors=True)
        self.database = self.folder / "db"
        subprocess.run([support.BIN, "create", str(self.database), "--model", support.MODEL],
                       check=True, stdout=subprocess.DEVNULL)

    def start(self, *options):
        server = support.Server(self.database, *options)
        self.addCleanup(server.stop, signal.SIGKILL)
        return server

    def test_a_stop_finishes_what_is_under_way(self):
        server = self.start()
        server.call("POST", "/v1/collections", {"name": "c"})
        server.call("POST", "/v1/collections/c/documents", {"text": "The key is under the pot."})
        body = json.dumps({**ASK, "answer_tokens_max": 1000}).encode()
        with server.connect() as connection, server.connect() as idle:
            connection.sendall(
                b"POST /v1/collections/c/ask HTTP/1.1\r\nHost: localhost\r\n"
                b"Authorization: Bearer " + server.admin.encode() +
                b"\r\nContent-Type: application/json\r\nContent-Length: " +
                str(len(body)).encode() + b"\r\n\r\n" + body)
            metrics = ""
            while 'msadb_http_request_seconds_count{route="ask"}' not in metrics and \
                    'msadb_calls_running{lane="model"} 1' not in metrics:
                metrics = server.call("GET", "/metrics").body.decode()
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(idle.recv(1), b"")
            # To be stopped and to go on is no reason to give up.
            server.process.send_signal(signal.SIGSTOP)
            threads = pathlib.Path(f"/proc/{server.process.pid}/task")
            support.wait_for(lambda: {path.read_text().rsplit(")")[-1].split()[0]
                                      for path in threads.glob("*/stat")}, {"T"}.__eq__)
            server.process.send_signal(signal.SIGCONT)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer[:200])
        self.assertEqual(server.process.wait(support.TIMEOUT_S), 0)
        again = self.start()
        self.assertIsNone(again.admin)  # the tokens are those of the first start
        self.assertEqual(again.call("GET", "/v1/collections/c", token=server.admin).status, 200)

    def test_a_client_that_hangs_up_ends_its_question(self):
        server = self.start("--model-workers", "1")
        server.call("POST", "/v1/collections", {"name": "c"})
        server.call("POST", "/v1/collections/c/documents", {"text": "The key is under the pot."})
        body = json.dumps({"question": "Where?", "answer_tokens_max": 3000,
                           "stream": True}).encode()
        with server.connect() as connection:
            connection.sendall(
                b"POST /v1/collections/c/ask HTTP/1.1\r\nHost: localhost\r\n"
                b"Authorization: Bearer " + server.admin.encode() +
                b"\r\nContent-Type: application/json\r\nContent-Length: " +
                str(len(body)).encode() + b"\r\n\r\n" + body)
        # The only worker is free again, and the question has no answer.
        reply = server.call("POST", "/v1/collections/c/search", {"query": "key"})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(support.wait_for(lambda: statuses(server, "ask"), len), [0])

    def test_a_flood_in_one_collection_leaves_room_for_another(self):
        server = self.start("--model-workers", "2", "--queue", "8")
        for name in ("flooded", "quiet"):
            server.call("POST", "/v1/collections", {"name": name})
            server.call("POST", f"/v1/collections/{name}/documents", {"text": "Box 1 is red."})

        def ask(i):
            name = "flooded" if i % 4 else "quiet"
            reply = server.call("POST", f"/v1/collections/{name}/ask",
                                {**ASK, "answer_tokens_max": 64})
            return name, reply.status

        # Four are in the quiet collection, which is what may wait there; forty in the other.
        replies = support.in_parallel(lambda i: ask(4 * i if i < 4 else 4 * i + 1), 44)
        self.assertEqual({status for name, status in replies if name == "quiet"}, {200})
        self.assertEqual({status for name, status in replies if name == "flooded"}, {200, 503})

    def test_a_full_queue_is_answered_at_once(self):
        server = self.start("--model-workers", "1", "--queue", "2")
        server.call("POST", "/v1/collections", {"name": "c"})
        for i in range(8):
            server.call("POST", "/v1/collections/c/documents", {"text": f"Box {i}."})
        replies = support.in_parallel(
            lambda i: server.call("POST", "/v1/collections/c/ask",
                                  {**ASK, "answer_tokens_max": 128}), 24)
        statuses = sorted(reply.status for reply in replies)
        self.assertEqual(set(statuses), {200, 503}, statuses)
        refused = next(reply for reply in replies if reply.status == 503)
        self.assertEqual(refused.fields["Retry-After"], "1")
        self.assertEqual(refused.json()["error"]["code"], "Unavailable")

    def test_tls(self):
        certificate, key = self.folder / "cert.pem", self.folder / "key.pem"
        outcome = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-days", "2", "-keyout", str(key), "-out", str(certificate)], capture_output=True,
            check=False)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        server = self.start("--tls-cert", str(certificate), "--tls-key", str(key))
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("localhost", server.port, context=context,
                                                 timeout=support.TIMEOUT_S)
        self.addCleanup(connection.close)
        for _ in range(2):  # the same connection twice
            connection.request("GET", "/v1/collections",
                               headers={"Authorization": f"Bearer {server.admin}"})
            reply = connection.getresponse()
            names = [item["name"] for item in json.loads(reply.read())["collections"]]
            self.assertEqual((reply.status, names), (200, ["default"]))
        plain = server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertNotIn(b"200", plain)


if __name__ == "__main__":
    unittest.main()
