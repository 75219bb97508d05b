"The judge: what it may see, that it trains and reads in a few seconds, that processes change nothing, one-line errors."
import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from stepdr import judge as j
from stepdr.artifacts import read_metrics, root, write_jsonl
from stepdr.config import InputError, JudgeSettings
from stepdr.synthesis.tasks import oracle, research_tasks, sections

SETTINGS = JudgeSettings(steps=3, tokens_per_step=2048, train_reports=40, test_reports=36, processes=2)


@pytest.fixture(scope="module")
def web():
    from stepdr.world.closed import ClosedWeb
    from stepdr.world.graph import load_graph
    return ClosedWeb(load_graph(root() / "data" / "kg"))


@pytest.fixture(scope="module")
def records(web): return j.damaged_reports(web, research_tasks(web, "train", 0), 0, 150)


@pytest.fixture(scope="module")
def run(web, tmp_path_factory):
    "A run folder with a tiny untrained model in the place of the SFT model."
    from stepdr.model.base import make_model, save_model, train_tokenizer
    from stepdr.world.closed import save_web
    folder = tmp_path_factory.mktemp("judge") / "run"
    save_web(web, root() / "data" / "kg", folder / "world")
    tasks = {split: research_tasks(web, split, 0)[:40] for split in ("train", "test")}
    for split, rows in tasks.items(): write_jsonl(folder / f"data/tasks_{split}.jsonl", rows)
    tokenizer = train_tokenizer([t["query"] for t in tasks["train"]] * 3, 700)
    save_model(folder / "models/sft", make_model(len(tokenizer), 32, 2, context=1024), tokenizer)
    return folder


def perfect_answers(record):
    "The answers that training asks for, without the verdict words."
    pairs, task = sections(j.shown_report(record["report"])), record["task"]
    claims = [j.read_criterion(task["rubrics"][n[0]]["criterion"]) for _, n in j.questions(task)]
    return [j.quote_text([p for p in pairs if c.relation in (None, p[0])]) for c in claims]


def test_code_agrees_with_the_oracle_on_perfect_quotes(records):
    right = [a == b for r in records for a, b in zip(
        j.read_answers(r["task"], r["report"], r["paragraphs"], perfect_answers(r)).verdicts, oracle(r["task"], r["report"], r["paragraphs"]))]
    assert sum(right) / len(right) > 0.99


def test_the_judge_sees_neither_checks_nor_truth(records):
    for r in records:
        blind = {**r["task"], "rubrics": [{k: v for k, v in x.items() if k != "check"} for x in r["task"]["rubrics"]]}
        hidden = {k: SimpleNamespace(site=p.site, title=p.title, heading=p.heading, value_name=p.value_name) for k, p in r["paragraphs"].items()}
        answers = perfect_answers(r)
        assert j.read_answers(blind, r["report"], hidden, answers) == j.read_answers(r["task"], r["report"], r["paragraphs"], answers)
        assert j.questions(blind) == j.questions(r["task"])


def test_training_rows_carry_the_oracles_labels_and_rename_consistently(records, web):
    from stepdr.model.rows import Namer, rename_value, renamer
    row = j.training_row(records[0], random.Random(0))
    words = [m["content"].rsplit("\n", 1)[-1] for m in row["messages"][1::2][1:]]
    assert words and set(words) <= set(j.VERDICTS)
    renamed = rename_value(row["messages"], renamer(row["meta"]["names"], Namer(["Ada Lovelace", "Paris"]), random.Random(0)))
    text = json.dumps(renamed)
    assert records[0]["task"]["meta"]["mention"] not in text
    report = sections(renamed[0]["content"].rsplit("\n", 1)[0])
    assert sections(renamed[1]["content"]) == report     # what is to be copied stands in the report, after renaming too


def test_damages_are_all_used_and_make_every_verdict(records):
    assert {k for r in records for k in r["damages"]} >= set(j.DAMAGES)
    seen = {(x["role"], v) for r in records for x, v in zip(r["task"]["rubrics"], oracle(r["task"], r["report"], r["paragraphs"]))}
    assert {v for _, v in seen} == set(j.VERDICTS) and {r for r, _ in seen} == {"explicit", "implicit", "negative"}


def test_batches_do_not_change_verdicts(run, records):
    judge = j.Judge.load(run / "models/sft")
    judge.quote_tokens = 12
    items = [(r["task"], r["report"], r["paragraphs"]) for r in records[:9]] + [(records[0]["task"], None, {})]
    many = judge.verdicts_many(items, batch=4)
    assert many == [judge.verdicts(*item) for item in items] and many[-1] == oracle(records[0]["task"], "", {})
    assert [len(v) for v in many] == [len(task["rubrics"]) for task, _, _ in items]


def test_stage_trains_judges_and_is_the_same_for_any_number_of_processes(run):
    j.train_judge(run, 0, SETTINGS)
    assert [r["step"] for r in read_metrics(run / "metrics/judge.jsonl")] == [3]
    two = j.judge_reports(run, 0, SETTINGS, samples=20)
    one = j.judge_reports(run, 0, replace(SETTINGS, processes=1), samples=20)
    assert one == two and set(two) >= {"macro_f1", "by_role", "confusion", "labels"}
    assert two["macro_f1"]["n"] == 36 and len(two["confusion"]) == 3 and set(two["by_writer"]) == {"model", "damaged teacher"}
    assert two["without_a_model"]["headings"]["mean"] == 1.0


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="cannot read 'Is nice .'"): j.read_criterion("Is nice .")
    with pytest.raises(InputError, match="no model here"): j.Judge.load(tmp_path)
