"The training sets from a closed web: each category by its own maker, nothing lost, repeatable, from anyone's facts."
import json
from collections import Counter
from dataclasses import replace

import pytest

from stepdr.agent.protocol import PROTOCOLS, opening
from stepdr.core.artifacts import root
from stepdr.core.config import InputError, SynthesisSettings
from stepdr.core.prompts import SCHEMAS
from stepdr.core.trajectory import CITE, cited_ids
from stepdr.synthesis.build import CATEGORIES, lacking, make_sets, read_mixture
from stepdr.synthesis.closed_teacher import CLOSED_RULES, role_in
from stepdr.synthesis.trajectories import malformed
from stepdr.world.closed_web import ClosedWeb, load_web, save_web
from stepdr.world.facts import load_graph

SMALL = SynthesisSettings(stage1_rows=150, stage2_rows=200, sft_rows=80, heldout_research=20, heldout_questions=20,
                          subgraphs=30, walks=60, research=120)
WANTED = {"stage1": 150, "stage2": 200, "sft": 80}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closed") / "world"
    save_web(ClosedWeb(load_graph(root() / "data" / "kg")), root() / "data" / "kg", folder)
    return folder


@pytest.fixture(scope="module")
def web(world): return load_web(world)


@pytest.fixture(scope="module")
def made(world, tmp_path_factory): return make_sets(world, SMALL, 0, tmp_path_factory.mktemp("work"))


def rows_of(made, category):
    return [row for rows in made.rows.values() for row in rows if row["category"] == category]


def test_weights_hold_and_what_runs_short_is_said(made):
    short = {(row["set"], row["category"]): row for row in made.short}
    assert len(lacking(made)) == len(short) and all(row["made"] < row["wanted"] for row in made.short)
    for stage, wanted in WANTED.items():
        weights = read_mixture(getattr(SMALL, f"{stage}_mixture"), stage, CATEGORIES[stage])
        counts = Counter(row["category"] for row in made.rows[stage])
        assert len(made.rows[stage]) > 0.9 * wanted
        for name, weight in weights.items():
            share = round(weight / sum(weights.values()) * wanted)
            assert counts[name] == (short[stage, name]["made"] if (stage, name) in short else share), (stage, name)
    counts = Counter(row["category"] for row in made.rows["sft"])
    assert counts["deep_research"] > len(made.rows["sft"]) / 2


def test_nothing_is_lost(made):
    for row in made.funnel:
        assert row["kept"] + row["dropped"] == row["read"] == row["kept"] + sum(row["reasons"].values())
    assert all(row["filter"] and row["reason"] and "measure" in row and row["set"] for row in made.dropped)
    assert all(row["id"] and row["reason"] and row["part"] for row in made.aside)
    filtered = [row for row in made.funnel if not row["filter"].startswith(("made by", "edge_"))]
    assert sum(row["dropped"] for row in filtered) == len(made.dropped)
    assert not [row for row in made.aside if "Error" in row["reason"]]


def test_rows_are_whole(made):
    for rows in made.rows.values():
        for row in rows:
            assert row["text"] if not row["messages"] else not malformed(row)
            assert row["meta"]["names"] is not None
            if "tool_calls" not in row: continue
            assert row["protocol"] == "brief" and row["tools"]
            assert row["messages"][:2] == opening(row["messages"][1]["content"], PROTOCOLS["brief"])
        assert len({row["id"] for row in rows}) == len(rows)


def test_answers_cite_what_was_shown(made):
    "Readings and reports on material: each citation of the answer stands in the question."
    shown = [row for row in made.rows["stage1"] + made.rows["stage2"] if "tool_calls" not in row and row["messages"]]
    assert sum(bool(CITE.search(row["messages"][-1]["content"])) for row in shown) > 80
    for row in shown:
        asked, answer = (row["messages"][place]["content"] for place in (0, -1))
        assert set(cited_ids(answer)) <= set(cited_ids(asked)), row["id"]


def test_a_trajectory_in_part_ends_in_a_call(made):
    rows = rows_of(made, "first_steps")
    assert rows and all(row["messages"][-1]["tool_calls"] for row in rows)


def test_the_same_for_two_processes_and_after_a_second_call(world, made, tmp_path):
    other = make_sets(world, replace(SMALL, workers=2), 0, tmp_path / "work")
    assert json.dumps(other.rows) == json.dumps(made.rows) and other.tasks == made.tasks and other.funnel == made.funnel
    again = make_sets(world, SMALL, 0, tmp_path / "work")                            # finds every chunk
    assert json.dumps(again.rows) == json.dumps(made.rows)


def test_questions_rest_on_verified_edges(made, web):
    line = next(row for row in made.funnel if row["filter"] == "edge_verification")
    assert line["read"] > 200 and line["kept"] > 0.9 * line["read"]
    for task in made.tasks["train"]:
        if task["kind"] == "research": continue
        entity, silent = task["meta"]["path"][0], web.world.silent
        for relation in task["plan"]:
            assert relation not in silent.get(entity, [])
            entity = web.graph.facts[entity][relation]
        assert web.graph.names[entity] == task["answer"]


def test_roles_of_rubrics_follow_from_the_task(made, web):
    research = [task for task in made.tasks["train"] if task["kind"] == "research"]
    assert len(research) > 80
    for task in research:
        assert {rubric["role"] for rubric in task["rubrics"]} == {"explicit", "implicit", "negative"}
        for rubric in task["rubrics"]:
            assert role_in(web.graph, task["query"], rubric["criterion"]) == rubric["role"]
        assert task["meta"]["consistency"] >= 8 and len(task["rubrics"]) >= 5
    kinds = {rubric["check"]["kind"] for task in research for rubric in task["rubrics"]}
    assert kinds == {"fact", "wrong", "disputed", "silent", "compare", "unsourced", "trusted", "form"}   # no kind falls to a rule


def test_verification_concludes_both_ways(made):
    checked = rows_of(made, "verification")
    assert len(checked) > 10 and {row["meta"]["verdict"] for row in checked} >= {"support", "refute"}
    assert all(CITE.search(row["meta"]["answer"]) for row in checked)


def test_corrected_work_began_wrong_and_ends_right(made):
    rows = rows_of(made, "self_correction")
    assert rows and all(row["meta"]["attempts"] > 1 and row["success"] for row in rows)
    for row in rows:
        assert sum(message["role"] == "user" for message in row["messages"]) == 1     # one voice: nobody told it
    assert any(record["reason"] == "right at the first attempt" for record in made.aside)


def test_rules_cover_prompts_that_exist(): assert set(CLOSED_RULES) <= set(SCHEMAS)


WRONG = [("two_hop=1", "two_hop"), ("lookup=many", "lookup=many"), ("lookup=-1", "0 or more"), ("", "no category"),
         ("lookup", "NAME=WEIGHT")]


@pytest.mark.parametrize("text, words", WRONG)
def test_a_wrong_mixture_names_field_and_word(text, words):
    with pytest.raises(InputError, match="synthesis.sft_mixture") as error:
        read_mixture(text, "synthesis.sft_mixture", CATEGORIES["sft"])
    assert words in str(error.value)


def rivers(folder, relations): # folder to make, names of relations -> the folder
    "Sixty things of one's own: rivers that flow into rivers and seas, without a word of how to speak of them."
    folder.mkdir()
    names = [f"{kind} {n}" for kind, count in (("River", 40), ("Sea", 8), ("Step", 6), ("Mount", 6)) for n in range(count)]
    values = [lambda n: n - 1 if n % 4 else 40 + n % 8, lambda n: 48 + n % 6, lambda n: 54 + n % 6]
    triples = [(n, r, value(n)) for r, value in enumerate(values[:len(relations)]) for n in range(40)]
    (folder / "entity.txt").write_text("".join(f"e{n}\t{name}\n" for n, name in enumerate(names)))
    (folder / "relation.txt").write_text("".join(f"r{n}\t{name}\n" for n, name in enumerate(relations)))
    (folder / "triples.txt").write_text("".join(f"e{a}\tr{r}\te{b}\n" for a, r, b in triples))
    return folder


@pytest.mark.parametrize("relations", [("mouth", "height", "rises in"), ("mouth", "height")])
def test_facts_of_ones_own_go_through(tmp_path, relations):
    "With three relations rivers are topics, with two nothing is one, and what cannot be made is said."
    facts = rivers(tmp_path / "kg", relations)
    save_web(ClosedWeb(load_graph(facts)), facts, tmp_path / "world")
    wanted = {"stage1": 60, "stage2": 60, "sft": 30}
    few = SynthesisSettings(*wanted.values(), heldout_research=5, heldout_questions=5, subgraphs=10, walks=20, research=40)
    made = make_sets(tmp_path / "world", few, 0, tmp_path / "work")
    assert not [row for row in made.aside if "Error" in row["reason"]]
    short = {row["category"] for row in made.short if not row["made"]}
    if len(relations) == 3:
        assert not short and all(len(made.rows[stage]) > 0.8 * count for stage, count in wanted.items())
        assert any("mouth" in task["query"] for task in made.tasks["test"])
        assert any("rises in" in task["query"] for task in made.tasks["train"])
    else:
        assert {"research", "deep_research", "lookup"} <= short
        assert made.rows["sft"] == [] and len(made.rows["stage1"]) > 40
