"The evaluation stage: scores by hand, the same numbers for any number of processes and after a kill, one-line errors."
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from stepdr.agent.protocol import PROTOCOLS, write_protocol
from stepdr.core.artifacts import read_json, read_jsonl, read_parquet, root, write_jsonl
from stepdr.core.config import EvaluateSettings, InputError
from stepdr.evaluate import closed_web as e
from stepdr.world.pages import FactParagraph
from stepdr.world.styles import Statement

SETTINGS = EvaluateSettings(split="dev", turns=2, tool_calls=2, reply_tokens=12, samples=50, processes=1, examples=0)
KINDS = ("research", "frames", "triviaqa", "simpleqa")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "A run folder with a closed web, five tasks of each set and three untrained models."
    from stepdr.model.base import make_model, save_model, train_tokenizer
    from stepdr.synthesis.tasks import question_tasks, research_tasks
    from stepdr.world.closed_web import ClosedWeb, save_web
    from stepdr.world.facts import load_graph
    folder, facts = tmp_path_factory.mktemp("evaluate") / "run", root() / "data" / "kg"
    web = ClosedWeb(load_graph(facts))
    save_web(web, facts, folder / "world")
    questions = question_tasks(web, "dev", 0)
    tasks = research_tasks(web, "dev", 0)[:5] + [q for kind in KINDS[1:] for q in [q for q in questions if q["kind"] == kind][:5]]
    write_jsonl(folder / "data" / "tasks_dev.jsonl", tasks)
    tokenizer = train_tokenizer([task["query"] for task in tasks] * 3, 700)
    for seed, name in enumerate(("sft_without_midtrain", "sft", "ppo")):
        save_model(folder / "models" / name, make_model(len(tokenizer), width=32, layers=2, context=4096, seed=seed), tokenizer)
    return SimpleNamespace(folder=folder, web=web, tasks=tasks, tokenizer=tokenizer)


@pytest.fixture
def small(made, tmp_path):
    "A copy of that run folder which a test may change."
    shutil.copytree(made.folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def here(monkeypatch):
    "Do the work in this process: processes cost seconds to start."
    monkeypatch.setattr(e, "run_ranks", lambda target, job, ranks: e.evaluate_rank(job, 0, 1))


@pytest.fixture
def scored():
    "A person about whom three pages say something, and a report with a right, a badly sourced and a wrong sentence."
    cues = {"school": ["studied"], "residence": ["lives in"], "label": ["records for"]}
    def read(number, relation, value, site="archive.example"):
        return FactParagraph(f"web_{number:08d}", "", site, "Ann Lee", "Life", "", "Q1", "2020-01-01", (Statement("Q1", relation, f"Q-{value}", value, True),))
    def rubric(kind, relation, value, weight):
        check = {"kind": kind, "entity": "Q1", "subject": ["Ann Lee"], "relation": relation, "cues": cues[relation], "value": f"Q-{value}", "name": value, "names": [value]}
        return {"criterion": "", "weight": weight, "axis": "", "role": "negative" if weight < 0 else "explicit", "check": check}
    task = {"id": "t", "kind": "research", "rubrics": [rubric("fact", "school", "Harvard", 3.0), rubric("fact", "label", "Decca", 3.0), rubric("wrong", "residence", "Rome", -3.0), rubric("wrong", "label", "Sony", -1.0)]}
    paragraphs = (read(1, "school", "Harvard"), read(2, "residence", "Rome", "blog.example"), read(3, "label", "Decca"))
    report = ("## Life\nAnn Lee studied at Harvard \\cite{web_00000001} \\cite{web_00000003}. She lives in Rome \\cite{web_00000002}.\n"
              "## Work\nAnn Lee records for Decca \\cite{web_00000009}.")
    return SimpleNamespace(task=task, report=report, read={p.id: p for p in paragraphs})


def test_a_report_scored_by_hand(scored):
    scores = e.score_report(scored.task, scored.report, scored.read)
    assert scores["verdicts"] == ["satisfied", "partially", "satisfied", "not"]  # Decca: right, but the source was never read
    assert scores["kinds"] == ["fact", "fact", "wrong", "wrong"] and scores["roles"] == ["explicit", "explicit", "negative", "negative"]
    assert scores["rubric"] == (3 + 1.5 - 3) / 6 and scores["rubric_strict"] == 0 and not scores["report_success"]
    # four citations, of which two support their statement; three statements, of which two are supported
    assert (scores["citations"], scores["citations_supporting"], scores["statements"], scores["statements_supported"]) == (4, 2, 3, 2)
    assert scores["citation_precision"] == 0.5 and scores["citation_recall"] == pytest.approx(2 / 3)
    assert (scores["wrong_values"], scores["wrong_repeated"]) == (2, 1)
    assert scores["cited"] == ["web_00000001", "web_00000003", "web_00000002"]  # what was never read is no source
    assert e.met_parts(scores) == {"kinds": {"fact": 0.5, "wrong": 0.5}, "roles": {"explicit": 0.5, "negative": 0.5}}


@pytest.mark.parametrize("report", ["", "noise without headings", "## school\n", "## school\nHar\\cite{web_00000001}vard", "##\n\\cite{}\\cite{web_00000001"])
def test_hopeless_reports_score_low_and_never_fail(scored, report):
    scores = e.score_report(scored.task, report, scored.read)
    assert scores["citation_precision"] == scores["citation_recall"] == scores["statements_supported"] == 0 and not scores["wrong_repeated"]


def test_gains_by_kind_are_paired_over_the_tasks_that_have_the_kind():
    def rows(model, *verdicts): return [record(model, task, 0.0, verdicts=list(found), kinds=list(kinds), roles=list(roles)) for (task, kinds, roles), found in zip(
        (("a", ["fact", "fact", "wrong"], ["explicit", "implicit", "negative"]), ("b", ["fact", "silent"], ["explicit", "explicit"])), verdicts)]
    made = rows("sft", ("satisfied", "partially", "satisfied"), ("not", "not")) + rows("ppo", ("satisfied", "satisfied", "not"), ("not", "satisfied"))
    found = e.gains_by_part(made, samples=50)["ppo_gain_greedy"]
    assert {kind: (cell["mean"], cell["n"]) for kind, cell in found["kinds"].items()} == {"fact": (0.25, 2), "wrong": (1.0, 1), "silent": (1.0, 1)}
    assert {role: (cell["mean"], cell["n"]) for role, cell in found["roles"].items()} == {"explicit": (0.25, 2), "implicit": (1.0, 1), "negative": (1.0, 1)}
    assert e.scores_by_part(made[:2], samples=50)["kinds"]["wrong"]["mean"] == 0.0  # a flaw that is there
    assert e.gains_by_part(made[:3], samples=50) == {}


def test_questions():
    task = {"aliases": ["New York City", "NYC"]}
    assert e.score_question(task | {"kind": "triviaqa"}, "new york") == {"correct": False, "f1": pytest.approx(0.8)}
    assert e.score_question(task | {"kind": "frames"}, "the NYC.") == {"correct": True}
    assert [e.score_question(task | {"kind": "simpleqa"}, answer)["grade"] for answer in ("NYC", "Rome", "")] == list("ABC")


def record(model, task, strict, temperature=0.0, wrong=(0, 0), **more):
    return {"model": model, "set": "research", "temperature": temperature, "task_id": task, "rubric": strict, "rubric_strict": strict, "report_success": strict == 1,
            "citation_precision": 1.0, "citation_recall": 0.0, "wrong_repeated": wrong[0], "wrong_values": wrong[1], "tool_calls": 2, "tokens": 100, "cited": [], "verdicts": [], "kinds": [], "roles": [], "answer": "", **more}


def test_wrong_values_are_counted_in_pairs():
    rows = [record("sft", "a", 0, wrong=(2, 2)), record("sft", "b", 0, wrong=(0, 1)), record("sft", "c", 0)]
    rate = e.wrong_value_rate(rows, samples=50)
    assert rate["mean"] == pytest.approx(2 / 3) and (rate["n"], rate["tasks"]) == (3, 2)  # two of three pairs, not the mean over tasks
    assert e.wrong_value_rate(rows[2:]) is None


def test_differences_are_paired_and_need_the_same_tasks():
    scores = {"sft_without_midtrain": (0.1, 0.9, 0.4), "sft": (0.3, 1.1, 0.6), "ppo": (0.3, 1.1, 0.7)}
    rows = [record(model, task, score) for model, found in scores.items() for task, score in zip("abc", found)]
    random.Random(0).shuffle(rows)
    found = e.differences(rows, samples=100)
    assert set(found) == {"midtrain_gain", "ppo_gain_greedy"}  # nothing was run at temperature 1
    assert [found["midtrain_gain"][name] for name in ("mean", "low", "high")] == pytest.approx([0.2] * 3)  # the same for each task
    assert found["midtrain_gain"]["metric"] == "rubric_strict" and found["midtrain_gain"]["n"] == 3
    assert e.differences(rows + [record("sft", "d", 1.0)], samples=10) == {}  # a task that only one of them did
    summary = e.summarise(rows, samples=20)
    assert summary["pairwise"] == {"sft_vs_sft_without_midtrain": {"win": 3, "tie": 0, "loss": 0, "n": 3, "non_inferior": 1.0},
                                   "ppo_vs_sft": {"win": 1, "tie": 2, "loss": 0, "n": 3, "non_inferior": 1.0}}
    assert summary["elo"]["ppo"]["mean"] > summary["elo"]["sft"]["mean"] > summary["elo"]["sft_without_midtrain"]["mean"]
    json.dumps(summary)


def test_pairs_are_blind_and_sides_are_drawn():
    rows = [record(model, f"t{i}", score) for i in range(40) for model, score in (("sft", 1.0), ("ppo", 0.5))]
    shown = []
    def judge(left, right): shown.append((left, right)); return "left" if left > right else "right"
    judge_sides, e.judge_sides = e.judge_sides, judge
    try: games = e.play(rows, "ppo", "sft")
    finally: e.judge_sides = judge_sides
    assert {result for *_, result in games} == {"loss"}
    assert 8 < shown.count((1.0, 0.5)) < 32  # either side, and the judge sees nothing but the two scores


def test_samples_are_spread_over_outcomes():
    rows = [record("ppo", f"t{i:02}", i / 10) for i in range(11)]
    assert e.choose_tasks(rows, 6) == ["t10", "t08", "t06", "t04", "t02", "t00"]
    assert e.choose_tasks(rows[:1], 6) == ["t00"] and e.choose_tasks([], 6) == []


def test_all_models_meet_the_same_failures(made, monkeypatch):
    seeds = []
    monkeypatch.setattr(e, "run_episodes", lambda *given, seed, **more: seeds.append(seed) or [])
    tools = e.EpisodeTools(made.web)
    for unit in e.make_units(("sft", "ppo"), ("research",)): e.run_unit(unit, None, SimpleNamespace(tokenizer=None), [], tools)
    assert seeds[:2] == seeds[2:] and seeds[0] != seeds[1]  # by set and temperature, not by model


def test_checkpoints_keep_the_tokenizer(made):
    from stepdr.model.base import load_causal
    _, tokenizer = load_causal(made.folder / "models" / "sft", "cpu")
    texts = [task["query"] for task in made.tasks] + ["<answer> New York \\cite{web_00123456}</answer>"]
    assert [tokenizer.encode(text) for text in texts] == [made.tokenizer.encode(text) for text in texts]


def test_the_number_of_processes_changes_nothing_and_a_kill_neither(small, tmp_path):
    shutil.copytree(small, tmp_path / "killed")
    expected = e.evaluate_models(small, replace(SETTINGS, processes=2), models=("sft", "ppo"), device="cpu")
    assert len(expected) == 2 * 4 * 2 * 5 and [r["model"] for r in expected[:40]] == ["sft"] * 40
    code = "import sys; from stepdr.core.config import EvaluateSettings; from stepdr.evaluate.closed_web import evaluate_models; evaluate_models(sys.argv[1], EvaluateSettings('dev', turns=2, tool_calls=2, reply_tokens=12, samples=50, examples=0), models=('sft', 'ppo'), device='cpu')"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], start_new_session=True, stdout=subprocess.DEVNULL)
    units = tmp_path / "killed" / "checkpoints" / "evaluate"
    deadline = time.time() + 120
    while len(list(units.glob("*.jsonl"))) < 2 and child.poll() is None and time.time() < deadline: time.sleep(0.02)
    if child.poll() is None: os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = {path.name: path.stat().st_mtime_ns for path in units.glob("*.jsonl")}
    assert before
    assert e.evaluate_models(tmp_path / "killed", SETTINGS, models=("sft", "ppo"), device="cpu") == expected
    assert all((units / name).stat().st_mtime_ns == changed for name, changed in before.items())  # what was done was not done again


def test_a_whole_stage(small, here, capsys):
    results = e.evaluate_run(small, SETTINGS, 3, "cpu", models=("sft_without_midtrain", "sft", "ppo"), limit=3)
    assert results == read_json(small / "evaluation" / "results.json")
    assert set(results["stages"]) == {"sft_without_midtrain", "sft", "ppo"} and results["seed"] == 3
    wanted = {"simpleqa", "triviaqa", "frames", "rubric", "rubric_strict", "report_success", "citation_precision", "citation_recall", "tool_calls", "tokens"}
    for found in results["stages"].values():
        assert {*wanted, *(f"{name}_t1" for name in wanted)} <= set(found)
        assert all(cell["low"] <= cell["mean"] <= cell["high"] and cell["n"] for cell in found.values())
        assert found["rubric_strict"]["n"] == 3 and found["tokens"]["n"] == 12
    assert set(results["differences"]) == {"midtrain_gain", "midtrain_gain_temperature_1", "ppo_gain", "ppo_gain_greedy"}
    assert set(results["pairwise"]) == {"sft_vs_sft_without_midtrain", "ppo_vs_sft"} and len(results["elo"]) == 3
    episodes = read_parquet(small / "evaluation" / "episodes.parquet")
    assert len(episodes) == 3 * 4 * 2 * 3 and all(r["text"].startswith("<|im_start|>system") and r["action_tokens"] < r["tokens"] for r in episodes)
    samples = read_json(small / "evaluation" / "samples.json")
    assert len(samples) == 3 and set(samples[0]["reports"]) == {"sft_without_midtrain", "sft", "ppo"}
    from stepdr.run.report import write_index
    assert "ppo" in write_index(small).read_text()
    assert "episodes" in capsys.readouterr().out


def test_other_weights_or_settings_are_evaluated_again(small, here):
    first = e.evaluate_models(small, SETTINGS, models=("sft",), sets=("simpleqa",), temperatures=(1.0,), device="cpu")
    unit = small / "checkpoints" / "evaluate" / "sft.simpleqa.t1.jsonl"
    made = unit.stat().st_mtime_ns
    assert e.evaluate_models(small, SETTINGS, models=("sft",), sets=("simpleqa",), temperatures=(1.0,), device="cpu") == first and unit.stat().st_mtime_ns == made
    shutil.copy(small / "models" / "ppo" / "model.safetensors", small / "models" / "sft" / "model.safetensors")
    assert e.evaluate_models(small, SETTINGS, models=("sft",), sets=("simpleqa",), temperatures=(1.0,), device="cpu") != first
    shorter = e.evaluate_models(small, replace(SETTINGS, reply_tokens=8), models=("sft",), sets=("simpleqa",), temperatures=(1.0,), device="cpu")
    assert sum(r["action_tokens"] for r in shorter) < sum(r["action_tokens"] for r in first)


@pytest.mark.parametrize("what, wanted", [
    ("missing", "no such folder"), ("config", "config.json is missing"),
    ("tokenizer", "tokenizer.json is missing"), ("weights", "no weights"), ("truncated", "not a whole safetensors file"), ("json", "line 1")])
def test_bad_checkpoints_are_told_in_one_line(small, what, wanted):
    folder = small / "models" / "sft"
    if what == "missing": shutil.rmtree(folder)
    if what == "config": (folder / "config.json").unlink()
    if what == "tokenizer": (folder / "tokenizer.json").unlink()
    if what == "weights": (folder / "model.safetensors").unlink()
    if what == "truncated": (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    if what == "json": (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=wanted) as error: e.evaluate_models(small, SETTINGS, models=("sft",), device="cpu")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert not (small / "evaluation").exists()


def test_bad_runs_are_told_in_one_line(small):
    with pytest.raises(InputError, match="evaluate.split: 'train'"): e.evaluate_models(small, replace(SETTINGS, split="train"))
    with pytest.raises(InputError, match="tasks_test.jsonl: no such file"): e.evaluate_models(small, replace(SETTINGS, split="test"))
    with pytest.raises(InputError, match="device: 'tpu9'"): e.evaluate_models(small, SETTINGS, device="tpu9")
    write_jsonl(small / "data" / "tasks_dev.jsonl", [t for t in read_jsonl(small / "data" / "tasks_dev.jsonl") if t["kind"] != "frames"])
    with pytest.raises(InputError, match="no task of the set 'frames'"): e.evaluate_models(small, SETTINGS, models=("sft",), device="cpu")


def test_a_model_of_no_protocol_is_shown_the_shortest_successful_research(tmp_path):
    def row(name, text, kind="research", success=True):
        return {"id": name, "kind": kind, "success": success, "messages": [{"role": "user", "content": f"Report {name}"},
                                                                          {"role": "assistant", "content": f"<answer>{text}</answer>"}]}
    rows = [row("long", "x" * 90), row("failed", "x", success=False), row("asked", "x", kind="seeking"), row("short", "y"), row("middle", "y" * 9)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    shown = e.shown_protocol(tmp_path, tmp_path / "rows.jsonl").examples
    assert [name for name in ("short", "middle", "long", "failed", "asked") if f"Report {name}\n" in shown] == ["short", "middle"]
    assert not e.shown_protocol(tmp_path, tmp_path / "rows.jsonl", 0).examples
    write_protocol(tmp_path, PROTOCOLS["brief"])
    assert e.shown_protocol(tmp_path, tmp_path / "rows.jsonl") == PROTOCOLS["brief"]
