"""The filters: what each keeps, what each drops, and that no row is ever lost."""
import gzip
import json
import random
import subprocess
import sys
import unicodedata
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest

from stepdr.core.config import InputError
from stepdr.core.prompts import prompt
from stepdr.agent.context import shrink
from stepdr.synthesis import kernels, near_index, word_forms
from stepdr.synthesis.filters import FILTERS as ALL
from stepdr.synthesis.filters import (
    BY_DEFAULT, apply_filters, citation_format, dead_ends, headings, ngram_repetition, plan_consistency,
    language_mixing, length, near_duplicates, temporal_anchoring, tool_schema)
from stepdr.synthesis.whole_filters import correct_and_shortest, noise_share
from stepdr.synthesis.word_forms import words
from stepdr.synthesis.decontamination import decontamination
from stepdr.synthesis.trajectories import (
    answer_of, calls_of, citations, failed_responses, malformed, own_texts, row_id, texts, well_formed)
from stepdr.tools.tool import ToolError, Toolbox
from stepdr.tools.document import make_document
from stepdr.tools.file import Files
from stepdr.tools.search import WebSurfer
from stepdr.tools.providers import Provider, SearchHit
from stepdr.tools.shell import Shell
from stepdr.tools.workspace import Workspace

WEBDANCER = Path(__file__).parents[2] / "shared/data/trajectories/webdancer_traj.jsonl.gz"


def trajectory(name="t", question="Where was Ada born?", answer="London.", tool="## birthplace of Ada\narchive.edu : born in London \\cite{web_0a1b2c3d}",
               thought="I look it up.", queries=("birthplace of Ada",), **fields):
    "A short, sound trajectory; fields replace those of the row."
    call = {"type": "function", "function": {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": list(queries)}}}
    messages = [{"role": "user", "content": question},
                {"role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": [call]},
                {"role": "tool", "content": tool}, {"role": "assistant", "content": f"<answer>{answer}</answer>"}]
    row = {"id": name, "kind": "seeking", "task_id": "task", "split": "train", "messages": messages, "success": True,
           "tool_calls": 1, "tokens": 50, "meta": {}}
    return {**row, **fields}


def ids(rows): return [row["id"] for row in rows]


def reasons(rows): return {row["id"]: row["reason"] for row in rows}


FILTERS = [well_formed, correct_and_shortest, ngram_repetition, citation_format,
           partial(decontamination, tasks=[{"query": "Who wrote Ulysses?", "answer": "Joyce"}], entity_names=["Zeppelin"]),
           plan_consistency, noise_share]
NAMES = [one.func.__name__ if isinstance(one, partial) else one.__name__ for one in FILTERS]

BROKEN = [None, "text", 7, [], {}, {"id": "a"}, {"id": "b", "messages": None}, {"id": "c", "messages": []},
          {"id": "d", "messages": "hello"}, {"id": "e", "messages": [None]}, {"id": "f", "messages": [{"content": "x"}]},
          {"id": "g", "messages": [{"role": 1, "content": "x"}]}, {"id": "h", "messages": [{"role": "user", "content": 3}]},
          {"id": "i", "messages": [{"role": "user", "content": ["x"]}]}, {"id": "j", "messages": [{"role": "user"}]},
          {"id": "k", "messages": [{"role": "assistant", "content": "", "tool_calls": {"name": "x"}}]},
          {"id": "l", "messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": "x"}]}]},
          {"id": "m", "messages": [{"role": "assistant", "content": "", "reasoning_content": 4}]}]


# every filter

@pytest.mark.parametrize("one", FILTERS, ids=NAMES)
def test_sound_row_is_kept_and_rows_are_not_changed(one):
    rows = [trajectory()]
    before = deepcopy(rows)
    kept, dropped = one(rows)
    assert kept == before and kept[0] is rows[0] and dropped == [] and rows == before


@pytest.mark.parametrize("one", FILTERS, ids=NAMES)
def test_empty_list_and_generator(one):
    assert one([]) == ([], [])
    assert ids(one(row for row in [trajectory()])[0]) == ["t"]


@pytest.mark.parametrize("one", FILTERS, ids=NAMES)
def test_malformed_rows_are_set_aside_by_every_filter(one):
    kept, dropped = one(BROKEN + [trajectory()])
    assert ids(kept) == ["t"] and len(dropped) == len(BROKEN)
    assert {row["reason"] for row in dropped} == {"malformed"}
    for given, out in zip(BROKEN, dropped):
        assert out["id"] == row_id(given) and out["measure"] and {"filter", "reason"} <= set(out)
        assert all(out[field] == value for field, value in given.items()) if isinstance(given, dict) else out["row"] == given


def test_malformed_names_the_field():
    assert malformed({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": 3}]}) == "messages[1].content: not text"
    assert correct_and_shortest([trajectory(tokens=None)])[1][0]["measure"] == "tokens: missing, expected int"
    assert correct_and_shortest([trajectory(success="yes")])[1][0]["measure"].startswith("success: 'yes'")
    assert correct_and_shortest([trajectory(tool_calls=True)])[1][0]["reason"] == "malformed"


@pytest.mark.parametrize("call, field", [
    (lambda: correct_and_shortest([], keep_per_task=0), "keep_per_task"), (lambda: ngram_repetition([], n=0), "n"),
    (lambda: ngram_repetition([], max_repeats=0), "max_repeats"), (lambda: citation_format([], min_citations=-1), "min_citations"),
    (lambda: decontamination([], overlap=0), "overlap"), (lambda: decontamination([], n=1), "n"),
    (lambda: decontamination([], tasks=["a question"]), "tasks[0].query"), (lambda: decontamination([], tasks=[{"query": "?!"}]), "tasks[0].query"),
    (lambda: decontamination([], entity_names=["!!!"]), "entity_names"), (lambda: decontamination([], entity_names="Ada"), "entity_names"),
    (lambda: decontamination([], entity_names=["Ada", None]), "entity_names"),
    (lambda: plan_consistency([], min_share=2), "min_share"), (lambda: plan_consistency([], coverage=0), "coverage"),
    (lambda: noise_share([], low=0.5, high=0.4), "low, high")])
def test_bad_parameter_names_the_field(call, field):
    with pytest.raises(InputError, match="^" + field.replace("[", r"\[").replace("]", r"\]") + ":"): call()


# correct_and_shortest

def test_fewest_calls_come_before_fewest_tokens_and_order_does_not_matter():
    rows = [trajectory("long", tool_calls=3, tokens=10), trajectory("b", tool_calls=2, tokens=90), trajectory("a", tool_calls=2, tokens=90),
            trajectory("wordy", tool_calls=2, tokens=91), trajectory("wrong", tool_calls=0, tokens=1, success=False)]
    for shuffled in (rows, rows[::-1]):
        kept, dropped = correct_and_shortest(shuffled)
        assert ids(kept) == ["a"]
        assert reasons(dropped) == {"long": "not shortest", "b": "not shortest", "wordy": "not shortest", "wrong": "wrong"}
    assert set(ids(correct_and_shortest(rows, keep_per_task=3)[0])) == {"a", "b", "wordy"}


def test_tasks_do_not_compete_and_a_task_may_end_empty():
    rows = [trajectory("a", task_id="1", tool_calls=9), trajectory("b", task_id="2"), trajectory("c", task_id="3", success=False)]
    assert ids(correct_and_shortest(rows)[0]) == ["a", "b"]


# ngram_repetition

def test_repetition_at_the_limit_and_past_it():
    phrase = "one two three four five "
    assert ngram_repetition([trajectory(thought=phrase * 3)], n=5, max_repeats=3)[1] == []
    kept, dropped = ngram_repetition([trajectory(thought=phrase * 4)], n=5, max_repeats=3)
    assert kept == [] and dropped[0]["measure"] == 4


def test_repetition_is_counted_over_the_whole_trajectory_but_only_in_own_text():
    loop = "the same ten words are said here again and again "
    assert ngram_repetition([trajectory(tool=loop * 9, question=loop * 9, queries=[loop] * 9)])[1] == []
    row = trajectory(thought=loop * 2, answer=loop * 2)
    assert ngram_repetition([row])[1][0]["measure"] == 4
    inline = {"id": "i", "messages": [{"role": "assistant", "content": f'<tool_call>{{"name": "x", "arguments": "{loop * 9}"}}</tool_call>'}]}
    assert ngram_repetition([inline])[1] == [] and own_texts(inline) == []


def test_repetition_sees_through_case_and_punctuation_and_reads_chinese():
    assert ngram_repetition([trajectory(thought="A b, C d! a B c. D; a-b c d")], n=4, max_repeats=2)[1][0]["measure"] == 3
    assert ngram_repetition([trajectory(thought="我再查一次。" * 4)], n=5)[1][0]["measure"] == 4


# citation_format

CITED = r"London \cite{web_0a1b2c3d}."


@pytest.mark.parametrize("answer", [
    r"\cite{web_0A1B2C3D}", r"\cite{web_0a1b2c3}", r"\cite{web_0a1b2c3d4}", r"\cite{web_0a1b2c3g}", r"\cite{0a1b2c3d}", r"\cite{}",
    r"\cite web_0a1b2c3d", r"\cite{web_0a1b2c3d", r"\cite{ web_0a1b2c3d }", r"\cite{web_0a1b2c3d, web_0a1b2c3d}", "cite{web_0a1b2c3d}",
    r"\cite[web_0a1b2c3d]", "[web_0a1b2c3d]", r"\citep{web_0a1b2c3d}"])
def test_badly_written_citations_are_dropped(answer):
    kept, dropped = citation_format([trajectory(answer=f"{CITED} London {answer}.")])
    assert kept == [] and dropped[0]["reason"] == "badly written citation"


def test_citations_are_counted_once_each():
    assert citations(r"\cite{web_1} and \cite{web_2} and cite{web_0a1b2c3d") == ([], 3)
    assert citations("We cite a page, as cited (see the web_page).") == ([], 0)


def test_cited_source_must_have_been_returned_by_a_tool_that_worked():
    elsewhere = trajectory("elsewhere", question="web_12345678", thought="web_12345678", answer=r"x \cite{web_12345678}")
    longer = trajectory("longer", tool="site web_0a1b2c3d9 : x", answer=CITED)
    failed = trajectory("failed", tool="Error: web_0a1b2c3d could not be opened", answer=CITED)
    heading = trajectory("heading", tool="## web_0a1b2c3d\nsite : something else", answer=CITED)
    partly = trajectory("partly", tool="## one\nerror : timed out\n## two\nsite : x \\cite{web_0a1b2c3d}", answer=CITED)
    kept, dropped = citation_format([trajectory("good", answer=CITED), elsewhere, longer, failed, heading, partly])
    assert ids(kept) == ["good", "partly"] and set(reasons(dropped).values()) == {"source never returned by a tool"}


def test_a_report_needs_different_sources_and_other_kinds_none():
    twice = trajectory(answer=CITED + CITED, kind="research")
    assert citation_format([twice], min_citations=1)[1] == []
    assert citation_format([twice], min_citations=2)[1][0]["measure"] == 1
    assert citation_format([trajectory(answer="London", kind="seeking")], min_citations=2)[1] == []
    assert citation_format([trajectory(answer="London", kind="research")], min_citations=0)[1] == []


def test_no_answer_is_no_report():
    row = trajectory(kind="research")
    row["messages"].pop()
    row["messages"][-1]["content"] = CITED  # the tool's words are not the answer
    assert answer_of(row) == "" and citation_format([row])[1][0]["reason"] == "too few citations"


# decontamination

EXAM = [{"query": "Who wrote Ulysses?", "answer": "James Joyce", "aliases": ["Joyce"]},
        {"query": "In which town did the elder sister of the inventor of the vacuum flask open her first school?", "answer": "Leeds"}]


def test_question_and_pair():
    rows = [trajectory("pair", question="who wrote ULYSSES", answer=r"joyce \cite{web_0a1b2c3d}."),
            trajectory("inside", question="Please tell me: who wrote Ulysses? Be brief.", answer="Homer"),
            trajectory("other", question="Who wrote Emma?", answer="James Joyce"), trajectory("in answer", answer="You ask who wrote Ulysses.")]
    kept, dropped = decontamination(rows, EXAM)
    assert ids(kept) == ["other"]
    assert reasons(dropped) == {"pair": "evaluation question and answer", "inside": "evaluation question", "in answer": "evaluation question"}


def test_question_in_a_tool_response_is_no_leak_but_a_name_is():
    row = trajectory(tool="Who wrote Ulysses? A quiz by Stephen Hero .")
    assert decontamination([row], EXAM)[1] == []
    assert decontamination([row], EXAM, ["Stephen Hero"])[1][0]["measure"] == "Stephen Hero"


def test_overlap_threshold():
    asked = words(EXAM[1]["query"])  # 18 words, 11 runs of 8
    for size, dropped_rows in ((13, 0), (15, 1), (17, 1)):  # 6, 8 and 10 runs in common: .55, .73, .91
        rows = [trajectory(question=" ".join(asked[:size]) + " and so on")]
        assert len(decontamination(rows, EXAM, overlap=0.7)[1]) == dropped_rows, size
    assert decontamination([trajectory(question=" ".join(asked[:15]))], EXAM)[1][0]["measure"] == round(8 / 11, 3)


def test_wording_of_a_pattern_is_not_a_leak_but_a_whole_question_is():
    pattern = "write a report with cited sources on the person {} and cover birthplace field of work spouse and the prizes in this order"
    exam = [{"query": pattern.format("Zora Held")}]
    rows = [trajectory(str(number), question=pattern.format(f"Name{number}")) for number in range(12)]
    assert decontamination(rows, exam, overlap=0.4)[1] == []               # twelve questions share the pattern
    assert len(decontamination(rows[:10], exam, overlap=0.4)[1]) == 10     # ten could be ten leaks
    assert len(decontamination([rows[0]] * 12, exam, overlap=0.4)[1]) == 12  # one question twelve times is not a pattern
    assert ids(decontamination(rows + [trajectory("leak", question=pattern.format("Zora Held"))], exam)[1]) == ["leak"]


@pytest.mark.parametrize("place", ["question", "answer", "tool", "thought", "query"])
def test_held_out_name_anywhere(place):
    text = "about the ANNA  Maria-Held case"
    row = trajectory(**{"queries": [text]} if place == "query" else {place: text})
    assert decontamination([row], entity_names=["Anna Maria Held"])[1][0]["reason"] == "held-out name"
    assert decontamination([row], entity_names=["Anna Maria Held"], match_case=True)[1] == []
    assert decontamination([row], entity_names=["Anna Mari", "Maria Heldt", "na", "Anna Held"])[1] == []


def test_held_out_name_in_arguments_as_json_text_and_inline():
    nested = trajectory()
    nested["messages"][1]["tool_calls"][0]["function"]["arguments"] = json.dumps({"q": ["x\nZo\u00eb Held"]})
    inline = {"id": "i", "messages": [{"role": "assistant", "content": '<tool_call>{"name": "s", "arguments": {"q": "x\\nZo\\u00eb Held"}}</tool_call>'}]}
    assert len(decontamination([nested, inline], entity_names=["Zoe\u0308 Held"])[1]) == 2


def test_names_against_a_plain_reading():
    "Random texts and names: the index finds exactly what a word-by-word comparison finds."
    generator = random.Random(0)
    text = lambda size: " ".join(generator.choices("ab cd ef gh ij".split(), k=size))
    for _ in range(200):
        name, row = text(generator.randint(1, 4)), trajectory(thought=text(12), answer="x", question="y", tool="z", queries=[])
        expected = f" {name} " in f" {row['messages'][1]['reasoning_content']} "
        assert bool(decontamination([row], entity_names=[name, "q q"])[1]) == expected


# plan_consistency

def planned(plan, **fields): return trajectory(meta={"plan": plan}, **fields)


def test_plan_is_followed_by_searches_or_headings():
    both = planned(["the birthplace of Ada", "Field of work"], answer="# Field of work\nMathematics")
    assert plan_consistency([both], min_share=1.0)[1] == []
    assert plan_consistency([planned(["spouse of Ada", "birthplace of Ada"])], min_share=0.6)[1][0]["measure"] == 0.5
    assert plan_consistency([planned(["spouse of Ada", "birthplace of Ada"])], min_share=0.5)[1] == []
    scattered = planned(["birthplace of Bob"], queries=["birthplace of Ada", "spouse of Bob"])
    assert plan_consistency([scattered])[1][0]["measure"] == 0.0


def test_a_judge_of_the_plan_counts_before_its_words():
    "Steps as a model writes them stand in no query word for word; what a judge found of the work does."
    plan = ["Establish what has been destroyed by past eruptions", "Draw conclusions for a local authority"]
    for agreement, kept in (({"score": 9, "share": 1.0}, True), ({"score": 2, "share": 0.25}, False), (None, False), (9, False)):
        assert bool(plan_consistency([trajectory(meta={"plan": plan, **({"agreement": agreement} if agreement else {})})])[0]) == kept


def test_naming_an_item_in_the_todo_list_or_a_thought_is_not_following_it():
    row = planned(["spouse of Ada"], thought="spouse of Ada")
    row["messages"][1]["tool_calls"].append({"type": "function", "function": {"name": "todo", "arguments": {"add": "spouse of Ada"}}})
    assert plan_consistency([row])[1][0]["measure"] == 0.0


def test_no_plan_is_kept_and_a_bad_plan_is_malformed():
    kept, dropped = plan_consistency([trajectory("none", meta=None), planned([]), *(planned(plan) for plan in ("text", [1], {"a": 1}))])
    assert len(kept) == 2 and [row["reason"] for row in dropped] == ["malformed"] * 3


def test_headings():
    assert headings("# One #\ntext\n ## Two\n**Three** text\nfour : x\nA sentence. With a colon: y") == ["One #", "Two", "Three", "four"]


# noise_share

def noisy_and_clean(noisy, clean):
    rows = [trajectory(f"noisy{number}", tool="Error: timed out") for number in range(noisy)]
    return rows + [trajectory(f"clean{number}") for number in range(clean)]


@pytest.mark.parametrize("noisy, clean, low, high, left", [
    (6, 4, 0.0, 0.4, (2, 4)), (1, 99, 0.05, 0.1, (1, 19)), (5, 5, 0.5, 0.5, (5, 5)), (3, 7, 0.2, 0.4, (3, 7)),
    (10, 0, 0.0, 1.0, (10, 0)), (2, 4, 0.4, 0.4, (2, 3)), (4, 4, 0.0, 0.0, (0, 4)), (4, 4, 1.0, 1.0, (4, 0)), (50, 50, 0.05, 0.1, (5, 50))])
def test_noise_share_lies_between_the_bounds(noisy, clean, low, high, left):
    rows = noisy_and_clean(noisy, clean)
    kept, dropped = noise_share(rows, low, high)
    assert (sum(bool(failed_responses(row)) for row in kept), sum(not failed_responses(row) for row in kept)) == left
    assert len(kept) + len(dropped) == noisy + clean
    assert set(ids(noise_share(rows[::-1], low, high)[0])) == set(ids(kept))


def test_noise_share_that_cannot_be_reached_says_so():
    for noisy, clean, low, high in ((0, 10, 0.05, 0.5), (10, 0, 0.0, 0.5), (5, 5, 0.05, 0.1)):
        with pytest.raises(InputError, match=f"{noisy} with and {clean} without"): noise_share(noisy_and_clean(noisy, clean), low, high)


@pytest.mark.parametrize("text, failed", [
    ("", True), (" \n", True), ("Error: x", True), ("[error] x", True), ("No results for 'x'.", True), ("Timed out", True), ("HTTP 503", True),
    ("## a\nerror : 404\n## b\nsite : x", True), ("## a\nsite : x\n## b\nno results", True), ("## a\n", True), ("## a\n## b\nsite : x", False),
    ("nothing to do", False), ("<tool_response>\nError\n</tool_response>", True), ("<tool_response>\n</tool_response>", True), ("Page not found", True),
    ("500 people live here", False), ("Errors in printing", False), ("site web_0a1b2c3d : no results", False), ("Nobody knows", False)])
def test_what_a_failed_response_looks_like(text, failed):
    assert bool(failed_responses(trajectory(tool=text))) == failed


# apply_filters

def test_funnel_adds_up_and_keeps_every_row():
    rows = BROKEN + [trajectory("best"), trajectory("longer", tool_calls=5), trajectory("loop", thought="again " * 40),
                     trajectory("wrong", success=False), trajectory("leak", question="Who wrote Ulysses?"),
                     trajectory("cite", answer="x web_0a1b2c3d"), *noisy_and_clean(1, 0)]
    kept, dropped, funnel = apply_filters(rows, FILTERS[:1] + FILTERS[2:5] + FILTERS[1:2], "train")
    assert ids(kept) == ["best"] and len(kept) + len(dropped) == len(rows)
    assert [line["filter"] for line in funnel] == ["well_formed", "ngram_repetition", "citation_format", "decontamination", "correct_and_shortest"]
    assert all(line["read"] == line["kept"] + line["dropped"] for line in funnel)
    assert all(after["read"] == before["kept"] for before, after in zip(funnel, funnel[1:]))
    assert [line["dropped"] for line in funnel] == [len(BROKEN), 1, 1, 1, 3]
    assert all(sum(line["reasons"].values()) == line["dropped"] and line["set"] == "train" for line in funnel)
    assert all(set(example) == {"id", "reason", "measure"} for line in funnel for example in line["examples"])
    assert json.loads(json.dumps(funnel)) == funnel


@pytest.mark.parametrize("bad", [lambda rows: (rows[1:], []), lambda rows: (rows + rows[:1], []), lambda rows: (rows[1:] + rows[1:2], []),
                                 lambda rows: (rows, [{**rows[0], "filter": "x"}])])
def test_a_filter_that_loses_or_doubles_a_row_is_caught(bad):
    with pytest.raises(AssertionError, match="kept \\+ dropped"): apply_filters([trajectory("a"), trajectory("b")], [bad], "train")


def test_no_filters_and_no_rows():
    assert apply_filters([], [well_formed], "x")[2] == [{"filter": "well_formed", "set": "x", "read": 0, "dropped": 0, "kept": 0, "reasons": {}, "examples": []}]
    assert apply_filters([trajectory()], [], "x") == ([trajectory()], [], [])


def test_rows_from_a_table_with_empty_fields():
    "Tables give every message all fields, None where there is nothing."
    polars = pytest.importorskip("polars")
    rows = polars.DataFrame([trajectory(answer=CITED, kind="research", meta={"plan": ["birthplace of Ada"]})]).to_dicts()
    assert rows[0]["messages"][0]["tool_calls"] is None
    kept, dropped, _ = apply_filters(rows, FILTERS, "table")
    assert kept == rows and dropped == []


@pytest.mark.skipif(not WEBDANCER.exists(), reason=f"{WEBDANCER} is not there")
def test_other_peoples_trajectories():
    rows = [json.loads(line) for line in gzip.open(WEBDANCER, "rt", encoding="utf-8")]
    assert all(texts(row, "tool") and calls_of(row)[0][0] in ("search", "visit") for row in rows)
    assert sum(bool(answer_of(row)) for row in rows) >= 95
    question = words(rows[0]["messages"][1]["content"].rpartition("User:")[2])
    _, dropped, _ = apply_filters(rows, [well_formed, ngram_repetition, citation_format,
                                         partial(decontamination, tasks=[{"query": " ".join(question)}])], "webdancer")
    assert [row["question"] if "question" in row else row["messages"] for row in dropped if row["filter"] == "decontamination"] == [rows[0]["messages"]]


# near_duplicates

LONG = "the first source says that she was born in London in 1815 and the second one agrees so both facts are settled and the report follows now"


def test_near_copies_the_first_stays_and_is_named():
    rows = [trajectory("a", thought=LONG), trajectory("b", thought=LONG.upper() + "!"), trajectory("c", thought="Something else: " + "x y z " * 20, answer="Rome"), trajectory("d", thought=LONG)]
    kept, dropped = near_duplicates(rows)
    assert ids(kept) == ["a", "c"] and [(row["id"], row["duplicate_of"], row["measure"]) for row in dropped] == [("b", "a", 1.0), ("d", "a", 1.0)]


def test_questions_and_pages_in_common_make_no_copies_and_silence_is_kept():
    rows = [trajectory(str(number), question=LONG, tool=LONG * 5, thought=f"{number} is a thought of its own number {number} in {number} words", answer=f"answer {number}") for number in range(5)]
    silent = [{"id": f"s{number}", "messages": [{"role": "user", "content": LONG}]} for number in range(3)]
    assert near_duplicates(rows + silent)[1] == []


def test_chinese_near_copies():
    text = "第一个来源说她一八一五年出生在伦敦，第二个来源也这样说，所以两个事实都清楚了，可以写报告。" * 2
    rows = [trajectory("a", thought=text), trajectory("b", thought=text.replace("，", " , ").replace("清楚", "确定")), trajectory("c", thought="完全不同的内容：北京的天气今天很好，我们去公园散步，然后回家吃饭睡觉。")]
    assert ids(near_duplicates(rows, threshold=0.6)[1]) == ["b"]


@pytest.mark.parametrize("compiled", [True, False])
def test_near_index_finds_what_all_pairs_find(compiled):
    "Families of texts with growing differences, in portions: the index drops what a comparison of all signatures drops."
    draw = random.Random(3)
    vocabulary = [f"w{number}" for number in range(500)]
    rows = []
    for family in range(60):
        base = draw.choices(vocabulary, k=200)
        for member in range(10):
            text = [draw.choice(vocabulary) if draw.random() < 0.01 * member else word for word in base]
            rows.append(trajectory(f"{family}-{member}", thought=" ".join(text), answer="x"))
    draw.shuffle(rows)
    index, dropped = near_index.NearIndex(0.7), []
    for start in range(0, len(rows), 37): dropped += near_duplicates(rows[start:start + 37], 0.7, index, compiled)[1]
    marks, kept, expected = kernels.signatures([own_texts(row) for row in rows])[0], [], {}
    for number, mark in enumerate(marks):
        same = [int((mark == marks[other]).sum()) for other in kept]
        if same and max(same) >= 0.7 * 128: expected[rows[number]["id"]] = rows[kept[same.index(max(same))]]["id"]
        else: kept.append(number)
    assert {row["id"]: row["duplicate_of"] for row in dropped} == expected and 100 < len(expected) < 500


# the kernels

PIECES = ["the", "Fox", "ran ", " ", " ", ", ", "京都", "天", "ﬁn", "é", "É", "e\u0301", "\u0301", "カﾞ", "ｱ", "_", "９", "𝔸", "\ud800", "\x00", "İ", "ß", "…", "한", "ᄒ", "ᅡ", "\u200b", "ﷺ", "-", "😀", "ΣΑΣ", "हि", "é x ", "\ufffd"]


def random_rows(count, seed=0):
    draw = random.Random(seed)
    return [["".join(draw.choices(PIECES[:draw.randint(3, len(PIECES))], k=draw.randint(0, 80))) for _ in range(draw.randint(0, 3))] for _ in range(count)]


def test_kernels_give_what_plain_python_gives():
    rows = random_rows(3000)
    for n in (1, 2, 5): assert (kernels.repeats(rows, n) == kernels.plain_repeats(rows, n)).all()
    assert kernels.repeats(rows, 2).max() > 5
    for mine, plain in zip(kernels.signatures(rows), kernels.plain_signatures(rows)): assert (mine == plain).all()


GROUPS = ["1,000", "1.000", "12", "000", "1\u00a0000", "1\u202f000", "1’000", ",", ".", " ", "000,000", "2004", "**", "*", "<b>", "</b>", "<p>", "&#39;", "&amp;", "a<b", "\\emph{x}", "](u)", "[y", "x-\n", "-\n", "-\r\n  ", "-", "\n", "y", "é", "١", "²", "１，０００", "a\u0327", "ं", "\u00ad", "ـ", "İ", "ı", "\U000e0100"]


def test_compared_words_compiled_give_what_plain_python_gives():
    draw = random.Random(3)
    rows = random_rows(1500) + [["".join(draw.choices(GROUPS + PIECES[:10], k=draw.randint(0, 60))) for _ in range(draw.randint(1, 3))] for _ in range(3000)]
    for n in (1, 2, 3):
        known = [gram for texts in rows[::7] for text in texts for gram in word_forms.ngrams(word_forms.compared_words(text), n)]
        for _ in range(5):
            wanted = set(draw.sample(known, 12))
            mine, plain = kernels.touches(rows, wanted, n), kernels.plain_touches(rows, wanted, n)
            assert (mine == plain).all() and 0 < plain.sum() < len(rows)


def test_every_character_is_compared_as_python_does():
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    kinds, ascii, at, forms = word_forms.compared_tables()
    for code in codes:
        if at[code] >= 0: assert ("".join(map(chr, forms[at[code] + 1:at[code] + 1 + forms[at[code]]])) if at[code] else chr(code)) == word_forms.fold_marks(chr(code)) if code >= 128 else True
    assert all(bool(kinds[code]) == bool(word_forms._FORM_WORD.fullmatch(chr(code))) for code in codes)


CLOTHES = { # how a question comes back; the question is ASKED
    "emphasis": lambda q: q.replace("name", "**name**").replace("poet", "_poet_"), "emphasis inside a word": lambda q: q.replace("poet", "po**et**"), "entities": lambda q: q.replace("'", "&#39;").replace("é", "&eacute;"), "tags": lambda q: q.replace("poet", "<em>po</em>et"),
    "soft hyphen": lambda q: q.replace("poet", "po\u00adet").replace("name", "na\u200bme"), "decomposed": lambda q: unicodedata.normalize("NFD", q), "no accents": lambda q: q.replace("é", "e").replace("ü", "u").replace("ï", "i").replace("ô", "o"), "full width": lambda q: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in q),
    "digits": lambda q: q.replace("1,000,000", "1000000"), "digits in Swiss groups": lambda q: q.replace("1,000,000", "1'000'000"), "digits in thin groups": lambda q: q.replace("1,000,000", "1\u2009000\u2009000"), "digits in TeX": lambda q: q.replace("1,000,000", "1{,}000{,}000"), "capitals": str.upper, "line end": lambda q: q.replace("people", "peo-\nple"),
    "links": lambda q: q.replace("poet", "[poet](https://a.org/p_q)"), "smart quotes": lambda q: q.replace("'", "’"), "TeX": lambda q: q.replace("poet", "\\textit{poet}"), "citation": lambda q: q.replace("poet", "poet\\cite{web_00000001}")}
ASKED = "What is the name of the café in Zürich where the poet Naïma L'Hôte read to 1,000,000 people in 1916?"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CLOTHES)
def test_a_question_in_other_clothes_is_a_leak(name, compiled):
    row = {"id": "r", "messages": [{"role": "user", "content": CLOTHES[name](ASKED)}, {"role": "assistant", "content": "<answer>x</answer>"}]}
    kept, dropped = decontamination([row], [{"query": ASKED}], everywhere=True, compiled=compiled)
    assert not kept and dropped[0]["reason"] == "evaluation question"


@pytest.mark.parametrize("asked, text", [
    ("من هو أول رئيس وزراء للعراق ومتى تولى منصبه بالضبط", "مَنْ هُوَ أَوَّلُ رَئِيسِ وُزَرَاءَ لِلْعِرَاقِ وَمَتَى تَوَلَّى مَنْصِبَهُ بِالضَّبْطِ"), ("İstanbul'da doğan ilk kadın pilot kimdir ve hangi yılda uçtu acaba", "İSTANBUL'DA DOĞAN İLK KADIN PİLOT KİMDİR VE HANGİ YILDA UÇTU ACABA"),
    ("מי היה ראש הממשלה הראשון של מדינת ישראל ומתי", "מִי הָיָה רֹאשׁ הַמֶּמְשָׁלָה הָרִאשׁוֹן שֶׁל מְדִינַת יִשְׂרָאֵל וּמָתַי"), ("第一位在苏黎世朗诵的诗人叫什么名字", "第一位 在**苏黎世**朗诵的 诗人叫\u200b什么名字"), ("Ποιος ήταν ο πρώτος πρόεδρος της Ελλάδας και πότε εξελέγη", "ΠΟΙΟΣ ΗΤΑΝ Ο ΠΡΩΤΟΣ ΠΡΟΕΔΡΟΣ ΤΗΣ ΕΛΛΑΔΑΣ ΚΑΙ ΠΟΤΕ ΕΞΕΛΕΓΗ"),
    ("Welche Straße führt von Groß Köris nach Teupitz und wie lang ist sie", "WELCHE STRASSE FÜHRT VON GROSS KÖRIS NACH TEUPITZ UND WIE LANG IST SIE")])
def test_questions_in_other_scripts(asked, text):
    rows = [{"id": "r", "messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "I saw: " + text}]}]
    for compiled in (False, True): assert decontamination(rows, [{"query": asked}], everywhere=True, compiled=compiled)[1]


def test_other_questions_are_no_leaks():
    for other in (ASKED.replace("1,000,000", "1,000").replace("café", "hotel").replace("poet", "actor"), "1,000,000 people in 1916 read the name of the poet", "The 1 000 metres and the 000 000 of the name"):
        assert not decontamination([{"id": "r", "messages": [{"role": "user", "content": other}, {"role": "assistant", "content": "x"}]}], [{"query": ASKED}], everywhere=True)[1]


def test_every_character_is_split_and_folded_as_python_does():
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    rows = [[f"a {chr(code)} {chr(code)}b c"] for code in codes[::7] + list(range(0x80, 0x3400))]
    assert (kernels.signatures(rows, 1)[1] == kernels.plain_signatures(rows, 1)[1]).all()
    assert (kernels.repeats(rows, 1) == kernels.plain_repeats(rows, 1)).all()
    outside = set(codes) - set(word_forms.SPECIAL) - set(range(0x80)) - set(range(0xAC00, 0xD7A4))
    assert all(word_forms.unicodedata.normalize("NFKC", chr(code)).casefold() == chr(code) for code in outside)
    _, at, forms = word_forms.folding_tables()
    for code in word_forms.SPECIAL:
        normal = word_forms.unicodedata.normalize("NFKC", chr(code)).casefold()
        if at[code] > 0: assert "".join(map(chr, forms[at[code] + 1:at[code] + 1 + forms[at[code]]])) == normal
        elif at[code] == 0: assert normal == chr(code)


def test_similarity_is_estimated_without_bias():
    draw, errors = random.Random(5), []
    for _ in range(200):
        one = draw.choices([f"w{number}" for number in range(5000)], k=400)
        other = [word if draw.random() > 0.05 else "z" + word for word in one]
        a, b = set(word_forms.ngrams(one, 5)), set(word_forms.ngrams(other, 5))
        marks = kernels.signatures([[" ".join(one)], [" ".join(other)]])[0]
        errors.append(float((marks[0] == marks[1]).mean()) - len(a & b) / len(a | b))
    assert abs(sum(errors) / 200) < 0.012 and (sum(error ** 2 for error in errors) / 200) ** 0.5 < 0.05  # theory: 0 and at most 0.044


def test_without_numba_the_results_are_the_same():
    code = "import sys; sys.modules['numba'] = None\nimport json\nfrom stepdr.synthesis import kernels\nsys.path.insert(0, 'tests')\nfrom test_filters import random_rows\n" \
           "rows = random_rows(300)\nprint(json.dumps([kernels.repeats(rows, 2).tolist(), kernels.signatures(rows)[0].sum(1).tolist(), kernels.kernel('repeats') is None]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    repeats, sums, missing = json.loads(done.stdout)
    rows = random_rows(300)
    assert missing and repeats == kernels.repeats(rows, 2).tolist() and sums == kernels.signatures(rows)[0].sum(1).tolist()


def test_ngram_repetition_compiled_or_not():
    rows = [trajectory(str(number), thought=" ".join(texts)) for number, texts in enumerate(random_rows(500, 1))]
    assert ngram_repetition(rows, 2, 2, compiled=True) == ngram_repetition(rows, 2, 2, compiled=False)
    assert len(ngram_repetition(rows, 2, 2)[1]) > 50


# temporal_anchoring

@pytest.mark.parametrize("question, query, tool, kept", [
    ("Best laptop?", "best laptop 2023", "x", False), ("Best laptop?", "best laptop", "In 2023 it was", True), ("Best laptop of 2023?", "best laptop 2023", "x", True),
    ("Best laptop?", "laptops 2025", "x", True), ("Best laptop?", "laptops 2026", "x", True), ("Her successor?", "king crowned 1901", "x", True), ("Who won last year?", "winner 2024", "x", True),
    ("哪款手机最好？", "手机 2022年 推荐", "x", False), ("上世纪最好的歌手？", "歌手 2019", "x", True), ("Current CEO of Acme?", "Acme CEO 2021", "x", False),
    ("Best laptop?", "model 12023 part 2023.5", "x", True), ("Population trend since the war?", "population 2020", "x", True)])
def test_anchored_to_a_past_year(question, query, tool, kept):
    assert bool(temporal_anchoring([trajectory(question=question, queries=[query], tool=tool)], year=2025)[0]) == kept


def test_a_year_that_a_page_showed_before_is_evidence_and_one_shown_after_is_not():
    call = trajectory()["messages"][1]["tool_calls"]
    def steps(*contents): return {"id": "x", "messages": [{"role": "user", "content": "Who leads it?"}] + list(contents)}
    ask = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": {"q": "election 2022"}}}]}
    page = {"role": "tool", "content": "elected in 2022"}
    first = {"role": "assistant", "content": "", "tool_calls": call}
    assert temporal_anchoring([steps(first, page, ask)], year=2025)[1] == []
    assert temporal_anchoring([steps(ask, page)], year=2025)[1][0]["measure"] == 2022


def test_the_present_is_read_from_the_row():
    row = trajectory(queries=["best laptop 2023"], question="Best laptop?")
    assert len(temporal_anchoring([{**row, "meta": {"date": "2023-05-01"}}], year=2030)[0]) == 1
    row["messages"].insert(0, {"role": "system", "content": "Current date: 2025-07-18"})
    assert len(temporal_anchoring([row], year=2023)[1]) == 1
    assert len(temporal_anchoring([trajectory(question="Best laptop?", thought="As of 2023, it is the X.")], year=2025)[1]) == 1


# language_mixing

@pytest.mark.parametrize("thought, kept", [
    ("I look for the founder of the firm.", True), ("我先查公司的创始人，再查奖项。", True), ("我先查公司的创始人, then we should look at the prize, 再写。", False),
    ("I look for the founder, 然后再查奖项, and write.", False), ("公司的创始人毕业于 University of California at Berkeley，奖项是 Turing Award。", True),
    ("The city (北京) is called “北京市” there.", True), ("我们用 `if it is not there then` 这段代码来判断结果是否正确。", True), ("标题是“what is it that we do”，作者不详。", True),
    ("see https://example.org/北京的天气 for the weather there", True), ("设 $x is the sum of it$ 为总和，则结论成立。", True)])
def test_switching_languages(thought, kept):
    assert bool(language_mixing([trajectory(thought=thought, question="Q", answer="x")])[0]) == kept


def test_what_was_read_may_be_quoted_and_the_share_counts():
    row = trajectory(thought="The page says 潮汐能发电 here and the rest of it follows.", tool="潮汐能发电 is tidal power", question="Q")
    assert language_mixing([row])[1] == []
    row = trajectory(thought="The page says 潮汐能发电 here.", question="Q")
    assert language_mixing([row])[1][0]["reason"] == "switches between languages"
    assert language_mixing([trajectory(thought="The page says 潮汐能发电 here. " + "And so on it goes in plain words. " * 100, question="Q")])[1] == []


def test_answer_in_the_language_of_the_question():
    english = "Tidal energy is a mature source of power in few places and grows slowly because it costs more than wind does today."
    assert language_mixing([trajectory(question="请写一份关于潮汐能的报告，说明现状。", thought="", answer=english)])[1][0]["measure"] == "zh to en"
    assert language_mixing([trajectory(question="请用英文写一份关于潮汐能的报告。", thought="", answer=english)])[1] == []
    assert language_mixing([trajectory(question="请问谁写了这本书？请写出作者。", thought="", answer="Jane Austen")])[1] == []
    assert language_mixing([trajectory(question="请写一份关于潮汐能的报告，说明现状。", thought="", answer=english)], same_language=False)[1] == []


# length

def test_length_bounds():
    rows = [trajectory("empty", answer=""), trajectory("ok"), trajectory("wide", answer="w " * 30)]
    assert reasons(length(rows, max_answer=20)[1]) == {"empty": "answer too short", "wide": "answer too long"}
    assert reasons(length(rows, max_turns=1)[1]) == {"empty": "answer too short", "ok": "too many turns", "wide": "too many turns"}
    assert reasons(length(rows, 0, max_words=40)[1]) == {"wide": "too long"}
    assert ids(length([trajectory(answer="北" * 50)], max_answer=49)[1]) == ["t"]


# tool_schema

SEARCH = {"type": "function", "function": {"name": "batch_web_surfer", "parameters": {
    "type": "object", "properties": {"action": {"enum": ["batch_search"]}, "queries": {"type": "array", "items": {"type": "string"}}}, "required": ["action"]}}}


def calling(function, **fields):
    row = trajectory(**fields)
    row["messages"][1]["tool_calls"] = [{"type": "function", "function": function}]
    return row


@pytest.mark.parametrize("function, reason", [
    ({"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": ["x"]}}, None),
    ({"name": "batch_web_surfer", "arguments": json.dumps({"action": "batch_search"})}, None),
    ({"name": "batch_web_surfer", "arguments": {"queries": ["x"]}}, "arguments do not fit the schema"),
    ({"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": "x"}}, "arguments do not fit the schema"),
    ({"name": "batch_web_surfer", "arguments": "{not json"}, "arguments are not an object"), ({"name": "batch_web_surfer", "arguments": "[" * 100_000}, "arguments are not an object"),
    ({"name": "surf", "arguments": {}}, "unknown tool"), ({"name": "", "arguments": {}}, "call without a name")])
def test_calls_against_the_tools_shown(function, reason):
    for tools in ([SEARCH], json.dumps([SEARCH]), [SEARCH["function"]]):
        kept, dropped = tool_schema([calling(function, tools=tools)])
        assert [row["reason"] for row in dropped] == ([reason] if reason else [])


def test_tools_in_the_prompt_and_broken_schemas():
    row = calling({"name": "surf", "arguments": {}})
    assert tool_schema([row])[1] == []
    row["messages"].insert(0, {"role": "system", "content": f"<tools>\n{json.dumps(SEARCH)},\n{{\"name\": \"visit\"}}\n</tools>"})
    assert tool_schema([row])[1][0]["measure"] == "surf"
    broken = {"name": "surf", "parameters": {"type": "nonsense"}}
    assert tool_schema([{**trajectory(), "tools": [broken]}])[1][0]["reason"] == "unknown tool"
    assert tool_schema([calling({"name": "surf", "arguments": {}}, tools=[broken])])[1][0]["reason"] == "broken tool schema"
    assert tool_schema([calling({"name": "surf", "arguments": {"a": 1}}, tools=[{"name": "surf", "parameters": {"$ref": "#/nowhere"}}])])[1][0]["reason"] == "broken tool schema"


def test_calls_and_responses_belong_together():
    row, call = trajectory(), trajectory()["messages"][1]
    user, ask, tool, answer = row["messages"]
    def verdict(*messages): return [out["reason"] for out in tool_schema([{"id": "x", "messages": list(messages)}])[1]]
    assert verdict(user, ask, tool, answer) == [] and verdict(user, ask, tool, tool, answer) == []
    assert verdict(user, tool, answer) == verdict(user, answer, tool) == ["response without a call"]
    assert verdict(user, ask, answer) == verdict(user, ask) == verdict(user, ask, call, tool) == ["call without a response"]
    named = {**ask, "tool_calls": [{**ask["tool_calls"][0], "id": "c1"}]}
    assert verdict(user, named, {**tool, "tool_call_id": "c1"}, answer) == []
    assert verdict(user, named, {**tool, "tool_call_id": "c2"}, answer) == ["response without a call"]


# decontamination everywhere

def test_everywhere_looks_into_thoughts_and_pages_for_long_questions_only():
    long, short = EXAM[1]["query"], "Who wrote Ulysses?"
    rows = [trajectory("thought", thought="They ask: " + long), trajectory("page", tool="Quiz. " + long.upper()), trajectory("short", tool=short), trajectory("call", queries=[long])]
    assert decontamination(rows, EXAM)[1] == []
    assert reasons(decontamination(rows, EXAM, everywhere=True)[1]) == dict.fromkeys(["thought", "page", "call"], "evaluation question in the text")
    part = trajectory("part", tool=" ".join(words(long)[:15]))
    assert decontamination([part], EXAM, everywhere=True)[1][0]["reason"] == "overlap with an evaluation question in the text"


def test_compiled_decontamination_finds_the_same():
    draw, vocabulary = random.Random(7), "ab cd ef gh".split()
    text = lambda size: " ".join(draw.choices(vocabulary, k=size))
    exam = [{"query": text(draw.randint(3, 14))} for _ in range(30)]
    rows = [trajectory(str(number), question=text(30), thought=text(30), tool=text(60)) for number in range(300)]
    for everywhere in (False, True):
        results = [decontamination(rows, exam, n=5, overlap=0.6, everywhere=everywhere, compiled=compiled) for compiled in (True, False)]
        assert results[0] == results[1] and 10 < len(results[0][1]) < 300


def test_all_filters_are_named_and_take_any_rows():
    assert list(ALL) == [function.__name__ for function in ALL.values()] and "near_duplicates" in ALL
    for name, function in ALL.items():
        kept, dropped = function(BROKEN + [trajectory()])
        assert ids(kept) == ["t"] and len(dropped) == len(BROKEN), name


# dead_ends

class HalfProvider(Provider):
    "Finds pages that it cannot open."
    name, local = "half", True
    async def search(self, query, topk=10, **_):
        return [SearchHit(f"https://wiki.example/{query}%20{n}", query, f"{query} number {n} is described here. " + "It goes on. " * 30) for n in range(topk)]


class WholeProvider(HalfProvider):
    name = "whole"
    async def open(self, url):
        if url.endswith("1"): raise ToolError("the page answers with 404")
        return make_document(url, "article", [("p", 0, "The whole page. " * 40)], "Page", "en")


def worked(provider, tools, calls, folder):
    "A row of a real toolbox: each call with what the tools said."
    workspace = Workspace(folder)
    def archive() -> str:
        "All lines of the archive."
        return "\n".join(f"Line {number} of the archive, which holds all letters of the year." for number in range(900))
    offered = {"batch_web_surfer": WebSurfer(provider).batch_web_surfer, "file": Files(workspace).file, "shell": Shell(workspace).shell, "archive": archive}
    box, messages = Toolbox([offered[name] for name in tools], workspace), [{"role": "user", "content": "Write a report."}]
    for name, arguments in calls:
        result = box.call({"name": name, "arguments": arguments})
        messages += [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]},
                     {"role": "tool", "content": result.text, **({"failed": True} if result.failed else {})}]
    return {"id": folder.name, "tools": box.schemas, "messages": messages + [{"role": "assistant", "content": "<answer>x</answer>"}]}


def test_dead_ends_are_told_from_noise_by_the_tools_own_words(tmp_path, monkeypatch):
    search = lambda topk: ("batch_web_surfer", {"action": "batch_search", "queries": ["Etna"], "topk": topk})
    visit = lambda *names: ("batch_web_surfer", {"action": "batch_open", "urls": [f"https://wiki.example/{name}" for name in names]})
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    row = lambda name, provider, tools, *calls: worked(provider, tools, calls, tmp_path / name)
    rows = [row("read on", WholeProvider(), ("batch_web_surfer", "archive", "file"), ("archive", {}), ("file", {"action": "read", "path": "results/0001_archive.txt", "start": 40}), search(2), visit("Etna%200")),
            row("the page is gone", WholeProvider(), ("batch_web_surfer",), search(3), visit("Etna 1"), visit("Etna%202")),
            row("a guessed address", HalfProvider(), ("batch_web_surfer",), search(3), visit("Merapi")),
            row("its own mistake", WholeProvider(), ("batch_web_surfer",), ("shell", {"command": "ls"}), search(1)),
            row("no file tool", WholeProvider(), ("batch_web_surfer", "archive"), ("archive", {})),
            row("refused", HalfProvider(), ("batch_web_surfer",), search(3), visit("Etna%201#history")),
            row("refused beside another", HalfProvider(), ("batch_web_surfer",), search(3), visit("Merapi", "Etna 1")),
            row("no sandbox", WholeProvider(), ("batch_web_surfer", "shell"), ("shell", {"command": "ls"}))]
    kept, dropped = dead_ends(rows)
    assert ids(kept) == ["read on", "the page is gone", "a guessed address", "its own mistake"]
    assert "stored whole" in rows[0]["messages"][2]["content"] and not dead_ends([{**rows[0], "tools": []}])[1]
    assert dead_ends([{**rows[0], "tools": rows[0]["tools"][:2]}])[1][0]["reason"] == "a result names a tool that is not there"
    assert reasons(dropped) == {"no file tool": "a result cannot be read on", "refused": "an address that a result showed is refused",
                                "refused beside another": "an address that a result showed is refused", "no sandbox": "a tool cannot work here"}
    assert failed_responses(rows[1]) and failed_responses(rows[2]), "what was kept has noise in it"
    _, _, funnel = apply_filters(rows, [dead_ends], "rows")
    assert (funnel[0]["dropped"], sum(funnel[0]["reasons"].values())) == (4, 4) and "dead_ends" in BY_DEFAULT


def test_what_is_left_out_for_good_is_a_dead_end():
    cut = shrink("word " * 2000, 900)
    tools = lambda *names: [{"type": "function", "function": {"name": name, "parameters": {}}} for name in names]
    assert dead_ends([trajectory(tool=cut, tools=tools("search"))])[1][0]["reason"] == "a result cannot be read on"
    assert not dead_ends([trajectory(tool=cut, tools=tools("search", "file"))])[1] and not dead_ends([trajectory(tool=cut)])[1]
    folded = prompt("summarised", last=4, path="history/0001.md", summary="What was found.")
    assert dead_ends([trajectory(question="Why?" + folded, tools=tools("search"))])[1][0]["measure"] == "file"
    assert not dead_ends([trajectory(question="Why?" + folded, tools=tools("search", "file"))])[1]
