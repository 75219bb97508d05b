"""From how many of a query's words on is what was read before a result again? And how fast is a folder of documents indexed?

    python benchmarks/read_before.py [--pages 300] [--data ../shared/data]

Articles of a real encyclopedia (docs_wikispeedia) are dealt in two halves; one half is in the store, as pages that were read. A query is an article's title
with words from other paragraphs of it, 2 or 3 of them. Asked about an article that was read, the page should be among the two results that may come from the
store; asked about one that was not, the store should give nothing. The score is the difference of the two shares (Youden's J); `SurferSettings.read_cover` is
the threshold where it is best. Then the same articles are indexed as a folder of text files, and again with nothing changed.
"""
import argparse
import os
import platform
import random
import re
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote


def articles(archive, count):
    "Some articles, by title."
    texts = {}
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and member.name.endswith(".txt"): texts[unquote(Path(member.name).stem).replace("_", " ")] = files.extractfile(member).read().decode(errors="replace")
    names = sorted(texts)
    random.Random(0).shuffle(names)
    return {name: texts[name] for name in names[:count]}


def paragraphs_of(text):
    return [block for part in re.split(r"\n\s*\n", text) if 80 < len(block := " ".join(part.split())) < 1200][:25]


def words(text): return set(re.findall(r"[a-z]{4,}", text.lower()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=300, help="articles in the store, and as many that are not")
    parser.add_argument("--data", default=Path(__file__).parents[1] / ".." / "shared" / "data", type=Path)
    given = parser.parse_args()
    from stepdr.tools.folder import folder_store
    from stepdr.tools.results import cover
    from stepdr.world.paragraphs import Paragraph, paragraph_id
    from stepdr.world.paragraph_store import ParagraphStore
    texts = articles(given.data / "docs_wikispeedia" / "plaintext_articles.tar.xz", 2 * given.pages)
    blocks = {name: found for name, text in texts.items() if len(found := paragraphs_of(text)) >= 3}
    read, unread = list(blocks)[::2], list(blocks)[1::2]
    common = Counter(word for found in blocks.values() for block in found for word in words(block))
    rows = [Paragraph(paragraph_id(url, block), url, name, block) for name in read for block in blocks[name] for url in [f"https://wiki.example/{name}"]]
    with tempfile.TemporaryDirectory() as folder:
        store = ParagraphStore(Path(folder) / "store")
        store.add(rows)
        print(f"{len(read)} articles read ({len(rows)} paragraphs), {len(unread)} not; {os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
        for count in (2, 3):
            chance = random.Random(count)
            def query(name): # the title and words of middling frequency, each from another paragraph
                drawn = [chance.choice(sorted(choice)) for block in chance.sample(blocks[name], 3) if (choice := {w for w in words(block) if 5 < common[w] < 800})]
                return " ".join([name, *drawn[:count]])
            found = {name: [(h.paragraph.title == name, cover(q, h.paragraph.text, h.paragraph.title)) for h in store.search(q, 20)] for name in read + unread for q in [query(name)]}
            for threshold in (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0):
                shown = {name: [right for right, share in hits if share >= threshold][:2] for name, hits in found.items()}
                good, bad = sum(any(shown[n]) for n in read) / len(read), sum(bool(shown[n]) for n in unread) / len(unread)
                print(f"title + {count} words, threshold {threshold:.1f}: page found {good:.3f}, unread page answered with something {bad:.3f}, difference {good - bad:+.3f}")
        documents = Path(folder) / "documents"
        documents.mkdir()
        for number, name in enumerate(read): (documents / f"{number}.txt").write_text(texts[name])
        for label in ("first", "again"):
            began = time.perf_counter()
            index = folder_store(documents, Path(folder) / "index", show=False)
            print(f"folder, {label}: {index.counts}, {time.perf_counter() - began:.2f} s for {len(read)} files, {len(index.store)} paragraphs")


if __name__ == "__main__": main()
