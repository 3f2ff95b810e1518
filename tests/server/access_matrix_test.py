"""Every route, as the server describes it, with every kind of token."""

import json
import unittest

import support

RIGHTS = {"read": 1, "write": 2, "admin": 3}

# What a request needs beside its address to succeed.
BODIES = {
    "createCollection": {"name": "notes"},
    "insertDocument": {"text": "A heron stands at the pond."},
    "upsertDocument": {"text": "A heron stood at the pond.", "key": "heron"},
    "insertDocuments": {"documents": [{"text": "Two herons."}]},
    "deleteDocuments": {"where": {"nothing": "has this"}},
    "applyTransaction": {"changes": [{"op": "insert", "document": {"text": "Three herons."}}]},
    "search": {"query": "heron"},
    "ask": {"question": "Who stands at the pond?", "answer_tokens_max": 2, "rounds_max": 1},
    "completeChat": {"model": "notes", "max_tokens": 2, "msadb": {"rounds_max": 1},
                     "messages": [{"role": "user", "content": "Who stands at the pond?"}]},
    "mcp": {"jsonrpc": "2.0", "id": 1, "method": "ping"},
}


class AccessMatrixTest(support.ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        server = cls.server
        cls.call("POST", "/v1/collections", {"name": "notes"})
        cls.call("POST", "/v1/collections", {"name": "other"})
        cls.tokens = {"none": "", "bad": "msadb_" + "0" * 64,
                      "foreign": server.add_token("foreign", "other:admin")}
        for right in RIGHTS:
            cls.tokens[right] = server.add_token(f"notes-{right}", f"notes:{right}")
        cls.tokens["server"] = server.admin
        cls.routes = []
        for path, methods in json.loads(cls.call("GET", "/openapi.json").body)["paths"].items():
            for method, operation in methods.items():
                cls.routes.append((method.upper(), path, operation))

    def expected(self, who, operation):
        """The status of one cell of the matrix."""
        name = operation["operationId"]
        scope, right = operation["x-msadb-scope"], operation["x-msadb-right"]
        success = int(next(code for code in operation["responses"] if code != "default"))
        if name == "createCollection":
            success = 409  # allowed, and taken
        if scope == "public":
            return success
        if who in ("none", "bad"):
            return 401
        if who == "server" or scope == "token":
            return success
        if scope == "server":
            return 403
        if who == "foreign":
            return 404
        return success if RIGHTS[who] >= RIGHTS[right] else 403

    def address(self, path, operation):
        """The path of a fresh document in the collection notes."""
        self.call("POST", "/v1/collections", {"name": "notes"})
        reply = self.call("PUT", "/v1/collections/notes/documents",
                          {"text": "A heron.", "key": "heron"})
        number = reply.json()["id"]
        path = path.format(collection="notes", id=number, key="heron")
        return path + "?collection=notes" if operation["operationId"] == "mcp" else path

    def test_every_cell(self):
        cells = 0
        for method, path, operation in self.routes:
            for who, token in self.tokens.items():
                target = self.address(path, operation)
                body = BODIES.get(operation["operationId"])
                reply = self.call(method, target, body, token)
                self.assertEqual(reply.status, self.expected(who, operation),
                                 f"{method} {target} as {who}: {reply}")
                if reply.status == 401:
                    self.assertEqual(reply.fields["WWW-Authenticate"], "Bearer")
                cells += 1
        print(f"{cells} cells of {len(self.routes)} routes")
        self.assertEqual(cells, len(self.routes) * len(self.tokens))

    def test_a_foreign_collection_cannot_be_told_from_a_missing_one(self):
        for method, path, operation in self.routes:
            if operation["x-msadb-scope"] != "collection":
                continue
            answers = []
            for name in ("notes", "absent"):
                target = path.format(collection=name, id=1, key="heron")
                body = BODIES.get(operation["operationId"])
                reply = self.call(method, target, body, self.tokens["foreign"])
                answers.append((reply.status, reply.body.replace(name.encode(), b"NAME"),
                                sorted(reply.fields)))
            self.assertEqual(answers[0][0], 404, f"{method} {path}: {answers[0]}")
            self.assertEqual(answers[0], answers[1], f"{method} {path}")
        missing = self.call("GET", "/v1/collections/absent")
        foreign = self.call("GET", "/v1/collections/absent", token=self.tokens["foreign"])
        self.assertEqual(missing.body, foreign.body)

    def test_lists_hold_what_the_token_may_read(self):
        for who, names in (("foreign", ["other"]), ("read", ["notes"])):
            self.call("POST", "/v1/collections", {"name": "notes"})
            token = self.tokens[who]
            listed = self.ok("GET", "/v1/collections", token=token)["collections"]
            self.assertEqual([item["name"] for item in listed], names)
            models = self.ok("GET", "/v1/models", token=token)["data"]
            self.assertEqual([item["id"] for item in models], names)

    def test_remembering_needs_the_right_to_write(self):
        body = dict(BODIES["completeChat"], msadb={"remember": True, "rounds_max": 1})
        self.call("POST", "/v1/collections", {"name": "notes"})
        self.refused(403, "PermissionDenied", "POST", "/v1/chat/completions", body,
                     self.tokens["read"])
        answer = self.ok("POST", "/v1/chat/completions", body, self.tokens["write"])
        remembered = answer["msadb"]["remembered"]
        stored = self.ok("GET", f"/v1/collections/notes/documents/{remembered}")
        self.assertIn("Who stands at the pond?", stored["text"])

    def test_a_revoked_token_ends(self):
        token = self.server.add_token("brief", "other:read")
        self.ok("GET", "/v1/collections", token=token)
        support.subprocess.run([support.BIN, "tokens", "revoke", self.server.folder, "brief"],
                               check=True, stdout=support.subprocess.DEVNULL)
        while self.call("GET", "/v1/collections", token=token).status != 401:
            pass  # the file is looked at once a second


if __name__ == "__main__":
    unittest.main()
