"Deep verification: what the roles thought stays in the row, a part of a statement may be supported, and rounds that end open end no run."
import json
import re
from pathlib import Path

import pytest
from scripted_model import ScriptedModel, turn

from stepdr.core.teacher import TeacherClient
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
from stepdr.core.prompts import CHINESE, PROMPTS, SCHEMAS, schema_in
from stepdr.core.verification_prompts import STATEMENT_VERDICTS
from stepdr.core.scripted_teacher import OfflineTeacher
from stepdr.synthesis.trajectories import answer_of, well_formed
from stepdr.synthesis.verification import Check, VerificationSettings, run_check, unwarranted, verify_paragraph
from stepdr.tools.tool import Toolbox, ToolResult, run_async
from stepdr.core.trajectory import cited_ids
from stepdr.world.paragraphs import Paragraph, paragraph_id

EXCHANGE = Path(__file__).resolve().parents[2] / "shared" / "exchanges" / "01_verification_crash.json"
ROLES = ("verify_statement", "replan_checks", "report_checks", "judge_conclusion")


def asked_for(messages):
    "Which prompt a request is for, by its schema."
    schema = json.loads(next(line for line in messages[0]["content"].splitlines() if line.startswith("{") and '"properties"' in line))
    return next(name for name, own in SCHEMAS.items() if schema in (own, schema_in("zh", own)))


def search_over(paragraphs):
    async def batch_web_surfer(action: str, queries: list[str] = None, topk: int = 5) -> ToolResult:
        """Search.

        action: what
        queries: what for
        topk: results
        """
        return ToolResult("\n\n".join(f"{p.site}: {p.text} \\cite{{{p.id}}}" for p in paragraphs), paragraphs=tuple(paragraphs))
    return Toolbox([batch_web_surfer])


def page(url, text): return Paragraph(paragraph_id(url, text), url, "Harbour", text)


def checked(paragraphs, statement, reply, **settings):
    "A paragraph of one statement through a server that answers each role by `reply(name, request)`."
    own = {"extract_statements": {"statements": [{"quote": statement, "statement": statement, "worth": "check"}]}}
    def play(messages):
        name = asked_for(messages)
        return turn(json.dumps(own.get(name) or reply(name, messages), ensure_ascii=False))
    with ScriptedModel(play) as server:
        teacher = TeacherClient(ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model, backoff=0.0, timeout=5.0)))
        language = "zh" if re.search("[\u4e00-\u9fff]", statement) else "en"
        row = run_async(verify_paragraph({"id": "p", "paragraph": statement}, teacher, search_over(paragraphs), None, language, VerificationSettings(**settings)))
        return row, server.requests


SAYS = {
    "en": dict(pages=("The old harbour light was lit in 1811 by order of the council.", "The council had the harbour light lit in 1811; it burnt whale oil."), statement="The harbour light was lit in 1811 by the keeper Anne Pell.",
               note="says the year; who lit it is not said", why="Both give the year 1811, and neither names the keeper, so that they support the year and leave the person open.",
               missing="Who lit the light first: a list of the keepers would settle it.", again="The keeper is open; a list of keepers may name her.", report="The year 1811 is established by two sources {cites}, but neither of them says who lit the light, so that Anne Pell stays open."),
    "zh": dict(pages=("旧港灯塔于1811年奉市议会之命点亮。", "市议会在1811年让人点亮了港口的灯塔，灯用的是鲸油。"), statement="港口灯塔于1811年由看守人安妮·佩尔点亮。", note="说到了年份，没有说是谁点亮的", why="两处都给出1811年，却都没有提到看守人，所以只支持年份，人物尚未确定。",
               missing="最初由谁点亮：一份看守人名单可以弄清。", again="看守人尚未确定，看守人名单上可能有她的名字。", report="1811年这一年份由两个来源确立{cites}，但二者都没有说是谁点亮了灯塔，因此安妮·佩尔一事仍不能确定。")}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_the_roles_thought_is_in_the_row(language):
    say, pages = SAYS[language], [page(f"https://{site}.example/harbour", text) for site, text in zip(("archive", "museum"), SAYS[language]["pages"])]
    seen, rounds = {}, iter(range(9))
    def reply(name, messages):
        seen[name] = messages[-1]["content"]
        if name == "plan_checks": return {"supports": say["why"], "refutes": say["missing"], "queries": ["harbour light 1811", "harbour light keepers"]}
        if name == "verify_statement": return {"findings": [{"paragraph": p.id, "quote": p.text, "note": say["note"], "stance": "partly supports"} for p in pages], "reason": say["why"], "missing": say["missing"], "verdict": "partly"}
        if name == "replan_checks": return {"reason": say["again"], "enough": False, "queries": [f"keepers of the light {next(rounds)}"]}
        if name == "report_checks": return {"report": say["report"].format(cites=f"\\cite{{{pages[0].id},{pages[1].id}}}"), "verdict": "partly"}
        return {"warranted": "partly", "gaps": [], "follows": True}
    row, _ = checked(pages, say["statement"], reply, rounds=2)
    assert "reason" not in row, row
    thought = "\n".join(message.get("reasoning_content", "") for message in row["messages"])
    assert all(say[name] in thought for name in ("why", "missing", "again")) and thought.count(say["note"]) == 2, "what was thought is trained on"
    assert row["meta"]["verdict"] == "partly" and row["meta"]["statements"][0]["sources"]["partly supports"] == 2 and [one["reason"] for one in row["meta"]["statements"][0]["thought"]] == [say["again"], ""]
    assert {"en": "partly supported", "zh": "部分得到支持"}[language] in answer_of(row) and well_formed([row])[0] == [row] and set(cited_ids(answer_of(row))) == {p.id for p in pages}
    assert say["missing"] in seen["replan_checks"] and say["missing"] in seen["report_checks"] and say["note"] in seen["report_checks"], "what is open is known to who goes on"
    assert say["note"] not in seen["judge_conclusion"] and say["missing"] not in seen["judge_conclusion"], "the judge reads the words, not what was made of them"


@pytest.mark.parametrize("missing_reason", [True, False])
def test_rounds_that_end_open_end_as_a_row(missing_reason):
    "The last round has no Replan: its thought has no reason, and the statement is concluded on all the same."
    pages = [page("https://a.example/", "The bridge was opened in 1883."), page("https://b.example/", "In 1883 the bridge was opened.")]
    roles = {"extract_statements": {"statements": [{"quote": "opened in 1883", "statement": "The bridge was opened in 1883.", "worth": "check"}]}, "plan_checks": {"supports": "x", "refutes": "y", "queries": ["a", "b"]},
             "verify_statement": {"findings": [{"paragraph": p.id, "quote": p.text, "stance": "supports"} for p in pages], "missing": "the day", "verdict": "support"},
             "replan_checks": lambda values, *_: {"reason": "the day is open" if missing_reason else " ", "enough": False, "queries": [f"day {len(values['queries'])}"]},
             "report_checks": {"report": "Two sources say so \\cite{%s,%s}." % tuple(p.id for p in pages), "verdict": "support"}, "judge_conclusion": {"warranted": "support", "gaps": [], "follows": True}}
    row = run_async(verify_paragraph({"id": 1, "paragraph": "It was opened in 1883."}, OfflineTeacher(**roles), search_over(pages)))
    assert "reason" not in row and row["tool_calls"] == 3 and "Still open: the day" in row["messages"][3]["reasoning_content"]


def test_a_verdict_needs_what_it_rests_on():
    pages = [page("https://a.example/", "It was opened in 1883."), page("https://b.example/", "The mayor opened it."), page("https://c.example/", "It was opened in 1890.")]
    stances = dict(zip((p.id for p in pages), ("partly supports", "partly supports", "refutes")))
    def faults(verdict, *chosen):
        findings = [{"paragraph": p.id, "quote": p.text, "stance": stances[p.id]} for p in chosen]
        return unwarranted(Check("The mayor opened it in 1883.", "x", findings=findings, paragraphs={p.id: p for p in pages}, report="".join(f"\\cite{{{p.id}}}" for p in chosen), verdict=verdict))
    assert faults("support", pages[0]) == ["no finding supports it"] and faults("support", *pages[:2]) == [] and faults("partly", pages[0]) == []
    assert faults("partly", pages[2])[0] == "no finding supports a part of it" and faults("refute", pages[0]) == ["no finding refutes it"]
    assert faults("partly", pages[0], pages[2]) == [] and faults("refute", *pages) == ["more sources say the opposite: 2 to 1"]


@pytest.mark.parametrize("name", ROLES)
def test_each_role_is_told_what_the_verdicts_mean(name):
    for verdict, (english, chinese, word) in STATEMENT_VERDICTS.items():
        assert f"- {verdict}: {english}." in PROMPTS[name] and f"{word}{'' if name == 'replan_checks' else '）'}：{chinese}。" in CHINESE[name]
    schema = json.dumps(SCHEMAS[name])
    assert name == "replan_checks" or all(f'"{verdict}"' in schema for verdict in STATEMENT_VERDICTS)


def test_rules_give_the_part_that_is_said():
    pages = [page("https://a.example/", "The stone bridge over the Exe was opened in 1883 at great cost to the town."), page("https://b.example/", "The stone bridge over the Exe was opened in 1883 to the joy of the town.")]
    check = run_async(run_check(Check("The stone bridge over the Exe was opened in 1883 for 9400 pounds.", "x"), {"id": 1, "paragraph": "z"}, OfflineTeacher(), search_over(pages)))
    assert check.verdict == "partly" and not unwarranted(check) and "9400" in check.findings[0]["note"]


def test_the_recorded_check_that_ended_a_run_becomes_a_row():
    if not EXCHANGE.exists(): pytest.skip("the recorded exchanges are not here")
    exchange = json.loads(EXCHANGE.read_text())["exchanges"]
    recorded = {name: json.loads(one["reply"]["content"]) for one in exchange for name, word in (("verify_statement", "Role: Verify"), ("report_checks", "Role: Report"), ("judge_conclusion", "Somebody checked")) if one["request"]["messages"][0]["content"].startswith(word)}
    asked = exchange[0]["request"]["messages"][1]["content"]
    statement = re.search(r"<statement>\n(.*?)\n</statement>", asked, re.DOTALL)[1]
    shown = re.findall(r"(?ms)^\[(web_\w+)\] (.*?) (\d{4}) (https?://\S+)\n(.*?)(?=\n\n\[|\n</paragraphs>)", asked)
    pages = [Paragraph(*(one, url, title, text), date=date) for one, title, date, url, text in shown]
    rounds = iter(range(9))
    def reply(name, messages):
        if name == "plan_checks": return {"supports": "A list of the dead.", "refutes": "A list with other dead.", "queries": ["Mount Unzen 1991 dead", "Unzen victims other than journalists"]}
        if name == "replan_checks": return {"reason": "Who the dead were is still open.", "enough": False, "queries": [f"Unzen victims list {next(rounds)}"]}
        return recorded[name]
    row, _ = checked(pages, statement, reply)
    assert len(pages) == 6 and "reason" not in row, row.get("reason")
    thought = "\n".join(message.get("reasoning_content", "") for message in row["messages"])
    assert row["meta"]["verdict"] == "doubtful" and recorded["verify_statement"]["missing"] in thought and recorded["report_checks"]["report"] in answer_of(row) and row["tool_calls"] == 3
