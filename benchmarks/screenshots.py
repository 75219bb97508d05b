"""Screenshots: the share of image tokens that the perceptual hash saves on a browsing session, and what it costs.

    .venv/bin/python benchmarks/screenshots.py [--subjects 8] [--pages 6] [--oiwiki ../shared/data/docs_oiwiki_zh]

A scripted reader browses real pages in a real Chromium: the closed web over HTTP (open a site, search a subject, read, find, follow a link, go back)
and, where --oiwiki is there, rendered pages of OI-wiki served on loopback (open, scroll, find, go back). Every screenshot is kept; then each hash and
distance is played over the same pictures as the tool would: a picture within the distance of the last one shown is not shown. A suppressed
picture counts as wrong if it is of another address, or scrolled by over 50 pixels, than the last one shown and over 2 % of its pixels differ from it.
Tokens of a picture: Qwen2-VL's rule, one for each 28 x 28 pixels after rounding both sides to multiples of 28 (its `smart_resize`).
"""
import argparse
import os
import platform
import tarfile
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STYLE = b"body{margin:0;font:16px sans-serif}.md-header,.md-footer,.md-overlay,label{display:none}.md-sidebar,.md-tabs{display:none}svg{width:1em;height:1em}.md-content,.md-main__inner{max-width:52em;margin:auto}"


class Quiet(SimpleHTTPRequestHandler):
    "A folder over HTTP; the style sheet, which the data lack, is a plain one."
    def log_message(self, *_): pass
    def do_GET(self):
        if not self.path.endswith(".css"): return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/css")
        self.send_header("Content-Length", str(len(STYLE)))
        self.end_headers()
        self.wfile.write(STYLE)


def tokens(width, height):
    "Qwen2-VL's image tokens of a picture within its size limits."
    return round(width / 28) * round(height / 28)


def element(text, kind, name=""): # outline -> id of the first such element
    import re
    match = re.search(rf'\[(e\d+)\] {kind} "{name}', text)
    return match[1] if match else None


class Reader:
    "Acts, and keeps each picture with the action, the address and how far the page was scrolled."
    def __init__(self, browser): self.browser, self.kept, self.seconds = browser, [], []

    async def act(self, action, **arguments):
        began = time.perf_counter()
        result = await self.browser.browser(action, **arguments)
        self.seconds.append(time.perf_counter() - began)
        page = self.browser.chromium.window.page
        self.kept.append((action, page.url, await page.evaluate("scrollY"), result.images[0]))
        return result.text

    async def closed(self, site, subject, relation):
        text = await self.act("open", url=f"https://{site}/")
        box = element(text, "searchbox")
        await self.act("type", element=box, text=subject)
        text = await self.act("press", text="Enter")
        await self.act("scroll")
        text = await self.act("click", element=element(text, "link", subject))
        await self.act("find", text=relation)
        await self.act("scroll")
        await self.act("screenshot")
        more = element(text[text.find("See also"):], "link")
        if more and "See also" in text and "(" not in text[text.find("See also"):].split(more)[1][:120]:
            await self.act("click", element=more)
            await self.act("back")

    async def wiki(self, path, word):
        await self.act("open", url=f"http://oiwiki.example/{path}")
        for _ in range(3): await self.act("scroll")
        await self.act("find", text=word)
        await self.act("screenshot")
        await self.act("scroll", direction="top")
        await self.act("press", text="PageDown")
        await self.act("press", text="Escape")


def hashes():
    "name -> (function bytes -> bits as whole number, how many bits)."
    import cv2, io, numpy
    try: import imagehash
    except ImportError: imagehash = print("ImageHash, the peer, is not installed and is left out: pip install imagehash")
    from PIL import Image
    from stepdr.tools.browser import screen_hash
    number = lambda array: int("".join("1" if bit else "0" for bit in array.flatten()), 2)
    picture = lambda png: Image.open(io.BytesIO(png))
    block = cv2.img_hash.BlockMeanHash_create(0)
    grey = lambda png: cv2.imdecode(numpy.frombuffer(png, numpy.uint8), cv2.IMREAD_GRAYSCALE)
    return {"the tool's screen_hash": (lambda png: int.from_bytes(bytes(screen_hash(png)), "big"), 64),
            "OpenCV pHash as it is": (lambda png: int.from_bytes(bytes(cv2.img_hash.pHash(grey(png))[0]), "big"), 64),
            "OpenCV block mean": (lambda png: int.from_bytes(bytes(block.compute(grey(png))[0]), "big"), 256)} | ({} if imagehash is None else {
            "ImageHash phash": (lambda png: number(imagehash.phash(picture(png)).hash), 64),
            "ImageHash phash, 16 x 16": (lambda png: number(imagehash.phash(picture(png), hash_size=16).hash), 256),
            "ImageHash dhash": (lambda png: number(imagehash.dhash(picture(png)).hash), 64)})


def play(kept, values, greys, distance): # -> (suppressed, wrongly)
    "What the tool would show, given the hashes."
    import numpy
    last, suppressed, wrong = 0, [], []
    for now in range(1, len(kept)):
        if (values[now] ^ values[last]).bit_count() > distance: last = now; continue
        suppressed.append(now)
        moved = kept[now][1] != kept[last][1] or abs(kept[now][2] - kept[last][2]) > 50
        if moved and (numpy.abs(greys[now].astype(int) - greys[last]) > 32).mean() > 0.02: wrong.append(now)
    return suppressed, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=8, help="subjects looked up in the closed web")
    parser.add_argument("--pages", type=int, default=6, help="pages of OI-wiki read")
    parser.add_argument("--oiwiki", default="../shared/data/docs_oiwiki_zh", help="folder with oiwiki_html_graph_intro.tar.xz")
    given = parser.parse_args()
    import cv2, numpy
    from stepdr.core.artifacts import root
    from stepdr.tools.tool import run_async
    from stepdr.tools.browser import Browser
    from stepdr.tools.chromium import BrowserSettings
    from stepdr.tools.addresses import FetchSettings
    from stepdr.tools.workspace import Workspace
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    from stepdr.world.server import serve
    web = ClosedWeb(load_graph(root() / "data" / "kg"))
    urls = [u for u, keys in sorted(web.world.pages.items()) if u not in web.world.dead and len(keys) > 3 and "almanac" in u]
    urls = urls[::max(1, len(urls) // given.subjects)][:given.subjects]
    archive = Path(given.oiwiki) / "oiwiki_html_graph_intro.tar.xz"
    with tempfile.TemporaryDirectory() as folder, serve(web) as server:
        host_map = server.host_map
        if archive.exists():
            with tarfile.open(archive) as tar: tar.extractall(f"{folder}/oiwiki", filter="data")
            wiki = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=f"{folder}/oiwiki"))
            threading.Thread(target=wiki.serve_forever, daemon=True).start()
            host_map += f",oiwiki.example=127.0.0.1:{wiki.server_address[1]}"
        browser = Browser(Workspace(f"{folder}/work"), BrowserSettings(same_distance=-1), FetchSettings(host_map=host_map))
        reader = Reader(browser)
        for url in urls:
            paragraph = web.world.paragraphs[web.world.pages[url][-1]]
            run_async(reader.closed("almanac.example", paragraph.title, paragraph.heading.title()))
        parts = {"closed web": len(reader.kept)}
        if archive.exists():
            pages = sorted(p.relative_to(f"{folder}/oiwiki") for p in Path(f"{folder}/oiwiki").rglob("index.html") if p.stat().st_size > 20_000)  # the small ones only lead elsewhere
            for page in pages[::max(1, len(pages) // given.pages)][:given.pages]: run_async(reader.wiki(page, "图"))
            parts["OI-wiki"] = len(reader.kept) - parts["closed web"]
        kept = reader.kept
        pngs = [path.read_bytes() for *_, path in kept]
        run_async(browser.close())
    each = tokens(browser.settings.width, browser.settings.height)
    greys = [cv2.imdecode(numpy.frombuffer(png, numpy.uint8), cv2.IMREAD_GRAYSCALE) for png in pngs]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; {len(kept)} actions ({', '.join(f'{n} on {name}' for name, n in parts.items())}); "
          f"{browser.settings.width} x {browser.settings.height}: {each} tokens a picture; median action {1000 * sorted(reader.seconds)[len(kept) // 2]:.0f} ms")
    print("actions:", ", ".join(f"{name} {n}" for name, n in Counter(action for action, *_ in kept).most_common()))
    exact = sum(pngs[i] == pngs[i - 1] for i in range(1, len(pngs)))
    print(f"byte for byte as the one before: {exact} of {len(kept)} ({exact / len(kept):.0%})")
    print(f"{'hash':<28} {'ms':>5}   suppressed (wrongly) by distance allowed, of 64 bits")
    for name, (function, bits) in hashes().items():
        began = time.perf_counter()
        values = [function(png) for png in pngs]
        spent = 1000 * (time.perf_counter() - began) / len(pngs)
        row = []
        for distance in (0, 2, 4, 6, 8, 12, 16, 20):
            suppressed, wrong = play(kept, values, greys, distance * bits // 64)
            row.append(f"{distance}: {len(suppressed)} ({len(wrong)})")
        print(f"{name:<28} {spent:5.1f}   {'   '.join(row)}", flush=True)
        if "tool" in name: tool = values
    suppressed, wrong = play(kept, tool, greys, BrowserSettings().same_distance)
    print(f"at the default distance {BrowserSettings().same_distance}: {len(suppressed)} of {len(kept)} pictures not shown, {len(suppressed) * each} of {len(kept) * each} image tokens saved "
          f"({len(suppressed) / len(kept):.1%}), {len(wrong)} wrongly; by action: " + ", ".join(f"{a} {n}" for a, n in Counter(kept[i][0] for i in suppressed).most_common()))


if __name__ == "__main__": main()
