"""How much of what a question asks for does one search bring, and how much has to be read for it?

    python benchmarks/retrieval.py [--data ../shared/data] [--split dev] [--index FOLDER] [--tokenizer FOLDER]

A hundred questions (retrieval_questions.jsonl) on articles of a real encyclopedia (docs_wikispeedia): 36 in words of the article, 36 as people ask who
do not know it, 28 that need two pages. Each names what must be read: a page and some words in one of its paragraphs. Half of them (dev) were there to tune
on, half (test) were not looked at. A question is put to `batch_web_surfer` over the folder of articles as it stands, in an episode of its own; its recall is the
share of its needs whose words stand in the text that came back. Beside it plain tantivy: one BM25 index of the same paragraphs, any word, the text of the best k
with title and address. Tokens are characters / 4, and those of a tokenizer where one is given. `--session` asks the questions of a split in one episode, each
followed by its own words without the common ones, as an agent that rephrases: what it has read before need not be shown again.

The code of another version is measured by the same command with PYTHONPATH set to a worktree of it.
"""
import argparse
import json
import os
import platform
import re
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

from stepdr.judge.intervals import bootstrap
from stepdr.tools.tool import Toolbox
from stepdr.tools.search import WebSurfer
from stepdr.tools.folder import FolderProvider, folder_store
from stepdr.tools.results import comparison_terms

HERE = Path(__file__).resolve().parent


def plain_search(store, queries, topk):
    "Titles, addresses and texts of the best paragraphs by BM25 in one index, any of the words."
    if not hasattr(store, "plain"): store.plain = plain_index(store)
    index, rows = store.plain
    searcher, lines = index.searcher(), []
    for query in queries:
        asked = index.parse_query(" ".join(re.findall(r"\w+", query)) or "nothing", ["text"])
        for _, address in searcher.search(asked, limit=topk, count=False).hits:
            title, url, text = rows[searcher.doc(address)["number"][0]]
            lines += [title, url, text]
    return "\n".join(lines)


def plain_index(store):
    import tantivy
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=False, tokenizer_name="en_stem")
    builder.add_integer_field("number", stored=True)
    index, rows = tantivy.Index(builder.build()), []
    writer = index.writer(100_000_000, 1)
    for shard in store._shards.values():
        searcher = shard.refresh()
        for _, address in searcher.search(tantivy.Query.all_query(), limit=max(1, searcher.num_docs)).hits:
            p = json.loads(bytes(searcher.doc(address)["record"][0]))
            writer.add_document(tantivy.Document(text=f"{p[2]}\n{p[4]}\n{p[3]}", number=len(rows)))
            rows.append((p[2], p[1], p[3]))
    writer.commit(); writer.wait_merging_threads(); index.reload()
    return index, rows


def flat(text): return " ".join(text.split())


def found_share(question, text):
    "-> share of the question's needs whose words are in the text."
    text = flat("\n".join(line for line in text.splitlines() if not line.startswith("## ")))
    return sum(any(flat(one["says"]) in text for one in need) for need in question["needs"]) / len(question["needs"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--split", default="", help="dev or test; both if empty")
    parser.add_argument("--topk", default="1,3,5,10", help="results asked for, comma-separated")
    parser.add_argument("--index", type=Path, help="folder to keep the articles and their index in; a temporary one if it is not given")
    parser.add_argument("--tokenizer", default="", help="folder of a tokenizer, to count its tokens too")
    parser.add_argument("--session", action="store_true", help="one episode for all questions of a split, each asked twice")
    parser.add_argument("--failed", action="store_true", help="name what was not found with the largest topk")
    given = parser.parse_args()
    archive = given.data / "docs_wikispeedia" / "plaintext_articles.tar.xz"
    if not archive.is_file(): sys.exit(f"{archive} is not here: this benchmark needs the development data")
    questions = [json.loads(line) for line in (HERE / "retrieval_questions.jsonl").read_text().splitlines()]
    count = lambda text: len(text) / 4
    if given.tokenizer:
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(Path(given.tokenizer) / "tokenizer.json"))
        count = lambda text: len(tokenizer.encode(text).ids)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.index or Path(temporary)
        documents = folder / "documents"
        if not documents.is_dir():
            documents.mkdir(parents=True)
            with tarfile.open(archive) as files:
                for member in files:
                    if member.isfile() and member.name.endswith(".txt"): (documents / (unquote(unquote(Path(member.name).stem)).replace("/", "_") + ".txt")).write_bytes(files.extractfile(member).read())
        began = time.perf_counter()
        index = folder_store(documents, folder / "store", show=False, batch=200)
        print(f"{len(index.files)} articles, {len(index.store)} paragraphs, indexed in {time.perf_counter() - began:.0f} s; {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
        provider = FolderProvider(index)
        new_box = lambda: Toolbox([WebSurfer(provider).batch_web_surfer])
        def ask(box, queries, topk): return box.call({"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": queries, "topk": topk}}).text
        print(f"tokens: {'of ' + Path(given.tokenizer).name if given.tokenizer else 'characters / 4'}")
        for split in [given.split] if given.split else ["dev", "test"]:
            chosen = [q for q in questions if q["split"] == split]
            if given.session:
                box, sizes, plain = new_box(), [], []
                for q in chosen:
                    for query in (q["question"], " ".join(sorted(comparison_terms(q["question"])))):
                        sizes.append(count(ask(box, [query], 5))); plain.append(count(plain_search(index.store, [query], 5)))
                print(f"{split}: {len(sizes)} searches of one episode, top 5: tool {sum(sizes):,.0f} tokens, plain tantivy {sum(plain):,.0f}")
                continue
            print("| split | search | k | recall, all | 95 % | its words | own words | two pages | tokens read |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
            for topk in map(int, given.topk.split(",")):
                for name, run in (("plain tantivy", lambda q: plain_search(index.store, [q["question"]], topk)), ("tool", lambda q: ask(new_box(), [q["question"]], topk))):
                    texts = [run(q) for q in chosen]
                    recalls = [found_share(q, text) for q, text in zip(chosen, texts)]
                    mean = bootstrap(recalls)
                    styles = {style: [r for q, r in zip(chosen, recalls) if q["style"] == style] for style in ("its words", "own words", "two pages")}
                    print(f"| {split} ({len(chosen)}) | {name} | {topk} | {mean['mean']:.3f} | {mean['low']:.3f} to {mean['high']:.3f} | " + " | ".join(f"{sum(s) / len(s):.3f}" for s in styles.values())
                          + f" | {sum(map(count, texts)) / len(texts):,.0f} |", flush=True)
            if given.failed:
                for q, r in zip(chosen, recalls):
                    if r < 1: print(f"  {q['id']} {r:.1f} {q['question']} {[need[0]['page'] for need in q['needs']]}")


if __name__ == "__main__": main()
