"""search and ask: results, filters, streaming, deadlines, ctrl-C."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import unittest

from support import CANCELLED, DEADLINE, MODEL_A, NOT_FOUND, OK, USAGE, CliTest

FACTS = [f"Fact {i}: the house number {i} has a {color} door."
         for i, color in enumerate(("red", "green", "blue", "white", "black", "yellow"))]


class QueryTest(CliTest):
    def setUp(self):
        super().setUp()
        self.create()
        lines = [{"text": text, "key": f"f{i}", "metadata": {"i": i}, "source": "street"}
                 for i, text in enumerate(FACTS)]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        self.succeed("insert", self.db, "--jsonl", "-", stdin=data)

    def test_search_ranks_documents(self):
        hits = self.result("search", self.db, "blue door", "-k", 4)["hits"]
        self.assertEqual(len(hits), 4)
        scores = [hit["score"] for hit in hits]
        self.assertEqual(scores, sorted(scores, reverse=True))
        for hit in hits:
            self.assertEqual(hit["text"], FACTS[hit["metadata"]["i"]])
            self.assertEqual(hit["key"], f"f{hit['metadata']['i']}")
        self.assertIn("street", self.succeed("search", self.db, "blue door").out)

    def test_routing_keys_may_be_rounded(self):
        scores = {}
        for keys in ("float", "int8"):
            hits = self.result("search", self.db, "blue door", "--routing-keys", keys)["hits"]
            scores[keys] = {hit["key"]: hit["score"] for hit in hits}
        self.assertEqual(set(scores["int8"]), set(scores["float"]))
        self.assertNotEqual(scores["int8"], scores["float"])
        for key, score in scores["int8"].items():
            self.assertAlmostEqual(score, scores["float"][key], delta=0.02)
        self.fail_with(USAGE, "InvalidArgument", "search", self.db, "door",
                       "--routing-keys", "fp8")

    def test_search_honours_filters(self):
        where = '{"i": {"$in": [1, 4]}}'
        hits = self.result("search", self.db, "door", "--where", where)["hits"]
        self.assertEqual(sorted(hit["metadata"]["i"] for hit in hits), [1, 4])
        self.assertEqual(self.result("search", self.db, "door", "--where", '{"i": 99}')["hits"], [])
        for bad in ("{", "[]", '{"i": {"$near": 1}}'):
            self.fail_with(USAGE, "InvalidArgument", "search", self.db, "door", "--where", bad)
        self.fail_with(NOT_FOUND, "NotFound", "search", self.db, "door", "-c", "none")
        self.fail_with(USAGE, "InvalidArgument", "search", self.db, "")

    def test_ask_gives_an_answer_as_json(self):
        answer = self.result("ask", self.db, "Which door is blue?", "--max-tokens", 8, "--trace")
        self.assertLessEqual({"answer", "citations", "finish_reason", "prompt_tokens",
                              "generated_tokens", "trace"}, set(answer))
        self.assertGreater(answer["prompt_tokens"], 0)
        self.assertIn(answer["finish_reason"], ("stop", "length"))
        layers = answer["trace"][0]["layers"]
        self.assertTrue(layers)
        self.assertTrue(layers[0]["documents"])
        for citation in answer["citations"]:
            self.assertIn(citation["text"], FACTS)
        plain = self.result("ask", self.db, "Which door is blue?", "--max-tokens", 8)
        self.assertNotIn("trace", plain)
        self.assertEqual(plain["answer"], answer["answer"], "greedy answers repeat")

    def test_ask_prints_what_json_says(self):
        arguments = ("ask", self.db, "Which door is blue?", "--max-tokens", 8)
        answer = self.result(*arguments)
        shown = self.succeed(*arguments).out
        self.assertIn(answer["answer"].strip(), shown)
        self.assertEqual("Sources" in shown, bool(answer["citations"]))
        self.assertIn("round 1", self.succeed(*arguments, "--trace").out)

    def test_sampling_repeats_with_its_seed(self):
        arguments = ("ask", self.db, "Which door?", "--temperature", 1.5, "--max-tokens", 12)
        one = self.result(*arguments, "--seed", 7)
        same = self.result(*arguments, "--seed", 7)
        self.assertEqual(one["answer"], same["answer"])
        others = {self.result(*arguments, "--seed", seed)["answer"] for seed in range(8, 14)}
        self.assertGreater(len(others | {one["answer"]}), 1)

    def test_an_empty_memory_still_answers(self):
        self.succeed("collections", "create", self.db, "empty")
        answer = self.result("ask", self.db, "Anything?", "-c", "empty", "--max-tokens", 4)
        self.assertEqual(answer["citations"], [])

    def test_a_deadline_that_has_passed(self):
        self.fail_with(DEADLINE, "DeadlineExceeded", "ask", self.db, "Which?", "--deadline", "0ms")
        self.fail_with(USAGE, "InvalidArgument", "ask", self.db, "Which?", "--deadline", "later")


class TerminalTest(CliTest):
    """Long work, watched as a person would."""

    def setUp(self):
        super().setUp()
        self.create()

    def test_ctrl_c_while_waiting_for_input(self):
        process = self.start_cli("insert", self.db, "--jsonl", "-", stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.wait_until_open(process)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        self.assertEqual(process.returncode, CANCELLED)
        self.assertTrue(self.result("verify", self.db)["ok"])

    def test_ctrl_c_keeps_what_was_committed(self):
        path = self.folder / "many.jsonl"
        with path.open("w") as file:
            for i in range(20000):
                file.write(json.dumps({"text": f"Document {i} of very many.", "key": f"k{i}"}) + "\n")
        master, slave = pty.openpty()
        process = self.start_cli("import", self.db, path, stderr=slave, stdout=subprocess.PIPE)
        os.close(slave)
        drawn = b""
        while b"Importing" not in drawn:  # the progress bar, first drawn after a commit
            ready, _, _ = select.select([master], [], [], 60)
            self.assertTrue(ready, "no progress appeared")
            drawn += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        process.stdout.close()
        os.close(master)
        self.assertEqual(process.returncode, CANCELLED)
        kept = self.result("stats", self.db)["collections"][0]["documents"]
        self.assertGreater(kept, 0)
        self.assertLess(kept, 20000)
        self.assertTrue(self.result("verify", self.db)["ok"])

    def test_no_progress_bar_outside_a_terminal(self):
        data = b"".join(b'{"text": "Document %d."}\n' % i for i in range(300))
        outcome = self.succeed("insert", self.db, "--jsonl", "-", stdin=data)
        self.assertEqual(outcome.err, "")

    def test_an_answer_is_streamed_and_ctrl_c_stops_it(self):
        # A model that nothing stops: its answer of 100,000 tokens would take minutes.
        model = self.folder / "endless"
        shutil.copytree(MODEL_A, model)
        (model / "templates.json").write_text('{"stop": []}')
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 200_000}))
        endless = self.folder / "endless-db"
        self.succeed("create", endless, "--model", model)
        self.succeed("insert", endless, "The door is blue.")
        process = self.start_cli("ask", endless, "Which door?", "--max-tokens", 100_000,
                                 "--temperature", 10, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        first = os.read(process.stdout.fileno(), 16)
        self.assertTrue(first)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, CANCELLED, err)


if __name__ == "__main__":
    unittest.main()
