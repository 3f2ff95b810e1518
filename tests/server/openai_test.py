"""The official openai package against the server, unchanged, and the example that uses it."""

import os
import pathlib
import re
import subprocess
import sys
import unittest

import support

try:
    import openai
except ImportError:
    openai = None

ROOT = pathlib.Path(os.environ["MSADB_SOURCE_DIR"])
SHORT = {"max_tokens": 8, "extra_body": {"msadb": {"rounds_max": 1}}}


def user(text):
    return {"role": "user", "content": text}


@unittest.skipIf(openai is None, "the Python package openai is not installed")
class OpenAiTest(support.ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.call("POST", "/v1/collections", {"name": "notes"})
        for text in ("The key is under the pot.", "The heron stands at the pond."):
            cls.call("POST", "/v1/collections/notes/documents", {"text": text})
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key=cls.server.admin,
                                   max_retries=0)
        cls.addClassCleanup(cls.client.close)

    def test_models_are_collections(self):
        self.assertEqual([model.id for model in self.client.models.list()],
                         ["default", "notes"])
        self.assertEqual(self.client.models.retrieve("notes").object, "model")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("absent")

    def test_a_completion_is_the_answer_of_ask(self):
        completion = self.client.chat.completions.create(
            model="notes", messages=[user("Where is the key?")], **SHORT)
        asked = self.ok("POST", "/v1/collections/notes/ask",
                        {"question": "Where is the key?", "answer_tokens_max": 8, "rounds_max": 1})
        choice = completion.choices[0]
        self.assertEqual(choice.message.content, asked["answer"])
        self.assertEqual(choice.message.role, "assistant")
        self.assertEqual(choice.finish_reason, asked["finish_reason"])
        self.assertEqual(completion.usage.completion_tokens, asked["generated_tokens"])
        self.assertEqual(completion.usage.total_tokens,
                         asked["prompt_tokens"] + asked["generated_tokens"])
        own = completion.model_extra["msadb"]
        self.assertEqual(own["citations"], asked["citations"])
        self.assertIsNone(own["remembered"])
        self.assertIn("not instructions", own["notice"])

    def test_a_stream_adds_up_to_the_completion(self):
        whole = self.client.chat.completions.create(
            model="notes", messages=[user("Where is the key?")], **SHORT)
        text, own, usage = "", None, None
        for chunk in self.client.chat.completions.create(
                model="notes", messages=[user("Where is the key?")], stream=True,
                stream_options={"include_usage": True}, **SHORT):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            own = chunk.model_extra.get("msadb", own)
            usage = chunk.usage or usage
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(own["citations"], whole.model_extra["msadb"]["citations"])
        self.assertEqual(usage, whole.usage)

    def test_the_conversation_is_context(self):
        earlier = [{"role": "system", "content": "Be brief."}, user("Where is the key?"),
                   {"role": "assistant", "content": "Under the pot."}]
        alone = self.client.chat.completions.create(
            model="notes", messages=[user("And the heron?")], **SHORT)
        together = self.client.chat.completions.create(
            model="notes", messages=[*earlier, user("And the heron?")], **SHORT)
        self.assertGreater(together.usage.prompt_tokens, alone.usage.prompt_tokens)
        parts = self.client.chat.completions.create(
            model="notes", **SHORT,
            messages=[user([{"type": "text", "text": "And the "},
                            {"type": "text", "text": "heron?"}])])
        self.assertEqual(parts.choices[0].message.content, alone.choices[0].message.content)

    def test_turns_are_remembered_when_asked(self):
        before = self.ok("GET", "/v1/collections/notes")["documents"]
        self.client.chat.completions.create(model="notes", messages=[user("Who?")], **SHORT)
        self.assertEqual(self.ok("GET", "/v1/collections/notes")["documents"], before)
        completion = self.client.chat.completions.create(
            model="notes", messages=[user("I like plums.")], max_tokens=4,
            extra_body={"msadb": {"remember": True, "rounds_max": 1}})
        number = completion.model_extra["msadb"]["remembered"]
        stored = self.ok("GET", f"/v1/collections/notes/documents/{number}")
        self.assertTrue(stored["text"].startswith("User: I like plums.\nAssistant:"), stored)
        self.assertEqual(stored["metadata"], {"kind": "conversation"})
        self.assertEqual((stored["written_by"], stored["source"]), ("admin", "chat"))
        self.ok("DELETE", f"/v1/collections/notes/documents/{number}")

    def test_errors_are_those_the_package_knows(self):
        stranger = openai.OpenAI(base_url=self.server.url + "/v1", api_key="wrong", max_retries=0)
        self.addCleanup(stranger.close)
        with self.assertRaises(openai.AuthenticationError):
            stranger.models.list()
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model="absent", messages=[user("x")])
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(model="notes", messages=[])
        self.assertEqual(caught.exception.code, "InvalidArgument")
        self.assertIn("messages", caught.exception.message)
        with self.assertRaises(openai.BadRequestError) as caught:  # which it does not send again
            self.client.chat.completions.create(
                model="notes", messages=[user("x")],
                tools=[{"type": "function", "function": {"name": "f"}}])
        self.assertEqual(caught.exception.code, "Unsupported")
        self.assertEqual(caught.exception.type, "invalid_request_error")

    def test_the_program_of_the_documentation(self):
        [printed] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/server.md").read_text(),
                               re.DOTALL)
        program = printed.replace("http://127.0.0.1:7700", self.server.url)
        self.assertNotEqual(program, printed)
        self.ok("POST", "/v1/collections/default/documents", {"text": "The key is here."},
                status=201)
        outcome = subprocess.run(
            [sys.executable, "-c", f"import openai\nTOKEN = {self.server.admin!r}\n{program}"],
            capture_output=True, text=True, timeout=support.TIMEOUT_S, check=False)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertIn("]", outcome.stdout)

    def test_the_example(self):
        environment = {**os.environ, "OPENAI_BASE_URL": self.server.url + "/v1",
                       "OPENAI_API_KEY": self.server.admin}
        outcome = subprocess.run(
            [sys.executable, ROOT / "examples/openai_chat.py", "notes"], env=environment,
            input="Where is the key?\nAnd the heron?\n", capture_output=True, text=True,
            timeout=support.TIMEOUT_S, check=False)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertEqual(outcome.stdout.count("assistant: "), 2, outcome.stdout)


if __name__ == "__main__":
    unittest.main()
