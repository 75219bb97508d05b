"""Filters over files: every row accounted for, the same result as in memory, bad input set aside, memory flat."""
import csv
import gzip
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from stepdr.config import InputError
from stepdr.synthesis.filters import BY_DEFAULT, FILTERS, apply_filters
from stepdr.synthesis.stream import StreamSettings, filter_file, funnel_figure, load_evaluation
from test_filters import trajectory

os.environ["IN_TEST"] = "1"
DATA = Path(__file__).parents[2] / "shared/data"
WORDS = [f"w{number}" for number in range(400)]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path): return [json.loads(line) for line in open(path, encoding="utf-8")]


def ids(rows): return [row["id"] for row in rows]


def many(count, seed=0):
    "Trajectories with all kinds of flaws."
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        thought = " ".join(draw.choices(WORDS, k=40))
        row = trajectory(f"r{number}", thought=thought, task_id=f"task{number % (count // 3)}", success=draw.random() < 0.8, tool_calls=draw.randint(1, 4), tokens=draw.randint(10, 99))
        flaw = draw.choice(["", "", "", "loop", "copy", "error", "answer", "cite", "leak", "year", "mixed", "tool"])
        if flaw == "loop": row["messages"][1]["reasoning_content"] = "over and over again it says these ten words to me " * 5
        if flaw == "copy" and rows: row["messages"][1]["reasoning_content"] = rows[draw.randrange(len(rows))]["messages"][1]["reasoning_content"]
        if flaw == "error": row["messages"][2]["content"] = "Error: timed out"
        if flaw == "answer": row["messages"][3]["content"] = "<answer></answer>"
        if flaw == "cite": row["messages"][3]["content"] = r"<answer>\cite{web_12345678}</answer>"
        if flaw == "leak": row["messages"][0]["content"] = "Please: in which of the many towns of the north was the old writer born?"
        if flaw == "year": row["messages"][1]["tool_calls"][0]["function"]["arguments"]["queries"] = ["best towns 2021"]
        if flaw == "mixed": row["messages"][1]["reasoning_content"] += " 然后我们再查一下资料"
        if flaw == "tool": row["messages"].pop(2)
        rows.append(row)
    return rows


EXAM = [{"question": "In which of the many towns of the north was the old writer born?", "answer": "York"}]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("only", [("decontamination", "near_duplicates", "noise_share"), ("noise_share", "correct_and_shortest"), tuple(FILTERS)], ids=["some", "twice", "all"])
def test_a_file_gives_what_the_filters_give_in_memory(tmp_path, only, compiled):
    rows = many(600)
    source, exam = write(tmp_path/"in.jsonl", rows), write(tmp_path/"exam.jsonl", EXAM)
    options = {"temporal_anchoring": {"year": 2025}} if "temporal_anchoring" in only else {}
    counts = filter_file(source, tmp_path/"out.jsonl", only=only, against=[exam] if "decontamination" in only else (), options=options, compiled=compiled)
    known = {"decontamination": partial(FILTERS["decontamination"], tasks=load_evaluation(exam), everywhere=True), "temporal_anchoring": partial(FILTERS["temporal_anchoring"], year=2025)}
    kept, dropped, funnel = apply_filters(rows, [known.get(name, FILTERS[name]) for name in only], "in.jsonl")
    order = lambda found: sorted(found, key=lambda row: (only.index(row["filter"]), row["id"]))
    assert read(tmp_path/"out.jsonl") == kept and 0 < len(kept) < 600
    written = read(tmp_path/"out.dropped.jsonl")
    assert order(written) == order(dropped) and [row["filter"] for row in written] == [row["filter"] for row in order(written)]
    shown = json.loads((tmp_path/"out.funnel.json").read_text())
    for line, expected in zip(shown["filters"], funnel):
        assert {field: line[field] for field in ("filter", "set", "read", "kept", "dropped", "reasons")} == {field: expected[field] for field in ("filter", "set", "read", "kept", "dropped", "reasons")}
    assert counts == {"read": 600, "kept": len(kept), "dropped": len(dropped), "aside": 0}
    assert not list(tmp_path.glob(".*"))


def test_portions_do_not_matter(tmp_path):
    rows = [{**row, "padding": "x" * 4000} for row in many(900, 1)]
    source, exam = write(tmp_path/"in.jsonl", rows), write(tmp_path/"exam.jsonl", EXAM)
    for name, portion in (("small", 1), ("large", 64)):
        filter_file(source, tmp_path/f"{name}.jsonl", only=tuple(FILTERS), against=[exam], settings=StreamSettings(portion=portion))
    for ending in (".jsonl", ".dropped.jsonl"): assert (tmp_path/f"small{ending}").read_bytes() == (tmp_path/f"large{ending}").read_bytes()


def test_kept_lines_are_byte_for_byte_what_was_read(tmp_path):
    line = '{"messages":[{"role":"user","content":"\\u5317 \\ud83d\\ude00 caf\\u00e9"},{"role":"assistant","content":"x","n":1.50}],  "id": 7}'
    (tmp_path/"in.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n" + line.replace("x", "y").encode())
    assert filter_file(tmp_path/"in.jsonl", tmp_path/"out.jsonl", only=["well_formed"])["kept"] == 2
    assert (tmp_path/"out.jsonl").read_bytes() == line.encode() + b"\n" + line.replace("x", "y").encode() + b"\n"


def test_bad_lines_are_set_aside_with_line_and_reason(tmp_path):
    good = json.dumps(trajectory("good")).encode()
    bad = {2: b'{"id": "half", "mess', 3: b'{"id": "\xff\xfe"}', 4: b"[1, 2]", 5: b"null", 6: b'{"id": "long", "text": "' + b"x" * 3_000_000 + b'"}', 7: b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
           8: b'{"text": "x", "a":' + b"[" * 300 + b"]" * 300 + b"}", 9: b'{"id": "e", "messages": []}', 10: b'{"id": "n", "messages": [{"role": "user", "content": 3}]}', 11: b'{"id": "z", "n": 1}', 12: b"\x00\x00"}
    lines = [good] + [bad[number] for number in sorted(bad)] + [good.replace(b'"good"', b'"last"')]
    (tmp_path/"in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    counts = filter_file(tmp_path/"in.jsonl", tmp_path/"out.jsonl", settings=StreamSettings(line_limit=1, max_aside=0.9), only=["well_formed"])
    assert counts == {"read": 13, "kept": 2, "dropped": 0, "aside": 11} and ids(read(tmp_path/"out.jsonl")) == ["good", "last"]
    told = {row["line"]: row["reason"] for row in read(tmp_path/"out.aside.jsonl")}
    assert sorted(told) == sorted(bad) and "UTF-8" in told[3] and "list" in told[4] and "longer than" in told[6] and "nested" in told[7] and "nested" in told[8] and "messages: empty" in told[9]
    assert all(row["file"].endswith("in.jsonl") for row in read(tmp_path/"out.aside.jsonl"))
    assert sum(json.loads((tmp_path/"out.funnel.json").read_text())["aside_reasons"].values()) == 11


def test_too_much_set_aside_is_one_error_and_no_output(tmp_path):
    (tmp_path/"in.jsonl").write_text(json.dumps(trajectory()) + "\nx\ny\nz\n")
    (tmp_path/"out.jsonl").write_text("before")
    with pytest.raises(InputError, match=r"in.jsonl: 3 of 4 rows cannot be read.*line 2: not valid JSON"): filter_file(tmp_path/"in.jsonl", tmp_path/"out.jsonl", settings=StreamSettings(max_aside=0.5))
    assert (tmp_path/"out.jsonl").read_text() == "before" and not (tmp_path/"out.dropped.jsonl").exists() and len(read(tmp_path/"out.aside.jsonl")) == 3
    assert filter_file(tmp_path/"in.jsonl", tmp_path/"out.jsonl", settings=StreamSettings(max_aside=0.8))["aside"] == 3


def test_compressed_truncated_and_empty_files(tmp_path):
    rows = [trajectory(str(number), thought=" ".join(random.Random(number).choices(WORDS, k=300))) for number in range(300)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path/"whole.jsonl.gz").write_bytes(whole)
    (tmp_path/"cut.jsonl.gz").write_bytes(whole[:len(whole) // 2])
    (tmp_path/"no.jsonl.gz").write_bytes(b"this is not gzip")
    (tmp_path/"empty.jsonl").write_bytes(b"")
    assert filter_file(tmp_path/"whole.jsonl.gz", tmp_path/"out.jsonl")["kept"] == 300
    counts = filter_file(tmp_path/"cut.jsonl.gz", tmp_path/"out.jsonl")
    assert counts["aside"] == 1 and 50 < counts["kept"] < 290 and "broken" in read(tmp_path/"out.aside.jsonl")[0]["reason"]
    with pytest.raises(InputError, match="1 of 1 rows"): filter_file(tmp_path/"no.jsonl.gz", tmp_path/"out.jsonl")
    assert filter_file(tmp_path/"empty.jsonl", tmp_path/"out.jsonl") == {"read": 0, "kept": 0, "dropped": 0, "aside": 0}


@pytest.mark.parametrize("change, message", [
    ({"only": ["repetition"]}, "no filter 'repetition'"), ({"only": ["length"], "options": {"length": {"n": 3}}}, "length.n"), ({"only": ["length"], "options": {"ngram_repetition": {}}}, "options"),
    ({"only": ["decontamination"]}, "against"), ({"only": ["length"], "against": ["x"]}, "against"), ({"against": ["missing.csv"]}, "missing.csv: no such file"),
    ({"dropped": "SOURCE"}, "four different files"), ({"options": {"length": {"max_words": 0}}}, "max_words"), ({"only": ["noise_share"], "options": {"noise_share": {"low": 0.9, "high": 1.0}}}, "widen the bounds")])
def test_a_mistake_is_one_line_and_changes_nothing(tmp_path, change, message):
    source = write(tmp_path/"in.jsonl", [trajectory()])
    change = {**change, **({"dropped": source} if change.get("dropped") else {})}
    with pytest.raises(InputError, match=message) as error: filter_file(source, tmp_path/"out.jsonl", **change)
    assert "\n" not in str(error.value) and len(read(source)) == 1 and not (tmp_path/"out.jsonl").exists()
    with pytest.raises(InputError, match="no such file"): filter_file(tmp_path/"nothing", tmp_path/"out.jsonl")


def test_other_shapes_of_rows(tmp_path):
    rows = [{"id": "qa", "question": EXAM[0]["question"], "answer": "York"}, {"id": "text", "text": "before " * 50 + EXAM[0]["question"] + " after" * 50},
            {"id": "share", "conversations": [{"from": "human", "value": EXAM[0]["question"]}, {"from": "gpt", "value": "York"}]}, {"id": "clean", "prompt": "Where?", "completion": "There."}]
    source, exam = write(tmp_path/"in.jsonl", rows), write(tmp_path/"exam.jsonl", EXAM)
    assert filter_file(source, tmp_path/"out.jsonl", only=["decontamination"], against=[exam])["dropped"] == 3
    dropped = read(tmp_path/"out.dropped.jsonl")
    assert ids(dropped) == ["qa", "text", "share"] and "messages" not in dropped[0] and dropped[0]["reason"] == "evaluation question and answer"
    assert read(tmp_path/"out.jsonl") == rows[3:]


def test_evaluation_files_of_all_kinds(tmp_path):
    import polars
    question = EXAM[0]["question"]
    write(tmp_path/"a.jsonl", [{"id": 1, "Question": question, "answers": ["York", "the city of York"]}])
    (tmp_path/"b.csv").write_text(f'id,problem,answer\n1,"{question}\nSecond line?",York\n', encoding="utf-8-sig")
    (tmp_path/"c.tsv").write_text(f"q\tnote\n{question}\tx\n")
    (tmp_path/"d.json").write_text(json.dumps({"version": 1, "data": [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": question}]}]}))
    polars.DataFrame({"query": [question, "", None], "target": ["York", "x", "y"]}).write_parquet(tmp_path/"e.parquet")
    with gzip.open(tmp_path/"f.jsonl.gz", "wt") as file: file.write(json.dumps({"text": question, "other": "x?"}) + "\n")
    for name in ("a.jsonl", "b.csv", "c.tsv", "d.json", "e.parquet", "f.jsonl.gz:text"):
        tasks = load_evaluation(tmp_path/name)
        assert len(tasks) == 1 and tasks[0]["query"].startswith(question), name
    assert load_evaluation(tmp_path/"a.jsonl")[0]["aliases"] == ["the city of York"] and load_evaluation(tmp_path/"b.csv")[0]["answer"] == "York"
    for name, content, message in (("g.jsonl", '{"question": "x?"}\n{oops', "line 2"), ("h.csv", "a,b\n1,2\n", "say FILE:COLUMN; it has a, b"), ("i.parquet", "no parquet", "cannot be read"), ("j.jsonl", "", "which column"),
                                   ("k.csv", b"question\n\xff\xff\n", "UTF-8"), ("l.jsonl", '["x"]', "list of objects"), ("m.csv", "question\n?!\n", "no questions")):
        (tmp_path/name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=message): load_evaluation(tmp_path/name)
    with pytest.raises(InputError, match="no column 'nothing'"): load_evaluation(str(tmp_path/"a.jsonl") + ":nothing")


def test_a_kill_leaves_the_old_output(tmp_path):
    source = write(tmp_path/"in.jsonl", many(300))
    (tmp_path/"out.jsonl").write_text("before")
    code = "import os, sys\nfrom stepdr.synthesis import stream\nold = stream.Stage._drop\ndef drop(self, item, verdict):\n    old(self, item, verdict)\n    os.kill(os.getpid(), 9)\nstream.Stage._drop = drop\n" \
           "stream.filter_file(sys.argv[1], sys.argv[2])"
    assert subprocess.run([sys.executable, "-c", code, source, tmp_path/"out.jsonl"], env={**os.environ, "IN_TEST": "1"}).returncode == -9
    assert (tmp_path/"out.jsonl").read_text() == "before"
    assert filter_file(source, tmp_path/"out.jsonl")["read"] == 300


def test_memory_does_not_grow_with_the_file(tmp_path):
    code = "import resource, sys\nfrom stepdr.synthesis.stream import filter_file, StreamSettings\nfilter_file(sys.argv[1], sys.argv[2], settings=StreamSettings(portion=1))\n" \
           "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    line, peaks = json.dumps(trajectory("ID", tool="page " * 3000, thought="THOUGHT")), []
    for count in (500, 5000):
        with open(tmp_path/"in.jsonl", "w") as file:
            for number in range(count): file.write(line.replace("ID", str(number)).replace("THOUGHT", " ".join(random.Random(number).choices(WORDS, k=30))) + "\n")
        done = subprocess.run([sys.executable, "-c", code, tmp_path/"in.jsonl", tmp_path/"out.jsonl"], capture_output=True, text=True, env={**os.environ, "IN_TEST": "1"})
        peaks.append(int(done.stdout.split()[-1]))
    assert (tmp_path/"in.jsonl").stat().st_size > 70e6 and peaks[1] - peaks[0] < 30, peaks  # 68 MB more to read; the index of near-copies takes 0.7 KB a row


def test_funnel_figure(tmp_path):
    source = write(tmp_path/"in.jsonl", many(200) + [{"id": 1, "n": 2}])
    counts = filter_file(source, tmp_path/"out.jsonl")
    figure = funnel_figure(tmp_path/"out.funnel.json")
    bars = dict(zip(figure.data[0].x, figure.data[0].y))
    assert list(bars) == ["read", "set aside", *BY_DEFAULT, "kept"] and bars["read"] == 201 and bars["set aside"] == -1 and figure.data[0].text[-1] == str(counts["kept"])
    assert sum(bars.values()) == counts["kept"]
    assert funnel_figure(json.loads((tmp_path/"out.funnel.json").read_text())["filters"]).data[0].y[0] == 200
    assert funnel_figure([]).data[0].y[0] == 0


@pytest.mark.skipif(not (DATA/"qa/frames_test_set.csv").exists(), reason=f"{DATA} is not there")
def test_planted_frames_questions_are_all_found_and_nothing_else(tmp_path):
    with open(DATA/"qa/frames_test_set.csv", encoding="utf-8", newline="") as file: questions = [row["question"] for row in csv.DictReader(file)]
    trajectories = [json.loads(line) for line in gzip.open(DATA/"trajectories/webdancer_traj.jsonl.gz", "rt", encoding="utf-8")]
    rows = [{**row, "id": f"webdancer {number}"} for number, row in enumerate(trajectories)]
    rows += [trajectory(f"planted {number}", question=f"Please answer.\n\n{question.upper()}") for number, question in enumerate(questions)]
    rows += [trajectory(f"planted page {number}", tool="A quiz page. " * 9 + question) for number, question in enumerate(questions)]
    random.Random(0).shuffle(rows)
    counts = filter_file(write(tmp_path/"in.jsonl", rows), tmp_path/"out.jsonl", only=["decontamination"], against=[DATA/"qa/frames_test_set.csv"])
    assert len(questions) == 60 and counts == {"read": 220, "kept": 100, "dropped": 120, "aside": 0}
    assert all(row["id"].startswith("planted") for row in read(tmp_path/"out.dropped.jsonl"))
    assert filter_file(tmp_path/"in.jsonl", tmp_path/"all.jsonl", against=[DATA/"qa/frames_test_set.csv"])["read"] == 220
