"The training sets of the small profiles: each category by its own maker, nothing lost, the same for any number of processes."
import json
from collections import Counter
from dataclasses import replace

import pytest

from stepdr.core.artifacts import read_json, read_jsonl, root
from stepdr.core.config import InputError, SynthesisSettings
from stepdr.core.prompts import SCHEMAS
from stepdr.synthesis.build import CATEGORIES, make_sets, read_mixture
from stepdr.agent.protocol import PROTOCOLS, opening
from stepdr.synthesis.closed import CLOSED_RULES, role_in
from stepdr.synthesis.trajectories import malformed
from stepdr.core.trajectory import CITE
from stepdr.world.closed_web import ClosedWeb, save_web
from stepdr.world.facts import load_graph

SMALL = SynthesisSettings(stage1_rows=150, stage2_rows=400, sft_rows=150, heldout_research=20, heldout_questions=20, subgraphs=150, walks=80, research=120)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closed") / "world"
    save_web(ClosedWeb(load_graph(root() / "data" / "kg")), root() / "data" / "kg", folder)
    return folder


@pytest.fixture(scope="module")
def made(world, tmp_path_factory): return make_sets(world, SMALL, 0, tmp_path_factory.mktemp("work"))


def test_every_category_makes_rows_and_weights_hold(made):
    for stage, wanted in (("stage1", 150), ("stage2", 400), ("sft", 150)):
        weights = read_mixture(getattr(SMALL, f"{stage}_mixture"), stage, CATEGORIES[stage])
        counts, total = Counter(row["category"] for row in made.rows[stage]), len(made.rows[stage])
        assert total > 0.6 * wanted
        for name, weight in weights.items():
            share = weight / sum(weights.values())
            assert abs(counts[name] - share * total) <= 1.5, (stage, name)
    assert {row["category"] for row in made.rows["stage2"]} >= {"two_hops", "three_hops", "url_qa", "web_browsing", "planning", "verification", "self_correction", "reports"}


def test_nothing_is_lost(made):
    assert all(row["kept"] + row["dropped"] == row["read"] == row["kept"] + sum(row["reasons"].values()) for row in made.funnel if row["filter"] != "edge_verification")
    assert all(row["filter"] and row["reason"] and "measure" in row and row["set"] for row in made.dropped)
    assert all(row["id"] and row["reason"] and row["part"] for row in made.aside)
    assert sum(row["dropped"] for row in made.funnel if not row["filter"].startswith(("made by", "edge_"))) == len(made.dropped)


def test_rows_are_whole(made):
    for rows in made.rows.values():
        for row in rows:
            assert row["text"] if not row["messages"] else not malformed(row)
            assert row["meta"]["names"] is not None
            if "tool_calls" not in row: continue
            assert row["protocol"] == "brief" and [tool["function"]["name"] for tool in row["tools"]] == ["batch_web_surfer", "todo"]
            assert [message["role"] for message in row["messages"][:2]] == ["system", "user"] and row["messages"][:2] == opening(row["messages"][1]["content"], PROTOCOLS["brief"])
        assert len({row["id"] for row in rows}) == len(rows)


def test_the_same_for_two_processes_and_after_a_second_call(world, made, tmp_path):
    other = make_sets(world, replace(SMALL, workers=2), 0, tmp_path / "work")
    assert json.dumps(other.rows) == json.dumps(made.rows) and other.tasks == made.tasks and other.funnel == made.funnel
    again = make_sets(world, SMALL, 0, tmp_path / "work")                            # finds every chunk
    assert json.dumps(again.rows) == json.dumps(made.rows)


def test_questions_rest_on_verified_edges(made, world):
    line = next(row for row in made.funnel if row["filter"] == "edge_verification")
    assert line["read"] > 200 and line["kept"] > 0.9 * line["read"]
    graph = load_graph(root() / "data" / "kg")
    for task in made.tasks["train"]:
        if task["kind"] == "research": continue
        entity = task["meta"]["path"][0]
        for relation in task["plan"]: entity = graph.facts[entity][relation]
        assert graph.names[entity] == task["answer"] and not any(graph.names[e] in task["query"].split(" of ")[:-1] for e in task["meta"]["path"][1:-1])


def test_roles_of_rubrics_follow_from_the_task(made):
    research = [task for task in made.tasks["train"] if task["kind"] == "research"]
    assert len(research) > 80
    for task in research:
        assert aspects_of(task["query"]) and {rubric["role"] for rubric in task["rubrics"]} == {"explicit", "implicit", "negative"}
        assert all(role_in(task["query"], rubric["criterion"]) == rubric["role"] for rubric in task["rubrics"])
        assert task["meta"]["consistency"] >= 8 and len(task["rubrics"]) >= 5


def test_verification_concludes_what_is_true(made):
    "Against the truth of the closed web, which the makers do not see."
    checked = [row for stage in ("stage2", "sft") for row in made.rows[stage] if row["category"] == "verification"]
    assert len(checked) > 10 and {row["meta"]["verdict"] for row in checked} >= {"support", "refute"}
    assert sum(row["meta"]["right"] for row in checked if row["meta"]["verdict"] != "doubtful") == sum(row["meta"]["verdict"] != "doubtful" for row in checked)
    assert all(CITE.search(row["meta"]["answer"]) for row in checked)


def test_corrected_work_began_wrong_and_ends_right(made):
    rows = [row for stage in ("stage2", "sft") for row in made.rows[stage] if row["category"] == "self_correction"]
    assert rows and all(row["meta"]["attempts"] > 1 and row["success"] for row in rows)
    assert all(sum(message["role"] == "user" for message in row["messages"]) == 1 for row in rows)     # one voice: nobody told it
    assert any(record["reason"] == "right at the first attempt" for record in made.aside)


def test_rules_cover_prompts_that_exist(): assert set(CLOSED_RULES) <= set(SCHEMAS)


@pytest.mark.parametrize("text, words", [("two_hop=1", "two_hop"), ("lookup=many", "lookup=many"), ("lookup=-1", "0 or more"), ("", "no category"), ("lookup", "NAME=WEIGHT")])
def test_a_wrong_mixture_names_field_and_word(text, words):
    with pytest.raises(InputError, match="synthesis.sft_mixture") as error: read_mixture(text, "synthesis.sft_mixture", CATEGORIES["sft"])
    assert words in str(error.value)
