"""The Python examples, the MCP configurations, and the README's programs as they are printed."""

import ast
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys

import httpx2
import msadb
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from conftest import MODEL, SOURCE, open_folder, served

BIN = os.environ["MSADB_BIN"]


def run(*command, stdin="", **options):
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True,
                          timeout=300, check=False, env={**os.environ, "MSADB_MODEL": MODEL}, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def example(name, *arguments, **options):
    return run(sys.executable, SOURCE / "examples" / name, *arguments, **options)


def test_agent_memory(tmp_path):
    folder = tmp_path / "agent"
    first = example("python_agent_memory.py", folder,
                    stdin="My name is Ada.\nI like tea.\nWhat do I like?\nforget nobody\n")
    assert first.startswith("0 turns in memory\nremembered as turn/")
    assert "NotFound: " in first
    key = re.search(r"remembered as (\S+)", first).group(1)
    assert example("python_agent_memory.py", folder, stdin=f"forget {key}\n") == (
        "2 turns in memory\nforgotten\n")
    assert example("python_agent_memory.py", folder).startswith("1 turns in memory")


@pytest.mark.parametrize("where", ["embedded", "remote"])
def test_knowledge_base(tmp_path, where):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "key.md").write_text("The spare key is under the blue flowerpot.")
    (texts / "bread.txt").write_text("Bread is bought on Fridays.")
    (texts / "image.png").write_bytes(b"\x89PNG")

    def check(place):
        def sync(*questions):
            return example("python_knowledge_base.py", place, texts, *questions)

        asked = sync("Where is the key?")
        assert asked.startswith("2 texts stored, 0 deleted, 2 in all\n\nWhere is the key?\n")
        assert sync() == "0 texts stored, 0 deleted, 2 in all\n"
        (texts / "key.md").write_text("The spare key is with Bob.")
        (texts / "bread.txt").unlink()
        assert sync() == "1 texts stored, 1 deleted, 1 in all\n"

    if where == "embedded":
        check(tmp_path / "db")
    elif not os.environ.get("MSADB_TEST_SERVER"):
        pytest.skip("this build has no client library")
    else:
        with served(tmp_path / "db") as address:
            check(address)


@contextlib.contextmanager
def serving(folder, *options):
    """`msadb serve`: what it says of itself when it has started."""
    run(BIN, "create", folder, "--model", MODEL)
    with subprocess.Popen([BIN, "serve", folder, "--listen", "127.0.0.1:0", "--json", "--threads", "1",
                           *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
    assert process.returncode == 0


def started_by(command, arguments, folder):
    """What an agent's program would start, with this build and this folder in their places."""
    assert command.endswith("msadb")
    assert arguments[0] == "mcp"
    return StdioServerParameters(command=BIN, args=["mcp", str(folder), *arguments[2:]])


def configurations():
    for path in sorted((SOURCE / "examples" / "mcp").glob("*.json")):
        yield pytest.param(path.read_text(), id=path.name)
    for name in ("README.md", "docs/mcp.md"):
        blocks = re.findall(r"```json\n(.*?)```", (SOURCE / name).read_text(), re.DOTALL)
        servers = (block for block in blocks if '"command"' in block or '"url"' in block)
        for number, block in enumerate(servers):
            yield pytest.param(block, id=f"{name}-{number}")


@pytest.mark.parametrize("text", list(configurations()))
def test_an_mcp_configuration_starts_a_server(tmp_path, text):
    folder = tmp_path / "notes"
    [servers] = json.loads(text).values()
    [server] = servers.values()

    async def session(memory):
        async with asyncio.timeout(120), Client(memory) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    if "url" not in server:
        run(BIN, "create", folder, "--model", MODEL)
        assert "recall" in asyncio.run(session(started_by(server["command"], server["args"], folder)))
        return
    with serving(folder) as started:
        url = server["url"].replace("http://127.0.0.1:7700/", started["listening"])
        fields = {name: value.replace("msadb_...", started["token"])
                  for name, value in server["headers"].items()}
        assert url != server["url"] and fields != server["headers"]

        async def over_http():
            async with httpx2.AsyncClient(headers=fields) as http:
                return await session(streamable_http_client(url, http_client=http))

        assert "recall" in asyncio.run(over_http())


def python_blocks():
    for name in ("README.md", "docs/python.md"):
        blocks = re.findall(r"```python\n(.*?)```", (SOURCE / name).read_text(), re.DOTALL)
        for number, block in enumerate(blocks):
            yield pytest.param(block, id=f"{name}-{number}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_a_program_of_the_documentation(tmp_path, block):
    """As printed, with a tiny model instead of the default one."""
    ast.parse(block)
    if "connect(" in block:
        if not os.environ.get("MSADB_TEST_SERVER"):
            pytest.skip("this build has no client library")
        with serving(tmp_path / "notes", "--binary-listen", "127.0.0.1:0") as started:
            address, token = started["binary"], started["token"]
            with msadb.connect(address, token=token) as database:
                database.collection().insert("The spare key is under the pot.")
            printed = block.replace("localhost:7411", address).replace('"..."', repr(token))
            assert address in printed and token in printed
            assert run(sys.executable, "-c", printed, cwd=tmp_path).strip()
        return
    if "notes." in block and "notes =" not in block:
        with open_folder(tmp_path / "notes") as database:
            database.collection().insert("The office is in Harbour Street.", key="office")
        block = "import msadb\nnotes = msadb.open('notes').collection()\n" + block
    run(sys.executable, "-c", block, cwd=tmp_path)


@pytest.mark.skipif(not (SOURCE / "models" / "default" / "config.json").is_file(),
                    reason="this source tree has no default model")
def test_the_readme_answers_with_the_default_model(tmp_path):
    [block] = re.findall(r"```python\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)[:1]
    environment = {name: value for name, value in os.environ.items() if name != "MSADB_MODEL"}
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=300,
                          check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "flowerpot" in done.stdout
