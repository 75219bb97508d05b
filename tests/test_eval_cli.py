"eval, compare, judge and pairwise as they are typed."
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_model import ScriptedModel, turn

from stepdr.core.artifacts import read_jsonl, root, write_jsonl
from stepdr.run.cli import main

STEPDR = str(Path(sys.executable).with_name("stepdr"))


@pytest.fixture
def stepdr(capsys):
    "Run a command; (status, standard output, standard error)."
    def run(*arguments):
        capsys.readouterr()
        try: status = main([*map(str, arguments)])
        except SystemExit as end: status = end.code
        return (status, *capsys.readouterr())
    return run


VERDICTS = {
    "researchrubrics": ([{"task": "a", "criterion": "one", "weight": 5, "verdict": "satisfied", "axis": "x"}, {"task": "a", "criterion": "two", "weight": -4, "verdict": "partially"}, {"task": "b", "criterion": "one", "weight": 2, "verdict": "not"}], 0.3),
    "simpleqa": ([{"id": 1, "grade": "A"}, {"id": 2, "grade": "B"}, {"id": 3, "grade": "C"}, {"id": 4, "grade": "A"}], 0.5),
    "frames": ([{"id": 1, "decision": "TRUE"}, {"id": 2, "decision": False}], 0.5),
    "race": ([{"task": 1, "dimension": d, "criterion": "c", "target": 6, "reference": 4, "weight": 1, "dimension_weight": 0.25} for d in ("comprehensiveness", "insight", "instruction_following", "readability")], 0.6),
    "pairs": ([{"task": n, "left": "ours", "right": "theirs", "verdict": verdict} for n, verdict in enumerate(("Left better", "Both good", "Right better", "Left better"))], 0.75)}


@pytest.mark.parametrize("bench", VERDICTS)
def test_verdicts_that_exist_are_scored_without_a_model(stepdr, tmp_path, bench):
    rows, mean = VERDICTS[bench]
    write_jsonl(tmp_path / "v.jsonl", rows)
    status, out, errors = stepdr("eval", bench, "--verdicts", tmp_path / "v.jsonl", "--json")
    found = json.loads(out)
    assert status == 0 and not errors and found["score"]["mean"] == pytest.approx(mean) and set(found["score"]) == {"mean", "low", "high", "n"} and found["score"]["low"] <= mean <= found["score"]["high"]
    status, out, _ = stepdr("eval", bench, "--verdicts", tmp_path / "v.jsonl", "--out", tmp_path / "out")
    assert status == 0 and f"{mean:.3f}" in out and json.loads((tmp_path / "out" / "results.json").read_text())["score"] == found["score"]


def test_the_variants_of_the_formula(stepdr, tmp_path):
    write_jsonl(tmp_path / "v.jsonl", VERDICTS["researchrubrics"][0])
    for variant, mean in (("ternary", 0.3), ("binary", 0.5), ("strict", 0.1)):
        found = json.loads(stepdr("eval", "researchrubrics", "--verdicts", tmp_path / "v.jsonl", "--variant", variant, "--json")[1])
        assert found["variant"] == variant and found["score"]["mean"] == pytest.approx(mean)


def test_as_a_program(tmp_path):
    write_jsonl(tmp_path / "v.jsonl", VERDICTS["simpleqa"][0])
    done = subprocess.run([STEPDR, "eval", "simpleqa", "--verdicts", "v.jsonl", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["score"]["mean"] == 0.5 and not done.stderr
    write_jsonl(tmp_path / "v.jsonl", [{"id": 1, "grade": "D"}])
    done = subprocess.run([STEPDR, "eval", "simpleqa", "--verdicts", "v.jsonl", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and re.fullmatch(r"stepdr: v\.jsonl, line 1: grade: 'D' is not one of .*\n", done.stderr)


def test_help_has_an_example_for_every_command(stepdr):
    for command in (("eval",), ("compare",), *(("judge", action) for action in ("train", "score", "probe", "modes")), *(("pairwise", action) for action in ("make", "serve", "judge", "results", "plan"))):
        status, out, _ = stepdr(*command, "--help")
        assert status == 0 and f"example:\n  stepdr {' '.join(command)}" in out
    assert all(bench in stepdr("eval", "--list")[1] for bench in VERDICTS)


def test_mistakes_are_one_line(stepdr, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"task": "a", "report": "x"}])
    write_jsonl(tmp_path / "t.jsonl", [{"id": "a", "query": "q", "rubrics": [{"criterion": "c", "weight": 1}]}])
    for arguments, says in (
            (("eval",), "which benchmark"), (("eval", "simpleqa"), "--out"), (("eval", "simpleqa", "--out", tmp_path / "o"), "--predictions FILE or --model"), (("eval", "wonder", "--verdicts", tmp_path / "p.jsonl"), "is not one of"),
            (("eval", "simpleqa", "--verdicts", tmp_path / "none"), "no such file"), (("eval", "simpleqa", "--verdicts", tmp_path / "p.jsonl", "--model", "x"), "leave out"), (("eval", "simpleqa", "--predictions", tmp_path / "p.jsonl", "--out", tmp_path / "o"), "not shipped"),
            (("eval", "researchrubrics", "--data", tmp_path / "t.jsonl", "--predictions", tmp_path / "p.jsonl", "--out", tmp_path / "o"), "needs one"), (("eval", "researchrubrics", "--data", tmp_path / "t.jsonl", "--predictions", tmp_path / "p.jsonl", "--judge", "words", "--variant", "x", "--out", tmp_path / "o"), "variant"),
            (("eval", "researchrubrics", "--data", tmp_path / "t.jsonl", "--model", tmp_path, "--judge", "words", "--out", tmp_path / "o"), "model"), (("compare", tmp_path / "a", tmp_path / "b"), "no such file"),
            (("judge", "train", tmp_path, "--out", tmp_path / "j"), "no run"), (("judge", "score", "--tasks", tmp_path / "t.jsonl", "--predictions", tmp_path / "p.jsonl", "--judge", "me", "--out", tmp_path / "v.jsonl"), "neither oracle"),
            (("judge", "probe", "--tasks", tmp_path / "t.jsonl", "--predictions", tmp_path / "p.jsonl", "--judge", "words", "--probes", "shouting"), "shouting"), (("pairwise", "make", "--tasks", tmp_path / "t.jsonl", "--reports", "a.jsonl", "--out", tmp_path / "s"), "NAME=PATH"),
            (("pairwise", "results", tmp_path / "none"), ""), (("pairwise", "plan", "--systems", "1", "--gap", "9"), "two systems")):
        status, out, errors = stepdr(*arguments)
        assert status == 2 and not out and errors.count("\n") == 1 and errors.startswith("stepdr: ") and says in errors, (arguments, errors)


def bridges(folder, closed):
    write_jsonl(folder / "tasks.jsonl", [{"id": f"t{n}", "query": f"Report on bridge {n}.", "rubrics": [{"criterion": f"States that it was opened in {1880 + n}", "weight": 2.0, "axis": "Explicit Criteria"}, {"criterion": f"States that it was closed in {1980 + n}", "weight": 1.0}]} for n in range(12)])
    for name, which in closed.items(): write_jsonl(folder / f"{name}.jsonl", [{"task": f"t{n}", "report": f"## Use\nIt was opened in {1880 + n}." + (f" It was closed in {1980 + n}." if n < which else ""), "cost": {"money": 0.1, "currency": "USD"}} for n in range(12)])
    return folder / "tasks.jsonl"


def test_two_evaluations_and_their_comparison(stepdr, tmp_path):
    tasks = bridges(tmp_path, {"good": 11, "poor": 1})
    for name in ("good", "poor"):
        status, out, errors = stepdr("eval", "researchrubrics", "--data", tasks, "--predictions", tmp_path / f"{name}.jsonl", "--judge", "words", "--out", tmp_path / name, "--json")
        assert status == 0 and json.loads(out)["counts"]["judged"] == 12 and "index.html" in errors
    status, out, _ = stepdr("compare", tmp_path / "good", tmp_path / "poor", "--json")
    found = json.loads(out)
    assert status == 0 and found["better"] == "a" and found["difference"]["n"] == 12
    assert found["words"] in stepdr("compare", tmp_path / "good", tmp_path / "poor")[1]
    assert stepdr("eval", "researchrubrics", "--data", tasks, "--predictions", tmp_path / "poor.jsonl", "--judge", "words", "--variant", "strict", "--out", tmp_path / "strict")[0] == 0
    status, _, errors = stepdr("compare", tmp_path / "good", tmp_path / "strict")
    assert status == 2 and "variant" in errors and stepdr("compare", tmp_path / "good", tmp_path / "strict", "--allow", "variant")[0] == 0


def test_judging_and_probing_files(stepdr, tmp_path):
    tasks = bridges(tmp_path, {"good": 6})
    status, out, _ = stepdr("judge", "score", "--tasks", tasks, "--predictions", tmp_path / "good.jsonl", "--judge", "words", "--out", tmp_path / "v.jsonl")
    assert status == 0 and json.loads(out)["verdicts"] == 24 == len(read_jsonl(tmp_path / "v.jsonl"))
    assert json.loads(stepdr("eval", "researchrubrics", "--verdicts", tmp_path / "v.jsonl", "--json")[1])["score"]["mean"] == pytest.approx((6 + 6 * 2 / 3) / 12)
    status, out, _ = stepdr("judge", "probe", "--tasks", tasks, "--predictions", tmp_path / "good.jsonl", "--judge", "words", "--limit", 5, "--json")
    found = json.loads(out)
    assert status == 0 and found["reports"] == 5 and found["truth"] == "none" and 0 <= found["flips"]["all"]["mean"] <= 1
    assert "padding" in stepdr("judge", "probe", "--tasks", tasks, "--predictions", tmp_path / "good.jsonl", "--judge", "words", "--limit", 5)[1]


def test_an_endpoint_judges_as_it_is_typed(stepdr, tmp_path, monkeypatch):
    tasks = bridges(tmp_path, {"good": 6})
    def judge(messages):
        report, criterion = (re.search(rf"<{tag}>\n(.*?)\n</{tag}>", messages[1]["content"], re.S)[1] for tag in ("report", "criterion"))
        return turn(json.dumps({"explanation": "read it", "verdict": "satisfied" if re.search(r"\d{4}", criterion)[0] in report else "not"}))
    with ScriptedModel(judge, key="sk-right-0123456789") as server:
        command = ("eval", "researchrubrics", "--data", tasks, "--predictions", tmp_path / "good.jsonl", "--judge", f"{server.url}#scripted", "--judge-price", "1/2", "--trials", 2, "--limit", 3, "--out", tmp_path / "out", "--json")
        monkeypatch.setenv("STEPDR_API_KEY", "sk-wrong-0123456789")
        status, out, errors = stepdr(*command)
        assert status == 2 and not out and "sk-wrong" not in errors and errors.strip().splitlines()[-1].startswith("stepdr: ")
        monkeypatch.setenv("STEPDR_API_KEY", "sk-right-0123456789")
        status, out, errors = stepdr(*command)
        found, asked = json.loads(out), len(server.requests)
        assert status == 0 and found["score"]["mean"] == 1.0 and found["card"]["trials"] == 2 and found["counts"]["tasks"] == 3 and found["cost"]["judge"]["all_runs"]["cost"] > 0
        assert stepdr(*command)[0] == 0 and len(server.requests) == asked                     # the same command again pays nothing
        texts = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file())
        assert "sk-right" not in texts


def reads_years(tires=99):
    "A judge that finds years, in either mode; after so many rubrics of a request it is satisfied with everything."
    def judge(messages):
        shown = messages[1]["content"]
        report = re.search(r"<report>\n(.*?)\n</report>", shown, re.S)[1]
        def verdict(text, place=1): return "satisfied" if place > tires or re.search(r"\d{4}", text)[0] in report else "not"
        if "<criterion>" in shown: return turn(json.dumps({"explanation": "read it", "verdict": verdict(shown.split("<criterion>")[1])}))
        asked = re.findall(r"^\d+\. (.*)$", shown.split("<criteria>")[1], re.M)
        return turn(json.dumps({"verdicts": [{"number": n, "words": text, "explanation": "read it", "verdict": verdict(text, n)} for n, text in enumerate(asked, 1)]}))
    return judge


def test_one_rubric_a_request_against_several_as_it_is_typed(stepdr, tmp_path):
    bridges(tmp_path, {"good": 6})
    tasks = [{**task, "rubrics": [{"criterion": f"States that it was opened in {1880 + (number + n) % 12}", "weight": 1.0} for n in range(9)]} for number, task in enumerate(read_jsonl(tmp_path / "tasks.jsonl"))]
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    reports = {row["task"]: row["report"] for row in read_jsonl(tmp_path / "good.jsonl")}
    write_jsonl(tmp_path / "right.jsonl", [{"task": task["id"], **({"number": n} if n % 2 else {"criterion": rubric["criterion"]}), "verdict": "satisfied" if rubric["criterion"][-4:] in reports[task["id"]] else "not"} for task in tasks for n, rubric in enumerate(task["rubrics"])])
    def command(server, out, *more): return ("judge", "modes", "--tasks", tmp_path / "tasks.jsonl", "--predictions", tmp_path / "good.jsonl", "--judge", f"{server.url}#scripted", "--right", tmp_path / "right.jsonl", "--out", out, "--probes", "padding", *more)
    with ScriptedModel(reads_years()) as server:
        status, out, _ = stepdr(*command(server, tmp_path / "one", "--json"))
        found, asked = json.loads(out), len(server.requests)
        assert status == 0 and found == json.loads((tmp_path / "one" / "modes.json").read_text()) and found["reports"] == 12 and found["rubrics"] == 108
        assert all(found[mode]["agreement"]["accuracy"] == 1.0 and found[mode]["flips"]["all"]["flips"] == found[mode]["aside"] == 0 for mode in ("one", "several")) and found["same_verdict"]["mean"] == 1.0
        assert (found["one"]["cost"]["requests"]["mean"], found["several"]["cost"]["requests"]["mean"]) == (27.0, 3.0) and asked == 12 * (27 + 3) * 2
        status, out, _ = stepdr(*command(server, tmp_path / "one"))
        assert status == 0 and len(server.requests) == asked and "same verdict" in out and "up to 20 in a request" in out, "the same command again pays nothing"
    with ScriptedModel(reads_years(tires=4)) as server:
        found = json.loads(stepdr(*command(server, tmp_path / "two", "--json"))[1])
        assert found["accuracy_difference"]["high"] < -0.2 and found["score_difference"]["low"] > 0.2 and found["one"]["trials_apart"]["mean"] == 0.0 < found["several"]["trials_apart"]["low"]
        assert found["same_by_place"]["first"]["mean"] == 1.0 and found["same_by_place"]["last"]["high"] < 0.5, "what tires is seen by the place in a request"
        write_jsonl(tmp_path / "right.jsonl", [{"task": "t0", "number": 40, "verdict": "not"}])
        status, out, errors = stepdr(*command(server, tmp_path / "two"))
        assert status == 2 and "right.jsonl, line 1" in errors and "number 40" in errors
    status, _, errors = stepdr("judge", "modes", "--tasks", tmp_path / "tasks.jsonl", "--predictions", tmp_path / "good.jsonl", "--judge", "words", "--out", tmp_path / "three")
    assert status == 2 and "no modes" in errors
    with ScriptedModel(reads_years()) as server:
        status, out, _ = stepdr("judge", "score", "--tasks", tmp_path / "tasks.jsonl", "--predictions", tmp_path / "good.jsonl", "--judge", f"{server.url}#scripted", "--rubrics-per-request", 9, "--out", tmp_path / "v.jsonl")
        assert status == 0 and json.loads(out)["asked"] == len(server.requests) == 36 and json.loads(out)["verdicts"] == 108
        status, out, _ = stepdr("eval", "researchrubrics", "--data", tmp_path / "tasks.jsonl", "--predictions", tmp_path / "good.jsonl", "--judge", f"{server.url}#scripted", "--rubrics-per-request", 9, "--trials", 1, "--out", tmp_path / "e", "--json")
        card = json.loads(out)["card"]
        assert status == 0 and len(server.requests) == 48 and card["judge"]["rubrics_per_request"] == 9 and "judge_positive_many" in card["prompts"]


def test_pairs_from_making_to_results(stepdr, tmp_path):
    tasks = bridges(tmp_path, {"good": 12, "poor": 0})
    status, out, _ = stepdr("pairwise", "make", "--tasks", tasks, "--reports", f"good={tmp_path / 'good.jsonl'}", f"poor={tmp_path / 'poor.jsonl'}", "--out", tmp_path / "study")
    assert status == 0 and json.loads(out)["pairs"] == 12
    def judge(messages):
        left, right = ("closed" in re.search(rf"<{side}>\n(.*?)\n</{side}>", messages[1]["content"], re.S)[1] for side in ("left", "right"))
        return turn(json.dumps({"reason": "one says more", **{name: "left" if left > right else "right" for name in ("information_completeness", "content_depth", "requirement_fitness", "readability", "verdict")}}))
    with ScriptedModel(judge) as server: status, out, errors = stepdr("pairwise", "judge", tmp_path / "study", "--judge", f"{server.url}#scripted")
    assert status == 0 and json.loads(out)["done"] == 12, errors
    status, out, _ = stepdr("pairwise", "results", tmp_path / "study", "--json")
    assert status == 0 and json.loads(out)["pairs"]["good_vs_poor"]["win"] == 12 and (tmp_path / "study" / "results.html").exists()
    assert "12 won" in stepdr("pairwise", "results", tmp_path / "study")[1]
    status, out, _ = stepdr("pairwise", "plan", "--systems", 3, "--gap", 200, "--json")
    assert status == 0 and json.loads(out)["order"] >= 0.95


def test_the_shipped_query_set_is_evaluated_without_naming_it(stepdr, tmp_path):
    task = read_jsonl(root() / "data" / "adr" / "professional.jsonl")[0]
    write_jsonl(tmp_path / "p.jsonl", [{"task": task["id"], "report": "\n".join(rubric["criterion"] for rubric in task["rubrics"] if rubric["weight"] > 0)}])
    status, out, _ = stepdr("eval", "adr-professional", "--predictions", tmp_path / "p.jsonl", "--judge", "words", "--out", tmp_path / "out", "--json")
    found = json.loads(out)
    assert status == 0 and found["score"]["n"] == 40 and found["counts"]["missing"] == 39 and found["per_task"][task["id"]] > 0.5 and sum(found["per_task"].values()) == found["per_task"][task["id"]]


def test_pairs_are_made_from_the_folder_of_a_run(stepdr, tmp_path):
    run = tmp_path / "run"
    (run / "world").mkdir(parents=True)
    (run / "world" / "pages.json").write_text("{}")
    write_jsonl(run / "data" / "tasks_test.jsonl", [{"id": "r1", "query": "Write a report.", "kind": "research"}, {"id": "s1", "query": "Where?", "kind": "simpleqa"}])
    for name in ("north", "south"): write_jsonl(tmp_path / f"{name}.jsonl", [{"task": "r1", "report": f"The {name} one."}])
    made = ("pairwise", "make", "--reports", f"north={tmp_path / 'north.jsonl'}", f"south={tmp_path / 'south.jsonl'}")
    status, out, errors = stepdr(*made, "--tasks", run, "--out", tmp_path / "study")
    assert status == 0 and json.loads(out)["pairs"] == 1, errors
    (tmp_path / "other").mkdir()
    status, _, errors = stepdr(*made, "--tasks", tmp_path / "other", "--out", tmp_path / "study2")
    assert status == 2 and "is no folder of a run" in errors and len(errors.splitlines()) == 1


def test_sentences_are_graded_without_a_judge_and_the_headline_says_so(stepdr, tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": n, "problem": "What is the capital of Wales?", "answer": "Cardiff"} for n in range(3)])
    write_jsonl(tmp_path / "p.jsonl", [{"id": n, "answer": text} for n, text in enumerate(("The capital of Wales is Cardiff.", "Cardiff or Swansea", "n/a"))])
    status, out, errors = stepdr("eval", "simpleqa", "--data", tmp_path / "q.jsonl", "--predictions", tmp_path / "p.jsonl", "--out", tmp_path / "out", "--json")
    found = json.loads(out)
    assert status == 0 and found["score"]["mean"] == 0.5 and found["headline"].startswith("share of correct answers, graded by exact rule, which left 1 of 3 answers open"), errors
    assert found["counts"]["set_aside"] == {"left open": 1} and "left 1 of 3 answers open" in (tmp_path / "out" / "index.html").read_text()
    assert [row["reason"] for row in read_jsonl(tmp_path / "out" / "aside.jsonl")] == ["the right answer stands in it, but a rule cannot tell that it is meant"]


def test_pairs_of_few_tasks_print_json_that_every_parser_reads(stepdr, tmp_path):
    write_jsonl(tmp_path / "v.jsonl", [{"task": "t1", "left": "a", "right": "b", "verdict": "Left better"}, {"task": "t2", "left": "a", "right": "b", "verdict": "Right better"}, {"task": "t3", "left": "c", "right": "d", "verdict": "Both good"}])
    status, out, errors = stepdr("eval", "pairs", "--verdicts", tmp_path / "v.jsonl", "--json")
    assert status == 0 and not errors and json.loads(out, parse_constant=pytest.fail)["caution"]
    assert "note: ratings of a, b and of c, d cannot be compared" in stepdr("eval", "pairs", "--verdicts", tmp_path / "v.jsonl")[1]
