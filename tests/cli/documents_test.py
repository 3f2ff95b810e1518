"""create, insert, get, delete, list, collections, stats, verify, compact, reencode, and errors."""

import json
import pathlib
import subprocess
import time
import unittest

from support import (BIN, CORRUPTION, MODEL_A, MODEL_B, NOT_FOUND, OK, RESOURCES, STATE, UNAVAILABLE,
                     USAGE, CliTest)


class CreateTest(CliTest):
    def test_makes_a_database(self):
        made = self.result("create", self.db, "--model", MODEL_A)
        self.assertRegex(made["model_fingerprint"], "^[0-9a-f]{64}$")
        self.assertEqual(self.result("list", self.db)["documents"], [])

    def test_refuses_an_existing_database(self):
        self.create()
        self.insert("kept")
        self.fail_with(STATE, "AlreadyExists", "create", self.db, "--model", MODEL_A)
        self.assertEqual(self.count(), 1)

    def test_refuses_a_missing_model(self):
        self.fail_with(NOT_FOUND, "NotFound", "create", self.db, "--model", self.folder / "none")

    def test_takes_the_model_of_the_environment(self):
        environment = {**self.environment(), "MSADB_MODEL": MODEL_B}
        made = self.result("create", self.db, environment=environment)
        other = self.result("create", str(self.folder / "other"), "--model", MODEL_A)
        self.assertNotEqual(made["model_fingerprint"], other["model_fingerprint"])

    def test_other_verbs_want_a_database(self):
        for arguments in (["get", "none", "--id", 1], ["list", "none"], ["insert", "none", "x"],
                          ["search", "none", "q"], ["ask", "none", "q"], ["stats", "none"],
                          ["verify", "none"], ["compact", "none"], ["export", "none", "f"],
                          ["collections", "list", "none"],
                          ["reencode", "none", "--model", MODEL_A]):
            self.fail_with(NOT_FOUND, "NotFound", *arguments)
        self.assertFalse((self.folder / "none").exists())


class InsertGetDeleteTest(CliTest):
    def setUp(self):
        super().setUp()
        self.create()

    def test_a_document_comes_back_as_it_was(self):
        metadata = {"topic": "garden", "year": 2026, "share": 0.5, "done": True, "tags": ["a", "b"]}
        text = "Tomatoes grow south.\n\nÄpfel \U0001F34F  end  "
        number = self.insert(text, "--key", "garden/1", "--meta", json.dumps(metadata),
                             "--source", "diary")
        for selection in (["--id", number], ["--key", "garden/1"]):
            document = self.result("get", self.db, *selection)
            self.assertEqual(document["text"], text)
            self.assertEqual(document["metadata"], metadata)
            self.assertEqual(document["key"], "garden/1")
            self.assertEqual(document["source"], "diary")
            self.assertIsNone(document["expires_at"])
            self.assertGreater(document["parts"][0]["tokens"], 0)
        self.assertEqual(self.succeed("get", self.db, "--id", number, "--text").out, text)
        shown = self.succeed("get", self.db, "--id", number).out
        self.assertIn("garden/1", shown)
        self.assertIn("Tomatoes grow south.", shown)

    def test_a_file_and_standard_input(self):
        path = self.folder / "note.txt"
        path.write_text("From a file.")
        from_file = self.result("insert", self.db, "--file", path)["id"]
        document = self.result("get", self.db, "--id", from_file)
        self.assertEqual(document["text"], "From a file.")
        self.assertEqual(document["source"], str(path))
        piped = self.result("insert", self.db, "--file", "-", stdin=b"From a pipe.")["id"]
        self.assertEqual(self.result("get", self.db, "--id", piped)["text"], "From a pipe.")

    def test_jsonl(self):
        lines = [{"text": f"Fact {i}.", "key": f"k{i}", "metadata": {"i": i}} for i in range(40)]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        self.assertEqual(self.result("insert", self.db, "--jsonl", "-", stdin=data)["inserted"], 40)
        again = self.result("insert", self.db, "--jsonl", "-", stdin=data)
        self.assertEqual((again["inserted"], again["skipped"]), (0, 40))
        replaced = self.result("insert", self.db, "--jsonl", "-", "--replace", stdin=data)
        self.assertEqual(replaced["inserted"], 40)
        self.assertEqual(self.count(), 40)
        self.assertEqual(self.result("get", self.db, "--key", "k7")["metadata"], {"i": 7})

    def test_a_bad_line_is_named(self):
        data = b'{"text": "fine", "key": "a"}\n{"txt": "misspelt"}\n'
        message = self.fail_with(USAGE, "InvalidArgument", "insert", self.db, "--jsonl", "-",
                                 stdin=data)
        self.assertIn("line 2", message)

    def test_keys_are_unique_until_replaced(self):
        first = self.insert("one", "--key", "k")
        self.fail_with(STATE, "AlreadyExists", "insert", self.db, "two", "--key", "k")
        self.assertEqual(self.result("get", self.db, "--key", "k")["text"], "one")
        second = self.insert("two", "--key", "k", "--replace")
        self.assertGreater(second, first)
        self.assertEqual(self.result("get", self.db, "--key", "k")["text"], "two")
        self.fail_with(NOT_FOUND, "NotFound", "get", self.db, "--id", first)

    def test_bad_input_changes_nothing(self):
        bad = self.folder / "latin1.txt"
        bad.write_bytes(b"caf\xe9")
        for arguments in ([""], ["x", "--meta", "{"], ["x", "--meta", "[1]"],
                          ["x", "--meta", '{"a": null}'], ["x", "--meta", '{"a": {"b": 1}}'],
                          ["x", "--meta", '{"a": [1]}'], ["x", "--expires", "soon"],
                          ["--file", bad], ["x", "--key", ""]):
            self.fail_with(USAGE, "InvalidArgument", "insert", self.db, *arguments)
        self.fail_with(NOT_FOUND, "NotFound", "insert", self.db, "--file", self.folder / "none")
        self.fail_with(USAGE, "InvalidArgument", "insert", self.db, "--file", self.folder)
        self.assertEqual(self.count(), 0)

    def test_a_failed_command_makes_no_collection(self):
        bad = self.folder / "bad.jsonl"
        bad.write_text("{bad\n")
        for arguments in (["insert", self.db, ""], ["insert", self.db, "--jsonl", bad],
                          ["import", self.db, bad]):
            self.fail_with(USAGE, "InvalidArgument", *arguments, "-c", "new")
        listed = self.result("collections", "list", self.db)["collections"]
        self.assertEqual([c["name"] for c in listed], ["default"])
        # What was stored before the failure stays, and so does a collection that was there.
        bad.write_text("".join(f'{{"text": "{i}", "key": "{i}"}}\n' for i in range(300)) + "{bad\n")
        self.fail_with(USAGE, "InvalidArgument", "insert", self.db, "--jsonl", bad, "-c", "begun")
        self.assertEqual(self.count("begun"), 256)  # one batch
        self.succeed("collections", "create", self.db, "empty")
        self.fail_with(USAGE, "InvalidArgument", "insert", self.db, "", "-c", "empty")
        self.assertEqual(self.count("empty"), 0)

    def test_an_empty_filter_is_not_everything(self):
        self.insert("kept", "--meta", '{"a": 1}')
        for verb in (["delete", self.db], ["list", self.db], ["search", self.db, "q"],
                     ["ask", self.db, "q"], ["export", self.db, self.folder / "out"]):
            message = self.fail_with(USAGE, "InvalidArgument", *verb, "--where", "")
            self.assertIn("--where", message)
        self.assertEqual(self.count(), 1)

    def test_delete(self):
        one, two = self.insert("one"), self.insert("two", "--key", "k")
        for year in range(2018, 2022):
            self.insert(f"year {year}", "--meta", json.dumps({"year": year}))
        self.assertEqual(self.result("delete", self.db, "--id", one)["deleted"], 1)
        self.assertEqual(self.result("delete", self.db, "--key", "k")["deleted"], 1)
        where = '{"year": {"$lt": 2020}}'
        self.assertEqual(self.result("delete", self.db, "--where", where)["deleted"], 2)
        self.assertEqual(self.result("delete", self.db, "--where", where)["deleted"], 0)
        self.fail_with(NOT_FOUND, "NotFound", "delete", self.db, "--id", two)
        self.fail_with(NOT_FOUND, "NotFound", "delete", self.db, "--key", "k")
        self.fail_with(USAGE, "InvalidArgument", "delete", self.db, "--where", '{"year": {"$x": 1}}')
        self.assertEqual(self.count(), 2)

    def test_expiry(self):
        number = self.insert("soon gone", "--expires", "1s")
        stays = self.insert("stays", "--expires", "30d")
        limit = time.monotonic() + 60
        while self.run_cli("get", self.db, "--id", number).code == OK:
            self.assertLess(time.monotonic(), limit, "it never expired")
            time.sleep(0.2)
        self.fail_with(NOT_FOUND, "NotFound", "get", self.db, "--id", number)
        self.assertIsNotNone(self.result("get", self.db, "--id", stays)["expires_at"])

    def test_list_pages(self):
        numbers = [self.insert(f"text {i}", "--meta", json.dumps({"even": i % 2 == 0}))
                   for i in range(5)]
        first = self.result("list", self.db, "--limit", 2)
        self.assertEqual([d["id"] for d in first["documents"]], numbers[:2])
        rest = self.result("list", self.db, "--after", first["next"])
        self.assertEqual([d["id"] for d in rest["documents"]], numbers[2:])
        self.assertIsNone(rest["next"])
        even = self.result("list", self.db, "--where", '{"even": true}', "--no-text")
        self.assertEqual([d["id"] for d in even["documents"]], numbers[::2])
        self.assertNotIn("text", even["documents"][0])
        self.assertIn("--after", self.succeed("list", self.db, "--limit", 2).err)

    def test_one_process_at_a_time(self):
        holder = self.start_cli("insert", self.db, "--jsonl", "-", stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.wait_until_open(holder)
        self.fail_with(UNAVAILABLE, "Unavailable", "list", self.db)
        holder.communicate(b'{"text": "held"}\n', timeout=60)
        self.assertEqual(holder.returncode, OK)
        self.assertEqual(self.count(), 1)


class CollectionsTest(CliTest):
    def test_list_create_drop(self):
        self.create()
        self.result("collections", "create", self.db, "work")
        self.fail_with(STATE, "AlreadyExists", "collections", "create", self.db, "work")
        self.insert("in work", "-c", "work")
        self.insert("made on the way", "-c", "new")
        listed = self.result("collections", "list", self.db)["collections"]
        self.assertEqual({c["name"]: c["documents"] for c in listed},
                         {"default": 0, "work": 1, "new": 1})
        self.result("collections", "drop", self.db, "work")
        self.fail_with(NOT_FOUND, "NotFound", "collections", "drop", self.db, "work")
        self.fail_with(NOT_FOUND, "NotFound", "list", self.db, "-c", "work")
        self.fail_with(USAGE, "InvalidArgument", "collections", "create", self.db, "a/b")


class MaintenanceTest(CliTest):
    def setUp(self):
        super().setUp()
        self.create()
        for i in range(20):
            self.insert(f"The secret word number {i} is Zweifelsfall{i}.", "--key", f"k{i}")

    def files(self):
        return [path for path in pathlib.Path(self.db).rglob("*") if path.is_file()]

    def test_stats(self):
        stats = self.result("stats", self.db)
        self.assertEqual(stats["collections"][0]["documents"], 20)
        self.assertGreater(stats["disk_bytes"], 0)
        self.assertIn("20 in 20 parts", self.succeed("stats", self.db).out)

    def test_verify_and_compact_after_delete(self):
        self.result("delete", self.db, "--key", "k7")
        compacted = self.result("compact", self.db)
        self.assertEqual(set(compacted), {"disk_bytes_before", "disk_bytes_after"})
        for path in self.files():
            self.assertNotIn(b"Zweifelsfall7.", path.read_bytes(), path)
        report = self.result("verify", self.db)
        self.assertTrue(report["ok"])
        self.assertEqual(report["documents_checked"], 19)
        self.assertEqual(report["problems"], [])

    def test_verify_finds_damage(self):
        self.result("compact", self.db)
        data = max((path for path in self.files() if path.suffix in (".sst", ".blob")),
                   key=lambda path: path.stat().st_size)
        content = bytearray(data.read_bytes())
        content[len(content) // 3] ^= 0x10
        data.write_bytes(content)
        outcome = self.run_cli("verify", self.db, "--json")
        self.assertEqual(outcome.code, CORRUPTION, outcome)

    def test_reencode(self):
        before = self.result("stats", self.db)["model_fingerprint"]
        self.assertEqual(
            self.result("reencode", self.db, "--model", MODEL_B)["documents"], 20)
        self.assertNotEqual(self.result("stats", self.db)["model_fingerprint"], before)
        self.assertIn("Zweifelsfall3.", self.result("get", self.db, "--key", "k3")["text"])
        message = self.fail_with(STATE, "FailedPrecondition", "search", self.db, "x", "--model",
                                 MODEL_A)
        self.assertEqual(message.count("; open it with"), 1, message)
        self.assertIn("msadb reencode", message)
        self.assertTrue(self.result("search", self.db, "secret word")["hits"])
        self.assertTrue(self.result("verify", self.db)["ok"])
        self.fail_with(USAGE, "InvalidArgument", "reencode", self.db)


class MemoryTest(CliTest):
    def test_too_little_memory_is_an_error(self):
        self.create()
        self.insert("kept")
        # One thread, so that what is left for the program does not depend on the machine's cores.
        environment = {**self.environment(), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

        def run(limit, *arguments):
            return subprocess.run(["prlimit", f"--as={limit << 20}", "--core=0", BIN, *arguments],
                                  capture_output=True, timeout=60, env=environment, check=False)

        if run(2048, "list", self.db).returncode != OK:
            self.skipTest("this build needs too much address space, as sanitizers do")
        refused = 0
        for limit in range(360, 800, 20):  # far below, OpenBLAS never returns from being loaded
            process = run(limit, "list", self.db, "--json")
            self.assertIn(process.returncode, (OK, RESOURCES), (limit, process))
            if process.returncode == RESOURCES:
                refused += 1
                error = json.loads(process.stdout)["error"]
                self.assertEqual(error["code"], "ResourceExhausted", (limit, process))
        self.assertGreater(refused, 0)
        self.assertEqual(self.count(), 1)


class UsageTest(CliTest):
    def test_wrong_command_lines(self):
        self.create()
        for arguments in ([], ["nonsense"], ["get", self.db], ["get", self.db, "--id", "x"],
                          ["get", self.db, "--id", 1, "--key", "k"], ["insert", self.db],
                          ["insert", self.db, "text", "--file", "f"],
                          ["insert", self.db, "--jsonl", "-", "--key", "k"],
                          ["list", self.db, "--limit", 0], ["search", self.db, "q", "-k", 1001],
                          ["ask", self.db, "q", "--temperature", "-1"], ["collections"],
                          ["get", self.db, "--id", "-1"], ["delete", self.db, "--id", 10**20],
                          ["list", self.db, "--after", "-1"],
                          ["import", self.db, "-", "--skip-lines", "-1"],
                          ["list", self.db, "--nonsense"]):
            self.fail_with(USAGE, "InvalidArgument", *arguments)

    def test_a_word_that_is_no_verb_is_named(self):
        message = self.fail_with(USAGE, "InvalidArgument", "serach", self.db, "q")
        self.assertIn("'serach'", message)
        message = self.fail_with(USAGE, "InvalidArgument", "collections", "lst", self.db)
        self.assertIn("'lst'", message)

    def test_help_teaches(self):
        top = self.succeed("--help").out
        for verb in ("create", "insert", "get", "delete", "list", "search", "ask", "stats", "verify",
                     "compact", "export", "import", "ingest", "collections", "reencode"):
            self.assertIn(verb, top)
            shown = self.succeed(verb, "--help").out
            self.assertIn("Example", shown, verb)
        self.assertIn("Exit codes", top)
        self.assertIn("First steps", top)

    def test_version(self):
        self.assertRegex(self.succeed("--version").out, r"^msadb \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main()
