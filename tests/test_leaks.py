"Nothing that is held out reaches training: no question, no question with its answer, no name; and the test would notice."
import copy
import random
import re
import tempfile

import pytest

from stepdr.core.artifacts import root
from stepdr.core.config import SynthesisSettings
from stepdr.core.trajectory import cited_ids
from stepdr.model.base import train_tokenizer, training_text
from stepdr.model.renderer import renderer_for
from stepdr.train.examples import row_ids
from stepdr.synthesis.build import heldout_pages, sets_of
from stepdr.synthesis.closed import verified_claim
from stepdr.synthesis.decontamination import decontamination
from stepdr.synthesis.readings import READING, document_row
from stepdr.synthesis.tasks import question_tasks, research_tasks
from stepdr.synthesis.expert import PERFECT, make_trajectory
from stepdr.tools.tool import run_async
from stepdr.world.closed_web import ClosedWeb, save_web
from stepdr.world.facts import load_graph
from stepdr.world.wording import surname

SMALL = SynthesisSettings(stage1_rows=400, stage2_rows=250, sft_rows=120, heldout_research=60, heldout_questions=60,
                          subgraphs=40, walks=60, research=200)


class Heldout:
    """What must not be seen: whole questions (all that the held-out topics allow) and whole names, as runs of words.
    A held-out name inside a longer name that may be read ("Strauss" in "Leo Strauss") is somebody else."""
    def __init__(self, web, tasks):
        graph, hidden = web.graph, [e for e, part in web.split.items() if part != "train"]
        self.official = {graph.names[e] for e in hidden}
        read = graph.names.keys() - set(hidden)
        surnames = {surname(graph.names[e]) for e in read} - self.official - {""}       # by which a page goes on to speak of its subject
        self.open_names = open_names = surnames | {n for e in read for n in (graph.names[e], *graph.aliases.get(e, []))}
        self.names = {n for e in hidden for n in (graph.names[e], *graph.aliases.get(e, []))} - open_names
        self.questions = {t["query"]: {t["answer"], *t["aliases"]} for t in tasks}
        self.by_first = {}
        for phrase in (*open_names, *self.names, *self.questions):
            words = tuple(self.words(phrase))
            if words: self.by_first.setdefault(words[0], {}).setdefault(len(words), {})[words] = phrase

    @staticmethod
    def words(text): return re.findall(r"\w+|[^\w\s]", text)

    def found_in(self, text): # -> set of names and questions
        words, found = self.words(text), []
        for at, word in enumerate(words):
            for length, phrases in self.by_first.get(word, {}).items():
                if (run := tuple(words[at:at + length])) in phrases: found.append((at, at + length, phrases[run]))
        readable = [(a, b) for a, b, phrase in found if phrase in self.open_names]
        return {phrase for a, b, phrase in found if phrase not in self.open_names
                and not any(first <= a and b <= last and last - first > b - a for first, last in readable)}

    def leaks(self, texts): # -> {what: text}
        return {what: text for text in texts for what in self.found_in(text)}


def all_strings(value):
    "Every text in a row, whatever it is called and however deep."
    if isinstance(value, str): return [value]
    if isinstance(value, dict): return [s for k, v in value.items() for s in all_strings(k) + all_strings(v)]
    return [s for v in value for s in all_strings(v)] if isinstance(value, (list, tuple)) else []


@pytest.fixture(scope="module", params=[0, 1])
def made(request):
    web = ClosedWeb(load_graph(root() / "data" / "kg"), request.param)
    made = sets_of(web, SMALL, request.param)
    tasks, sets = made.tasks, made.rows
    everything = [t for part in ("dev", "test") for t in question_tasks(web, part, request.param) + research_tasks(web, part, request.param)]
    return web, tasks, sets, Heldout(web, tasks["dev"] + tasks["test"] + everything), request.param


def test_there_is_something_to_find(made):
    web, tasks, sets, heldout, seed = made
    assert len(heldout.questions) > 1000 and len(heldout.official) > 500
    assert heldout.official <= heldout.names                       # no held-out name is also a name of something that may be read
    for part in ("dev", "test"):
        assert {t["kind"] for t in tasks[part]} == {"simpleqa", "triviaqa", "frames", "research"}
        assert all(heldout.leaks([t["query"]]) for t in tasks[part])
    assert all(len(rows) > 100 for rows in sets.values())


def test_splits_share_no_topic_and_no_question(made):
    web, tasks, sets, heldout, seed = made
    topics = {part: {t["meta"]["entity"] for t in rows} for part, rows in tasks.items()}
    queries = {part: {t["query"] for t in rows} for part, rows in tasks.items()}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not topics[one] & topics[other] and not queries[one] & queries[other]
        assert not {t["id"] for t in tasks[one]} & {t["id"] for t in tasks[other]}


def test_no_heldout_name_or_question_in_training_tasks(made):
    web, tasks, sets, heldout, seed = made
    assert heldout.leaks(s for t in tasks["train"] for s in all_strings(t)) == {}


@pytest.mark.parametrize("stage", ["stage1", "stage2", "sft"])
def test_no_heldout_name_or_question_in_training_rows(made, stage):
    "Everything in the rows: messages, tool text, arguments, documents, ids and notes."
    web, tasks, sets, heldout, seed = made
    assert heldout.leaks(s for row in sets[stage] for s in all_strings(row)) == {}


def test_no_question_with_its_answer(made):
    "The pairs themselves, without regard to names: a user's words with a held-out query and an answer that it accepts."
    web, tasks, sets, heldout, seed = made
    folded = {" ".join(q.lower().split()): {a.lower() for a in answers if a} for q, answers in heldout.questions.items()}
    for row in (row for rows in sets.values() for row in rows):
        asked = [" ".join(m["content"].lower().split()) for m in row["messages"] if m["role"] == "user"]
        written = " ".join(m.get("content", "").lower() for m in row["messages"] if m["role"] == "assistant")
        for question in asked: assert not any(a in written for a in folded.get(question, ()))


def test_no_heldout_name_in_tokenizer_corpus_and_rendered_rows(made):
    "What the tokenizer learns from, and what the model is trained on."
    web, tasks, sets, heldout, seed = made
    texts = [training_text(row) for rows in sets.values() for row in rows]
    assert heldout.leaks(texts) == {}
    renderer = renderer_for(train_tokenizer(texts, 1200))
    for rows in sets.values():
        assert heldout.leaks(renderer.tokenizer.decode(row_ids(row, renderer)[0]) for row in rows) == {}


def smuggled(web, tasks, kind):
    "One row made of a held-out task, as the stages make theirs."
    rng, task = random.Random(0), next(t for t in tasks["test"] if t["kind"] == ("research" if kind in ("research", "planning") else "simpleqa"))
    if kind in READING:
        heldout = sorted(e for e, part in web.split.items() if part == "test")
        return next(row for e in heldout if (row := READING[kind](web, e, 0, rng)))
    if kind == "document": return document_row(web, web.urls[task["meta"]["entity"]][0])
    if kind == "renamed":                                           # the bare question, under a training topic's trajectory
        row = make_trajectory(web, "seeking", next(t for t in tasks["train"] if t["kind"] == "simpleqa"), PERFECT, 0)
        row = copy.deepcopy(row)
        next(message for message in row["messages"] if message["role"] == "user")["content"] = task["query"]
        return row
    if kind == "verification":
        with tempfile.TemporaryDirectory() as folder:
            save_web(web, root() / "data" / "kg", folder + "/web")
            return run_async(verified_claim({"id": task["id"], "task": task, "attempt": 0}, folder + "/web", 0, 0.0))
    return make_trajectory(web, kind, task, PERFECT, 0)


READ = [kind for kind in READING if kind != "dialogue"]


@pytest.mark.parametrize("kind", ["seeking", "research", "planning", "verification", *READ, "document", "renamed"])
def test_one_smuggled_row_is_noticed(made, kind):
    web, tasks, sets, heldout, seed = made
    row = smuggled(web, tasks, kind)
    assert heldout.leaks(s for r in sets["sft"] + [row] for s in all_strings(r)) != {}
    assert heldout.leaks([training_text(row)]) != {}


@pytest.mark.parametrize("kind", ["seeking", "research", "verification", *READ, "document"])
def test_the_names_of_what_was_read_give_a_row_away(made, kind):
    "Without looking at its text: subjects and values of all paragraphs that it shows stand in its notes."
    web, tasks, sets, heldout, seed = made
    row, clean = smuggled(web, tasks, kind), [row for row in sets["stage1"] if row["messages"]]
    row["messages"] = row["messages"] or [{"role": "assistant", "content": row["text"]}]   # a page counts as if it had been said
    kept, dropped = heldout_pages([*clean, row], heldout.official)
    assert len(kept) == len(clean) and [one["reason"] for one in dropped] == ["a held-out page was read"]
    shown = {key for text in all_strings(row["messages"]) for key in cited_ids(text)}
    read = [web.world.paragraphs[key] for key in shown if key in web.world.paragraphs]
    assert {p.title for p in read} | {s.value_name for p in read for s in p.statements} <= set(row["meta"]["names"])


@pytest.mark.parametrize("kind", ["seeking", "research", "planning", "verification", "renamed"])
def test_the_pipelines_own_filter_drops_a_smuggled_row(made, kind):
    web, tasks, sets, heldout, seed = made
    clean = [row for row in sets["sft"] if row.get("task_id")]
    row = smuggled(web, tasks, kind) | {"id": "smuggled"}
    known = {"tasks": tasks["dev"] + tasks["test"], "entity_names": sorted(heldout.official), "match_case": True}
    alike = [r["id"] for r in decontamination(clean, **known)[1]]  # in common wording, which is counted over all tasks elsewhere
    kept, dropped = decontamination(clean + [row], **known)
    assert sorted(r["id"] for r in dropped) == sorted([*alike, "smuggled"]) and len(alike) <= len(clean) // 50
