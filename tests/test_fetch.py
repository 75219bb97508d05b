"Fetching: what it gives, what it refuses, and that the next fetch works. Servers on loopback only."
import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tracemalloc
import zlib

import pytest

from stepdr.core.artifacts import atomic_write
from stepdr.core.config import InputError
from stepdr.tools import addresses as checks
from stepdr.tools import fetch
from stepdr.tools.tool import Toolbox, ToolError, background_loop, run_async
from stepdr.tools.fetch import Fetcher, Page
from stepdr.tools.bodies import sniff
from stepdr.tools.cache import Cache
from stepdr.tools.addresses import FetchError, FetchSettings

HTML = b"<!doctype html><title>Tea</title><p>Tea is a drink. \xe8\x8c\xb6</p>"


def answer(body=HTML, status="200 OK", kind="text/html; charset=utf-8", **headers):
    "The bytes of an HTTP answer."
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}" if kind else "X-None: 1", *(f"{n.replace('_', '-')}: {v}" for n, v in headers.items())]
    if "Content_Length" not in headers: lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Server:
    "Answers each path with bytes, or with a coroutine function (writer, head, number of the request for the path) that may do anything."
    def __init__(self, paths=(), context=None):
        self.paths, self.heads, self.tasks, self.most, self.now = {"/ok": answer(), **dict(paths)}, [], set(), 0, 0
        self.server = run_async(asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context))
        self.port = self.server.sockets[0].getsockname()[1]

    def count(self, path): return sum(head.split()[1] == path for head in self.heads)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
                body = (await reader.readexactly(length)).decode()
                path = head.split()[1]
                self.heads.append(head + body)
                found = self.paths.get(path.partition("?")[0], answer(b"", "404 Not Found"))
                if callable(found):
                    await found(writer, head, self.count(path))
                    break
                writer.write(found)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError): pass
        finally:
            self.tasks.discard(asyncio.current_task())
            writer.close()

    def settings(self, **changes):
        return FetchSettings(**{"host_map": f"*.example=127.0.0.1:{self.port}", "timeout": 10.0, "backoff": 0.01, "robots": False, **changes})

    def close(self):
        async def stop():
            self.server.close()
            for task in list(self.tasks): task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
        run_async(stop())


@pytest.fixture
def make():
    "Servers and clients that are closed at the end."
    opened = []
    def open_server(paths=(), **more):
        server = Server(paths, **more)
        opened.append(server)
        return server
    def open_fetcher(*arguments, **more):
        fetcher = Fetcher(*arguments, **more)
        opened.append(fetcher)
        return fetcher
    open_server.fetcher = open_fetcher
    yield open_server
    for thing in reversed(opened): run_async(thing.close()) if isinstance(thing, Fetcher) else thing.close()


def get(fetcher, url): return run_async(fetcher.get(url), 60)


def refused(fetcher, url, *kinds):
    with pytest.raises(FetchError) as caught: get(fetcher, url)
    assert caught.value.kind in kinds, caught.value
    return str(caught.value)


def works(fetcher, url="http://site.example/ok"):
    assert get(fetcher, url).body == HTML


# ---------------------------------------------------------------- what it gives

def test_page_and_redirects(make):
    server = make({"/from": answer(b"", "301 Moved", Location="/to?q=1"), "/to": answer(Last_Modified="Mon, 02 Nov 2026 10:00:00 GMT", Set_Cookie="a=b")})
    page = get(make.fetcher(server.settings()), "https://site.example/from#part")
    assert (page.url, page.final_url, page.status, page.body) == ("https://site.example/from#part", "https://site.example/to?q=1", 200, HTML)
    assert page.content_type == "text/html; charset=utf-8" and page.headers == {"last-modified": "Mon, 02 Nov 2026 10:00:00 GMT"} and not page.from_cache
    head = server.heads[-1].lower()
    assert "host: site.example\r\n" in head and "user-agent: stepdr/" in head and "cookie" not in head


def test_compressed_bodies(make):
    import brotli
    raw = zlib.compressobj(wbits=-15)
    bodies = {"gzip": gzip.compress(HTML[:20]) + gzip.compress(HTML[20:]), "deflate": zlib.compress(HTML), "Deflate": raw.compress(HTML) + raw.flush(), "br": brotli.compress(HTML), "identity": HTML}
    server = make({f"/{name}": answer(body, Content_Encoding=name) for name, body in bodies.items()})
    fetcher = make.fetcher(server.settings())
    assert {name: get(fetcher, f"http://site.example/{name}").body for name in bodies} == dict.fromkeys(bodies, HTML)


def test_many(make):
    server = make({f"/{n}": answer(f"page {n}".encode(), kind="text/plain") for n in range(20)})
    fetcher, seen = make.fetcher(server.settings()), []
    urls = [f"http://site.example/{n}" for n in range(20)] + ["http://site.example/none", "http://10.1.1.1/", "http://site.example/3"]
    pages = run_async(fetcher.get_many(urls, lambda url, page: seen.append(url)), 60)
    assert [page.body for page in pages[:20]] == [f"page {n}".encode() for n in range(20)] and pages[22] is pages[3]
    assert [page.kind for page in pages[20:22]] == ["status", "refused"] and pages[20].status == 404
    assert sorted(seen) == sorted(set(urls)) and server.count("/3") == 1


def test_requests_are_bounded(make):
    now, most = {"a": 0, "b": 0, "c": 0}, {"all": 0}
    async def slow(writer, head, number):
        host = head.lower().split("host: ")[1][0]
        now[host] += 1
        most[host], most["all"] = max(most.get(host, 0), now[host]), max(most["all"], sum(now.values()))
        await asyncio.sleep(0.01)
        now[host] -= 1
        writer.write(answer())
    server = make({"/slow": slow})
    fetcher = make.fetcher(server.settings(concurrency=5, per_host=2))
    pages = run_async(fetcher.get_many([f"http://{host}.example/slow?{n}" for host in "abc" for n in range(10)]), 60)
    assert all(isinstance(page, Page) for page in pages)
    assert most == {"a": 2, "b": 2, "c": 2, "all": 5}


def test_same_url_in_flight_once_and_a_cancelled_caller_harms_nobody(make):
    async def slow(writer, head, number): await asyncio.sleep(0.1); writer.write(answer())
    server = make({"/slow": slow})
    fetcher = make.fetcher(server.settings())
    async def ask():
        tasks = [asyncio.create_task(fetcher.get("http://site.example/slow")) for _ in range(20)]
        await asyncio.sleep(0.03)
        for number in cancelled: tasks[number].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)
    for cancelled, count in (((), 1), ((5, 6), 2), ((0, 1), 4)):  # the first caller makes the request; if it is cancelled, another does
        results = run_async(ask(), 60)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [number in cancelled for number in range(20)]
        assert all(result.body == HTML for number, result in enumerate(results) if number not in cancelled) and server.count("/slow") == count


def test_another_event_loop(make):
    server = make()
    fetcher = make.fetcher(server.settings())
    async def once():
        try: return (await fetcher.get("http://site.example/ok")).body
        finally: await fetcher.close()
    assert [asyncio.run(once()), asyncio.run(once())] == [HTML] * 2
    works(fetcher)


# ---------------------------------------------------------------- trying again

def test_tries_again_after_what_passes(make):
    async def third(writer, head, number): writer.write(answer() if number == 3 else answer(b"", "503 Busy"))
    async def cut(writer, head, number): writer.write(answer() if number == 2 else answer(HTML[:9], Content_Length=len(HTML)))
    async def dropped(writer, head, number): writer.write(answer() if number == 2 else b"")
    async def never(writer, head, number): writer.write(answer(b"", "500 Oh"))
    server = make({"/third": third, "/cut": cut, "/dropped": dropped, "/never": never})
    fetcher = make.fetcher(server.settings())
    for path, count in (("/third", 3), ("/cut", 2), ("/dropped", 2)):
        works(fetcher, f"http://site.example{path}")
        assert server.count(path) == count
    assert refused(fetcher, "http://site.example/never", "status") == "http://site.example/never gave 500 Internal Server Error (tried 3 times)"
    assert refused(fetcher, "http://site.example/gone", "status").endswith("gave 404 Not Found") and server.count("/gone") == 1


def test_retry_after_is_honoured(make, monkeypatch):
    async def busy(writer, head, number): writer.write(answer() if number == 2 else answer(b"", "429 Busy", Retry_After="0"))
    server = make({"/busy": busy, "/later": answer(b"", "429 Busy", Retry_After="3600"), "/date": answer(b"", "503 Busy", Retry_After="Fri, 01 Jan 2100 00:00:00 GMT")})
    fetcher = make.fetcher(server.settings())
    monkeypatch.setattr(fetch, "pause", lambda *given: pytest.fail("the server said how long to wait"))
    works(fetcher, "http://site.example/busy")
    assert "asks to come back in 3600 s" in refused(fetcher, "http://site.example/later", "status") and server.count("/later") == 1
    assert "asks to come back in" in refused(fetcher, "http://site.example/date", "status")
    works(fetcher, "http://other.example/ok")


# ---------------------------------------------------------------- private addresses

INSIDE = ("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.20.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "168.63.129.16", "224.0.0.1", "240.0.0.1", "::1", "::", "::ffff:127.0.0.1",
          "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::127.0.0.1")


def test_private_addresses_in_urls(make):
    server = make()
    fetcher = make.fetcher(server.settings(ports=f"80,{server.port}"))
    hosts = [f"[{a}]" if ":" in a else a for a in INSIDE] + ["localhost", "LocalHost.", "x.localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "①②⑦.⓪.⓪.①", "%31%32%37.0.0.1",
                                                            "[fe80::1%25lo]", "metadata.google.internal"]
    for host in hosts:
        for scheme in ("http", "https"): refused(fetcher, f"{scheme}://{host}:{server.port}/ok", "refused")
    for url in (f"http://user:word@site.example/ok", "file:///etc/passwd", "ftp://site.example/ok", "http://site.example\\@127.0.0.1/", f"http://93.184.216.34:22/", "http:///ok", "ok", ""):
        refused(fetcher, url, "refused")
    assert server.heads == []
    works(fetcher)


def test_names_that_lead_to_private_addresses(make):
    server = make()
    async def lookup(host, port): return ["93.184.216.34", INSIDE[int(host.split(".")[0][1:])]]
    fetcher = make.fetcher(server.settings(ports=f"80,{server.port}", robots=True), lookup=lookup)
    for number in range(len(INSIDE)): assert "not on the public web" in refused(fetcher, f"http://n{number}.attacker.org:{server.port}/ok", "refused")
    assert server.heads == []
    works(fetcher)


def test_the_systems_own_names_are_checked(make):
    server = make()
    fetcher = make.fetcher(server.settings(ports=str(server.port)))
    import socket
    host = socket.gethostname()
    if "." in host or run_async(_addresses(host)) is None: pytest.skip("this machine's name has no address")
    refused(fetcher, f"http://{host}:{server.port}/ok", "refused")
    assert server.heads == []


async def _addresses(host):
    try: addresses = await checks.look_up(host, 80)
    except OSError: return None
    return addresses if any(map(checks.address_problem, addresses)) else None


def test_redirects_to_private_addresses(make):
    places = [f"http://127.0.0.1:{{port}}/ok", "http://169.254.169.254/latest/meta-data/", "//10.0.0.1/", "http://[::ffff:7f00:1]/", "http://2130706433/", "file:///etc/passwd", "http://u:p@site.example/ok",
              "http://inside.attacker.org/", "http://93.184.216.34:22/", "http://localhost/", "", "http://[", "gopher://x/"]
    server = make()
    places = [place.format(port=server.port) if "{" in place else place for place in places]
    for number, place in enumerate(places): server.paths[f"/{number}"] = answer(b"", "302 Found", Location=place)
    server.paths["/twice"] = answer(b"", "302 Found", Location="/1")
    server.paths["/loop"] = answer(b"", "302 Found", Location="/loop")
    async def lookup(host, port): return ["10.0.0.9"]
    settings = server.settings(host_map=f"site.example=127.0.0.1:{server.port}", ports=f"80,{server.port}")
    fetcher = make.fetcher(settings, lookup=lookup)
    for number in [*range(len(places)), "twice"]: refused(fetcher, f"http://site.example/{number}", "refused")
    assert "redirects more than 5 times" in refused(fetcher, "http://site.example/loop", "status")
    assert server.count("/ok") == 0
    works(fetcher)


def test_rebinding_finds_only_the_checked_address(make, monkeypatch):
    server, lookups, connected = make(), [], []
    async def lookup(host, port):
        lookups.append(host)
        return ["93.184.216.34"] if len(lookups) == 1 else ["127.0.0.1"]
    loop = background_loop()
    real = loop.sock_connect
    async def connect(sock, address):
        if address[0] == "127.0.0.1": return await real(sock, address)
        connected.append(address[:2])
        raise ConnectionRefusedError(111, "no network in tests")
    monkeypatch.setattr(loop, "sock_connect", connect)
    fetcher = make.fetcher(server.settings(ports=f"80,{server.port}", retries=0), lookup=lookup)
    url = f"http://rebind.attacker.org:{server.port}/ok"
    refused(fetcher, url, "connection")
    assert lookups == ["rebind.attacker.org"] and connected == [("93.184.216.34", server.port)]  # looked up once; connected to what was checked
    run_async(fetcher.close())  # forgets the name: the next look-up gives the private address
    refused(fetcher, url, "refused")
    assert len(lookups) == 2 and server.heads == []
    works(fetcher)


def test_the_socket_looks_again(make, monkeypatch):
    "Should a look-up ever let an address through unchecked, the socket to it is not opened."
    server = make()
    fetcher = make.fetcher(server.settings(ports=f"80,{server.port}"))
    real = checks.Resolver.resolve
    async def wrong(self, host, port=0, family=0):
        if host.endswith(".example"): return await real(self, host, port, family)
        return [{"hostname": host, "host": "127.0.0.2", "port": server.port, "family": 2, "proto": 0, "flags": 0}]
    monkeypatch.setattr(checks.Resolver, "resolve", wrong)
    assert "127.0.0.2 is not on the public web" in refused(fetcher, f"http://attacker.org:{server.port}/ok", "refused")
    assert server.heads == []
    works(fetcher)


def test_allowed_hosts_and_ports(make):
    server = make()
    fetcher = make.fetcher(FetchSettings(allow_hosts=f"127.0.0.1:{server.port}", robots=False))
    works(fetcher, f"http://127.0.0.1:{server.port}/ok")
    refused(fetcher, "http://127.0.0.1/ok", "refused")
    async def lookup(host, port): return ["127.0.0.1"]
    fetcher = make.fetcher(FetchSettings(allow_hosts=f"wiki.corp.org:{server.port}", robots=False), lookup=lookup)
    works(fetcher, f"http://wiki.corp.org:{server.port}/ok")
    refused(fetcher, f"http://other.corp.org:8080/ok", "refused")
    refused(fetcher, f"http://127.0.0.1:{server.port}/ok", "refused")
    for field, value in (("allow_hosts", "a/b"), ("host_map", "a=b:c"), ("ports", "80,x"), ("concurrency", 0)):
        with pytest.raises(InputError, match=f"fetch.{field}"): FetchSettings(**{field: value})


def test_proxies_of_the_environment_are_not_asked(make, monkeypatch):
    proxy, server = make({"/ok": answer(b"from the proxy")}), make()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"): monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    works(make.fetcher(server.settings()))
    assert proxy.heads == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_nobody_vouches_for(make, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-days", "2", "-subj", "/CN=127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    secure, plain = make(context=context), make()
    fetcher = make.fetcher(plain.settings(allow_hosts=f"127.0.0.1:{secure.port}"))
    assert "no valid certificate" in refused(fetcher, f"https://127.0.0.1:{secure.port}/ok", "connection")
    assert secure.heads == []
    works(fetcher)


# ---------------------------------------------------------------- hostile bodies and headers

def deflated(data, wbits):
    engine = zlib.compressobj(9, wbits=wbits)
    return engine.compress(data) + engine.flush()


def hostile():
    "Path -> (answer, kinds of refusal expected)."
    import brotli
    zeros = b" " * 300_000_000
    packed = deflated(zeros, 31)
    engine = brotli.Compressor(quality=1)
    brotlied = b"".join(engine.process(zeros[:50_000_000]) for _ in range(6)) + engine.finish()
    del zeros
    async def endless(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"ffff\r\n" + b"x" * 0xffff + b"\r\n")
            await writer.drain()
    async def drip(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n")
        while True: writer.write(b"x"); await writer.drain(); await asyncio.sleep(0.02)
    async def silent(writer, head, number): await asyncio.sleep(30)
    async def drip_headers(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True: writer.write(b"X: y\r\n"); await writer.drain(); await asyncio.sleep(0.02)
    async def many_headers(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True: writer.write(b"".join(b"X-%d: y\r\n" % n for n in range(1000))); await writer.drain()
    async def long_header(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True: writer.write(b"y" * 65536); await writer.drain()
    async def go_on(writer, head, number):
        while True: writer.write(b"HTTP/1.1 100 Continue\r\n\r\n"); await writer.drain(); await asyncio.sleep(0.001)
    async def trailers(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        while True: writer.write(b"X: y\r\n" * 1000); await writer.drain()
    async def chunk_name(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        while True: writer.write(b"x" * 65536); await writer.drain()
    async def empty_members(writer, head, number):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n")
        while True: writer.write(gzip.compress(b"") * 1000); await writer.drain()
    return {
        "/bomb-gzip": (answer(packed, Content_Encoding="gzip"), ["size"]),
        "/bomb-deflate": (answer(deflated(b" " * 100_000_000, 15), Content_Encoding="deflate"), ["size"]),
        "/bomb-raw-deflate": (answer(deflated(b" " * 100_000_000, -15), Content_Encoding="deflate"), ["size"]),
        "/bomb-br": (answer(brotlied, Content_Encoding="br"), ["size"]),
        "/bomb-nested": (answer(gzip.compress(packed), Content_Encoding="gzip, gzip"), ["encoding"]),
        "/bomb-in-type": (answer(deflated(b" " * 20_000_000, 31)), ["type"]),  # never unpacked: it is application/gzip
        "/bomb-members": (empty_members, ["encoding", "size"]),
        "/unknown-encoding": (answer(Content_Encoding="compress"), ["encoding"]),
        "/broken-gzip": (answer(packed[:50] + b"garbage" * 99, Content_Encoding="gzip"), ["encoding"]),
        "/broken-br": (answer(b"\xff" * 99, Content_Encoding="br"), ["encoding"]),
        "/half-gzip": (answer(gzip.compress(HTML)[:-9], Content_Encoding="gzip"), ["connection"]),
        "/endless": (endless, ["size"]),
        "/declared-long": (answer(b"", Content_Length=10**12), ["size"]),
        "/drip": (drip, ["timeout"]), "/silent": (silent, ["timeout"]), "/drip-headers": (drip_headers, ["timeout", "connection"]),
        "/many-headers": (many_headers, ["connection", "timeout"]), "/long-header": (long_header, ["connection", "timeout"]),
        "/go-on": (go_on, ["timeout", "connection"]), "/trailers": (trailers, ["connection", "size", "timeout"]), "/chunk-name": (chunk_name, ["connection", "timeout"]),
        "/image": (answer(b"\x89PNG\r\n\x1a\n" + b"x" * 999, kind="image/png"), ["type"]),
        "/image-as-page": (answer(b"\x89PNG\r\n\x1a\n" + b"x" * 999), ["type"]),
        "/program-as-page": (answer(b"\x7fELF" + bytes(999)), ["type"]), "/zeros-as-page": (answer(bytes(5000)), ["type"]),
        "/video": (answer(b"\0\0\0\x18ftypmp42", kind="video/mp4"), ["type"]), "/unnamed": (answer(bytes(100), kind=""), ["type"]),
        "/not-http": (b"SSH-2.0-OpenSSH_9.2\r\n", ["connection"]), "/bad-length": (answer(Content_Length="-5"), ["connection"]), "/two-lengths": (answer(Content_Length="1\r\nContent-Length: 2"), ["connection"]),
        "/bad-chunk": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ["connection"]),
        "/odd-status": (b"HTTP/1.1 999 \xff\xfe\r\nContent-Length: 0\r\n\r\n", ["status", "connection"]),
        "/odd-header": (b"HTTP/1.1 200 OK\r\nX\0Y: \r\n\r\n", ["connection"]),
    }


def test_hostile_answers(make):
    attacks = hostile()
    server = make({path: found for path, (found, _) in attacks.items()})
    fetcher = make.fetcher(server.settings(max_bytes=100_000, timeout=1.5, retries=0))
    works(fetcher)
    results, tops = {}, {}
    tracemalloc.start()
    try:
        for path, (_, kinds) in attacks.items():
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try: results[path] = get(fetcher, f"http://site.example{path}")
            except FetchError as error: results[path] = error.kind
            tops[path] = tracemalloc.get_traced_memory()[1] - before
            works(fetcher)  # the client goes on
    finally: tracemalloc.stop()
    assert {path: kind for path, kind in results.items() if kind not in attacks[path][1]} == {}
    assert {path: top for path, top in tops.items() if top > 8_000_000} == {}  # bytes: no bomb was unpacked, no endless body kept


def test_documents_and_vague_types(make):
    server = make({"/paper": answer(b"%PDF-1.7 x", kind="text/html"), "/vague": answer(HTML, kind="application/octet-stream"), "/none": answer(b"plain words", kind=""),
                   "/plan.docx": answer(b"PK\x03\x04x", kind="application/octet-stream"), "/wide": answer("水".encode("utf-16"), kind="text/plain"), "/nothing": answer(b"")})
    fetcher = make.fetcher(server.settings())
    kinds = [get(fetcher, f"http://site.example/{path}").content_type for path in ("paper", "vague", "none", "plan.docx", "wide", "nothing")]
    assert kinds == ["application/pdf", "text/html", "text/plain", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "text/plain", "text/html; charset=utf-8"]


# ---------------------------------------------------------------- odd, but plain

LONG = b"<!doctype html><html><body>" + b"<p>A paragraph that is long enough to be read.</p>" * 4 + b"</body></html>"


@pytest.mark.parametrize("said, body", [("UTF-8", LONG), ("none", LONG), ("8bit", LONG), ("", LONG), ("text/html", LONG), ("gzip", LONG), ("br", LONG), ("deflate", LONG), ("X-GZIP", gzip.compress(LONG)),
                                        ("gzip, gzip", gzip.compress(gzip.compress(LONG))), ("gzip, gzip", gzip.compress(LONG)), ("gzip, deflate", zlib.compress(gzip.compress(LONG))), ("gzip, utf-8", gzip.compress(LONG)),
                                        ("gzip\r\nContent-Encoding: gzip", gzip.compress(gzip.compress(LONG))), ("gzip", gzip.compress(LONG)[:-8]), ("gzip", gzip.compress(LONG) + bytes(8))])
def test_content_encodings_that_say_little_or_too_much(make, said, body):
    fetcher = make.fetcher(make({"/x": answer(body, Content_Encoding=said)}).settings())
    assert get(fetcher, "http://site.example/x").body == LONG


def test_compressed_too_often_or_too_much_between(make):
    packed = gzip.compress(gzip.compress(bytes(300_000_000), 1), 9)
    server = make({"/often": answer(LONG, Content_Encoding="gzip, gzip, gzip, gzip"), "/between": answer(packed, Content_Encoding="gzip, gzip"), "/compress": answer(b"\x1f\x9d\x90" + bytes(99), Content_Encoding="compress")})
    fetcher = make.fetcher(server.settings(max_bytes=100_000))
    for path in ("often", "between", "compress"): refused(fetcher, f"http://site.example/{path}", "encoding", "size")
    works(fetcher)


def test_cookies_live_for_one_fetch_and_stay_at_home(make):
    async def asks(writer, head, number):
        done = "seen=1" in head.lower().partition("cookie:")[2].partition("\r\n")[0]
        writer.write(answer() if done else answer(b"", "302 Found", Location="/wall", Set_Cookie="seen=1; Path=/; HttpOnly\r\nSet-Cookie: secret=2; Domain=other.example"))
    server = make({"/wall": asks, "/away": answer(b"", "302 Found", Location="http://other.example/ok", Set_Cookie="mine=1; Path=/\r\nSet-Cookie: wide=2; Domain=example; Path=/"),
                   "/sub": answer(b"", "302 Found", Location="http://www.site.example/ok", Set_Cookie="whole=3; Domain=site.example; Path=/\r\nSet-Cookie: host=4; Path=/\r\nSet-Cookie: tls=5; Secure; Domain=site.example; Path=/")})
    fetcher = make.fetcher(server.settings())
    works(fetcher, "http://site.example/wall")
    assert "secret" not in server.heads[-1]
    works(fetcher, "http://site.example/away")
    assert "cookie" not in server.heads[-1].lower()       # another host: nothing of it
    works(fetcher, "http://site.example/sub")
    assert "Cookie: whole=3\r\n" in server.heads[-1]
    works(fetcher)
    assert "cookie" not in server.heads[-1].lower()       # another fetch: nothing of it
    endless = make.fetcher(make({"/wall": answer(b"", "302 Found", Location="/wall", Set_Cookie="n=1")}).settings())
    assert "more than 5 times" in refused(endless, "http://site.example/wall", "status")


@pytest.mark.parametrize("location, path", [(b"/synspr\xf8ve", "/synspr%F8ve"), (b"/b\xc3\xbccher", "/b%C3%BCcher"), (b"/a b?c d", "/a%20b?c%20d"), (b"\t /ok \t", "/ok"), (b"//site.example/ok#part", "/ok"), (b"../../ok", "/ok"),
                                            (b"HTTP://SITE.example/ok", "/ok"), (b"ok", "/ok"), (b"/a%20b%2Fc", "/a%20b%2Fc")])
def test_redirects_as_they_are_written(make, location, path):
    moved = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    server = make({"/from": moved, path.partition("?")[0]: answer()})
    works(make.fetcher(server.settings()), "http://site.example/from")
    assert server.heads[-1].split()[1].replace("+", "%20") == path


def test_refresh_is_a_redirect_within_the_same_rules(make):
    meta = lambda content: answer(f"<html><head><meta http-equiv='Refresh' content='{content}'></head><body>One moment.</body></html>".encode())
    server = make({"/header": answer(b"moved", Refresh="0; url=/ok"), "/meta": meta("1;URL=/ok"), "/later": meta("300;url=/ok"), "/itself": meta("0;url=/itself"), "/metadata": meta("0;url=http://169.254.169.254/x"),
                   "/script": meta("0;url=javascript:x()"), "/loop": meta("0;url=/pool"), "/pool": meta("0;url=/loop")})
    fetcher = make.fetcher(server.settings())
    for path in ("header", "meta"): works(fetcher, f"http://site.example/{path}")
    for path in ("later", "itself", "metadata", "script"): assert b"One moment" in get(fetcher, f"http://site.example/{path}").body
    assert "more than 5 times" in refused(fetcher, "http://site.example/loop", "status")
    assert not any("169.254" in head for head in server.heads)


def test_answers_without_a_body_and_lengths_that_lie(make):
    chunked = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
    async def cut(writer, head, number): writer.write(answer(LONG, Content_Length=len(LONG) + 50))
    async def no_last(writer, head, number): writer.write(chunked + b"%x\r\n%s\r\n" % (len(LONG), LONG))
    async def half(writer, head, number): writer.write(chunked + b"%x\r\n%s\r\n" % (99, LONG[:99]))
    server = make({"/204": answer(b"", "204 No Content", kind=""), "/205": answer(b"", "205 Reset", kind=""), "/nowhere": answer(b"", "302 Found"), "/stays": answer(LONG, "302 Found"), "/cut": cut, "/no-last": no_last, "/half": half})
    fetcher = make.fetcher(server.settings(retries=0))
    for path in ("204", "205"): assert "nothing to read" in refused(fetcher, f"http://site.example/{path}", "status")
    assert "nowhere" in refused(fetcher, "http://site.example/nowhere", "refused")
    for path in ("stays", "cut", "no-last"): assert get(fetcher, f"http://site.example/{path}").body == LONG
    assert "broke off" in refused(fetcher, "http://site.example/half", "connection")


def test_text_by_whatever_name_is_read_and_words_are_no_magic(make):
    words = b"RIFF raff, ID3 and GIF89a are the first words of formats; this is a note about them."
    server = make({"/json": answer(b'{"a": "<p>x</p>"}', kind="application/x-ndjson"), "/js": answer(b"var a = '<p>x</p>';", kind="application/javascript"), "/bib": answer(b"@article{x, title={A title that is long enough}}", kind="application/x-bibtex"),
                   "/note": answer(words, kind="text/plain"), "/note2": answer(words, kind=""), "/pdf": answer(b"%PDF-1.4 is how a PDF begins, says this note of many words.", kind="text/plain"), "/gif": answer(b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(50), kind="text/html"),
                   "/robots.txt": answer(b"\xef\xbb\xbfUser-agent: *\nDisallow: /closed", kind="text/plain"), "/closed": answer()})
    fetcher = make.fetcher(server.settings())
    for path, body in (("json", b'{"a": "<p>x</p>"}'), ("note", words), ("note2", words), ("js", b"var a = '<p>x</p>';")): assert get(fetcher, f"http://site.example/{path}").body == body
    assert get(fetcher, "http://site.example/bib").content_type == get(fetcher, "http://site.example/pdf").content_type == "text/plain"
    assert "image/gif" in refused(fetcher, "http://site.example/gif", "type")
    refused(make.fetcher(server.settings(robots=True)), "http://site.example/closed", "robots")   # although a mark stands before its first line


def test_random_answers_are_expected_failures(make):
    draw, good = random.Random(0), answer(gzip.compress(HTML), Content_Encoding="gzip", Transfer_Encoding="identity")
    def spoil():
        data = bytearray(good)
        for _ in range(draw.choice((1, 3, 30))):
            place = draw.randrange(len(data))
            data[place:place + draw.choice((0, 1, 5))] = draw.randbytes(draw.choice((0, 1, 4)))
        return bytes(data)
    async def spoiled(writer, head, number): writer.write(spoil())
    server = make({"/spoiled": spoiled})
    fetcher = make.fetcher(server.settings(timeout=2.0, retries=0, concurrency=8, per_host=8))
    results = run_async(fetcher.get_many([f"http://site.example/spoiled?{n}" for n in range(300)]), 100)
    kinds = [getattr(result, "kind", "page") for result in results]
    assert len(kinds) == 300 and kinds.count("page") > 5 and kinds.count("connection") + kinds.count("encoding") > 50
    works(fetcher)


# ---------------------------------------------------------------- robots.txt

def robots(text): return answer(text.encode(), kind="text/plain")


def test_robots(make):
    server = make({"/robots.txt": robots("User-agent: *\nDisallow: /private\nDisallow: /*.pdf$\n\nUser-agent: stepdr\nDisallow: /no-robots-of-ours\nCrawl-delay: 0.001"), "/private": answer(), "/a": answer()})
    fetcher = make.fetcher(server.settings(robots=True))
    server.paths["/no-robots-of-ours/x"] = answer()
    assert "closed to programs by the site's robots.txt" in refused(fetcher, "http://site.example/no-robots-of-ours/x", "robots")
    works(fetcher)
    works(fetcher, "http://site.example/private")  # the section for everyone is not ours
    assert server.count("/robots.txt") == 1 and server.count("/no-robots-of-ours/x") == 0 and fetcher.wire.hosts["site.example"].delay == 0.001
    server.paths["/to"] = answer(b"", "302 Found", Location="/no-robots-of-ours/x")
    refused(fetcher, "http://site.example/to", "robots")
    works(make.fetcher(server.settings(robots=False)), "http://site.example/no-robots-of-ours/x")


def test_robots_that_fail_or_attack(make):
    server = make({"/robots.txt": answer(b"", "503 Busy")})
    fetcher = make.fetcher(server.settings(robots=True))
    assert "left alone" in refused(fetcher, "http://down.example/ok", "robots") and server.count("/ok") == 0
    stars = "User-agent: *\nDisallow: /" + "*a" * 2000 + "b\n"
    for text in (stars * 50, "User-agent: *\nDisallow: /secret\n" + "x" * 2_000_000, "\0\xff\n" * 1000, "User-agent: *\nCrawl-delay: 1e308\nRequest-rate: 0/0\nDisallow:"):
        server.paths["/robots.txt"] = robots(text)
        works(make.fetcher(server.settings(robots=True, max_wait=0.0)), "http://site.example/ok?" + "a" * 1000 if text.startswith(stars) else "http://site.example/ok")
    server.paths["/robots.txt"] = answer(b"", "302 Found", Location="http://169.254.169.254/")
    refused(make.fetcher(server.settings(robots=True)), "http://site.example/ok", "refused")
    server.paths["/robots.txt"] = answer(b"", "302 Found", Location="/robots.txt")
    works(make.fetcher(server.settings(robots=True)))  # a circle counts as none
    server.paths["/robots.txt"] = answer(b"", "404 None")
    works(make.fetcher(server.settings(robots=True)))


# ---------------------------------------------------------------- services

def test_json_of_a_service(make):
    server = make({"/search": answer(b'{"results": [1]}', kind="application/json")})
    fetcher = make.fetcher(FetchSettings())
    url = f"http://127.0.0.1:{server.port}/search"
    ask = lambda **more: run_async(fetcher.json_request("POST", url, headers={"X-API-KEY": "sk-very-secret"}, params={"q": "茶"}, json={"n": 3}, **more), 60)
    with pytest.raises(FetchError, match="not on the public web|is on port"): ask()
    assert server.heads == []
    assert ask(trusted=True) == {"results": [1]}
    assert server.heads[0].startswith("POST /search?q=%E8%8C%B6 ") and "X-API-KEY: sk-very-secret" in server.heads[0] and server.heads[0].endswith('{"n": 3}')


def test_errors_of_a_service_show_no_key(make, monkeypatch):
    monkeypatch.setenv("DEMO_API_KEY", "env-key-123456")
    echo = b'{"error": "bad key sk-very-secret, Bearer tok-987654, q-key-5555, env-key-123456"}'
    server = make({"/401": answer(echo, "401 No", "application/json"), "/garbage": answer(b'{"a": ', kind="application/json"), "/deep": answer(b"[" * 200_000, kind="application/json"),
                   "/move": answer(b"", "302 Found", Location="http://127.0.0.1:1/"), "/503": answer(echo, "503 No", "application/json", Retry_After="0"), "/bomb": answer(gzip.compress(bytes(30_000_000)), Content_Encoding="gzip")})
    fetcher = make.fetcher(FetchSettings(backoff=0.01))
    for path, kind, status in (("401", "status", 401), ("garbage", "type", 0), ("deep", "type", 0), ("move", "status", 302), ("503", "status", 503), ("bomb", "size", 0), ("none", "status", 404)):
        with pytest.raises(ToolError) as caught:
            run_async(fetcher.json_request("GET", f"http://me:pass-word@127.0.0.1:{server.port}/{path}?hidden=1", {"X-Subscription-Token": "sk-very-secret", "Authorization": "Bearer tok-987654"}, {"api_key": "q-key-5555"}, trusted=True), 60)
        text = str(caught.value)
        assert (caught.value.kind, caught.value.status) == (kind, status) and f"127.0.0.1:{server.port}/{path}" in text
        assert not any(secret in text for secret in ("sk-very-secret", "tok-987654", "q-key-5555", "env-key-123456", "pass-word", "hidden=1")), text
    with pytest.raises(FetchError, match="cannot be connected to"): run_async(fetcher.json_request("GET", "http://127.0.0.1:1/x", trusted=True), 60)
    with pytest.raises(FetchError, match="not http or https"): run_async(fetcher.json_request("GET", "localhost:8080", trusted=True), 60)


# ---------------------------------------------------------------- cache, record, replay

def test_second_time_from_disk(make, tmp_path):
    server = make()
    first, second, third = (make.fetcher(server.settings(), Cache(tmp_path)) for _ in range(3))
    assert not get(first, "http://site.example/ok").from_cache
    server.close()
    page = get(second, "http://site.example/ok#x")
    assert page.from_cache and page.body == HTML and page.content_type == "text/html; charset=utf-8" and server.count("/ok") == 1
    entry, = (path for path in tmp_path.rglob("*") if path.is_file())
    entry.write_bytes(entry.read_bytes()[:-5])  # a torn file is set aside, and the page is wanted anew
    refused(third, "http://site.example/ok", "connection")
    assert third.cache.broken == 1 and [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".broken"]


def test_old_entries_do_not_count(make, tmp_path):
    server = make()
    for age, count in ((None, 1), (3600.0, 1), (0.0, 2)):
        works(make.fetcher(server.settings(), Cache(tmp_path, max_age=age)))
        if age == 0.0: time.sleep(1.1)  # entries know whole seconds
        works(make.fetcher(server.settings(), Cache(tmp_path, max_age=age)))
        assert server.count("/ok") >= count
    assert server.count("/ok") == 2 or server.count("/ok") == 3


def test_an_episode_is_recorded_and_replayed(make, tmp_path, monkeypatch):
    monkeypatch.setenv("DEMO_API_KEY", "env-key-123456")
    async def flaky(writer, head, number): writer.write(answer() if number > 2 else answer(b"", "410 Not yet"))
    server = make({"/flaky": flaky, "/from": answer(b"", "302 Found", Location="/ok?session=abc987&x=1"), "/search": answer(b'{"results": [7]}', kind="application/json"),
                   "/cookie": answer(Set_Cookie="sid=cookie-4444", Authorization="Bearer tok-987654", X_Key="env-key-123456")})
    service = f"http://127.0.0.1:{server.port}/search"
    def episode(mode):
        fetcher = make.fetcher(server.settings(), Cache(tmp_path, mode))
        async def search():
            found = await fetcher.json_request("GET", service, {"Authorization": "Bearer tok-987654"}, {"q": "tea"}, trusted=True)
            return json.dumps(found).encode(), {"provider": "demo"}
        async def play():
            steps = []
            for url in ("http://site.example/flaky", "http://site.example/ok", "http://site.example/flaky", "http://site.example/none", "http://site.example/from", "http://10.0.0.1/", "http://site.example/flaky",
                        "http://site.example/flaky", "http://site.example/cookie", "http://site.example/ok?api_key=env-key-123456"):
                steps += [page if isinstance(page, ToolError) else page.body for page in await fetcher.get_many([url, url, "http://site.example/ok"])]
            steps.append((await fetcher.cache.once("search", {"query": "tea", "topk": 3}, search)).value)
            return [str(step) for step in steps]
        return run_async(play(), 60)
    lived = episode("record")
    asked = len(server.heads)
    assert sum("410" in step for step in lived) == 4 and asked == server.count("/flaky") + 7
    assert episode("replay") == lived == episode("replay") and len(server.heads) == asked  # the network was not touched
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(secret in kept for secret in (b"env-key-123456", b"tok-987654", b"cookie-4444", b"abc987"))
    fetcher = make.fetcher(server.settings(), Cache(tmp_path, "replay"))
    assert "was not recorded" in refused(fetcher, "http://site.example/new", "replay")
    with pytest.raises(FetchError, match="recording"): run_async(fetcher.json_request("GET", service, trusted=True))
    works(fetcher)


def test_packed_bytes_without_a_zero_are_no_text():
    rng = random.Random(7)
    for size in (300, 1024, 5000):
        packed = bytes(rng.randrange(1, 256) for _ in range(size - 1))
        for declared in ("", "application/octet-stream", "text/plain", "text/html; charset=utf-8", "application/json"):
            assert sniff(b"\xc1" + packed, declared) == "application/octet-stream", (size, declared)


@pytest.mark.parametrize("text", [b"A page\x01 with one slip", b"first\x0csecond page\n" * 40, "안녕하세요 여러분".encode("iso2022_kr") * 20, "東京の橋".encode("iso2022_jp") * 20, "东桥一八八三年".encode("gb18030") * 20,
                                  "水很深".encode("utf-16") * 1, "Straße".encode("cp1252") * 40, "東京".encode("shift_jis") * 40, b"\x1b[1mbold\x1b[0m of a terminal\n" * 20])
def test_text_of_a_vague_type_stays_text(text):
    assert sniff(text, "application/octet-stream") == "text/plain" and sniff(text, "text/plain") == "text/plain"


def test_cache_modes_are_checked(tmp_path):
    for arguments, text in (((tmp_path, "tape"), "none of on, off"), ((None, "on"), "needs a folder"), ((tmp_path / "none", "replay"), "no such folder")):
        with pytest.raises(InputError, match=text): Cache(*arguments)


WRITER = """
import sys
from stepdr.tools.cache import Cache
cache = Cache(sys.argv[1])
for n in range(10**9):
    cache.put("page", n % 50, bytes([n % 256]) * 200_000, {"n": n})
    if n == 60: print("go", flush=True)
"""


def test_a_kill_leaves_whole_entries(tmp_path):
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        cache = Cache(tmp_path)
        entries = [cache.get("page", n) for n in range(50)]
        assert all(entry and entry.value == bytes([entry.meta["n"] % 256]) * 200_000 for entry in entries) and cache.broken == 0


def test_hostile_cache_entries_are_set_aside(make, tmp_path):
    server = make()
    fetcher = make.fetcher(server.settings(), Cache(tmp_path))
    works(fetcher)
    entry, = (path for path in tmp_path.rglob("*") if path.is_file())
    for number, data in enumerate((b"", b"\xff\n", b"{}\nx", b"[1]\nx", b'"x"\n', b"[" * 100_000 + b"\nx", b'{"bytes": 1, "sha256": 5}\nx', entry.read_bytes()[:-1] + b"X")):
        atomic_write(entry, data)
        works(fetcher)
        assert fetcher.cache.broken == number + 1


# ---------------------------------------------------------------- the agent goes on

def test_an_agent_reads_the_refusal_and_goes_on(make):
    server = make({"/bomb": answer(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")})
    fetcher = make.fetcher(server.settings(max_bytes=1_000_000))
    async def open_page(url: str) -> str:
        """Open a page.

        url: where it is
        """
        return (await fetcher.get(url)).body.decode()
    box = Toolbox([open_page])
    texts = [box.call({"name": "open_page", "arguments": {"url": url}}).text for url in ("http://169.254.169.254/latest/", "http://site.example/bomb", "http://site.example/ok")]
    assert texts[0].startswith("error: ") and "not on the public web" in texts[0]
    assert texts[1] == "error: http://site.example/bomb is larger than 1,000,000 bytes" and texts[2] == HTML.decode()
