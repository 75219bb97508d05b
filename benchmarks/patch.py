"""Ten changes to a real report of about 5,000 words: output tokens and time of `file.patch` against a rewrite and against a unified diff.

    python benchmarks/patch.py [--reports FILE.tar.gz] [--rounds 50]

The changes are made by rule on sentences spread over the report, as an editor makes them: a number, a word, a sentence put in, one taken out, one
replaced, a citation added, a heading renamed, and so on. A change's fragment is the smallest run of whole words that occurs once. What is counted is the JSON of the whole
tool call as a model writes it. The tokenizer is a byte-level BPE of 32,000 words trained here on all other reports; characters / 4 is printed beside it.
The three ways are timed in turns in this process, the Debian tool `patch` too where there is one.
"""
import argparse
import difflib
import json
import platform
import re
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path


def load(path):
    "-> (the report nearest to 5,000 words, all others)"
    with tarfile.open(path) as archive: texts = [archive.extractfile(m).read().decode() for m in archive if m.isfile() and m.name.endswith(".md")]
    chosen = min(texts, key=lambda text: abs(len(text.split()) - 5000))
    return chosen, [text for text in texts if text is not chosen]


def make_changes(text):
    "-> list of (start, end, new), ten changes of different kinds at places spread over the report."
    sentences = [m.span() for m in re.finditer(r"(?<=[.:;-] )[A-Z][^\n|#\[\]]{40,160}?[.;](?=[ \n])", text)]
    at = lambda share: sentences[int(share * len(sentences))]
    def inside(share, pattern): # the first match in the sentences from there on
        for first, last in sentences[int(share * len(sentences)):]:
            if found := re.search(pattern, text[first:last]): return first + found.start(), first + found.end()
    heading = list(re.finditer(r"^#+ .+$", text, re.M))[2]
    return sorted([
        (*inside(0.03, r"\b\d+(?:\.\d+)?\b(?!\])"), "42"),
        (*inside(0.25, r"\b[a-z]{6,}\b"), "considerable"),
        (at(0.15)[1], at(0.15)[1], " Later figures confirm this."),
        (at(0.35)[0], at(0.35)[1] + 1, ""),
        (*at(0.45), "The evidence on this point is mixed and rests on two studies only."),
        (at(0.55)[1] - 1, at(0.55)[1] - 1, r" \cite{web_1a2b3c4d}"),
        (heading.end(), heading.end(), " (revised)"),
        (at(0.65)[0], at(0.65)[0], "In practice, "),
        (*inside(0.75, r"\b[a-z]+ [a-z]+ [a-z]+\b"), "under certain conditions"),
        (at(0.9)[1], at(0.9)[1], "\n\n- Open question: what happens after 2030?"),
    ])


def changed(text, changes):
    for start, end, new in reversed(changes): text = text[:start] + new + text[end:]
    return text


def fragment_edit(text, start, end, new):
    "The smallest edit: whole words around a change until they occur once; a long fragment by its beginning and its end, an insertion after its anchor."
    words = [m.span() for m in re.finditer(r"\S+", text)]
    def anchor(place): # the fewest words that end at `place` and occur once
        for a, _ in reversed([w for w in words if w[0] < place]):
            if text.count(text[a:place]) == 1: return text[a:place]
    if start == end: return {"after": anchor(start), "new": new}
    if end - start > 60: # named by its beginning and its end
        head = next(text[start:b] for _, b in words if b > start and text.count(text[start:b]) == 1)
        tail = next(text[a:end] for a, _ in reversed([w for w in words if start + len(head) <= w[0] < end]) if text[start + len(head):end].count(text[a:end]) == 1)
        return {"old": head, "until": tail, "new": new}
    first, last = next(i for i, w in enumerate(words) if w[1] > start), next(i for i, w in enumerate(words) if w[1] >= end)
    while text.count(text[words[first][0]:words[last][1]]) > 1: first, last = (first, last + 1) if (last - first) % 2 == 0 else (first - 1, last)
    a, b = words[first][0], words[last][1]
    return {"old": text[a:b], "new": text[a:start] + new + text[end:b]}


def plain_edit(text, edit, start, end, new):
    "The same as {old, new} alone."
    if "after" in edit: return {"old": edit["after"], "new": edit["after"] + new}
    return {"old": text[start:end], "new": new} if "until" in edit else edit


def call(**arguments): return json.dumps({"name": "file", "arguments": arguments}, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/reports_human/liveresearchbench_reports.tar.gz")
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args()
    if not given.reports.exists(): parser.error(f"{given.reports}: no such file; give --reports ARCHIVE, a .tar.gz of Markdown reports")
    from tokenizers import ByteLevelBPETokenizer
    from stepdr.tools.file import Files
    from stepdr.tools.workspace import Workspace
    text, others = load(given.reports)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(others, vocab_size=32_000, min_frequency=2, show_progress=False)
    changes = make_changes(text)
    after = changed(text, changes)
    edits = [fragment_edit(text, *change) for change in changes]
    plain = [plain_edit(text, edit, *change) for edit, change in zip(edits, changes)]
    def diff(n): return "".join(difflib.unified_diff(text.splitlines(True), after.splitlines(True), "report.md", "report.md", n=n))
    calls = {"rewrite": call(action="write", path="report.md", content=after), "unified diff, 3 lines of context": call(action="patch", path="report.md", patch=diff(3)),
             "unified diff, no context": call(action="patch", path="report.md", patch=diff(0)), "old/new fragments": call(action="patch", path="report.md", edits=plain),
             "fragments with until and after": call(action="patch", path="report.md", edits=edits)}
    space = Workspace(tempfile.mkdtemp())
    files = Files(space)
    count = lambda string: len(tokenizer.encode(string).ids)
    print(f"report: {len(text.split())} words, {len(text)} characters, {count(text)} tokens; {len(changes)} changes; {platform.machine()}, Python {platform.python_version()}")
    for name, written in calls.items():
        space.write_bytes("report.md", text.encode())
        files.file(**json.loads(written)["arguments"])
        assert space.read_bytes("report.md").decode() == after, name
        print(f"{name:<34} {count(written):6} tokens   {len(written) // 4:6} characters / 4   saved {1 - count(written) / count(calls['rewrite']):7.2%} of a rewrite")
    spaced = [edit | {"old": "  ".join(edit["old"].split(" "))} for edit in plain]
    wrong = [edit | {"old": re.sub(r"([A-Za-z])([a-z])", r"\2\1", edit["old"], count=1)} for edit in plain if len(edit["old"]) > 40 and not re.search(r"^\W", edit["old"])]
    old, new, spent = space.folder / "old.md", space.folder / "new.diff", {}
    old.write_text(text)
    new.write_text(diff(3))
    ways = {"one exact edit a call": [[edit] for edit in edits], "all ten in one call": [edits], "one edit with other white space": [[e] for e, p in zip(spaced, plain) if e != p], "one edit with a typing mistake": [[e] for e in wrong]}
    for _ in range(given.rounds):
        for name, groups in ways.items():
            for group in groups:
                space.write_bytes("report.md", text.encode())
                began = time.perf_counter()
                files.file("patch", "report.md", edits=group)
                spent.setdefault(name, []).append(time.perf_counter() - began)
        began = time.perf_counter()
        files.file("write", "report.md", after)
        spent.setdefault("a rewrite of the file", []).append(time.perf_counter() - began)
        if shutil.which("patch"):
            began = time.perf_counter()
            subprocess.run(["patch", "-s", "-o", space.folder / "out.md", old, new], check=True)
            spent.setdefault("patch(1) with the unified diff", []).append(time.perf_counter() - began)
    for name, seconds in spent.items(): print(f"{name:<34} median {statistics.median(seconds) * 1e3:6.2f} ms   95th percentile {sorted(seconds)[int(len(seconds) * 0.95)] * 1e3:6.2f} ms   n {len(seconds)}")


if __name__ == "__main__": main()
