"""`stepdr mcp` as another client sees it: over standard input and output, and over HTTP on this machine."""
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
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


# by hand, line by line

class ByHand:
    "A client that writes and reads the lines itself."
    def __init__(self, *arguments, command=None):
        environment = {name: value for name, value in os.environ.items() if name != "IN_TEST"}      # bars are drawn
        self.process = subprocess.Popen(command or [STEPDR, "mcp", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.answers, self.lines, self.errors = {}, [], b""
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        for thread in self.threads: thread.start()
        self.send(id=1, method="initialize", params={"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "by hand", "version": "1"}})
        assert self.answer(1)
        self.send(method="notifications/initialized")

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(b"{"): message = json.loads(line)
            self.answers[message.get("id")] = message

    def _read_errors(self): self.errors = self.process.stderr.read()

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, **message): self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def call(self, number, name, **arguments): self.send(id=number, method="tools/call", params={"name": name, "arguments": arguments})

    def cancel(self, number): self.send(method="notifications/cancelled", params={"requestId": number, "reason": "the user"})

    def answer(self, number, seconds=90):
        end = time.monotonic() + seconds
        while number not in self.answers and time.monotonic() < end and self.process.poll() is None: time.sleep(0.02)
        return self.answers.get(number)

    def text(self, number): return self.answer(number)["result"]["content"][0]["text"]

    def close(self):
        "Close the server's input; -> its exit status."
        self.process.stdin.close()
        status = self.process.wait(60)
        for thread in self.threads: thread.join(10)
        return status


needs_shell = pytest.mark.skipif(not (shutil.which("bwrap") and shutil.which("tmux")), reason="no bubblewrap or tmux")


def alive(word): return word in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


def test_nothing_but_messages_on_standard_output(tmp_path):
    "The bar of a folder's index comes before the first message, on standard error."
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tides.md").write_text("# Tides\n\nThe Moon pulls the sea and so makes the tides.\n")
    client = ByHand("--web", str(tmp_path / "docs"), "--workspace", str(tmp_path / "work"), "--tools", "batch_web_surfer")
    client.call(2, "batch_web_surfer", action="batch_search", queries=["tides"])
    assert "The Moon pulls the sea" in client.text(2)
    assert client.close() == 0 and all(json.loads(line)["jsonrpc"] == "2.0" for line in client.lines)
    assert b"documents: 100%" in client.errors


def test_tools_that_print(tmp_path):
    "Python, a library's descriptor and a child process write elsewhere, a child finds an empty input; before the first message too."
    program = tmp_path / "server.py"
    program.write_text(textwrap.dedent('''
        import os, subprocess, sys
        from tqdm import tqdm
        from stepdr.tools.mcp import protocol_streams, serve_stdio
        from stepdr.tools.tool import Toolbox

        def noisy(text: str) -> str:
            """Answer, and write all over the place.

            text: what to answer
            """
            print("printed")
            print("to the first standard output", file=sys.__stdout__, flush=True)
            os.write(1, b"written\\n")
            subprocess.run(["echo", "from a child"])
            for _ in tqdm(range(3), file=sys.stdout): pass
            return text + repr(subprocess.run(["cat"], capture_output=True).stdout)

        with protocol_streams() as streams:
            print("before")
            subprocess.run(["echo", "a child before"])
            serve_stdio(Toolbox([noisy]), streams)
        print("after")
    '''))
    client = ByHand(command=[sys.executable, str(program)])
    for number in (2, 3):
        client.call(number, "noisy", text="the answer ")
        assert client.text(number) == "the answer b''"
    assert client.close() == 0
    assert client.lines.pop() == b"after\n" and [json.loads(line)["id"] for line in client.lines] == [1, 2, 3]
    for text in (b"before", b"a child before", b"printed", b"to the first", b"written", b"from a child", b"3/3"): assert text in client.errors, text


def test_lines_that_are_no_messages(tmp_path):
    client = ByHand("--workspace", str(tmp_path), "--tools", "todo")
    client.write(b"no JSON\n\n\xff\xfe\x00\n[1, 2]\n\"text\"\n" + b"[" * 5000 + b"\n{\"jsonrpc\": \"2.0\"}\n{\"id\": 5}\n")
    client.send(id=2, method="no/such/method")
    client.send(id=3, method="ping")
    assert client.answer(3)["result"] == {} and client.answer(2)["error"]["code"] == -32601
    assert client.close() == 0 and client.errors.count(b"is no JSON-RPC message and was left out") == 5


@needs_shell
def test_a_cancelled_command_is_interrupted(tmp_path):
    client = ByHand("--workspace", str(tmp_path), "--tools", "shell")
    client.call(2, "shell", command="x=kept; echo warm")
    assert client.text(2) == "warm\n[exit code 0]"
    client.call(3, "shell", command="echo > started; sleep 4230; echo > late.txt", timeout=60)
    while not (tmp_path / "started").exists(): time.sleep(0.05)
    client.cancel(3)
    client.call(4, "shell", command="echo $x")
    assert client.text(4) == "kept\n[exit code 0]" and not (tmp_path / "late.txt").exists() and not alive("sleep 4230")
    client.call(5, "shell", command="bash -c 'trap \"\" INT; echo > stubborn; sleep 4230; sleep 4230'", timeout=60)
    while not (tmp_path / "stubborn").exists(): time.sleep(0.05)
    client.cancel(5)
    client.call(6, "shell", command="echo again")
    assert client.text(6) == "again\n[exit code 0]" and 3 not in client.answers and 5 not in client.answers
    assert client.close() == 0


@needs_shell
def test_the_right_call_is_cancelled(tmp_path):
    "One that still waits for its turn is left out, and the one that runs goes on; to cancel `wait` ends the command."
    client = ByHand("--workspace", str(tmp_path), "--tools", "shell")
    client.call(2, "shell", command="echo > started; while [ ! -e go ]; do sleep 0.1; done; echo first", timeout=60)
    while not (tmp_path / "started").exists(): time.sleep(0.05)
    client.call(3, "shell", command="echo > second.txt")
    time.sleep(0.3)
    client.cancel(3)
    time.sleep(0.5)
    (tmp_path / "go").touch()
    client.call(4, "shell", command="ls *.txt")
    assert client.text(2) == "first\n[exit code 0]" and "[exit code 2]" in client.text(4)
    client.call(5, "shell", command="sleep 4231; echo > late.txt", timeout=0.2)
    assert "still running" in client.text(5)
    client.call(6, "shell", action="wait", timeout=60)
    time.sleep(0.5)
    client.cancel(6)
    client.call(7, "shell", command="ls *.txt")
    assert "[exit code 2]" in client.text(7) and not alive("sleep 4231")
    assert client.close() == 0


def test_a_cancelled_page(tmp_path, monkeypatch):
    "A page that never comes is given up, and the next one is read."
    monkeypatch.setenv("SEARXNG_URL", "http://127.0.0.1:1")
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        def answer(connection):
            with connection:
                if b"/never" in connection.recv(4096):
                    asked.set()
                    return time.sleep(100)
                body = b"<title>Tides</title><h1>Tides</h1><p>The Moon pulls the sea and so makes the tides, twice a day.</p>"
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        def serve():
            try:
                while True: threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
            except OSError: pass
        threading.Thread(target=serve, daemon=True).start()
        client = ByHand("--workspace", str(tmp_path), "--tools", "batch_web_surfer", "--web", "live", "--search", "searxng", "--allow-host", f"127.0.0.1:{port}")
        client.call(2, "batch_web_surfer", action="batch_open", urls=[f"http://127.0.0.1:{port}/never"])
        assert asked.wait(60)
        client.cancel(2)
        client.call(3, "batch_web_surfer", action="batch_open", urls=[f"http://127.0.0.1:{port}/soon"])
        assert "The Moon pulls the sea" in client.text(3) and 2 not in client.answers
        asked.clear()
        client.call(4, "batch_web_surfer", action="batch_open", urls=[f"http://127.0.0.1:{port}/never"])
        assert asked.wait(60) and client.close() == 0


@needs_shell
@pytest.mark.parametrize("how, command", [("close", "sleep 4242"), ("close", "bash -c 'trap \"\" INT TERM; while :; do sleep 4242; done'"),
                                          ("close", "setsid sleep 4242 & read x"), (signal.SIGTERM, "sleep 4242"), (signal.SIGINT, "sleep 4242")])
def test_the_end_of_the_client(how, command):
    "The server ends with its input, or when it is told to, and what it started ends with it."
    client = ByHand("--tools", "shell")
    client.call(2, "shell", command=command, timeout=300)
    end = time.monotonic() + 60
    while not alive("sleep 4242") and time.monotonic() < end: time.sleep(0.05)
    if how == "close": assert client.close() == 0
    else:
        client.process.send_signal(how)
        assert client.process.wait(60) == 130
    assert not alive("sleep 4242")
