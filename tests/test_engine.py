"The engine: the same bytes from any number of workers, checkpoints that outlive kills, one bad item among many, configs."
import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import engine_makers
from scripted_model import ScriptedModel, turn
from stepdr.core.artifacts import read_jsonl, root, write_jsonl
from stepdr.core.config import InputError
from stepdr.synthesis.trajectories import well_formed
from stepdr.synthesis.engine import EngineSettings, run_chunks
from stepdr.synthesis.synth import synth
from stepdr.synthesis.mixture import mix, mixture
from stepdr.synthesis.inputs import SOURCES, items_of
from stepdr.synthesis.chunks import Kept
from stepdr.synthesis.makers import GIVEN, MAKERS, checked_options, find_function, maker_plan

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    "Worker processes get this process's path, in which the makers of the tests are."
    monkeypatch.setenv("IN_TEST", "1")
    monkeypatch.syspath_prepend(str(HERE))


def numbers(count): return ({"id": f"n{n}", "value": n} for n in range(count))


def outputs(folder): return [(Path(folder) / name).read_bytes() for name in ("done.jsonl", "aside.jsonl")]


def test_any_workers_and_chunks_give_the_same_bytes(tmp_path):
    counts = run_chunks(numbers(500), "engine_makers:halve", tmp_path / "one", chunk=50, seed=7, options={"least": 9})
    expected = outputs(tmp_path / "one")
    rows, aside = read_jsonl(tmp_path / "one" / "done.jsonl"), read_jsonl(tmp_path / "one" / "aside.jsonl")
    assert counts["items"] == 500 and counts["rows"] == len(rows) and counts["aside"] == counts["items_aside"] == len(aside) and counts["kinds"] == {"maker": 246, "unfit": 9}
    assert len({row["id"].split("-")[0] for row in rows}) + len(aside) == 500 and len({row["draw"] for row in rows}) == len(rows)
    assert rows[0]["text"] == "半\ufffd", "half a character does not tear the file"
    for name, changes in {"four": {"workers": 4}, "small": {"chunk": 7}, "single": {"concurrency": 1}, "wide": {"workers": 3, "chunk": 13, "ahead": 5}}.items():
        assert run_chunks(numbers(500), "engine_makers:halve", tmp_path / name, **{"chunk": 50, "seed": 7, "options": {"least": 9}, **changes})["rows"] == counts["rows"]
        assert outputs(tmp_path / name) == expected, name
    run_chunks(numbers(500), "engine_makers:halve", tmp_path / "other", chunk=50, seed=8, options={"least": 9})
    assert outputs(tmp_path / "other") != expected, "another seed draws other numbers"


def test_ordinary_functions_work_in_processes_too(tmp_path):
    run_chunks(numbers(300), engine_makers.double, tmp_path / "one", seed=1)
    run_chunks(numbers(300), engine_makers.double, tmp_path / "three", seed=1, workers=3)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "three") and len(read_jsonl(tmp_path / "one" / "done.jsonl")) == 300


def test_ray_gives_the_same_bytes_and_survives_an_actor_that_dies(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="ray is an extra and is not installed")
    import ray
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, logging_level="ERROR")
    try:
        run_chunks(numbers(300), "engine_makers:halve", tmp_path / "local", chunk=40, seed=3)
        counts = run_chunks(numbers(300), "engine_makers:halve", tmp_path / "ray", chunk=40, seed=3, workers=2, engine="ray")
        assert outputs(tmp_path / "ray") == outputs(tmp_path / "local") and counts["items"] == 300
        again = run_chunks(numbers(300), "engine_makers:halve", tmp_path / "ray", chunk=40, seed=3, workers=1)
        assert again["rows"] == counts["rows"], "a run that Ray began can be finished here"
        options = {"when": "once", "folder": str(tmp_path)}
        counts = run_chunks(numbers(60), "engine_makers:deadly", tmp_path / "deadly", chunk=60, engine="ray", options=options)
        assert (tmp_path / "died").exists() and counts["kinds"] == {} and counts["rows"] == 60, "an actor died, another one made its chunk"
        assert run_chunks(numbers(20), "engine_makers:wrong", tmp_path / "bug", engine="ray")["kinds"] == {"raised": 1}
    finally: ray.shutdown()


RUN = """
import sys
sys.path.insert(0, {here!r})
from stepdr.synthesis.engine import run_chunks
run_chunks(({{"id": f"n{{n}}", "value": n}} for n in range(400)), "engine_makers:slow", {out!r}, chunk=10, workers={workers}, options={{"log": {log!r}}})
"""


def alive(pid):
    try: state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError: return False
    return state != "Z"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on(tmp_path, workers):
    log, out = tmp_path / "log", tmp_path / "out"
    script = RUN.format(here=str(HERE), out=str(out), log=str(log), workers=workers)
    process = subprocess.Popen([sys.executable, "-c", script])
    while len(list(out.glob("chunks/*/*.json"))) < 6:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = {path.name: path.read_bytes() for path in out.glob("chunks/*/*.json")}
    assert 6 <= len(whole) < 40 and not (out / "done.jsonl").exists(), "killed in the middle"
    pids = {int(line.split()[1]) for line in log.read_text().splitlines()}
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline: time.sleep(0.05)
    assert not any(map(alive, pids)), "the workers end with their parent"
    kept = {line["id"] for path in out.glob("chunks/*/*.json") for line in read_jsonl(path.with_suffix(".done.jsonl"))}
    before = len(log.read_text().splitlines())
    counts = run_chunks(numbers(400), "engine_makers:slow", out, chunk=10, workers=workers, options={"log": str(log)})
    again = {line.split()[0] for line in log.read_text().splitlines()[before:]}
    assert counts["rows"] == 400 and not kept & again and len(kept | again) == 400, "what was kept is not made again, all the rest is"
    run_chunks(numbers(400), "engine_makers:slow", tmp_path / "whole", chunk=10, options={"log": str(tmp_path / "log2"), "seconds": 0})
    assert outputs(out) == outputs(tmp_path / "whole")
    made = len(log.read_text().splitlines())
    assert run_chunks(numbers(400), "engine_makers:slow", out, chunk=10, options={"log": str(log)})["rows"] == 400 and len(log.read_text().splitlines()) == made, "a finished run makes nothing"


def test_an_item_goes_on_in_its_own_folder_after_a_kill(tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    script = RUN.replace("slow", "steps").replace('"log": {log!r}', '"log": {log!r}, "until": "n3"').format(here=str(HERE), out=str(out), log=str(log), workers=2)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    counts = run_chunks(numbers(400), "engine_makers:steps", out, chunk=10, workers=1, options={"log": str(log), "until": "n3"})
    assert counts["rows"] == 400 and log.read_text().splitlines().count("n3") == 1 and not (out / "work").exists()


def test_an_item_that_kills_its_process_is_set_aside_alone(tmp_path):
    counts = run_chunks(numbers(100), "engine_makers:deadly", tmp_path / "out", chunk=20, workers=2)
    assert counts["kinds"] == {"crash": 1} and counts["rows"] == 99
    [record] = read_jsonl(tmp_path / "out" / "aside.jsonl")
    assert record["id"] == "n37" and "signal 9" in record["reason"]
    assert [row["id"] for row in read_jsonl(tmp_path / "out" / "done.jsonl")] == [f"n{n}" for n in range(100) if n != 37]


def test_a_process_that_is_killed_once_costs_nothing(tmp_path):
    options = {"when": "once", "folder": str(tmp_path)}
    counts = run_chunks(numbers(100), "engine_makers:deadly", tmp_path / "out", chunk=20, workers=2, options=options)
    assert (tmp_path / "died").exists() and counts["kinds"] == {} and counts["rows"] == 100


def test_a_worker_that_cannot_start_blames_no_item(tmp_path, monkeypatch, capfd):
    broken = tmp_path / "bin"
    broken.write_text("#!/bin/sh\necho cannot start >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(RuntimeError, match="could not start .exit status 3."): run_chunks(numbers(40), "engine_makers:halve", tmp_path / "out", workers=2)
    assert not list((tmp_path / "out").glob("chunks/*/*")) and "cannot start" in capfd.readouterr().err
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(HERE))
    assert run_chunks(numbers(40), "engine_makers:halve", tmp_path / "out", workers=2)["items"] == 40


RAISED = {"n0": "KeyError: 'nothing'", "n1": "TypeError: ", "n2": "AssertionError (", "n3": "RecursionError: ", "n4": "InputError: client.key: is missing; set it", "n5": "CancelledError", "n6": "SystemExit: 3", "n7": "TypeError: Object of type set",
          "n8": "TypeError: a maker returns dicts, not int", "n9": "ValueError: the first of two", "n10": "JSONDecodeError: ", "n11": "Odd: its text cannot be shown"}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("maker", ["raises", "raises_now"])
def test_whatever_a_maker_raises_only_its_item_is_set_aside(tmp_path, workers, maker):
    counts = run_chunks(numbers(40), f"engine_makers:{maker}", tmp_path / "out", chunk=7, workers=workers, most_failed=1.0)
    records = {record["id"]: record for record in read_jsonl(tmp_path / "out" / "aside.jsonl")}
    assert counts["items"] == 40 and counts["rows"] == 28 and counts["failed"] == counts["items_aside"] == len(records) == 12 and counts["kinds"] == {"raised": 12}
    for name, text in RAISED.items():
        assert records[name]["reason"].startswith(text) and "Traceback" in records[name]["traceback"], (name, records[name]["reason"])
        assert re.search(r"\(tests/engine_makers.py:\d+\)$", records[name]["reason"]) or name in ("n7", "n8"), records[name]["reason"]
    assert sum(told["items"] for told in counts["failures"].values()) == 12 and any(name.startswith("KeyError at tests/engine_makers.py:") for name in counts["failures"])
    again = run_chunks(numbers(40), f"engine_makers:{maker}", tmp_path / "out", chunk=7, workers=1, most_failed=1.0)
    assert again == counts, "the next run tries them once more, and they fail once more"


def test_a_crash_in_one_item_is_mended_and_only_its_chunk_made_again(tmp_path, monkeypatch):
    log = tmp_path / "log"
    counts = run_chunks(numbers(40), "engine_makers:raises_once", tmp_path / "out", chunk=10, options={"log": str(log)})
    assert counts["failed"] == 1 and counts["rows"] == 39 and len(log.read_text().split()) == 40
    counts = run_chunks(numbers(40), "engine_makers:raises_once", tmp_path / "out", chunk=10, options={"log": str(log)})
    assert counts["failed"] == 0 and counts["rows"] == 40 and len(log.read_text().split()) == 50


@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_failures_stop_the_run_with_one_error(tmp_path, workers):
    run_chunks(numbers(19), "engine_makers:wrong", tmp_path / "few", workers=workers, options={"least": 0})
    with pytest.raises(InputError, match=r"\d+ of 2\d items failed, more than most_failed=0.5 allows; most often \(\d+ times\) KeyError at tests/engine_makers.py:\d+, the last: KeyError: 'nothing'(.|\n)*run the same again"):
        run_chunks(numbers(1000), "engine_makers:wrong", tmp_path / "out", chunk=5, workers=workers, options={"least": 0, "from_item": 5})
    assert len(list((tmp_path / "out").glob("chunks/*/*.json"))) < 20, "it stops early"
    assert run_chunks(numbers(40), "engine_makers:wrong", tmp_path / "all", workers=workers, options={"least": 0}, most_failed=1.0)["failed"] == 40
    for wrong, message in (({"maker": "engine_makers:nothing"}, "no such function"), ({"options": {"leest": 1}}, "no such option"), ({"resources": {"client": "engine_makers:nowhere"}, "maker": "engine_makers:asks"}, "no such function"),
                           ({"resources": {"client": "engine_makers:broken_client"}, "maker": "engine_makers:asks"}, r"client: 'engine_makers:broken_client' cannot be opened \(KeyError: 'SECRET_PLACE' \(tests/engine_makers.py")):
        with pytest.raises(InputError, match=message): run_chunks(numbers(10), **{"maker": "engine_makers:wrong", "out": tmp_path / "wrong", "workers": workers, **wrong})


MEMORY = """
import sys
sys.path.insert(0, {here!r})
from stepdr.synthesis.engine import run_chunks
from stepdr.core.artifacts import peak_rss_mb
counts = run_chunks(({{"id": f"n{{n}}", "value": n, "pad": "x" * 200}} for n in range({count})), "engine_makers:double", {out!r}, chunk=500)
print(counts["rows"], peak_rss_mb())
"""


def test_memory_is_flat_in_the_number_of_items(tmp_path):
    peaks = {}
    for count in (10_000, 200_000):
        script = MEMORY.format(here=str(HERE), count=count, out=str(tmp_path / str(count)))
        rows, peak = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "IN_TEST": "1"}).stdout.split()
        assert int(rows) == count
        peaks[count] = float(peak)
    assert (tmp_path / "200000" / "done.jsonl").stat().st_size > 10_000_000
    assert peaks[200_000] < peaks[10_000] + 8, peaks


def test_a_chunk_that_is_damaged_or_has_other_items_is_made_again(tmp_path):
    out = tmp_path / "out"
    run_chunks(numbers(100), "engine_makers:halve", out, chunk=10)
    expected, note = outputs(out), out / "chunks" / "00000" / "003.json"
    for damage in (note.unlink, lambda: note.write_text("{"), lambda: note.with_suffix(".done.jsonl").write_text("cut"), note.with_suffix(".aside.jsonl").unlink):
        damage()
        run_chunks(numbers(100), "engine_makers:halve", out, chunk=10)
        assert outputs(out) == expected
    changed = [{**item, "value": 7} if item["id"] == "n44" else item for item in numbers(60)]
    run_chunks(changed, "engine_makers:halve", out, chunk=10)
    run_chunks(changed, "engine_makers:halve", tmp_path / "fresh", chunk=10)
    assert outputs(out) == outputs(tmp_path / "fresh") != expected, "chunks that are too many are not joined"


def test_a_folder_belongs_to_one_job_and_one_run(tmp_path):
    out = tmp_path / "out"
    run_chunks(numbers(10), "engine_makers:halve", out, seed=1)
    for changes in ({"seed": 2}, {"options": {"least": 3}}, {"chunk": 9}, {"maker": "engine_makers:double"}):
        with pytest.raises(InputError, match="was made with"): run_chunks(numbers(10), **{"maker": "engine_makers:halve", "out": out, "seed": 1, **changes})
    held = Kept(tmp_path / "held", {})
    with pytest.raises(InputError, match="another run is working there"): run_chunks(numbers(10), "engine_makers:halve", tmp_path / "held")
    held.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"): run_chunks(numbers(10), "engine_makers:halve", tmp_path / "file")
    with pytest.raises(InputError, match="no such option"): run_chunks(numbers(10), "engine_makers:halve", tmp_path / "new", options={"leest": 1})
    with pytest.raises(InputError, match="no such function"): run_chunks(numbers(10), "engine_makers:half", tmp_path / "new")
    with pytest.raises(InputError, match="engine"): run_chunks(numbers(10), "engine_makers:halve", tmp_path / "new", engine="spark")
    with pytest.raises(InputError, match="cannot be sent"): run_chunks(numbers(10), lambda item: item, tmp_path / "new", workers=2)


def test_too_many_set_aside_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="of .* items were set aside, more than most_aside=0.3; the commonest kind is maker"):
        run_chunks(numbers(1000), "engine_makers:halve", tmp_path / "out", chunk=20, most_aside=0.3)
    assert len(list((tmp_path / "out").glob("chunks/*/*.json"))) < 20, "it stops early"
    assert run_chunks(numbers(1000), "engine_makers:halve", tmp_path / "out", chunk=20, most_aside=0.6)["items"] == 1000


def test_a_teacher_that_refuses_sets_items_aside_with_its_words(tmp_path):
    counts = run_chunks(numbers(40), "engine_makers:asks", tmp_path / "out", resources={"client": "engine_makers:Echo"}, language="zh", workers=2, chunk=10)
    assert counts["kinds"] == {"refusal": 4} and counts["rows"] == 36
    assert read_jsonl(tmp_path / "out" / "done.jsonl")[0]["reply"] == "zh n0"
    assert read_jsonl(tmp_path / "out" / "aside.jsonl")[0] == {"id": "n3", "kind": "refusal", "reason": "the teacher refused", "replies": ["I'm sorry."]}
    with pytest.raises(InputError, match="teacher: this maker asks a teacher"): run_chunks(numbers(4), "engine_makers:asks", tmp_path / "none")


def test_items_of_dirty_files(tmp_path):
    source = tmp_path / "dirty.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"id": "a", "value": 1}\r\n\r\n{"id": "b"\n["x"]\n' + b'{"id": "' + b"y" * 3000 + b'"}\n\xff\xfe\n{"id": "z", "value": 2}')
    items = list(items_of(source, limit=2000))
    assert [item["id"] for item in items] == ["a", "dirty.jsonl:3", "dirty.jsonl:4", "dirty.jsonl:5", "dirty.jsonl:6", "z"]
    counts = run_chunks(items_of(source, limit=2000), "engine_makers:double", tmp_path / "out")
    assert counts["items"] == 6 and counts["rows"] == 2 and counts["kinds"] == {"input": 4}
    reports = tmp_path / "reports"
    (reports / "sub").mkdir(parents=True)
    (reports / "b.md").write_text("报告:大桥于一八八三年通车。"); (reports / "sub" / "a.txt").write_text("A report."); (reports / "c.md").write_bytes(b"\xff\xfe\xfa"); (reports / "d.md").write_text(" ")
    assert [(item["id"], item.get("language")) for item in items_of(reports)] == [("b", "zh"), ("c.md", None), ("d.md", None), ("sub/a", "en")]
    for wrong in (tmp_path / "nothing.jsonl", HERE.parent / "stepdr"):
        with pytest.raises(InputError): list(items_of(wrong))


def test_mixtures_follow_the_weights(tmp_path):
    files = {}
    for name, count in (("a", 1000), ("b", 300), ("c", 50)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name}{n}"} for n in range(count)])
        files[name] = (tmp_path / f"{name}.jsonl", count)
    assert mix(files, {"a": 6, "b": 3, "c": 1}, tmp_path / "set.jsonl", seed=4) == {"a": 300, "b": 150, "c": 50}
    rows = read_jsonl(tmp_path / "set.jsonl")
    assert len({row["id"] for row in rows}) == 500 and Counter(row["part"] for row in rows[:100]) == {"a": 60, "b": 30, "c": 10}
    places = [int(row["id"][1:]) for row in rows if row["part"] == "a"]
    assert places == sorted(places) and places[-1] > 900 and places != list(range(300)), "drawn from the whole file"
    mix(files, {"a": 6, "b": 3, "c": 1}, tmp_path / "same.jsonl", seed=4); mix(files, {"a": 6, "b": 3, "c": 1}, tmp_path / "other.jsonl", seed=5)
    assert (tmp_path / "same.jsonl").read_bytes() == (tmp_path / "set.jsonl").read_bytes() != (tmp_path / "other.jsonl").read_bytes()
    assert mixture({"a": 5, "b": 0}, {"a": 1, "b": 9}) == {"a": 5, "b": 0} and mixture({"a": 0}, {"a": 1}) == {"a": 0}


def test_a_row_enters_a_set_once_whatever_its_maker_is_called(tmp_path):
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "todo", "arguments": {"action": "clear"}}}]},
            {"role": "tool", "content": "cleared", "tool_call_id": "1"}, {"role": "assistant", "content": "<answer>So.</answer>"}]
    other_ids = json.loads(json.dumps(said).replace('"1"', '"9"'))
    rows = {"planned": [{"id": "a", "maker": "planned", "messages": said, "meta": {"n": 1}}, {"id": "b", "messages": said[:2]}], "mended": [{"id": "a-2", "maker": "mended", "messages": other_ids, "tokens": 7}],
            "drafted": [{"id": "a", "messages": said}, {"id": "a", "messages": [*said[:3], {"role": "assistant", "content": "<answer>So it is.</answer>"}]}],
            "tasks": [{"id": "t1", "query": "Why?", "answer": "So", "rubrics": []}, {"id": "t2", "query": "Why?", "answer": "So", "rubrics": [], "meta": {"x": 1}}], "further": [{"id": "t4", "query": "Why?", "answer": "So", "rubrics": []}, {"id": "t3", "query": "Why?", "answer": "No"}], "unknown": [{"value": 1}, {"value": 1}]}
    for name, some in rows.items(): write_jsonl(tmp_path / f"{name}.jsonl", some)
    counts = synth({"part": [{"name": name, "maker": "rows", "input": str(tmp_path / f"{name}.jsonl")} for name in rows]}, tmp_path / "out")
    assert counts["sets"] == {"rows": {"planned": 2, "mended": 0, "drafted": 1, "tasks": 2, "further": 1, "unknown": 2}} and counts["repeated"] == {"rows": {"mended": 1, "drafted": 1, "further": 1}}
    assert sorted(row["id"] for row in read_jsonl(tmp_path / "out" / "rows.jsonl") if "id" in row) == ["a", "a", "b", "t1", "t2", "t3"] and counts["rows"] == 8, "what one part says twice stays"
    parts = [{"name": name, "maker": "rows", "input": str(tmp_path / f"{name}.jsonl"), "weight": 1} for name in ("planned", "mended", "drafted")]
    assert synth({"part": parts}, tmp_path / "weighted")["sets"] == {"rows": {"planned": 1, "mended": 0, "drafted": 1}}, "weights are of what is left"
    assert synth({"part": [{**part, "into": part["name"]} for part in parts]}, tmp_path / "apart")["repeated"] == {}, "in sets of their own each has its rows"


CONFIG = """
seed = 5
chunk = 16
teacher = "engine_makers:Echo"
[[part]]
name = "asked"
maker = "engine_makers:asks"
input = "items.jsonl"
number = 50
options = {words = 5}
[[part]]
name = "halved"
maker = "engine_makers:halve"
input = "items.jsonl"
into = "sft"
weight = 3
[[part]]
name = "doubled"
maker = "engine_makers:double"
input = "items.jsonl"
into = "sft"
[[part]]
name = "big"
maker = "engine_makers:is_small"
input = "part:doubled"
into = "sft"
options = {least = 100}
"""


def test_synth_makes_parts_and_sets(tmp_path):
    (tmp_path / "synth.toml").write_text(CONFIG)
    write_jsonl(tmp_path / "items.jsonl", list(numbers(90)))
    counts = synth(tmp_path / "synth.toml", tmp_path / "out")
    assert counts["parts"]["asked"]["items"] == 50 and counts["parts"]["asked"]["kinds"] == {"refusal": 5} and counts["parts"]["big"]["rows"] == 40
    assert set(counts["sets"]) == {"rows", "sft"} and set(counts["sets"]["sft"]) == {"halved", "big"}, "a part that another reads is no part of the set"
    taken = counts["sets"]["sft"]
    assert taken["halved"] == 3 * taken["big"] or taken["halved"] // 3 == taken["big"]
    rows = read_jsonl(tmp_path / "out" / "rows.jsonl")
    assert len(rows) == 45 and rows[0] == {"id": "n0", "reply": "en n0", "words": 5, "part": "asked"}
    assert len(read_jsonl(tmp_path / "out" / "sft.jsonl")) == sum(taken.values())
    first = {path.relative_to(tmp_path / "out"): path.read_bytes() for path in (tmp_path / "out").rglob("*.jsonl")}
    assert synth(tmp_path / "synth.toml", tmp_path / "out") == counts, "the second run finds everything"
    synth(tmp_path / "synth.toml", tmp_path / "four", workers=3)
    assert {path.relative_to(tmp_path / "four"): path.read_bytes() for path in (tmp_path / "four").rglob("*.jsonl")} == first
    assert synth({"part": [{"name": "one", "maker": "rows", "input": str(tmp_path / "items.jsonl")}, {"name": "two", "maker": "rows", "input": str(tmp_path / "items.jsonl"), "number": 7}]}, tmp_path / "all")["sets"] == {"rows": {"one": 90, "two": 7}}, "all rows where no weight is named"
    (tmp_path / "synth.json").write_text(json.dumps({"part": [{"name": "a", "maker": "rows", "input": "items.jsonl"}], "rows": 30}))
    assert synth(tmp_path / "synth.json", tmp_path / "json")["rows"] == 30


@pytest.mark.parametrize("change, message", [
    ({"sead": 1}, "config.sead: there is no such field"), ({"seed": "x"}, "config.seed: expected int"), ({"part": []}, "config.part: is missing"), ({"teaching": {"repairs": 99}}, "config.teaching.repairs: 99 is out of range"),
    ({"wieght": 1}, r"part\[1\].wieght: there is no such field"), ({"maker": "magic"}, r"part\[1\].maker: 'magic' is none of"), ({"options": {"n": 1}}, r"part\[1\].options.n: the maker"), ({"weight": -2.0}, r"part\[1\].weight"),
    ({"input": "part:later"}, r"part\[1\].input: there is no part 'later'"), ({"input": "graph:kg"}, r"part\[1\].number: is missing"), ({"input": "nothing.jsonl"}, r"part\[1\].input: .*nothing.jsonl: no such file"), ({"input": "walks:none", "number": 3}, r"part\[1\].input: .*none: no such"),
     ({"name": "../x"}, r"part\[1\].name"), ({"into": ".."}, r"part\[1\].into"), ({"name": 3}, r"part\[1\].name: expected str")])
def test_a_wrong_config_is_refused_before_anything_is_made(tmp_path, change, message):
    write_jsonl(tmp_path / "items.jsonl", [{"id": "a"}])
    part, config = {"name": "a", "maker": "rows", "input": str(tmp_path / "items.jsonl")}, {}
    for key, value in change.items(): (config if key in ("sead", "seed", "part", "teaching") else part)[key] = value
    with pytest.raises(InputError, match=message): synth({"part": [part], **config}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_another_kind_have_a_set_of_their_own(tmp_path):
    write_jsonl(tmp_path / "items.jsonl", list(numbers(20)))
    parts = [{"name": "tried", "maker": "engine_makers:tries", "input": str(tmp_path / "items.jsonl"), "into": "tasks", "split": {"attempt": "attempts"}},
             {"name": "more", "maker": "rows", "input": "part:tried", "into": "more"}]
    counts = synth({"part": parts}, tmp_path / "out")
    assert counts["sets"] == {"attempts": {"tried": 40}, "more": {"more": 20}} and counts["parts"]["tried"]["rows"] == 60
    assert {row["maker"] for row in read_jsonl(tmp_path / "out" / "attempts.jsonl")} == {"attempt"} and not any("maker" in row for row in read_jsonl(tmp_path / "out" / "more.jsonl"))
    with pytest.raises(InputError, match="part.into"): synth({"part": [{**parts[0], "split": {"attempt": "../x"}}]}, tmp_path / "wrong")


def test_every_named_maker_is_there_and_takes_an_item():
    for name, known in MAKERS.items():
        plan = maker_plan(find_function(known.function))
        assert plan.item not in GIVEN and known.item, name
    for source in SOURCES.values(): assert {"folder", "number", "seed", "out"} <= set(inspect.signature(find_function(source)).parameters)


@pytest.mark.parametrize("maker, options, message", [
    ("graph_question", {"settings": {"least_edges": 3}}, r"part\[1\].options.settings: is no table of its own; write its fields directly: options = \{least_edges = 3\}"),
    ("hard_enough", {"research": {"turns": 9}}, r"options.research: .* write its fields directly: options = \{turns = 9\}"), ("reflection", {"research": {}}, r"options.research: .*options = \{turns"),
    ("hard_enough", {"turns": 0}, r"options.turns: 0 is out of range"), ("walk_question", {"least_page": 1}, r"options.least_page: the maker walk_question has no such option; there is .*least_pages"),
    ("verification", {"statements": "3"}, r"options.statements: expected int, got '3'"), ("drafted_report", {"plan_share": 2.0}, r"options.plan_share: 2.0 is out of range"), ("planning_task", {"view": "all"}, r"options.view: 'all' is none of outline, body")])
def test_options_have_one_form_and_a_wrong_one_is_told_the_right(tmp_path, maker, options, message):
    write_jsonl(tmp_path / "items.jsonl", [{"id": "a"}])
    with pytest.raises(InputError, match=message): synth({"part": [{"name": "a", "maker": maker, "input": str(tmp_path / "items.jsonl"), "options": options}]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_makers_settings_are_options_by_their_names():
    for name, known in MAKERS.items():
        plan = maker_plan(find_function(known.function))
        own = [key for key, default in plan.options.items() if dataclasses.is_dataclass(default)]
        assert {"settings"} <= set(own) or not {"settings", "research"} & set(plan.options), (name, "settings need a default that tells their fields")
        options = {field.name: getattr(plan.options[key], field.name) for key in own for field in dataclasses.fields(plan.options[key]) if field.name not in plan.options}
        assert checked_options(plan, options, name) == {key: plan.options[key] for key in own if any(field.name in options for field in dataclasses.fields(plan.options[key]))}, name


QUESTIONS = """
seed = 3
chunk = 4
[[part]]
name = "questions"
maker = "graph_question"
input = "graph:graph"
number = 10
into = "tasks"
sample = {fewest = 10, most = 20}
options = {least_edges = 3}
"""


def test_questions_from_the_shipped_facts_without_a_network(tmp_path):
    pytest.importorskip("pyarrow")
    from stepdr.world.knowledge_graph import graph_build
    graph_build(root() / "data" / "kg", tmp_path / "graph")
    (tmp_path / "synth.toml").write_text(QUESTIONS)
    counts = synth(tmp_path / "synth.toml", tmp_path / "one")
    assert counts["items"] == 10 and 0 < counts["rows"] == counts["parts"]["questions"]["rows"] and counts["rows"] + counts["aside"] == 10
    assert all(row["query"] and row["answer"] and row["part"] == "questions" and row["answer"] not in row["query"] for row in read_jsonl(tmp_path / "one" / "tasks.jsonl"))
    synth(tmp_path / "synth.toml", tmp_path / "two", workers=2)
    for name in ("tasks.jsonl", "parts/questions/done.jsonl", "parts/questions/aside.jsonl", "parts/questions/items.parquet"): assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    hard = QUESTIONS.replace("number = 10", "number = 4") + '[[part]]\nname = "hard"\nmaker = "hard_enough"\ninput = "part:questions"\ninto = "tasks"\noptions = {attempts = 2, least_failed = 2}\n'
    (tmp_path / "hard.toml").write_text('policy = "engine_makers:Guesses"\n' + hard)
    counts = synth(tmp_path / "hard.toml", tmp_path / "hard")
    tasks = counts["parts"]["questions"]["rows"]
    assert tasks and counts["sets"] == {"attempts": {"hard": 2 * tasks}, "tasks": {"hard": tasks}}, "what a guess does not solve is hard enough; the attempts are kept"
    synth(tmp_path / "hard.toml", tmp_path / "hard2", workers=2)
    for name in ("tasks.jsonl", "attempts.jsonl"): assert (tmp_path / "hard" / name).read_bytes() == (tmp_path / "hard2" / name).read_bytes(), name
    with pytest.raises(InputError, match=r"part\[1\].sample.fewst"): synth({"part": [{"name": "q", "maker": "graph_question", "input": f"graph:{tmp_path}/graph", "number": 2, "sample": {"fewst": 1}}]}, tmp_path / "three")


def test_questions_from_walks_through_a_corpus(tmp_path):
    from stepdr.synthesis.documents import corpus_build
    names = ["Bridge", "Tower", "Harbour", "Market", "Library", "School", "Station", "Garden"]
    for place, name in enumerate(names):
        others = [names[(place + step) % len(names)] for step in (1, 2, 3)]
        sentences = [f"The {name} of the old town was built in {1700 + 17 * place} by the engineer {other}son, and it stands beside the [{other}]({other}.md) to this day." for other in others]
        (tmp_path / "wiki").mkdir(exist_ok=True)
        (tmp_path / "wiki" / f"{name}.md").write_text(f"# {name}\n\n" + "\n\n".join(sentences * 2) + "\n")
    corpus_build(tmp_path / "wiki", tmp_path / "corpus", workers=1, show=False)
    config = {"seed": 1, "provider": str(tmp_path / "corpus"), "part": [{"name": "walked", "maker": "walk_question", "input": f"walks:{tmp_path}/corpus", "number": 3, "sample": {"show": False}}]}
    counts = synth(config, tmp_path / "out")
    assert counts["items"] == 3 and counts["parts"]["walked"]["rows"] + counts["aside"] == 3
    assert counts["parts"]["walked"]["kinds"].keys() <= {"the question does not join pages", "one search finds the answer", "the question tells what it should hide", "too few pages", "unfit"}
    assert synth({**config, "workers": 2}, tmp_path / "two")["parts"]["walked"]["rows"] == counts["parts"]["walked"]["rows"]
    assert outputs(tmp_path / "out" / "parts" / "walked") == outputs(tmp_path / "two" / "parts" / "walked")
    config["part"][0]["sample"] = {"show": False, "fewest": 2, "wrong": 1}
    with pytest.raises(InputError, match=r"part\[1\].sample.wrong: drawing walks has no such option; there is .*fewest"): synth(config, tmp_path / "three")


# everything offline

REPORTS = {
    "iron": ("en", "How the old market towns lived", {"Guild halls": "timber", "Copper goods": "smelter", "Harbour roads": "paving", "Autumn markets": "stalls"}),
    "tides": ("en", "Rights and burdens of a borough", {"Charter rights": "seal", "Fire watch": "pump", "Moor fords": "causeway", "Lace trade": "bobbins"}),
    "sluice": ("zh", "运河船闸的修建与管理", {"选址与水源": "水源", "闸门的构造": "闸门", "航运与税收": "税收", "维修与管理": "维修"})}


def written_report(language, title, parts):
    "A report with headings, prose, figures and a list of sources, long enough to learn from."
    lines = [f"# {title}", ""]
    for place, (heading, word) in enumerate(parts.items()):
        lines += [f"## {heading}", ""]
        for n in range(5):
            year, count = 1803 + 17 * place + 5 * n, 120 + 35 * place + 11 * n
            if language == "zh": lines += [f"地方志第{n + 2}卷记载，{year}年关于{word}的开支为{count}两白银，由当地官员和商人共同承担，账册保存在府库之中。", "这样的安排使工程在财力有限的时候仍能继续下去，也使各方都愿意出力维护。"]
            else: lines += [f"The county archive in volume {n + 2} records that the {word} of {year} took {count} pounds from the parish accounts. ", "This arrangement let the work go on while money was short, and it made all who paid for it careful of what was built there afterwards."]
        lines.append("")
    return "\n".join(lines + ["## 参考文献" if language == "zh" else "## References", "", "[1] https://archive.example/accounts", ""])


OFFLINE = """
seed = 2
chunk = 2
policy = "rules"
provider = "engine_makers:ClosedAndCorpus"
[[part]]
name = "questions"
maker = "graph_question"
input = "graph:graph"
number = 6
sample = {fewest = 10, most = 20}
options = {least_edges = 3}
[[part]]
name = "hard"
maker = "hard_enough"
input = "part:questions"
into = "tasks"
options = {attempts = 2, least_failed = 1}
[[part]]
name = "walked"
maker = "walk_question"
input = "walks:corpus"
number = 6
into = "tasks"
weight = 1
sample = {show = false}
options = {one_search = false}
[[part]]
name = "own"
maker = "paragraph_question"
input = "paragraphs:corpus"
number = 24
into = "own"
options = {most = 1}
[[part]]
name = "answers"
maker = "guided_work"
input = "part:own"
into = "guided"
[[part]]
name = "sections"
maker = "section_report"
input = "sections:corpus"
number = 6
into = "own"
options = {least = 2}
[[part]]
name = "reflected"
maker = "reflection"
input = "part:walked"
into = "sft"
[[part]]
name = "plans"
maker = "planning_task"
input = "reports"
[[part]]
name = "planned"
maker = "planned_work"
input = "part:plans"
into = "sft"
weight = 1
[[part]]
name = "mended"
maker = "mended_report"
input = "part:planned"
into = "sft"
[[part]]
name = "drafted"
maker = "drafted_report"
input = "part:planned"
into = "sft"
[[part]]
name = "verified"
maker = "verification"
input = "paragraphs.jsonl"
into = "sft"
[[part]]
name = "pairs"
maker = "query_report"
input = "reports"
into = "midtrain"
[[part]]
name = "rubrics"
maker = "rubric_task"
input = "reports"
into = "tasks"
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    "The config of all capabilities and its inputs: the shipped facts, a wiki, a few reports, paragraphs of two sites."
    from stepdr.synthesis.documents import corpus_build
    from stepdr.world.knowledge_graph import graph_build
    folder = tmp_path_factory.mktemp("offline")
    graph_build(root() / "data" / "kg", folder / "graph")
    names, trades = ["Ashford", "Brennock", "Coldwell", "Dunmere", "Eastholt", "Farlow"], ["weavers", "tanners", "millers", "smiths", "coopers", "printers"]
    (folder / "wiki").mkdir(); (folder / "reports").mkdir()
    for place, (name, trade) in enumerate(zip(names, trades)):
        other, third = names[(place + 1) % 6], names[(place + 2) % 6]
        text = [f"{name} is a market town that was known for its {trade}, who sold most of what they made at [{other}]({other}.md) every autumn.", f"The guild of {trade} at {name} built its hall by the river in {1611 + 23 * place} after a fire.",
                f"The old road from {name} crosses two fords and a moor before it comes down to [{third}]({third}.md) beside the harbour.", f"Lace and copper goods of the {trade} were weighed at {name} under a charter of {1704 + 19 * place}."]
        (folder / "wiki" / f"{name}.md").write_text(f"# {name}\n\n" + "\n\n".join(text) + "\n")
    corpus_build(folder / "wiki", folder / "corpus", workers=1, show=False)
    for name, about in REPORTS.items(): (folder / "reports" / f"{name}.md").write_text(written_report(*about))
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    pages = [p for p in ClosedWeb(load_graph(root() / "data" / "kg")).world.paragraphs.values() if any(s.relation in ("birthplace", "school", "occupation") for s in p.statements)]
    write_jsonl(folder / "paragraphs.jsonl", [{"id": f"p{n}", "text": f"{pages[n].text} {pages[n + 1].text}"} for n in range(0, len(pages) - 1, len(pages) // 8)])
    (folder / "synth.toml").write_text(OFFLINE)
    return folder


def made_in(folder): return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.suffix == ".jsonl" and "cache" not in path.parts}


def test_every_capability_runs_offline_with_the_same_bytes_everywhere(offline, monkeypatch):
    monkeypatch.setenv("TEST_CORPUS", str(offline / "corpus"))
    counts = synth(offline / "synth.toml", offline / "one")
    parts = counts["parts"]
    assert {part["maker"] for part in tomllib.loads(OFFLINE)["part"]} == set(MAKERS) - {"rows"}, "all makers are in the config"
    for name, part in parts.items():
        assert part["items"] == part["items_aside"] + len({row_item(row) for row in read_jsonl(offline / "one" / "parts" / name / "done.jsonl")}), name
        assert part["rows"] and 2 * part["items_aside"] <= part["items"], (name, part)
    sft = read_jsonl(offline / "one" / "sft.jsonl")
    assert {row["part"] for row in sft} == {"reflected", "planned", "mended", "drafted", "verified"} and well_formed(sft)[1] == []
    assert any(row["meta"]["attempts"] > 1 for row in sft if row["part"] == "reflected"), "a wrong attempt was thought over"
    assert any(row["meta"]["regenerated"] for row in sft if row["part"] == "mended") and any(row["meta"]["draft"]["kept"] for row in sft if row["part"] == "drafted")
    assert {row["meta"]["verdict"] for row in sft if row["part"] == "verified"} & {"support", "refute"}
    rubrics = [row for row in read_jsonl(offline / "one" / "tasks.jsonl") if row["part"] == "rubrics"]
    assert {row["language"] for row in rubrics} == {"en", "zh"} and all({r["role"] for r in row["rubrics"]} == {"explicit", "implicit", "negative"} for row in rubrics)
    synth(offline / "synth.toml", offline / "two", workers=2)
    assert made_in(offline / "two") == made_in(offline / "one")


def row_item(row): return re.sub(r"-try\d+$", "", row["id"])


def test_every_capability_on_ray(offline, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is an extra and is not installed")
    if not (offline / "one" / "counts.json").exists(): pytest.skip("the local run comes first")
    for name, value in {"TEST_CORPUS": str(offline / "corpus"), "RAY_USAGE_STATS_ENABLED": "0"}.items(): monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, logging_level="ERROR")
    try: synth(offline / "synth.toml", offline / "ray", engine="ray")
    finally: ray.shutdown()
    assert made_in(offline / "ray") == made_in(offline / "one")


def test_the_offline_teacher_does_not_grow():
    from stepdr.synthesis.makers import rule_teacher
    from stepdr.tools.tool import run_async
    teacher = rule_teacher()
    async def many():
        for n in range(300): await teacher.ask("same_answer", question="Where?", answer="Exeter", reply=f"Exeter {n}")
    run_async(many())
    assert teacher.counts["same_answer"] == 300 and not teacher.asked


def faulty(times):
    "What a teacher on the network does with the n-th item of the next test: (reply, fault of the first request)."
    good = {n: json.dumps({"verdict": "support", "missing": "nothing more is missing here", "findings": []}) for n in range(12)}
    words = {3: "I'm sorry, but I can't help with that.", 4: "It is true, more or less.", 5: json.dumps({"verdict": "support", "missing": "这里什么都不缺,一切都已经说明白了。", "findings": []})}
    def play(messages):
        number = int(re.search(r"statement number (\d+)", str(messages))[1])
        times[number] += 1
        return turn({**good, **words}[number])
    return play


def test_a_teacher_on_the_network_with_faults_and_a_replay_without_it(tmp_path):
    write_jsonl(tmp_path / "items.jsonl", [{"id": f"s{n}", "statement": f"This is statement number {n} of many."} for n in range(12)])
    config = {"chunk": 3, "price": "1/2", "cache": str(tmp_path / "cache"), "endpoint": {"backoff": 0.01, "retries": 3, "timeout": 0.5}, "part": [{"name": "checked", "maker": "engine_makers:checks", "input": str(tmp_path / "items.jsonl")}]}
    times, faults = Counter(), {0: "429:0.01", 3: "garbage", 5: "cut", 7: "500", 9: "hang", 11: "empty"}
    with ScriptedModel(faulty(times), faults=faults) as server:
        counts = synth(config, tmp_path / "out", f"{server.url}#{server.model}")
        assert counts["parts"]["checked"]["kinds"] == {"invalid": 1, "language": 1, "refusal": 1} and counts["rows"] == 9 and set(times) == set(range(12))
        aside = {record["id"]: record for record in read_jsonl(tmp_path / "out" / "parts" / "checked" / "aside.jsonl")}
        assert set(aside) == {"s3", "s4", "s5"} and aside["s4"]["replies"] == ["It is true, more or less."] * 3
        assert counts["spent"]["prompt_tokens"] == server.billed.prompt and counts["spent"]["cost"] == pytest.approx((server.billed.prompt + 2 * server.billed.completion) / 1e6)
        asked = len(server.requests)
        again = synth(config, tmp_path / "other", f"{server.url}#{server.model}", workers=2)
        assert len(server.requests) == asked and again["spent"]["asked"] == 0 and again["spent"]["cost"] == 0 and again["rows"] == 9, "the second run asks nothing"
    replay = {**config, "teacher": "", "teaching": {"cache": "replay"}}
    assert synth(replay, tmp_path / "replay")["rows"] == 9, "the third has no endpoint at all"
    for name in ("other", "replay"): assert (tmp_path / name / "rows.jsonl").read_bytes() == (tmp_path / "out" / "rows.jsonl").read_bytes()


@pytest.mark.parametrize("maker, options", [("hard_enough", {"attempts": 3, "least_failed": 1, "turns": 4}), ("planned_work", {"attempts": 2, "turns": 4}), ("reflection", {"retries": 1, "turns": 4})])
def test_what_the_policy_takes_is_in_what_was_spent(tmp_path, maker, options):
    "To the token, with a turn that the server breaks and one that it never answers; the second run of a finished part spends nothing more."
    write_jsonl(tmp_path / "tasks.jsonl", [{"id": f"t{n}", "query": f"Which river flows through Exeter, asked {n}?", "answer": "Exe", "plan": ["find the river", "check the river"]} for n in range(2)])
    def play(messages):
        if messages[-1]["role"] == "user": return turn("", [("batch_web_surfer", {"action": "batch_search", "queries": ["Exeter river"], "topk": 2})], reasoning="I search for the river.")
        return turn("<answer>It is the Dart, the river of Dartmouth.</answer>", reasoning="That is it.")
    value = {"policy_price": "2/4", "policy_endpoint": {"backoff": 0.01, "retries": 1, "timeout": 2.0}, "concurrency": 1,
             "part": [{"name": "worked", "maker": maker, "input": str(tmp_path / "tasks.jsonl"), "options": options}]}
    with ScriptedModel(play, faults={1: "500", 3: "cut_usage"}) as server:
        counts = synth({**value, "policy": f"{server.url}#{server.model}"}, tmp_path / "out")
        spent = counts["spent"]
        assert spent["policy_prompt_tokens"] == server.billed.prompt == spent["prompt_tokens"] and spent["policy_completion_tokens"] == server.billed.completion and spent["policy_cached_tokens"] == server.billed.cached
        assert spent["policy_cost"] == pytest.approx((2 * server.billed.prompt + 4 * server.billed.completion) / 1e6) == spent["cost"] and 0 < spent["policy_asked"] == spent["asked"] <= len(server.requests)
        asked = len(server.requests)
        assert synth({**value, "policy": f"{server.url}#{server.model}"}, tmp_path / "out")["spent"] == spent and len(server.requests) == asked
    rules = synth({**value, "policy": "rules"}, tmp_path / "rules")
    assert rules["spent"] == {} and rules["parts"]["worked"]["items"] == 2, "rules spend nothing"


def test_an_endpoint_that_is_gone_is_tried_again_by_the_next_run(tmp_path):
    write_jsonl(tmp_path / "items.jsonl", [{"id": f"s{n}", "statement": f"This is statement number {n} of many."} for n in (0, 1, 2, 6, 7, 8)])
    config = {"chunk": 2, "endpoint": {"backoff": 0.01, "retries": 1, "timeout": 0.5}, "part": [{"name": "checked", "maker": "engine_makers:checks", "input": str(tmp_path / "items.jsonl")}]}
    times = Counter()
    with ScriptedModel(faulty(times), faults=lambda number: "503" if number >= 4 else None) as server:
        counts = synth({**config, "concurrency": 1}, tmp_path / "out", f"{server.url}#{server.model}")
    assert counts["parts"]["checked"]["kinds"] == {"endpoint": 2} and counts["rows"] == 4
    with ScriptedModel(faulty(times)) as server:
        counts = synth({**config, "concurrency": 1}, tmp_path / "out", f"{server.url}#{server.model}")
        assert counts["parts"]["checked"]["kinds"] == {} and counts["rows"] == 6 and len(server.requests) == 2, "only what failed is asked again"


def test_config_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.toml").write_text("seed = ")
    (tmp_path / "a.yaml").write_text("seed: 1")
    (tmp_path / "a.json").write_text("[1]")
    for name, message in (("a.toml", "not TOML"), ("a.yaml", "a .toml or a .json"), ("a.json", "expected an object"), ("b.toml", "no such file"), ("b.json", "no such file")):
        with pytest.raises(InputError, match=message): synth(tmp_path / name, tmp_path / "out")


def test_settings_name_their_fields():
    for wrong in ({"chunk": 0}, {"workers": 0}, {"engine": "slurm"}, {"most_aside": 1.5}):
        with pytest.raises(InputError, match=f"engine.{next(iter(wrong))}"): EngineSettings(**wrong)
