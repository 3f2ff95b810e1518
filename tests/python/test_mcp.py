"""`msadb mcp` and POST /mcp of `msadb serve`, driven by the official MCP client.

The client checks every structured result against the tool's outputSchema. The protocol byte by byte is
tested in tests/mcp.
"""

import asyncio
import json
import os
import subprocess

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from conftest import MODEL

BIN = os.environ["MSADB_BIN"]


@pytest.fixture
def memory(folder):
    subprocess.run([BIN, "create", folder, "--model", MODEL], check=True, capture_output=True)
    return StdioServerParameters(command=BIN, args=["mcp", str(folder), "--threads", "1"])


def drive(memory, steps, **options):
    """Runs steps(client) with a client that is connected to `memory`."""

    async def session():
        async with asyncio.timeout(120), Client(memory, **options) as client:
            return await steps(client)

    return asyncio.run(session())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_conversation_with_all_tools(memory, mode):
    """With the revision that has no handshake, and with those that have one."""

    async def steps(client):
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["remember", "recall", "ask", "forget", "list"]
        assert tools["recall"].annotations.read_only_hint is True
        assert tools["forget"].annotations.destructive_hint is True

        stored = await client.call_tool(
            "remember", {"text": "The spare key is under the blue flowerpot.", "key": "key",
                         "metadata": {"topic": "house"}})
        assert stored.structured_content == {"id": 1, "key": "key", "expires_at": None}
        await client.call_tool("remember", {"text": "Bread is bought on Fridays."})

        found = await client.call_tool("recall", {"query": "key", "where": {"topic": "house"}})
        assert [document["text"] for document in found.structured_content["documents"]] == [
            "The spare key is under the blue flowerpot."]
        assert json.loads(found.content[0].text) == found.structured_content

        answer = await client.call_tool("ask", {"question": "Where is the key?", "max_tokens": 8})
        assert not answer.is_error
        assert set(answer.structured_content) == {"notice", "answer", "finish_reason", "documents"}

        listed = await client.call_tool("list", {"limit": 1})
        assert listed.structured_content["next"] == 1
        gone = await client.call_tool("forget", {"key": "key"})
        assert gone.structured_content == {"deleted": 1}

        refused = await client.call_tool("forget", {"key": "key"})
        assert refused.is_error and refused.content[0].text.startswith("NotFound: ")
        wrong = await client.call_tool("recall", {"query": "x", "limit": 1000})
        assert wrong.is_error and wrong.content[0].text.startswith("InvalidArgument: ")
        with pytest.raises(MCPError, match="unknown tool"):
            await client.call_tool("nothing", {})

    drive(memory, steps, mode=mode)


def test_calls_at_the_same_time(memory):
    async def steps(client):
        await client.call_tool("remember", {"text": "The key is under the pot."})
        answers = await asyncio.gather(
            *(client.call_tool("ask", {"question": "Where is the key?", "max_tokens": 8}) for _ in range(12)),
            *(client.call_tool("list", {}) for _ in range(12)))
        assert not any(answer.is_error for answer in answers)

    drive(memory, steps)


def test_a_cancelled_call_leaves_the_session_usable(memory):
    async def steps(client):
        await client.call_tool("remember", {"text": "The key is under the pot."})
        ask = asyncio.create_task(
            client.call_tool("ask", {"question": "Where is the key?", "max_tokens": 1024}))
        await asyncio.sleep(0)
        ask.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ask
        assert len((await client.call_tool("list", {})).structured_content["documents"]) == 1

    drive(memory, steps)


def test_what_one_session_remembers_the_next_recalls(memory):
    async def remember(client):
        await client.call_tool("remember", {"text": "kept"})

    async def recall(client):
        return (await client.call_tool("recall", {"query": "kept"})).structured_content

    drive(memory, remember)
    assert drive(memory, recall)["documents"][0]["text"] == "kept"


@pytest.fixture
def server(folder):
    """The address of an HTTP server, and its token for everything."""
    subprocess.run([BIN, "create", folder, "--model", MODEL], check=True, capture_output=True)
    with subprocess.Popen([BIN, "serve", folder, "--listen", "127.0.0.1:0", "--json", "--threads", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            started = json.loads(process.stdout.readline())
            yield started["listening"].rstrip("/"), started["token"]
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_same_tools_over_http(folder, server, mode):
    address, admin = server
    made = subprocess.run([BIN, "tokens", "add", folder, "reader", "default:read", "--json"],
                          check=True, capture_output=True, text=True)
    reader = json.loads(made.stdout)["token"]

    async def session(token, steps):
        async with (
            asyncio.timeout(120),
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(f"{address}/mcp", http_client=http), mode=mode) as client,
        ):
            await steps(client)

    async def write(client):
        stored = await client.call_tool("remember", {"text": "The key is under the pot."})
        assert stored.structured_content["id"] == 1
        answer = await client.call_tool("ask", {"question": "Where is the key?", "max_tokens": 8})
        assert not answer.is_error

    async def read(client):
        assert [tool.name for tool in (await client.list_tools()).tools] == ["recall", "ask", "list"]
        listed = await client.call_tool("list", {})
        assert [document["id"] for document in listed.structured_content["documents"]] == [1]
        with pytest.raises(MCPError, match="unknown tool"):
            await client.call_tool("forget", {"id": 1})

    asyncio.run(session(admin, write))
    asyncio.run(session(reader, read))
