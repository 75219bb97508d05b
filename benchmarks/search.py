"""Search with authority ranking against plain tantivy on the same paragraphs, and what the blend of authority and relevance costs and brings.

    python benchmarks/search.py [--paragraphs 1000000] [--queries 300]
    python benchmarks/search.py --blend [--articles 1500] [--seeds 3]

The paragraphs are made of the sentences of real encyclopedia articles (../shared/data/docs_wikispeedia), three sentences each in a new combination; a fifth
of them lies on sites of the authority list. Plain is one tantivy index with the same fields and the same OR query, top 10, no authority. Both open and decode
their ten results. `--blend` measures, on the articles' own paragraphs, how often the copy on the authoritative site comes first of two near-copies, and what
that costs where the only right paragraph lies on an unknown site. All files lie in a temporary folder.
"""
import argparse
import json
import os
import random
import re
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from stepdr.core.artifacts import root
from stepdr.world.authority import Authority
from stepdr.world.paragraphs import Paragraph, paragraph_id
from stepdr.world.paragraph_store import ParagraphStore, StoreSettings, _document, _schema

ARCHIVE = root().parent / "shared" / "data" / "docs_wikispeedia" / "plaintext_articles.tar.xz"


def articles(most):
    "-> list of (title, list of paragraphs of 150 characters and more)."
    if not ARCHIVE.exists(): sys.exit(f"{ARCHIVE} is not here: this benchmark needs the development data")
    found = []
    with tarfile.open(ARCHIVE) as files:
        for member in files:
            if len(found) == most: break
            if not member.name.endswith(".txt"): continue
            parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", files.extractfile(member).read().decode())]
            parts = [part for part in parts if len(part) >= 150]
            if len(parts) > 2: found.append((Path(member.name).stem.replace("_", " "), parts))
    return found


def sites(rng, authority):
    "-> function that gives a host: one in five is on the authority list."
    listed = [r.domain for r in authority.records.values() if "." in r.domain]
    return lambda: f"www.{rng.choice(listed)}" if rng.random() < 0.2 else f"site{rng.randrange(20_000)}.example"


def made(count, authority, seed=0):
    "Yield paragraphs of three sentences."
    rng = random.Random(seed)
    pages = [(title, [s for part in parts for s in re.split(r"(?<=[.!?]) ", part) if len(s) > 40]) for title, parts in articles(1500)]
    pages = [page for page in pages if len(page[1]) > 5]
    host = sites(rng, authority)
    for number in range(count):
        (title, own), (_, other) = rng.choice(pages), rng.choice(pages)
        text = " ".join([rng.choice(own), rng.choice(own), rng.choice(other)])
        yield Paragraph(f"web_{number:08x}", f"https://{host()}/{number}", title, text, "", "en", f"20{rng.randrange(10, 26)}", 0)


def speed(given):
    import tantivy
    authority, folder = Authority.load(), Path(tempfile.mkdtemp(prefix="search-"))
    try:
        store = ParagraphStore(folder / "store", StoreSettings(heap_mb=150), authority)
        (folder / "plain").mkdir()
        plain = tantivy.Index(_schema(), path=str(folder / "plain"))
        batch, sample, began, spent = [], [], time.perf_counter(), 0.0
        writer = plain.writer(150_000_000, 1)
        for number, p in enumerate(made(given.paragraphs, authority), 1):
            batch.append(p)
            if number % max(1, given.paragraphs // 2000) == 0: sample.append(p)
            if len(batch) == 100_000 or number == given.paragraphs:
                start = time.perf_counter(); store.add(batch); spent += time.perf_counter() - start
                for p in batch: writer.add_document(_document(p, 0, p.text))
                writer.commit()
                batch = []
                print(f"{number:,} paragraphs after {time.perf_counter() - began:.0f} s (of which the store {spent:.0f} s)", flush=True)
        writer.wait_merging_threads(); plain.reload()
        rng, searcher = random.Random(1), plain.searcher()
        queries = [" ".join(rng.sample(re.findall(r"[A-Za-z]{3,}", p.text), 4)) for p in rng.choices(sample, k=given.queries)]

        def with_plain(query, limit=10):
            hits = searcher.search(plain.parse_query(query, ["words"]), limit=limit, count=False).hits
            return [Paragraph(*json.loads(bytes(searcher.doc(address)["record"][0]))).id for _, address in hits]

        def with_store(query): return [hit.paragraph.id for hit in store.search(query, topk=10)]
        times = {with_plain: [], with_store: []}
        for number, query in enumerate(queries):
            for run in list(times)[::1 if number % 2 else -1]:   # in turns, and each as often first
                run(query) if number < 10 else None               # warm
                start = time.perf_counter(); run(query); times[run].append(1000 * (time.perf_counter() - start))
        for name, run in (("plain tantivy", with_plain), ("authority ranking", with_store)):
            taken = sorted(times[run])
            print(f"{name:<18} p50 {statistics.median(taken):6.2f} ms   mean {statistics.mean(taken):6.2f} ms   p95 {taken[int(0.95 * len(taken))]:6.2f} ms")
        ratio = statistics.median(times[with_store]) / statistics.median(times[with_plain])
        unweighted = ParagraphStore(folder / "store", StoreSettings(authority_weight=0.0), authority)
        same = statistics.mean(len({h.paragraph.id for h in unweighted.search(q, topk=10)} & set(with_plain(q))) / 10 for q in queries[:100])
        first = statistics.mean(unweighted.search(q, topk=1)[0].paragraph.id == with_plain(q, 1)[0] for q in queries[:100])
        adds = []
        for page in range(30):
            rows = [Paragraph(paragraph_id("x", f"{page} {n}"), f"https://{'who.int' if n % 2 else 'new.example'}/{page}", "New", f"{page} {n} " + sample[n].text) for n in range(20)]
            start = time.perf_counter(); store.add(rows); adds.append(1000 * (time.perf_counter() - start))
        print(f"{given.paragraphs:,} paragraphs, {len(queries)} queries of 4 words: authority ranking takes {ratio:.2f} x plain tantivy (p50), "
              f"{statistics.mean(times[with_store]) / statistics.mean(times[with_plain]):.2f} x (mean)")
        print(f"at weight 0 the two shards give {same:.3f} of one index's top 10 and {first:.2f} of its first results")
        print(f"adding a page of 20 paragraphs, durable, both shards: p50 {statistics.median(adds):.0f} ms, worst of {len(adds)} {max(adds):.0f} ms; {os.cpu_count()} CPUs")
    finally: shutil.rmtree(folder, ignore_errors=True)


def altered(text, rng):
    "A near-copy: one word in twelve is missing, and a short sentence of the site's own stands at the end."
    words = [word for word in text.split() if rng.random() > 1 / 12]
    return " ".join(words + rng.sample(["Read", "more", "about", "this", "subject", "on", "our", "pages", "or", "subscribe"], rng.randrange(4, 10)))


COMMON = set("the of and in to a was is for as by on with that were from are an at his it which or be this had their has its not but also have he been".split())
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def planted(most, authority, seed):
    "-> paragraphs, [(query, id of the only right one)], [(query, id on an authoritative site, id of its near-copy elsewhere)]."
    rng, rows, alone, twins = random.Random(seed), [], [], []
    host, listed = sites(rng, authority), [r for r in authority.records.values() if "." in r.domain]

    def ask(title, text, count):
        words = [w for w in dict.fromkeys(re.findall(r"[A-Za-z]{3,}", text)) if w.lower() not in COMMON]
        return " ".join(rng.sample(words, min(count, len(words))) + title.split()[:1])

    def put(site, title, number, text):
        rows.append(Paragraph(f"web_{len(rows):08x}", f"https://{site}/{title.replace(' ', '_')}/{number}", title, text))
        return rows[-1].id
    for title, parts in articles(most):
        for number, text in enumerate(parts):
            kind, blog = rng.random(), f"blog{len(rows)}.example"
            if kind < 0.03:
                identity = put(blog, title, number, text)
                alone += [(ask(title, text, count), identity) for count in (2, 4)]
            elif kind < 0.06:
                pair = [put(site, title, number, altered(text, rng)) for site in (rng.choice(listed).domain, blog)]
                twins += [(ask(title, text, count), *pair) for count in (2, 4)]
            else: put(host(), title, number, text)
    return rows, alone, twins


def blend(given):
    authority, lines = Authority.load(), {weight: ([], []) for weight in WEIGHTS}
    for seed in range(given.seeds):
        folder = Path(tempfile.mkdtemp(prefix="search-"))
        try:
            rows, alone, twins = planted(given.articles, authority, seed)
            ParagraphStore(folder, StoreSettings(heap_mb=100), authority).add(rows)
            for weight, (first, ranks) in lines.items():
                store = ParagraphStore(folder, StoreSettings(authority_weight=weight), authority)
                ids = lambda query: [hit.paragraph.id for hit in store.search(query, topk=10)]
                for query, good, other in twins:
                    if {good, other} & set(found := ids(query)): first.append(good in found and (other not in found or found.index(good) < found.index(other)))
                for query, right in alone: ranks.append(found.index(right) + 1 if right in (found := ids(query)) else 0)
            print(f"seed {seed}: {len(rows):,} paragraphs; {len(alone)} queries whose only right paragraph is on an unknown site, {len(twins)} with two near-copies", flush=True)
        finally: shutil.rmtree(folder, ignore_errors=True)
    print("| weight | authoritative copy first | only right paragraph on an unknown site, MRR | found in 10 |\n| --- | --- | --- | --- |")
    for weight, (first, ranks) in lines.items():
        print(f"| {weight:.2f} | {statistics.mean(first):.3f} | {statistics.mean(1 / r if r else 0 for r in ranks):.3f} | {statistics.mean(r > 0 for r in ranks):.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paragraphs", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--blend", action="store_true", help="measure the blend instead of the speed")
    parser.add_argument("--articles", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3, help="arrangements of sites that the blend is measured on")
    given = parser.parse_args()
    blend(given) if given.blend else speed(given)


if __name__ == "__main__": main()
