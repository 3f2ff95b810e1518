"""The README's programs: each under ten lines, and the one over HTTP run as it is printed.

Those in C++ and Python and the configuration for MCP are run in tests/examples and tests/python.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import support

README = (pathlib.Path(os.environ["MSADB_SOURCE_DIR"]) / "README.md").read_text()


def block(heading, language):
    """The first block of a section."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return re.search(rf"```{language}\n(.*?)```", section.group(1), re.DOTALL).group(1)


class ReadmeTest(unittest.TestCase):
    def test_each_way_in_takes_less_than_ten_lines(self):
        for heading, language in ((".*C\\+\\+", "cpp"), ("Python", "python"), ("HTTP", "sh"),
                                  ("MCP", "json")):
            lines = [line for line in block(heading, language).splitlines() if line.strip()]
            self.assertLess(len(lines), 10, heading)

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_http(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="msadb-readme-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        subprocess.run([support.BIN, "create", str(folder / "notes"), "--model", support.MODEL],
                       check=True, stdout=subprocess.DEVNULL, timeout=support.TIMEOUT_S)
        # The usual port may be taken here; nothing else is changed.
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        printed = block("HTTP", "sh")
        program = printed.replace("127.0.0.1:7700", f"127.0.0.1:{port}").replace(
            "msadb serve notes", f"msadb serve notes --listen 127.0.0.1:{port}")
        self.assertEqual(program.count(str(port)), 3, printed)
        with open(folder / "log", "wb") as log:
            shell = subprocess.Popen(
                ["bash", "-euc", program], cwd=folder, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, text=True,
                env={**os.environ, "PATH": f"{pathlib.Path(support.BIN).parent}:{os.environ['PATH']}"})
        try:
            code = shell.wait(support.TIMEOUT_S)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)  # the server, left in the background
        with shell.stdout as out:
            lines = out.read().splitlines()  # until the server is gone too
        self.assertEqual(code, 0, (folder / "log").read_text())
        replies = [json.loads(line) for line in lines if line.startswith("{")]
        self.assertEqual([list(reply)[0] for reply in replies], ["id", "answer"], replies)
        self.assertEqual(replies[0]["id"], 1)


if __name__ == "__main__":
    unittest.main()
