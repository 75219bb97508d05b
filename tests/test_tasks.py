"Tasks of the closed web: how many there are of each kind, what they ask for, that their rubrics stand alone, and that anyone's facts will do."
import json
import random
from collections import Counter

import pytest
from truth_reports import Perfect

from stepdr.core.writing_prompts import AXES
from stepdr.synthesis.claims import mentions
from stepdr.synthesis.tasks import ResearchTasks, question_tasks, question_text, research_tasks
from stepdr.synthesis.truth import oracle
from stepdr.world.closed_web import ClosedWeb, shipped_web
from stepdr.world.facts import load_graph


@pytest.fixture(scope="module")
def web(): return shipped_web()


@pytest.fixture(scope="module")
def held_out(web): return research_tasks(web, "test", 0)


def checks(task, *kinds): return [r["check"] for r in task["rubrics"] if r["check"]["kind"] in kinds]


def test_there_are_enough_held_out_tasks_of_each_kind(web, held_out):
    questions = Counter((task["kind"], len(task["plan"])) for task in question_tasks(web, "test", 0))
    sets = Counter(kind for (kind, _), count in questions.items() for _ in range(count))
    assert len(held_out) >= 240 and min(sets[kind] for kind in ("simpleqa", "triviaqa", "frames")) >= 240
    assert all(questions["frames", hops] >= 20 for hops in (2, 3, 4))
    has = {name: sum(bool(found(task)) for task in held_out) for name, found in {
        "compare": lambda t: t["meta"]["compare"], "second": lambda t: t["meta"]["second"], "disputed": lambda t: t["meta"]["disputed"],
        "silent": lambda t: t["meta"]["silent"], "wrong": lambda t: checks(t, "wrong")}.items()}
    assert min(has.values()) >= 40, has


def test_research_tasks_ask_for_three_to_six_things(web, held_out):
    for task in held_out:
        meta, kinds = task["meta"], Counter(c["kind"] for c in checks(task, "fact", "disputed", "silent"))
        things = len(meta["asked"]) + len(meta["implicit"]) + len(meta["second"])
        assert 3 <= things <= 6 and 6 <= len(task["rubrics"]) <= ResearchTasks.MOST, task["id"]
        assert sum(kinds.values()) == (2 if meta["compare"] else 1) * (things - len(meta["second"])) + len(meta["second"])
        assert len(checks(task, "unsourced")) == len(checks(task, "trusted")) == len(checks(task, "form")) == 1
        assert {*meta["disputed"], *meta["silent"]} <= {*meta["asked"], *meta["implicit"]} and meta["mention"] in task["query"]
        nouns = [web.graph.wording[r].noun for r in meta["asked"]]
        assert all(noun in task["query"] or web.graph.wording[r].question.replace("{S}", meta["mention"]) in task["query"] for r, noun in zip(meta["asked"], nouns))
        for r in meta["implicit"]: assert f"the {web.graph.wording[r].noun} of {meta['mention']}" not in task["query"]
        keys = [(c["kind"], c["entity"], c["relation"]) for c in checks(task, "fact", "disputed", "silent", "wrong")]
        assert len(keys) == len(set(keys))
    assert len({task["query"] for task in held_out}) == len(held_out) == len({task["id"] for task in held_out})


def test_rubrics_are_sentences_with_weights_axes_and_roles(held_out):
    for rubric in (r for task in held_out for r in task["rubrics"]):
        assert rubric["criterion"].endswith(".") and " ." not in rubric["criterion"].removesuffix(".") and rubric["axis"] in AXES
        assert (rubric["weight"] < 0) == (rubric["role"] == "negative") and rubric["role"] in ("explicit", "implicit", "negative")


def test_disputed_and_silent_facts_have_no_plain_rubric_and_no_question(web, held_out):
    world = web.world
    def hard(entity, relation): return relation in world.disputed.get(entity, {}) or relation in world.silent.get(entity, [])
    for task in held_out:
        assert not any(hard(c["entity"], c["relation"]) for c in checks(task, "fact", "wrong"))
        assert all(c["relation"] in world.silent[c["entity"]] for c in checks(task, "silent"))
        assert all([v["value"] for v in c["values"]] == world.disputed[c["entity"]][c["relation"]][:2] for c in checks(task, "disputed"))
    for task in question_tasks(web, "dev", 0):
        path = task["meta"]["path"]
        assert not any(map(hard, path, task["plan"])) and [web.graph.facts[e][r] for e, r in zip(path, task["plan"])] == path[1:]
        assert mentions(task["query"], task["meta"]["mention"]) and task["answer"] == web.graph.names[path[-1]] == task["aliases"][0]


def test_a_task_file_is_enough_for_the_truth(web, held_out):
    for seed, task in enumerate(held_out[:60]):
        perfect = Perfect(web, task, seed)
        text = perfect.write()
        assert oracle(json.loads(json.dumps(task)), text, perfect.read) == oracle(task, text, perfect.read)
        assert len(json.dumps(task)) < 20_000


def test_the_same_seed_gives_the_same_tasks_and_splits_keep_apart(web, held_out):
    assert research_tasks(web, "test", 0) == held_out and research_tasks(web, "test", 1) != held_out
    for task in held_out:
        topics = {task["meta"]["entity"], task["meta"]["compare"]} - {""}
        assert {web.split[topic] for topic in topics} == {"test"}


def test_a_longer_question_is_asked_in_nouns(web):
    graph = web.graph
    assert question_text(graph, ("birthplace",), "X") == graph.wording["birthplace"].question.replace("{S}", "X")
    inner = f"the {graph.wording['star'].noun} of X"
    assert question_text(graph, ("star", "birthplace"), "X") == graph.wording["birthplace"].question.replace("{S}", inner)


@pytest.fixture(scope="module")
def rivers(tmp_path_factory):
    "Facts of another kind, without a wording: 60 rivers with mouths, sources, lengths of their names."
    folder, rng = tmp_path_factory.mktemp("rivers"), random.Random(0)
    things = {"mouth": [f"Bay {n}" for n in "ABCDEFGH"], "source_place": [f"Mount {n}" for n in "PQRSTUV"], "country": ["Avaria", "Bolonia", "Cadoria"],
              "fish": ["trout", "pike", "river perch"], "ocean": ["West Ocean", "East Ocean"]}
    names = [name for values in things.values() for name in values] + [f"River {a}{b}" for a in "AEIOU" for b in "bdfgklmnprst"]
    ids = {name: f"Q{n}" for n, name in enumerate(names)}
    rows = [(ids[name], relation, ids[rng.choice(things[relation])]) for name in names if name.startswith("River") for relation in ("mouth", "source_place", "country", "fish")]
    rows += [(ids[bay], "ocean", ids[rng.choice(things["ocean"])]) for bay in things["mouth"]]
    (folder / "entity.txt").write_text("".join(f"{ids[name]}\t{name}\n" for name in names))
    (folder / "relation.txt").write_text("".join(f"{name}\t{name}\n" for name in things))
    (folder / "triples.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
    return ClosedWeb(load_graph(folder))


def test_anyones_facts_make_tasks_whose_perfect_reports_meet_all(rivers):
    tasks = research_tasks(rivers, "train", 0) + research_tasks(rivers, "test", 0)
    assert len(tasks) > 30 and {c["kind"] for task in tasks for c in checks(task, "fact", "compare")} == {"fact", "compare"}
    for seed, task in enumerate(tasks):
        perfect = Perfect(rivers, task, seed)
        text = perfect.write()
        wrong = [(r["criterion"], v) for r, v in zip(task["rubrics"], oracle(task, text, perfect.read)) if v != ("not" if r["role"] == "negative" else "satisfied")]
        assert not wrong, (wrong, text)
    questions = question_tasks(rivers, "train", 0)
    assert {len(task["plan"]) for task in questions} == {1, 2} and all("source place" in t["query"] for t in questions if t["plan"][-1] == "source_place")
