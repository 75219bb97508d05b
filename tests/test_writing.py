"""Good replies of a strong teacher become rows: rubrics, drafts and what a writer is shown."""
import json
import re
import tarfile
from pathlib import Path

import pytest

from stepdr.core.teacher import TeacherClient
from stepdr.core.usage import Usage
from stepdr.core.replies import Reply
from stepdr.core.scripted_teacher import OfflineTeacher
from stepdr.synthesis.planning import given_away as told_of_report, planning_task
from stepdr.synthesis.rubrics import RubricSettings, drop_twins, leaked_rubrics, same_fact, two_steps, without_flagged
from stepdr.synthesis.writing import WritingSettings, cited_passages, drafted_report_row, findings_of, query_report_row, unfounded_figures
from stepdr.tools.tool import run_async
from stepdr.core.trajectory import answer_of

SHARED = Path(__file__).resolve().parents[2] / "shared"


class Hand:
    "A policy that says one reply after the other, the last one again, and keeps what it was told about them."
    name = "hand"
    def __init__(self, *replies): self.replies, self.told = list(replies), []
    async def complete(self, messages, tools=None, max_tokens=None, temperature=None):
        if len(messages) > 2: self.told.append(messages[-1]["content"])
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return Reply({"role": "assistant", "content": json.dumps(reply, ensure_ascii=False)}, Usage(1, 1), 0.0, "stop", 0.0, 1, "hand")


def made_by(maker, item, *replies): # -> (row or record, what the teacher was told to mend)
    hand = Hand(*replies)
    made = run_async(maker(item, TeacherClient(hand)))
    return made[0] if isinstance(made, list) else made, hand.told


# rubrics

AXES = ("Explicit Criteria", "Synthesis of Information")
WRITTEN = [("Names the parish that built the lighthouse at Rua Reidh", 4, "explicit"), ("Gives 1912 as the year in which the lamp was first lit", 4, "explicit"), ("Names David Alan Stevenson as the engineer", 3, "explicit"),
           ("Explains why the fog signal was taken out of use", 3, "implicit"), ("States that the light was automated in 1986", 3, "explicit"), ("Says who owns the keepers' houses now", 2, "implicit"),
           ("Describes how the keepers were supplied by sea", 2, "implicit"), ("Says that the lighthouse still has keepers", -4, "negative"), ("Places the lighthouse on an island", -3, "negative")]
WRITTEN = [{"criterion": c, "weight": w, "axis": AXES[n % 2], "role": r} for n, (c, w, r) in enumerate(WRITTEN)]
ABOUT = "The lighthouse at Rua Reidh, its parish, engineer Stevenson, lamp, fog signal, keepers and their houses, its owner, its automation in 1986; it is on no island."


def lighthouse(roles=(), broken=(), score=9, task="I look after an old lighthouse in the north-west and want its history: who built it and for what, and how it was run until today.", **settings): # {number: role}, numbers that the judge flags -> row or record
    replies = {"rubrics_from_material": {"summary": ABOUT, "rubrics": WRITTEN},
               "task_from_rubrics": {"task": task, "roles": [{"number": n, "reason": "so it reads", "role": dict(roles).get(n, r["role"])} for n, r in enumerate(WRITTEN, 1)]}}
    numbers = {r["criterion"]: n for n, r in enumerate(WRITTEN, 1)}
    def judge(values, *_):
        shown = [numbers[re.sub(r" \(weight [^()]*\)$", "", text)] for text in values["rubrics"]]
        return {"rubrics": [{"number": n, "broken": ["atomic"] if one in broken else [], "role": WRITTEN[one - 1]["role"]} for n, one in enumerate(shown, 1)], "problems": [], "score": score}
    return run_async(two_steps({"id": "rua", "material": ABOUT}, OfflineTeacher(judge_consistency=judge, **replies), settings=RubricSettings(**settings)))


def test_flags_cost_rubrics_while_a_task_is_left():
    assert len(lighthouse()["rubrics"]) == 9 and not lighthouse()["meta"]["rubrics_dropped"]
    one = lighthouse(roles={4: "explicit"}, broken=[7])
    assert [r["criterion"] for r in one["rubrics"]] == [r["criterion"] for n, r in enumerate(WRITTEN, 1) if n not in (4, 7)] and one["meta"]["untested"] == [] and len(one["meta"]["rubrics_dropped"]) == 2
    assert lighthouse(broken=[2])["meta"]["untested"] == [WRITTEN[1]["criterion"]]


def test_many_flags_and_what_the_task_asks_for_end_the_sample():
    assert lighthouse(roles={4: "explicit", 6: "explicit", 7: "explicit"})["kind"] == "roles"                      # three of nine are more than a quarter
    assert "3 of 9 rubrics are flagged" in lighthouse(roles={4: "explicit"}, broken=[6, 7])["reason"]              # added up over both looks
    asks = lighthouse(broken=[1, 2])
    assert "reason" in asks and "no rubric tests any more: 8 of the explicit weight of 14" in asks["reason"] and asks["kind"] == "principles"
    assert lighthouse(broken=[8, 9])["reason"].endswith("no negative rubric") and lighthouse(roles={4: "explicit"}, flagged=0.0)["kind"] == "roles" and lighthouse(broken=[4], least=9)["kind"] == "principles"
    assert lighthouse(broken=[4], score=7)["kind"] == "inconsistent"


def test_a_rubric_that_the_task_gives_away_is_dropped():
    row = lighthouse(task="Write a history of the old lighthouse, who built it and how it was run, in a form that says who owns the keepers' houses now.")
    assert [d["rubric"]["criterion"] for d in row["meta"]["rubrics_dropped"]] == [WRITTEN[5]["criterion"]] and "given away" in row["meta"]["rubrics_dropped"][0]["faults"]
    bound = {"criterion": "Lists only banks with more than 50,000 customers", "axis": "Instruction Following"}
    assert not leaked_rubrics("Which banks with more than 50,000 customers failed?", [bound]) and leaked_rubrics("Which banks with more than 50,000 customers failed?", [{**bound, "axis": "Explicit Criteria"}])


@pytest.mark.parametrize("one, other, negative", [
    ("Gives March 27, 2023 as the evaluation date of City National Bank", "Gives April 2024 as the evaluation date of City National Bank", True), ("States that the mill had 312 looms in 1881", "Claims that the mill had 512 looms in 1881", True),
    ("指出该桥全长1670米", "称该桥全长1760米", True), ("States that output rose to 4,120 tonnes", "Cites 4,120 tonnes as the output", False), ("Puts the share of imports at 12.5%", "States that imports have a share of 12.5%", False)])
def test_one_fact_from_two_sides_is_found(one, other, negative):
    rows = {"criterion": one, "role": "explicit"}, {"criterion": other, "role": "negative" if negative else "implicit"}
    assert same_fact(*rows) and same_fact(*reversed(rows))


@pytest.mark.parametrize("one, other, negative", [
    ("Lists City National Bank as a qualifying bank", "Lists Wells Fargo Bank as a qualifying bank", True), ("States that steel output in China was 500 million tonnes", "States that cement output in China was 70 million tonnes", True),
    ("States that imports fell in 2019", "States that exports fell in 2019", False), ("Names 3 towns with a mill", "Names 3 towns with a harbour", False), ("States that the mill at Bury had 312 looms", "States that the mill at Colne had 512 looms", True),
    ("States that output rose to 4,120 tonnes", "Cites a source for the figure of 4,120 tonnes", False), ("States that the bridge was opened in 1883", "States that the bridge was closed in 1969", False)])
def test_two_facts_stay_two(one, other, negative): assert not same_fact({"criterion": one, "role": "explicit"}, {"criterion": other, "role": "negative" if negative else "implicit"})


def test_the_last_of_its_role_stays():
    right, wrong = {"criterion": "Gives 1912 as the year in which the lamp was lit", "role": "explicit", "weight": 4}, {"criterion": "Gives 1921 as the year in which the lamp was lit", "role": "negative", "weight": -4}
    other = {"criterion": "Names the engineer", "role": "explicit", "weight": 3}
    assert drop_twins([right, other, wrong])[0] == [other, wrong] and drop_twins([right, other, wrong, {**WRITTEN[7]}])[0] == [right, other, WRITTEN[7]]
    assert drop_twins([right, wrong])[0] == [right] and not without_flagged([right], [right], {})[2]


# what a writer is shown

A, B, C = "web_0a1b2c3d", "web_99ffee01", "web_5c5c5c5c"
SEARCHED = f"""## lights of the north-west
1. Lights - coast.example, 2007
https://coast.example/lights
The lights of the board are:
- Rua Reidh, 1912
- Stoer Head, 1870
- Tanera, unlit \\cite{{{A}}}
2. Rua Reidh - coast.example (tier 2, encyclopedia), 2007 [read before]
https://coast.example/rua
The lamp was first lit in… \\cite{{{B}}}

## keepers
no results"""
OPENED = f"""## https://coast.example/rua
Rua Reidh - coast.example, 12 paragraphs, page 1 of 2
address: https://coast.example/Rua_Reidh
note: a table was left out
# The lamp
The lamp was first lit in 1912.
It was seen from 24 miles. \\cite{{{B}}}
| keeper | from |
| Ross | 1912 | \\cite{{{C}}}
[goes on; open it with page=2]
links (1 of 40):
- Stoer Head https://coast.example/stoer"""


def row_of(*results, answer="None."): return {"id": "r", "messages": [{"role": "user", "content": "q"}, *({"role": "tool", "content": text} for text in results), {"role": "assistant", "content": f"<answer>{answer}</answer>"}]}


def test_findings_have_all_their_lines():
    found = {one["id"]: one for one in findings_of(row_of(SEARCHED, OPENED, answer=f"It is old \\cite{{{C}}}."))}
    assert list(found) == [C, A, B]
    assert found[A]["text"] == "The lights of the board are:\n- Rua Reidh, 1912\n- Stoer Head, 1870\n- Tanera, unlit" and found[A]["title"] == "Lights - coast.example, 2007"
    assert found[B]["text"] == "The lamp was first lit in 1912.\nIt was seen from 24 miles." and found[B]["title"] == "Rua Reidh - coast.example > The lamp"
    assert found[C]["text"] == "| keeper | from |\n| Ross | 1912 |"


def test_passages_grouped_by_page_are_told_apart():
    result = f"""## lamps
1. Rua Reidh - coast.example, 2007
https://coast.example/rua
# The lamp
It was lit in 1912.
It turned once a minute. \\cite{{{A}}}
# Keepers
Three families lived there. \\cite{{{B}}}
shown before: {C}
[4 more paragraphs did not fit; ask again: batch_web_surfer(action="batch_search")]

## https://coast.example/stoer
Stoer Head - coast.example, paragraphs 2 to 3 of 9
A light of 1870. \\cite{{{C}}}
[120 characters of this paragraph did not fit]
[6 more paragraphs; read on: batch_web_surfer(action="batch_open")]"""
    assert [(one["title"], one["text"]) for one in cited_passages(result)] == [("Rua Reidh - coast.example, 2007 > The lamp", "It was lit in 1912.\nIt turned once a minute."),
        ("Rua Reidh - coast.example, 2007 > Keepers", "Three families lived there."), ("Stoer Head - coast.example", "A light of 1870.")]


def test_what_is_cut_of_a_finding_is_said():
    long = "\n".join(f"- light number {n}" for n in range(300)) + f" \\cite{{{A}}}"
    text = findings_of(row_of(long), characters=900)[0]["text"]
    assert text.startswith("- light number 0\n") and text.endswith("- light number 299") and "characters left out" in text and len(text) < 1000


def test_foreign_results_are_read_too():
    assert [one["text"] for one in cited_passages(f"One thing \\cite{{{A}}} and another \\cite{{{B}}}\nA third\nof two lines \\cite{{{C}}}")] == ["One thing", "and another", "A third\nof two lines"]
    assert cited_passages("coast.example : lit in 1912 \\cite{web_1,web_2}") == [{"id": "web_1", "title": "", "text": "coast.example : lit in 1912"}, {"id": "web_2", "title": "", "text": "coast.example : lit in 1912"}]
    assert cited_passages("") == cited_passages("\\cite{web_1}") == []


def test_a_draft_may_use_every_line():
    "A figure of a line in the middle is no new figure, and its source can be cited."
    report = f"# Lights\n\nStoer Head was lit in 1870, four decades before Rua Reidh in 1912 \\cite{{{A}}}. It follows that the coast was lit from the south."
    made = run_async(drafted_report_row({**row_of(SEARCHED), "messages": row_of(SEARCHED)["messages"][:-1] + [{"role": "assistant", "content": "<answer>- old</answer>"}], "meta": {"plan": ["When was Stoer Head lit, and when Rua Reidh?"]}},
                                        OfflineTeacher(draft_report={"thesis": "From the south.", "report": report}, deeper_report=lambda values, *_: {"only_first": [], "only_second": [], "reason": "it concludes", "deeper": "first" if "follows" in values["first"] else "second"})))
    assert answer_of(made["messages"]) == report and made["meta"]["draft"]["kept"]


LIGHTS = "# Lights\n\nStoer Head was lit in 1870, four decades before Rua Reidh in 1912 [{A}].\n\nThe two dates lie 42 years apart, so that the coast was lit from the south, one light in each generation."


def draft_of(*reports, **settings): # drafts in turn, for a trajectory whose own report is a list -> (row or record, what the teacher was told)
    row = {**row_of(SEARCHED, answer="- old"), "meta": {"plan": ["When was Stoer Head lit, and when Rua Reidh?"]}}
    hand = Hand(*({"thesis": "From the south.", "report": report} for report in reports))
    judge = OfflineTeacher(deeper_report=lambda values, *_: {"only_first": [], "only_second": [], "reason": "it concludes", "deeper": "first" if "generation" in values["first"] else "second"})
    return run_async(drafted_report_row(row, TeacherClient(hand), judge, settings=WritingSettings(**settings))), hand.told


def test_citations_in_brackets_become_citations():
    made, told = draft_of(LIGHTS.format(A=A))
    assert made["meta"]["draft"]["kept"] and not told and answer_of(made["messages"]) == LIGHTS.format(A=A).replace(f"[{A}]", f"\\cite{{{A}}}")
    assert draft_of(LIGHTS.format(A="web_deadbeef"))[0]["kind"] == "invalid"
    assert draft_of(LIGHTS.format(A=A), findings=1)[0]["meta"]["draft"]["findings_left_out"] == 1 and "findings_left_out" not in made["meta"]["draft"]


def test_a_figure_that_no_source_has_stops_a_draft():
    wrong = LIGHTS.format(A=A).replace("1870", "1872")
    made, told = draft_of(wrong)
    assert made["kind"] == "draft" and "1872 stands in nothing that is cited beside it" in made["reason"] and len(told) == 2
    mended, told = draft_of(wrong, LIGHTS.format(A=A))
    assert mended["meta"]["draft"]["kept"] and len(told) == 1 and "1872" in told[0]


@pytest.mark.parametrize("text", ["It cost 1.2 billion \\cite{web_1}.", "It cost about 12% \\cite{web_1}.", "In May 1912 it was lit \\cite{web_1}.", "In all that makes 900 of them.", "# 3. Costs\n\nIt is old \\cite{web_1}.", "耗资12亿\\cite{web_1}。"])
def test_figures_with_a_source_are_found(text): assert not unfounded_figures(text, [{"id": "web_1", "text": "Lit in 1912, it cost 1,200,000,000, of which 12.4% for 耗资12亿."}, {"id": "web_2", "text": "77 or 1913"}])


@pytest.mark.parametrize("text", ["It cost 1.3 billion \\cite{web_1}.", "It was lit in 1913 \\cite{web_1}.", "It has 77 steps \\cite{web_1}."])
def test_figures_without_a_source_are_found(text): assert len(unfounded_figures(text, [{"id": "web_1", "text": "Lit in 1912, it cost 1,200,000,000."}, {"id": "web_2", "text": "77 or 1913"}])) == 1


# tasks and queries from reports

REPORT = """# Lighthouses of the north-west coast
## Scope and criteria
Lights of the mainland between 57 and 59 degrees north, first lit from 1850 to 1930; harbour lights of less than 300 candelas are left out.
## Building
## Keepers and supply
## Automation
## Results
Eleven lights were built in the period, 7 of them by one family of engineers, at a mean cost of 14,300 pounds."""


def test_a_task_may_state_its_scope_and_nothing_else():
    fine = {"intent": "to plan a museum", "task": "I plan a museum on the lighthouses of the north-west coast: lights of the mainland between 57 and 59 degrees north, first lit from 1850 to 1930, without harbour lights of less than 300 candelas. Find out who built them, how the keepers lived and when they were automated, and write it up with sources.",
            "plan": ["Establish which lights were built", "Settle how the keepers were supplied", "Find when each light was automated"]}
    made, told = made_by(planning_task, {"id": "lights", "text": REPORT}, fine)
    assert "reason" not in made and made["query"] == fine["task"] and not told
    leaks = {**fine, "task": "Show why the eleven lights cost 14,300 pounds each."}
    made, told = made_by(planning_task, {"id": "lights", "text": REPORT}, leaks)
    assert made["reason"] == "the task gives the report away" and len(told) == 2 and "14,300" in told[0]
    assert "reason" not in made_by(planning_task, {"id": "lights", "text": REPORT}, leaks, fine)[0]
    assert told_of_report("Sum up Lighthouses of the north-west coast.", REPORT) and told_of_report("Write what “Lighthouses of the north-west coast” says.", REPORT) and not told_of_report("Write on lighthouses of the north-west coast.", REPORT)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here (../shared)")
def test_good_tasks_and_queries_for_a_real_report_are_kept_and_bad_ones_not():
    with tarfile.open(SHARED / "data" / "reports_human" / "liveresearchbench_reports.tar.gz") as archive:
        report = next(archive.extractfile(member).read().decode() for member in archive if "infocoBp2TDUwPt62Iqzak" in member.name)
    task = {"intent": "A privacy counsel briefs a board.", "task": "I brief our board and need all EU/EEA fines under the GDPR of more than €50,000,000, decided from 2022 to 2025, that are final, that is, no longer under appeal. Give company, authority, date and amount, and say of each large fine that you leave out why. Penalties under other rules do not count. If nothing qualifies, say so plainly.",
            "plan": ["Settle which fines above the threshold were imposed in the period.", "Confirm date and amount in the authority's own publication.", "Find out for each whether an appeal is pending.", "Separate penalties that rest on other rules.", "Write up which fines are final."]}
    query = {"reader": "a privacy counsel", "query": "Which fines of more than €50,000,000 under the GDPR, imposed from 2022 to 2025, are final in the sense that no appeal is pending? Give company, authority, date, amount and links, and explain why each well-known large fine is in or out."}
    assert "reason" not in made_by(planning_task, {"id": "g", "text": report}, task)[0] and "reason" not in made_by(query_report_row, {"id": "g", "report": report}, query)[0]
    assert made_by(planning_task, {"id": "g", "text": report}, {**task, "task": "Show that none qualify, since Meta's €1,200,000,000 is under appeal."})[0]["reason"] == "the task gives the report away"
    assert made_by(query_report_row, {"id": "g", "report": report}, {**query, "query": "Summarise this report."})[0]["kind"] == "given away"
