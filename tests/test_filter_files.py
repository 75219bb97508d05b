"""Filters over files: every row accounted for, the same result as in memory, bad input set aside, memory flat."""
import csv
import fcntl
import gzip
import json
import os
import random
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from stepdr.core.artifacts import read_parquet, write_parquet
from stepdr.core.config import InputError
from stepdr.synthesis import filter_files as stream, portions
from stepdr.synthesis.filters import BY_DEFAULT, FILTERS, apply_filters
from stepdr.synthesis.filter_files import filter_file, funnel_figure
from stepdr.synthesis.portions import StreamSettings
from stepdr.synthesis.row_files import load_evaluation
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
    for name, content, message in (("g.jsonl", '{"question": "x?"}\n{oops', "line 2"), ("h.csv", "a,b\n1,2\n", "say FILE:COLUMN; it has a, b"), ("i.parquet", "no parquet", "not a readable Parquet file"), ("j.jsonl", "", "which column"),
                                   ("k.csv", b"question\n\xff\xff\n", "UTF-8"), ("l.jsonl", '["x"]', "expected a JSON object"), ("m.csv", "question\n?!\n", "no questions")):
        (tmp_path/name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=message): load_evaluation(tmp_path/name)
    with pytest.raises(InputError, match="no column 'nothing'"): load_evaluation(str(tmp_path/"a.jsonl") + ":nothing")


def test_a_kill_leaves_the_old_output(tmp_path):
    source = write(tmp_path/"in.jsonl", many(300))
    (tmp_path/"out.jsonl").write_text("before")
    code = "import os, sys\nfrom stepdr.synthesis import filter_files as stream\nold = stream.FilterStage._drop\ndef drop(self, item, verdict):\n    old(self, item, verdict)\n    os.kill(os.getpid(), 9)\nstream.FilterStage._drop = drop\n" \
           "stream.filter_file(sys.argv[1], sys.argv[2])"
    assert subprocess.run([sys.executable, "-c", code, source, tmp_path/"out.jsonl"], env={**os.environ, "IN_TEST": "1"}).returncode == -9
    assert (tmp_path/"out.jsonl").read_text() == "before"
    assert filter_file(source, tmp_path/"out.jsonl")["read"] == 300


def test_memory_does_not_grow_with_the_file(tmp_path):
    code = "import resource, sys\nfrom stepdr.synthesis.filter_files import filter_file, StreamSettings\nfilter_file(sys.argv[1], sys.argv[2], settings=StreamSettings(portion=1))\n" \
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


# a run that is killed

KILLED = """
import os, random, signal, sys, json
from stepdr.synthesis import filter_files as stream, portions
source, out, log, seed, options = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5])
draw, kills = random.Random(seed), 0
def run(after):
    "Filter, and die at the given event: a row that is dropped, a checkpoint begun or written, a file renamed."
    left, log_file = [after], os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def event(*_):
        left[0] -= 1
        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
    def watched(function):
        def run(*args, **named):
            event(); result = function(*args, **named); event()
            return result
        return run
    parse = portions.parse_row
    def parsed(*args): os.write(log_file, b"."); return parse(*args)
    portions.parse_row, stream.FilterStage._drop, stream.RunFolder.commit, stream.convert = parsed, watched(stream.FilterStage._drop), watched(stream.RunFolder.commit), watched(stream.convert)
    os.replace = watched(os.replace)
    stream.filter_file(source, out, settings=stream.StreamSettings(portion=1), **options)
while True:
    child = os.fork()
    if not child: run(draw.randint(40, 300)); os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status): break
    assert os.WTERMSIG(status) == 9, status
    kills += 1
assert os.WEXITSTATUS(status) == 0, status
print(kills)
"""


@pytest.mark.parametrize("only, ending, source_ending", [((), ".jsonl", ".jsonl"), (("near_duplicates", "correct_and_shortest", "noise_share"), ".jsonl", ".jsonl"),
                                                         (tuple(FILTERS), ".jsonl.gz", ".jsonl.gz"), (("decontamination", "near_duplicates", "noise_share"), ".parquet", ".parquet")], ids=["default", "whole", "all", "parquet"])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, only, ending, source_ending):
    rows = [{**row, "padding": "x" * 9000} for row in many(700, 2)]
    rows[::50] = [{"id": str(number), "n": 1} for number in range(14)]  # set aside
    if source_ending == ".parquet": write_parquet(tmp_path/"in.parquet", rows, ["meta"])
    else: (gzip.open if source_ending.endswith(".gz") else open)(tmp_path/f"in{source_ending}", "wb").write("".join(json.dumps(row) + "\n" for row in rows).encode())
    source, exam = tmp_path/f"in{source_ending}", write(tmp_path/"exam.jsonl", EXAM)
    options = {"only": only, "compiled": False, "against": [str(exam)] if "decontamination" in only else [], "options": {"temporal_anchoring": {"year": 2025}} if "temporal_anchoring" in only else {}}
    names = [f"out{ending}", "out.dropped.jsonl", "out.aside.jsonl", "out.funnel.json"]
    (tmp_path/"once").mkdir(); (tmp_path/"killed").mkdir()
    counts = filter_file(source, tmp_path/"once"/names[0], settings=StreamSettings(portion=1), **options)
    done = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path/"killed"/names[0], tmp_path/"log", "3", json.dumps(options)], capture_output=True, text=True, env={**os.environ, "IN_TEST": "1"})
    assert done.returncode == 0, done.stderr
    for name in names: assert (tmp_path/"killed"/name).read_bytes() == (tmp_path/"once"/name).read_bytes(), name
    assert sorted(os.listdir(tmp_path/"killed")) == sorted(names) == sorted(os.listdir(tmp_path/"once"))
    kills, read_at_all = int(done.stdout), (tmp_path/"log").stat().st_size
    funnel = json.loads((tmp_path/"once"/"out.funnel.json").read_text())
    needed = 700 + sum(line["read"] for line in funnel["filters"] if line["filter"] in ("decontamination", "correct_and_shortest", "noise_share"))
    assert kills >= 3 and counts["dropped"] > 100 and needed <= read_at_all <= needed + kills * 120, (kills, needed, read_at_all)  # a portion of 1 MB has up to 114 rows


def test_a_kill_from_outside_at_any_moment(tmp_path):
    source = write(tmp_path/"in.jsonl", [{**row, "padding": "x" * 9000} for row in many(1200, 4)])
    code = "import sys\nfrom stepdr.synthesis.filter_files import filter_file, StreamSettings\nfilter_file(sys.argv[1], sys.argv[2], only=['length', 'near_duplicates', 'noise_share'], compiled=False, settings=StreamSettings(portion=1))"
    command = lambda name: [sys.executable, "-c", code, source, tmp_path/name/"out.jsonl"]
    for name in ("once", "killed"): (tmp_path/name).mkdir()
    subprocess.run(command("once"), check=True, env={**os.environ, "IN_TEST": "1"})
    draw, kills, work = random.Random(5), 0, tmp_path/"killed"/".out.jsonl.work"/"state.json"
    def place():
        try: state = json.loads(work.read_text()); return state["pass"], (state.get("reader") or {}).get("offset", 0)
        except (OSError, ValueError): return None
    while kills < 4:
        process, before = subprocess.Popen(command("killed"), env={**os.environ, "IN_TEST": "1"}), place()
        while process.poll() is None and place() == before: time.sleep(0.005)
        time.sleep(draw.random() * 0.2)
        process.kill()
        if process.wait() == 0 or (tmp_path/"killed"/"out.jsonl").exists(): break    # done, or as good as: what is missing comes with the call below
        assert place() >= (before or (0, 0))
        kills += 1
    subprocess.run(command("killed"), check=True, env={**os.environ, "IN_TEST": "1"})
    assert kills >= 2
    for name in os.listdir(tmp_path/"once"): assert (tmp_path/"killed"/name).read_bytes() == (tmp_path/"once"/name).read_bytes(), name


def stopped(tmp_path, source, monkeypatch, **options):
    "Filter until the third checkpoint, then break off as Ctrl-C does."
    with monkeypatch.context() as patch:
        calls, old = [], stream.RunFolder.commit
        def commit(self, **state):
            old(self, **state)
            calls.append(1)
            if len(calls) == 3: raise KeyboardInterrupt
        patch.setattr(stream.RunFolder, "commit", commit)
        with pytest.raises(KeyboardInterrupt): filter_file(source, tmp_path/"out.jsonl", settings=StreamSettings(portion=1), **options)
    assert (tmp_path/".out.jsonl.work").is_dir() and not (tmp_path/"out.jsonl").exists()


def test_another_source_other_options_and_another_process(tmp_path, monkeypatch):
    rows = [{**row, "padding": "x" * 9000} for row in many(600, 6)]
    source, seen = write(tmp_path/"in.jsonl", rows), []
    old = portions.parse_row
    monkeypatch.setattr(portions, "parse_row", lambda *args: seen.append(1) or old(*args))
    filter_file(source, tmp_path/"whole.jsonl", only=["length"])
    def run(count, **options):
        seen.clear()
        filter_file(source, tmp_path/"out.jsonl", **{"only": ["length"], "settings": StreamSettings(portion=1), **options})
        assert len(seen) == count and not list(tmp_path.glob(".*"))
        (tmp_path/"out.jsonl").unlink()
    stopped(tmp_path, source, monkeypatch, only=["length"])
    done = json.loads((tmp_path/".out.jsonl.work"/"state.json").read_text())["rows"]
    assert 250 < done < 350
    run(600 - done)  # goes on
    stopped(tmp_path, source, monkeypatch, only=["length"])
    run(600, options={"length": {"max_words": 50_000}})  # other options: from the beginning
    stopped(tmp_path, source, monkeypatch, only=["length"])
    write(source, rows[1:])
    run(599)  # another source
    stopped(tmp_path, source, monkeypatch, only=["length"])
    with open(tmp_path/".out.jsonl.work"/"lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"): run(0)
    (tmp_path/".out.jsonl.work"/"kept").write_bytes(b"")  # damaged: from the beginning
    run(599)
    stopped(tmp_path, source, monkeypatch, only=["length"])
    (tmp_path/".out.jsonl.work"/"state.json").write_text("{")
    run(599)


def test_a_full_disk_keeps_what_was_done(tmp_path, monkeypatch):
    source = write(tmp_path/"in.jsonl", [{**row, "padding": "x" * 9000} for row in many(600, 6)])
    with monkeypatch.context() as patch:
        old, calls = portions.atomic_write, []
        def full(path, content):
            calls.append(1)
            if len(calls) > 3: raise OSError(28, "No space left on device")
            return old(path, content)
        patch.setattr(portions, "atomic_write", full)
        with pytest.raises(OSError) as error: filter_file(source, tmp_path/"out.jsonl", settings=StreamSettings(portion=1))
        assert error.value.filename
    assert filter_file(source, tmp_path/"out.jsonl", settings=StreamSettings(portion=1))["read"] == 600 and not list(tmp_path.glob(".*"))


# other forms of files

def zst(path, data):
    import pyarrow
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file: file.write(data)
    return path


def test_all_forms_of_sources_give_the_same(tmp_path):
    import datasets
    rows = [{**row, "meta": {"plan": ["birthplace"]}} for row in many(300)]
    source = write(tmp_path/"in.jsonl", rows)
    zst(tmp_path/"in.jsonl.zst", source.read_bytes())
    flat = [{**row, "messages": [{**turn, "tool_calls": [{**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}} for call in turn["tool_calls"]]} if turn.get("tool_calls") else turn
                                 for turn in row["messages"]]} for row in rows]  # arguments as text, as in most published sets
    write(tmp_path/"flat.jsonl", flat)
    table = datasets.Dataset.from_list(flat)
    table.to_parquet(tmp_path/"flat.parquet", batch_size=70)
    table.save_to_disk(tmp_path/"saved", num_shards=3)
    datasets.DatasetDict({"train": table.select(range(200)), "test": table.select(range(200, 300))}).save_to_disk(tmp_path/"splits")
    (tmp_path/"folder"/"data").mkdir(parents=True)
    table.select(range(200)).to_parquet(tmp_path/"folder"/"data"/"train-0.parquet")
    write(tmp_path/"folder"/"data"/"train-1.jsonl", flat[200:]); (tmp_path/"folder"/"README.md").write_text("# A set")
    found = {}
    for name in ("in.jsonl", "in.jsonl.zst", "flat.jsonl", "flat.parquet", "saved", "splits", "folder"):
        counts = filter_file(tmp_path/name, tmp_path/"out"/"x.jsonl", only=["near_duplicates", "tool_schema", "noise_share"])
        found[name] = counts, ids(read(tmp_path/"out"/"x.jsonl")), [(row["id"], row["reason"]) for row in read(tmp_path/"out"/"x.dropped.jsonl")]
        if name in ("flat.parquet", "saved", "splits", "folder"): assert {row["id"]: row for row in flat}[found[name][1][0]] == read(tmp_path/"out"/"x.jsonl")[0]
    assert len({json.dumps(one) for one in found.values()}) == 1 and 0 < counts["kept"] < 300 == counts["read"]
    assert "file" in json.loads((tmp_path/"out"/"x.funnel.json").read_text())["filters"][0]["examples"][0]


def test_forms_of_outputs(tmp_path):
    import datasets
    rows = many(300)
    source = write(tmp_path/"in.jsonl", rows)
    filter_file(source, tmp_path/"out.jsonl")
    filter_file(source, tmp_path/"out.jsonl.gz", tmp_path/"d.jsonl.gz", tmp_path/"f1.json", aside=tmp_path/"a.jsonl.gz")
    filter_file(source, tmp_path/"out.parquet", tmp_path/"d.parquet", tmp_path/"f2.json", aside=tmp_path/"a.parquet")
    plain = (tmp_path/"out.jsonl").read_bytes()
    assert gzip.decompress((tmp_path/"out.jsonl.gz").read_bytes()) == plain and gzip.decompress((tmp_path/"d.jsonl.gz").read_bytes()) == (tmp_path/"out.dropped.jsonl").read_bytes()
    assert [without_nulls(row) for row in read_parquet(tmp_path/"out.parquet")] == read(tmp_path/"out.jsonl")
    assert [without_nulls(row) for row in read_parquet(tmp_path/"d.parquet")] == read(tmp_path/"out.dropped.jsonl") and read_parquet(tmp_path/"a.parquet") == []
    loaded = datasets.Dataset.from_parquet(str(tmp_path/"out.parquet"), cache_dir=tmp_path/"cache")
    assert loaded["id"] == ids(read(tmp_path/"out.jsonl")) and loaded[0]["messages"][0]["role"] == "user"
    filter_file(tmp_path/"out.parquet", tmp_path/"again.jsonl", funnel=tmp_path/"f3.json")
    assert read(tmp_path/"again.jsonl") == read(tmp_path/"out.jsonl")


def without_nulls(row): return {key: value for key, value in row.items() if value is not None}


def test_a_table_becomes_a_table_of_the_same_schema(tmp_path):
    import datetime, decimal
    import polars
    frame = polars.DataFrame({"id": list(range(500)), "question": [f"What is {number} and {number}?" for number in range(500)], "answer": ["x" if number % 7 else "" for number in range(500)],
                              "when": [datetime.datetime(2025, 1, 1, 12, number % 60) for number in range(500)], "price": [decimal.Decimal(number) / 4 for number in range(500)], "raw": [b"\xff" if number % 2 else None for number in range(500)],
                              "score": [float("nan") if number % 3 else 1.5 for number in range(500)], "kind": polars.Series(["a", "b"] * 250, dtype=polars.Categorical)})
    frame.write_parquet(tmp_path/"in.parquet", row_group_size=90)
    counts = filter_file(tmp_path/"in.parquet", tmp_path/"out.parquet", only=["length"], aside=tmp_path/"a.jsonl", dropped=tmp_path/"d.jsonl")
    assert counts["kept"] == 428 and polars.read_parquet(tmp_path/"out.parquet").equals(frame.filter(polars.col("answer") != ""), null_equal=True)
    row = read(tmp_path/"d.jsonl")[0]
    assert (row["when"], row["price"], "raw" in row, row["kind"]) == ("2025-01-01T12:00:00", "0.00", False, "a") and row["reason"] == "answer too short"
    rows = [{"id": "a", "text": "Some text.", "meta": {"n": 1}}, {"id": "b", "text": "Other text.", "meta": {"n": "one"}}]
    write_parquet(tmp_path/"own.parquet", rows, ["meta"])
    filter_file(tmp_path/"own.parquet", tmp_path/"own.out.parquet", only=["well_formed"])
    assert read_parquet(tmp_path/"own.out.parquet") == rows
    filter_file(tmp_path/"own.parquet", tmp_path/"own.jsonl", only=["well_formed"])
    assert read(tmp_path/"own.jsonl") == rows


def test_rows_without_a_common_type_become_json_text(tmp_path):
    rows = [{"id": 1, "text": "a", "n": 1, "big": 2 ** 60 + 1, "any": {}, "bad": "\ud800", "m": [1, "x"]}, {"id": "two", "text": "b", "n": 1.5, "big": 0.5, "any": {"k": 1}, "bad": "y", "m": None}] \
        + [{"id": 3, "text": "c", "args": {f"name {number}": number for number in range(400)}}]
    (tmp_path/"in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filter_file(tmp_path/"in.jsonl", tmp_path/"out.parquet", only=["well_formed"])
    assert [without_nulls(row) for row in read_parquet(tmp_path/"out.parquet")] == [without_nulls(row) for row in rows]
    assert json.loads((tmp_path/"out.funnel.json").read_text())["kept"] == 3


def test_broken_tables_and_folders(tmp_path):
    import polars
    rows = [{"id": str(number), "text": " ".join(random.Random(number).choices(WORDS, k=300))} for number in range(400)]
    whole = zst(tmp_path/"whole.jsonl.zst", "".join(json.dumps(row) + "\n" for row in rows).encode()).read_bytes()
    (tmp_path/"cut.jsonl.zst").write_bytes(whole[:len(whole) // 2])
    counts = filter_file(tmp_path/"cut.jsonl.zst", tmp_path/"out.jsonl", only=["well_formed"])
    assert counts["aside"] == 1 and 50 < counts["kept"] < 390 and "broken" in read(tmp_path/"out.aside.jsonl")[0]["reason"]
    polars.DataFrame(rows).write_parquet(tmp_path/"t.parquet", row_group_size=50)
    data = (tmp_path/"t.parquet").read_bytes()
    (tmp_path/"set").mkdir()
    for name, content in (("a.parquet", data), ("b.parquet", data[:len(data) // 2]), ("c.parquet", data[:20000] + bytes(3000) + data[23000:]), ("d.parquet", b"")): (tmp_path/"set"/name).write_bytes(content)
    counts = filter_file(tmp_path/"set", tmp_path/"out.jsonl", only=["well_formed"])
    assert counts["aside"] == 3 and 400 <= counts["kept"] < 800 and sorted(Path(row["file"]).name for row in read(tmp_path/"out.aside.jsonl")) == ["b.parquet", "c.parquet", "d.parquet"]
    counts = filter_file(tmp_path/"set", tmp_path/"out.parquet", only=["well_formed"], dropped=tmp_path/"d.jsonl")
    assert len(polars.read_parquet(tmp_path/"out.parquet")) == counts["kept"]
    with pytest.raises(InputError, match="1 of 1 rows"): filter_file(tmp_path/"set"/"b.parquet", tmp_path/"x.jsonl")
    with pytest.raises(InputError, match="lies in the folder"): filter_file(tmp_path/"set", tmp_path/"set"/"x.jsonl")
    (tmp_path/"none").mkdir()
    with pytest.raises(InputError, match="holds no rows"): filter_file(tmp_path/"none", tmp_path/"x.jsonl")
    (tmp_path/"none"/"dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match="train: no such file"): filter_file(tmp_path/"none", tmp_path/"x.jsonl")
    (tmp_path/"none"/"dataset_dict.json").write_text("{")
    with pytest.raises(InputError, match="save the set again"): filter_file(tmp_path/"none", tmp_path/"x.jsonl")
    import pyarrow as pa
    from pyarrow import parquet
    texts = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0])), pa.py_buffer(b"ok\xff\xfe")])
    parquet.write_table(pa.table({"text": texts}), tmp_path/"utf.parquet")
    assert filter_file(tmp_path/"utf.parquet", tmp_path/"x.jsonl", only=["well_formed"]) == {"read": 2, "kept": 1, "dropped": 0, "aside": 1} and "UTF-8" in read(tmp_path/"x.aside.jsonl")[0]["reason"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path/"pipe")
    source, got = write(tmp_path/"in.jsonl", [trajectory("a"), {**trajectory("b"), "messages": []}, {"n": 1}]), []
    reader = threading.Thread(target=lambda: got.append((tmp_path/"pipe").read_bytes()))
    reader.start()
    filter_file(source, tmp_path/"out.jsonl", tmp_path/"pipe", settings=StreamSettings(max_aside=0.9))
    reader.join(20)
    assert not (tmp_path/"pipe").is_file() and got == [b""]


def test_a_kill_while_the_files_are_put_in_place(tmp_path):
    source = write(tmp_path/"in.jsonl", many(200))
    filter_file(source, tmp_path/"once.jsonl")
    code = "import os, sys\nfrom stepdr.synthesis import filter_files as stream\nold, count = stream.put, []\ndef put(part, target):\n    if len(count) == int(sys.argv[3]): os.kill(os.getpid(), 9)\n    count.append(1); old(part, target)\n" \
           "stream.put = put\nstream.filter_file(sys.argv[1], sys.argv[2])"
    for killed_at in (2, 1, 0):  # places that are left: the second run has one file less to put
        assert subprocess.run([sys.executable, "-c", code, source, tmp_path/"out.jsonl", str(killed_at)], env={**os.environ, "IN_TEST": "1"}).returncode == -9
    assert (tmp_path/"out.jsonl").exists() and not (tmp_path/"out.funnel.json").exists()
    assert filter_file(source, tmp_path/"out.jsonl") == filter_file(source, tmp_path/"once.jsonl")
    for ending in (".jsonl", ".dropped.jsonl", ".aside.jsonl", ".funnel.json"): assert (tmp_path/f"out{ending}").read_bytes() == (tmp_path/f"once{ending}").read_bytes()
    assert not list(tmp_path.glob(".*"))
