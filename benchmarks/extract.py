"""Main content of real pages: this project's `extract` against trafilatura, speed and token F1, in the same run.

    python benchmarks/extract.py [--pages 40] [--rounds 2]

Pages and gold are pairs of a rendered page and the Markdown it was made from, whichever of these are there: OI Wiki in Chinese (../shared/data/docs_oiwiki_zh),
and the documentation that Debian's and npm's packages install (/usr/share/doc/nodejs/api, npm's docs). Gold is the Markdown without front matter, comments and
LaTeX commands (letters of formulas stay; Node's YAML comments too, as the pages show them as "Added in" and "History"); pages that include code from other files are left out. Tokens are single Chinese characters and lower-case words; F1 is that of the two bags of tokens, averaged over pages.
trafilatura is called as its documentation's `extract(html)`, and once more for what ours
always gives: Markdown with headings, links and metadata (its links' addresses then count as tokens, so that its F1 is lower). Seconds are those of the process's CPU time, best of the rounds, taking turns page by page; the same pages are then read once
more with a child process (as tools do), in wall time.
"""
import argparse
import collections
import os
import re
import statistics
import tarfile
import time
from pathlib import Path


def oiwiki(shared):
    "-> list of (name, HTML bytes, Markdown)"
    folder = shared / "docs_oiwiki_zh"
    if not folder.is_dir(): return []
    with tarfile.open(folder / "oiwiki_md_docs.tar.gz") as archive:
        sources = {member.name.partition("docs/")[2]: archive.extractfile(member).read().decode() for member in archive if member.name.endswith(".md")}
    pairs = []
    with tarfile.open(folder / "oiwiki_html_graph_intro.tar.xz") as archive:
        for member in archive:
            path = member.name.removeprefix("./").removesuffix("/index.html")
            source = sources.get(f"{path}.md") or sources.get(f"{path}/index.md")
            if member.name.endswith(".html") and source and "--8<--" not in source: pairs.append((path, archive.extractfile(member).read(), source))
    return pairs


def beside(pages, sources):
    "Pairs of X.html and X.md in two folders."
    if not pages.is_dir() or not sources.is_dir(): return []
    return [(page.stem, page.read_bytes(), (sources / f"{page.stem}.md").read_text()) for page in sorted(pages.glob("*.html")) if (sources / f"{page.stem}.md").is_file() and page.stem != "all"]


TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[a-z0-9]+")
DROP = [r"(?s)\A---\n.*?\n---\n", r"\A(?:[a-z]+: .*\n)+", r"(?m)^\s*(?:pr-url:.*|changes:|-->|<!-- YAML)$|(?:description: \||- version:|(?:added|deprecated|removed|napiVersion):$)", r"(?s)<!--.*?-->", r"\\[a-zA-Z]+", r"(?m)^\[[^\]]+\]:\s.*$",
        r"!\[[^\]]*\]\([^)]*\)", r"(?m)^\s*```.*$", r"<[a-zA-Z/][^>]*>", r"(?m)^\s*(?:\?\?\?|!!!)\+?\s*\w*", r"(?m)^\s*===\s", r"\{[#.:][^}]*\}", r"(?m)^\[\^[^\]]+\]:", r"\[\^[^\]]+\]"]


def gold_tokens(source):
    "Markdown -> bag of tokens."
    source = re.sub(r"\$[^$]+\$", lambda found: re.sub(r"[_^{}]|\\[,;!: ]", "", found[0]), source)
    for pattern in DROP: source = re.sub(pattern, " ", source)
    return tokens(re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", source))


def tokens(text): return collections.Counter(TOKEN.findall(text.lower()))


def f1(found, gold):
    same = sum((found & gold).values())
    return 2 * same / max(1, sum(found.values()) + sum(gold.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=40, help="pages of each set, spread evenly")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--largest", type=int, default=600_000, help="bytes of the largest page used")
    given = parser.parse_args()
    import logging

    import trafilatura

    from stepdr.core.artifacts import root
    from stepdr.tools.extract import extract
    from stepdr.tools.document import ExtractSettings
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    sets = {"OI Wiki (zh)": oiwiki(root().parent / "shared" / "data"), "Node.js API": beside(Path("/usr/share/doc/nodejs/api"), Path("/usr/share/doc/nodejs/api")),
            "npm": beside(Path("/usr/lib/node_modules/npm/docs/output/commands"), Path("/usr/lib/node_modules/npm/docs/content/commands"))}
    inline, pooled = ExtractSettings(isolate=False), ExtractSettings()
    ways = {"stepdr": lambda data: extract(data, "text/html", "https://docs.example/page", inline).text, "trafilatura": lambda data: trafilatura.extract(data) or "",
            "the same with structure": lambda data: trafilatura.extract(data, output_format="markdown", include_links=True, include_formatting=True, with_metadata=True) or ""}
    for way in ways.values(): way(b"<html><body><p>warm</p></body></html>")
    extract(b"<html><body><p>warm</p></body></html>", settings=pooled)
    total, scores = collections.Counter(), {name: [] for name in ways}
    for name, pairs in sets.items():
        pairs = [pair for pair in pairs if len(pair[1]) <= given.largest]
        pairs = pairs[::max(1, len(pairs) // given.pages)][:given.pages]
        if not pairs: print(f"{name:<13} not on this machine"); continue
        spent, marks = collections.Counter(), {way: [] for way in ways}
        for path, data, source in pairs:
            gold = gold_tokens(source)
            for way, run in ways.items():
                times = []
                for _ in range(given.rounds):
                    began = time.process_time(); text = run(data); times.append(time.process_time() - began)
                spent[way] += min(times)
                marks[way].append(f1(tokens(text), gold))
        began = time.perf_counter()
        for path, data, source in pairs: extract(data, "text/html", "https://docs.example/page", pooled)
        wall = time.perf_counter() - began
        total.update(spent); total["pages"] += len(pairs); total["wall"] += wall
        for way in ways: scores[way] += marks[way]
        print(f"{name:<13} n {len(pairs):3d}, {sum(len(d) for _, d, _ in pairs) // len(pairs) // 1000:4d} kB  " + "   ".join(
            f"{way} {len(pairs) / spent[way]:6.1f} pages/CPU s, F1 {statistics.mean(marks[way]):.4f}" for way in ways) + f"   {spent['trafilatura'] / spent['stepdr']:.1f} x ({spent['the same with structure'] / spent['stepdr']:.1f} x)   in a child {len(pairs) / wall:.1f} pages/s", flush=True)
    means = {way: statistics.mean(scores[way]) for way in ways}
    print(f"all {total['pages']} pages: {total['trafilatura'] / total['stepdr']:.1f} x the pages a CPU second of trafilatura, {total['the same with structure'] / total['stepdr']:.1f} x with structure ({total['pages'] / total['stepdr']:.0f} and {total['pages'] / total['trafilatura']:.0f}); "
          f"F1 {means['stepdr']:.4f} and {means['trafilatura']:.4f} ({means['stepdr'] - means['trafilatura']:+.4f}); in a child process {total['pages'] / total['wall']:.0f} pages/s; {os.cpu_count()} CPUs")


if __name__ == "__main__": main()
