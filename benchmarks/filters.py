"""The filters' kernels against polars expressions and rensa, on text made of real articles; what decontamination and the language filter find in real texts.

    python benchmarks/filters.py [--data ../shared/data] [--mb 100] [--rounds 3]

Documents of 2 to 20 KB are drawn, with replacement, from paragraphs of Wikipedia articles (English) and of a Chinese wiki, one in ten Chinese. Seconds are CPU time of the process, one thread, the best of the rounds, the ways in turn.
The n-gram filter: the count of each document's most frequent 10-gram. Polars gets the same words (NFKC, lower case, CJK characters singly), hashes them, adds up ten shifted columns and groups;
all counts are compared. MinHash-128: rensa gets the shingles as joined strings, made by plain `str.split` (the cheapest way, no Chinese) and of the filter's own words; its own time without shingling is printed too.
The accuracy of both MinHashes is measured on pairs of known similarity. FRAMES questions are planted in texts; unrelated texts show false positives.
"""
import argparse
import csv
import json
import os
import platform
import random
import re
import resource
import tarfile
import tempfile
import time
from pathlib import Path

os.environ |= {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def articles(data): # -> (English texts, Chinese texts)
    read = lambda path, end: [archive.extractfile(m).read().decode("utf-8", "replace") for archive in [tarfile.open(path)] for m in archive if m.isfile() and m.name.endswith(end)]
    return read(data / "docs_wikispeedia/plaintext_articles.tar.xz", ".txt"), read(data / "docs_oiwiki_zh/oiwiki_md_docs.tar.gz", ".md")


def documents(english, chinese, megabytes, seed=0):
    "Texts of 2 to 20 KB, put together from paragraphs."
    draw = random.Random(seed)
    pools = [[p for text in texts for p in text.split("\n\n") if len(p) > 80] for texts in (english, chinese)]
    made, size = [], 0
    while size < megabytes * 1e6:
        pool, text, length = pools[draw.random() < 0.1], "", draw.randint(2000, 20000)
        while len(text) < length: text += draw.choice(pool) + "\n"
        made.append(text)
        size += len(text.encode())
    return made, size / 1e6


def in_turns(ways, rounds): # {name: function} -> {name: (best CPU seconds, result)}
    best = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            result = way()
            seconds = time.process_time() - start
            if name not in best or seconds < best[name][0]: best[name] = seconds, result
    return best


def polars_repeats(texts, n=10):
    import polars as pl
    cjk = r"\x{3040}-\x{30ff}\x{3400}-\x{9fff}"
    frame = pl.LazyFrame({"row": range(len(texts)), "text": texts})
    text = pl.col("text").str.normalize("NFKC").str.to_lowercase()
    words = frame.select("row", word=text.str.extract_all(rf"[{cjk}]|[\w--[{cjk}]]+")).explode("word").with_columns(pl.col("word").hash())
    grams = words.with_columns(gram=pl.sum_horizontal([pl.col("word").shift(i) * (2 * i + 1) for i in range(n)]), whole=pl.col("row") == pl.col("row").shift(n - 1)).filter("whole")
    found = grams.group_by("row", "gram").len().group_by("row").agg(pl.col("len").max()).collect()
    counts = [0] * len(texts)
    for row, count in found.iter_rows(): counts[row] = count
    return counts


def rensa_signatures(texts, split, n=5):
    import rensa
    def shingles(text):
        words = split(text)
        return [" ".join(words[i:i + n]) for i in range(len(words) - n + 1)]
    return rensa.RMinHash.digest_matrix_from_token_sets([shingles(text) for text in texts], 128, 42)


def speed(texts, megabytes, rounds):
    from stepdr.synthesis import kernels, word_forms
    rows = [[text] for text in texts]
    kernels.repeats(rows[:2], 10), kernels.signatures(rows[:2])  # compiled now
    part = rows[:max(1, len(rows) // 20)]
    share = sum(len(texts[0].encode()) for texts in part) / 1e6
    found = in_turns({"kernel": lambda: kernels.repeats(rows, 10), "polars": lambda: polars_repeats(texts)}, rounds)
    plain = in_turns({"plain": lambda: kernels.plain_repeats(part, 10)}, 1)["plain"]
    print(f"\nrepeated 10-grams, {len(rows)} documents, {megabytes:.0f} MB")
    for name, (seconds, counts) in found.items(): print(f"  {name:28} {megabytes / seconds:7.1f} MB/s of CPU   {sum(map(int, counts))}")
    print(f"  {'plain Python (a part)':28} {share / plain[0]:7.1f} MB/s of CPU")
    same = sum(int(a) == b for a, b in zip(found["kernel"][1], found["polars"][1]))
    print(f"  kernel {found['polars'][0] / found['kernel'][0]:.1f} x polars; the same count in {same} of {len(rows)} documents; as plain Python in {int((found['kernel'][1][:len(part)] == plain[1]).sum())} of {len(part)}")
    lower = lambda text: text.lower().split()
    made = [[" ".join(words[i:i + 5]) for i in range(len(words) - 4)] for words in (lower(texts[0]) for texts in part)]
    import rensa
    found = in_turns({"kernel": lambda: kernels.signatures(rows)[0], "rensa, str.split shingles": lambda: rensa_signatures(texts, lower),
                      "rensa, the same words": lambda: rensa_signatures(texts, word_forms.words)}, rounds)
    bare = in_turns({"rensa": lambda: rensa.RMinHash.digest_matrix_from_token_sets(made, 128, 42)}, rounds)["rensa"][0]
    print(f"MinHash, 128 permutations, 5-word shingles, {len(rows)} documents, {megabytes:.0f} MB")
    for name, (seconds, _) in found.items(): print(f"  {name:28} {megabytes / seconds:7.1f} MB/s of CPU")
    print(f"  {'rensa, shingles given':28} {share / bare:7.1f} MB/s of CPU")
    kernel = found.pop("kernel")[0]
    print("  kernel " + ", ".join(f"{seconds / kernel:.1f} x {name}" for name, (seconds, _) in found.items()))


def accuracy(texts, pairs=1000):
    "Root mean square error of the estimated similarity of pairs with known similarity."
    import numpy as np
    import rensa
    from stepdr.synthesis import kernels, word_forms
    draw, left, right, true = random.Random(1), [], [], []
    for text in texts[:pairs]:
        words = word_forms.words(text)[:1500]
        other = [f"w{draw.getrandbits(40)}" if draw.random() < 0.15 * draw.random() else word for word in words]
        a, b = set(word_forms.ngrams(words, 5)), set(word_forms.ngrams(other, 5))
        left.append(" ".join(words)); right.append(" ".join(other)); true.append(len(a & b) / len(a | b))
    estimate = lambda one, two: (np.asarray(one) == np.asarray(two)).mean(1)
    own = estimate(kernels.signatures([[t] for t in left])[0], kernels.signatures([[t] for t in right])[0])
    theirs = estimate(*(np.array([row.digest() if hasattr(row, "digest") else row for row in matrix_rows(rensa_signatures(side, str.split))]) for side in (left, right)))
    error = lambda values: float(np.sqrt(np.mean((values - np.array(true)) ** 2)))
    print(f"  error of the similarity, {len(true)} pairs of similarity {min(true):.2f} to {max(true):.2f}: kernel RMSE {error(own):.4f}, rensa {error(theirs):.4f}")


def matrix_rows(matrix):
    for name in ("to_rows", "rows", "tolist"):
        if hasattr(matrix, name) and callable(getattr(matrix, name)): return getattr(matrix, name)()
    return list(matrix)


def dialogue(name, question, answer): return {"id": name, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def leaks(data, english, chinese):
    "Planted questions that are found, and unrelated texts that are taken for leaks."
    from stepdr.synthesis.filters import language_mixing
    from stepdr.synthesis.portions import Decontamination
    from stepdr.synthesis.row_files import load_evaluation
    draw = random.Random(2)
    reports = [archive.extractfile(m).read().decode() for archive in [tarfile.open(next((data / "reports_human").glob("*.tar.gz")))] for m in archive if m.isfile() and m.name.endswith(".md")]
    unrelated = [dialogue(f"u{i}", text[:200], text) for i, text in enumerate(english + chinese + reports)]
    print(f"\ndecontamination: {len(unrelated)} unrelated texts ({len(english)} English articles, {len(chinese)} Chinese pages, {len(reports)} reports)")
    for name in ("frames_test_set.csv", "simple_qa_test_set.csv", "chinese_simpleqa.jsonl", "deepresearcher_dev.jsonl", "sds_bamboogle.json", "webshaper.500.jsonl"):
        questions = [task["query"] for task in load_evaluation(data / "qa" / name)]
        planted, wrap = [], ("{}", "Please answer the following question.\n{}\nThink step by step.", "  {} ", "Q: {}")
        for number, question in enumerate(questions):
            filler = draw.choice(english)
            planted.append(dialogue(f"as it is {number}", draw.choice(wrap).format(question), "I do not know."))
            planted.append(dialogue(f"upper case, punctuation to spaces {number}", "".join(c if c.isalnum() else " " for c in question.upper()), "Unknown."))
            planted.append(dialogue(f"punctuation taken out {number}", "".join(c for c in question if c.isalnum() or c.isspace()), "Unknown."))
            planted.append(dialogue(f"inside a text {number}", "Summarise this page.", f"{filler[:3000]} {question} {filler[3000:6000]}"))
            words = question.split()
            if len(words) > 15: planted.append(dialogue(f"last tenth missing {number}", " ".join(words[:-(len(words) // 10)]), "Unknown."))
        check = Decontamination([data / "qa" / name])
        check.add(planted + unrelated); check.ready()
        found = {row["id"] for row in check(planted)[1]}
        start = time.process_time()
        false = check(unrelated)[1]
        seconds = time.process_time() - start
        kinds = {}
        for row in planted: kinds.setdefault(row["id"].rsplit(" ", 1)[0], []).append(row["id"] in found)
        print(f"  {name:26} {len(questions):4} questions; found: " + ", ".join(f"{kind} {sum(hits)}/{len(hits)}" for kind, hits in kinds.items())
              + f"; false positives {len(false)}/{len(unrelated)}, {sum(len(r['messages'][1]['content'].encode()) for r in unrelated) / 1e6 / seconds:.0f} MB/s")
        for row in false[:3]: print(f"      {row['reason']}: {str(row['measure'])[:110]}")
    for name, texts in (("English articles", english), ("human reports", reports), ("Chinese pages", chinese)):
        rows = [dialogue(str(i), "", text) for i, text in enumerate(texts)]
        dropped = language_mixing(rows, same_language=False)[1]
        spoiled = [dialogue(str(i), "", spoil(text, name == "Chinese pages", draw)) for i, text in enumerate(texts)]
        print(f"language mixing: {name}: {len(dropped)} of {len(rows)} dropped as they are, {len(language_mixing(spoiled, same_language=False)[1])} with a switch in every tenth sentence"
              + (f"; for example {dropped[0]['measure']}" if dropped else ""))


def spoil(text, is_chinese, draw):
    parts = re.split("(?<=[。．])" if is_chinese else r"(?<=\. )", text)
    for place in range(0, len(parts), 10): parts[place] += "And then we should check what it says. " if is_chinese else "然后我们再查一下资料。"
    return "".join(parts)


def stream(texts, megabytes):
    "The whole command over a file: speed and memory, for a file and for one four times as long."
    from stepdr.synthesis.filter_files import filter_file
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 4):
            source = Path(folder) / f"{times}.jsonl"
            with open(source, "w") as file:
                for turn in range(times):
                    for number, text in enumerate(texts):
                        half = len(text) // 2
                        row = dialogue(f"{turn}-{number}", text[:150], f"{turn} " + text[half:])
                        row["messages"].insert(1, {"role": "assistant", "content": "", "reasoning_content": f"I search for part {turn} of {number}.", "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": {"query": text[:40]}}}]})
                        row["messages"].insert(2, {"role": "tool", "content": text[:half]})
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
            size, start = source.stat().st_size / 1e6, time.process_time()
            counts = filter_file(source, Path(folder) / "out.jsonl", against=[AGAINST])
            print(f"all filters over {size:.0f} MB, {counts}: {size / (time.process_time() - start):.1f} MB/s of CPU, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--mb", type=float, default=100, help="size of the generated text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "leaks", "stream"], help="one part alone")
    given = parser.parse_args()
    AGAINST = given.data / "qa/frames_test_set.csv"
    if not AGAINST.exists(): parser.error(f"--data: {given.data} does not have qa/frames_test_set.csv and the article collections")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    english, chinese = articles(given.data)
    if given.only in (None, "stream"): stream(documents(english, chinese, given.mb / 10)[0], given.mb / 10)
    if given.only in (None, "speed"):
        texts, megabytes = documents(english, chinese, given.mb)
        speed(texts, megabytes, given.rounds)
        accuracy(texts)
    if given.only in (None, "leaks"): leaks(given.data, english, chinese)
