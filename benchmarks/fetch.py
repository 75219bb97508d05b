"""Our fetcher against aiohttp by itself: the same pages from the same server on loopback, 64 at a time, in the same run.

    python benchmarks/fetch.py [--pages 2000] [--at-once 64] [--rounds 5] [--kilobytes 20]

A server in a process of its own gives gzip-compressed HTML pages (made up of random words, a seed for each). Raw aiohttp is one ClientSession that decompresses and reads
every body, with a semaphore of the same width. Ours checks URLs and addresses, asks robots.txt, bounds and sniffs bodies, follows redirects and joins requests in flight; one
row more writes every page to the cache, and one reads them back. Each round takes all in turn; the ratio is the median of the rounds' ratios.
"""
import argparse
import asyncio
import gc
import gzip
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path


def serve(pipe, pages, kilobytes):
    "The server's process."
    words = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=7)) for n in range(5000)]
    bodies = []
    for number in range(50):
        draw = random.Random(number)
        text = "".join(f"<p>{' '.join(draw.choices(words, k=60))}</p>\n" for _ in range(kilobytes * 2))
        bodies.append(gzip.compress(f"<!doctype html><title>Page {number}</title>{text}".encode()))
    heads = [b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) for body in bodies]
    robots = b"User-agent: *\nDisallow: /private\n"

    async def answer(reader, writer):
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
                if path == b"/robots.txt": writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(robots) + robots)
                else:
                    number = int(path[1:]) % len(bodies)
                    writer.write(heads[number] + bodies[number])
        except (asyncio.IncompleteReadError, ConnectionError): writer.close()

    async def run():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
        pipe.send((server.sockets[0].getsockname()[1], sum(map(len, map(gzip.decompress, bodies))) // len(bodies)))
        await server.serve_forever()
    asyncio.run(run())


async def raw(urls, at_once, folder):
    import aiohttp
    slots = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=30)) as session:
        async def one(url):
            async with slots, session.get(url) as response: return len(await response.read())
        return sum(await asyncio.gather(*map(one, urls)))


async def ours(urls, at_once, folder, mode="off"):
    from urllib.parse import urlsplit
    from stepdr.tools.fetch import Fetcher
    from stepdr.tools.cache import Cache
    from stepdr.tools.addresses import FetchSettings
    settings = FetchSettings(concurrency=at_once, per_host=at_once, allow_hosts=urlsplit(urls[0]).netloc)
    async with Fetcher(settings, Cache(folder, mode)) as fetcher:
        async def one(url): return len((await fetcher.get(url)).body)
        return sum(await asyncio.gather(*map(one, urls)))


async def writing(urls, at_once, folder): return await ours(urls, at_once, folder, "on")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kilobytes", type=int, default=20, help="about so much HTML a page")
    given = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, given.pages, given.kilobytes), daemon=True)
    server.start()
    if not here.poll(60): raise SystemExit("the server did not start")
    port, size = here.recv()
    rates, sums, folder = {}, set(), Path(tempfile.mkdtemp())
    try:
        for number in range(given.rounds + 1):  # each with URLs of its own: nobody has parsed them before
            urls = [f"http://127.0.0.1:{port}/{number * given.pages + page}" for page in range(given.pages)]
            for name, run in (("raw aiohttp", raw), ("stepdr", ours), ("stepdr, writing the cache", writing), ("stepdr, from the cache", writing)):
                gc.collect()  # nobody pays for another's garbage
                began, spent = time.perf_counter(), time.process_time()
                sums.add(asyncio.run(run(urls, given.at_once, folder / str(number))))
                began, spent = time.perf_counter() - began, time.process_time() - spent
                if number: rates.setdefault(name, []).append((given.pages / began, given.pages / spent))  # the first round warms up
    finally:
        shutil.rmtree(folder)  # at the end only: after thousands of deletions some file systems are slow at new files
        server.terminate()
    assert len(sums) == 1, f"the bodies differ: {sums}"
    print(f"{given.pages} pages of {size / 1000:.0f} kB HTML (gzip), {given.at_once} at a time, {given.rounds} rounds; {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
    for name, pairs in rates.items():
        ratio = [statistics.median(mine[i] / theirs[i] for mine, theirs in zip(pairs, rates["raw aiohttp"])) for i in (0, 1)]
        print(f"{name:<26} {statistics.median(p[0] for p in pairs):6.0f} pages/s   {statistics.median(p[1] for p in pairs):6.0f} pages/CPU s   {ratio[0]:5.2f} x raw aiohttp by the clock, {ratio[1]:5.2f} x by CPU time")


if __name__ == "__main__": main()
