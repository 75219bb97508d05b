"""`stepdr mcp` as another client sees it: over standard input and output, and over HTTP on this machine."""
import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

STEPDR = str(Path(sys.executable).with_name("stepdr"))
TOOLS = ["batch_web_surfer", "file", "todo"]


async def play(client):
    "What a client does: list, write a file, read it, make a mistake, search."
    tools = (await client.list_tools()).tools
    calls = [("file", {"action": "write", "path": "a.md", "content": "水 and wine"}), ("file", {"action": "read", "path": "a.md"}), ("file", {"action": "read", "path": "../secret"}),
             ("shovel", {}), ("batch_web_surfer", {"action": "batch_search", "queries": ["Jack Lemmon school"]})]
    return [t.name for t in tools], [await client.call_tool(name, arguments) for name, arguments in calls]


def check(names, results, workspace):
    assert names == TOOLS and (workspace / "a.md").read_text() == "水 and wine"
    assert [r.is_error for r in results] == [False, False, True, True, False]
    assert "水 and wine" in results[1].content[0].text and "\\cite{web_" in results[4].content[0].text


def test_stdio(tmp_path):
    async def visit():
        server = StdioServerParameters(command=STEPDR, args=["mcp", "--workspace", str(tmp_path), "--tools", ",".join(TOOLS)], env=dict(os.environ))
        async with Client(stdio_client(server)) as client: return await asyncio.wait_for(play(client), 60)
    check(*asyncio.run(visit()), tmp_path)


def test_http(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([STEPDR, "mcp", "--port", str(port), "--workspace", str(tmp_path), "--tools", ",".join(TOOLS)], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0: break
            assert server.poll() is None, server.stderr.read()
            time.sleep(0.1)
        async def visit():
            async with Client(f"http://127.0.0.1:{port}/mcp") as client: return await asyncio.wait_for(play(client), 60)
        check(*asyncio.run(visit()), tmp_path)
    finally:
        server.terminate()
        server.wait(20)
