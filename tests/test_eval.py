"Whole evaluations: predictions and models, judges and endpoints that break, kills, and every task and row accounted for."
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from scripted_model import ScriptedModel, turn

from stepdr.core.artifacts import read_json, read_jsonl, root, write_jsonl
from stepdr.core.teacher import TeacherClient, TeacherSettings
from stepdr.core.reply_cache import request_key
from stepdr.core.config import InputError
from stepdr.evaluate.benchmarks import score_file
from stepdr.evaluate.comparison import compare
from stepdr.evaluate.answering import Answering, Answers
from stepdr.evaluate.harness import EvalSettings, page_reader, results_text, run_eval
from stepdr.evaluate.predictions import eval_tasks, gather_predictions
from stepdr.evaluate.judge_files import probe_file
from stepdr.judge.judges import EndpointJudge, JudgingSettings
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
from stepdr.core.replies import EndpointError

ASK = TeacherSettings(temperature=0.0, language_share=0.0, most_aside=1.0, repairs=1)


def endpoint(server, **changes): return ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model, **{"retries": 0, "backoff": 0.01, **changes}))


def rubric_judge(server, trials=1): return EndpointJudge(endpoint(server), JudgingSettings(trials=trials), teacher=ASK)


def reply(**fields): return turn(json.dumps(fields))


def between(tag, messages): return re.search(rf"<{tag}>\n(.*?)\n</{tag}>", messages[1]["content"], re.S)[1]


def reads(messages):
    "A judge that finds a criterion's year in the report, or not."
    year = re.search(r"\d{4}", between("criterion", messages))[0]
    if '"evidence"' in messages[0]["content"]: return reply(evidence=[f"It says {year}."] if year in between("report", messages) else [])  # a part of a long report
    return reply(explanation=f"looked for {year}", verdict="satisfied" if year in between("report", messages) else "not")


def bridges(count=3):
    "Tasks on bridges: a merit, another one on its own axis, and a flaw."
    return [{"id": f"t{n}", "query": f"Report on bridge {n}.", "domain": "science" if n % 2 else "law", "rubrics": [
        {"criterion": f"States that it was opened in {1880 + n}", "weight": 4.0, "axis": "Explicit Criteria", "role": "explicit"}, {"criterion": f"States that it was closed in {1980 + n}", "weight": 2.0, "axis": "Implicit Criteria", "role": "implicit"},
        {"criterion": f"Dates it to {1780 + n}", "weight": -3.0, "axis": "Explicit Criteria", "role": "negative", "fatal": n == 2}]} for n in range(count)]


def files(folder, tasks, predictions):
    write_jsonl(folder / "tasks.jsonl", tasks)
    write_jsonl(folder / "predictions.jsonl", predictions)
    return {"data": folder / "tasks.jsonl", "predictions": folder / "predictions.jsonl"}


def test_every_task_and_every_row_is_accounted_for(tmp_path):
    tasks = bridges(6) + [{"id": "bad", "query": "q", "rubrics": [{"criterion": "c", "weight": -1}]}, {"id": "t0", "query": "again", "rubrics": [{"criterion": "c", "weight": 1}]}]
    tasks[3]["rubrics"].append({"criterion": "States that it is 1000 m long", "weight": 0})
    rows = [{"task": "t0", "report": "Opened in 1880, closed in 1980."}, {"id": "t1", "report": "Opened in 1881. Some say 1781.", "cost": {"money": 0.5, "currency": "USD", "seconds": 9.0}},
            {"task": "t2", "report": "Opened in 1882, closed in 1982, dated to 1782."}, {"task": "t3", "report": "x" * 2_000_000 + " 1883 1983"}, {"task": "t4", "report": ""}, {"task": "nobody", "report": "?"},
            {"task": "t0", "report": "Opened in 1880, closed in 1980."}, {"task": "t0"}, {"report": "whose?"}, {"task": "t5", "cost": {"money": "much"}, "answer": None}]
    given = files(tmp_path, tasks, rows)
    with open(given["predictions"], "a") as file: file.write('{"task": "t5", "rep\n')
    with ScriptedModel(reads) as server: found = run_eval("researchrubrics", tmp_path / "out", **given, judge=rubric_judge(server))
    # t0: 6/6; t1: (4 - 3)/6; t2: fatal; t3: all, whatever its length; t4 and t5 are empty
    assert found["per_task"] == pytest.approx({"t0": 1.0, "t1": 1 / 6, "t2": 0.0, "t3": 1.0, "t4": 0.0, "t5": 0.0}) and found["fatal"] == ["t2"] and found["complete"]
    assert {name: found["counts"][name] for name in ("tasks", "predictions", "judged", "empty", "missing", "failed", "aside", "verdicts")} == {"tasks": 6, "predictions": 11, "judged": 4, "empty": 2, "missing": 0, "failed": 0, "aside": 0, "verdicts": 19}
    assert found["counts"]["set_aside"] == {"unknown task": 1, "duplicate": 1, "prediction": 3, "weight": 1, "task row": 2, "cost": 1}
    aside = read_jsonl(tmp_path / "out" / "aside.jsonl")
    assert len(aside) == 9 and all(row["reason"] for row in aside) and [row["place"] for row in aside if row["kind"] == "unknown task"] == ["predictions.jsonl, line 6"]
    by_task = {row["task"]: row for row in read_jsonl(tmp_path / "out" / "tasks.jsonl")}
    assert by_task["t3"]["characters"] == 2_000_010 and by_task["t2"]["fatal"] and by_task["t1"]["cost"]["money"] == 0.5 and by_task["t1"]["parts"] == pytest.approx({"axis: Explicit Criteria": 1 / 4, "axis: Implicit Criteria": 0.0, "role: explicit": 1.0, "role: implicit": 0.0, "role: negative": 1.0})
    assert found["by_domain"]["law"]["mean"] == pytest.approx(1 / 3) and set(found["by_axis"]) == {"Explicit Criteria", "Implicit Criteria"} and found["card"]["judge"]["model"] == "scripted" and len(found["card"]["prompts"]) == 3
    assert score_file("researchrubrics", tmp_path / "out" / "verdicts.jsonl")["score"] == found["score"] == read_json(tmp_path / "out" / "results.json")["score"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "By axis" in page and "By domain" in page and "sha256" in page and found["judge"] == "endpoint scripted"


def test_the_page_escapes_what_files_and_models_say(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "<img src=x onerror=alert(1)>", "question": "<b>?", "answer": "a", "primary_category": "<script>alert(2)</script>"}])
    write_jsonl(tmp_path / "p.jsonl", [{"id": "<img src=x onerror=alert(1)>", "answer": "</table><script>alert(3)</script>"}])
    run_eval("simpleqa", tmp_path / "out", tmp_path / "p.jsonl", data=tmp_path / "q.jsonl")
    page = (tmp_path / "out" / "index.html").read_text()
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "<img src=x" not in outside and "&lt;img src=x" in outside and "<script>alert(2)" not in page and "<script>alert(3)" not in page


def test_missing_tasks_score_nothing_in_every_kind_of_benchmark(tmp_path):
    questions = [{"id": n, "question": f"Year of {n}?", "answer": str(1900 + n)} for n in range(4)]
    for bench in ("simpleqa", "chinese-simpleqa", "frames", "triviaqa"):
        write_jsonl(tmp_path / "q.jsonl", questions)
        write_jsonl(tmp_path / "p.jsonl", [{"id": 0, "answer": "1900"}, {"id": 1, "answer": "no idea"}])
        found = run_eval(bench, tmp_path / bench, tmp_path / "p.jsonl", data=tmp_path / "q.jsonl")
        assert found["score"]["mean"] == 0.25 and found["score"]["n"] == 4 and found["missing"] == {"count": 2, "first": ["2", "3"]} and found["judge"] == "exact rule", bench
        assert score_file(bench, tmp_path / bench / "verdicts.jsonl")["score"] == found["score"]
    found = run_eval("researchrubrics", tmp_path / "r", **files(tmp_path, bridges(4), [{"task": "t1", "report": "1881 1981"}]), judge="words")
    assert found["per_task"]["t0"] == found["per_task"]["t3"] == 0.0 and found["counts"]["missing"] == 3 and found["score"]["n"] == 4


def test_a_judge_that_breaks_down_half_way_goes_on_later_and_is_paid_once(tmp_path):
    given, down = files(tmp_path, bridges(4), [{"task": f"t{n}", "report": f"Opened in {1880 + n}."} for n in range(4)]), {"now": True}
    def moody(messages):
        criterion = between("criterion", messages)
        if "1783" in criterion: return turn("I would rather not say.")                     # never a verdict
        if "1883" in criterion and "fix" not in str(len(messages)) and len(messages) == 2: return turn("Well, satisfied, I think.")  # one when it is asked again
        return reads(messages)
    numbers = {}
    def faults(number): return "500" if down["now"] and numbers.setdefault(number, number) % 5 == 4 else None
    with ScriptedModel(moody, faults=faults) as server:
        first = run_eval("researchrubrics", tmp_path / "out", **given, judge=rubric_judge(server))
        down["now"], before = False, len(server.requests)
        assert not first["complete"] and first["counts"]["set_aside"]["endpoint"] >= 2 and first["counts"]["set_aside"]["invalid"] == 1
        second = run_eval("researchrubrics", tmp_path / "out", **given, judge=rubric_judge(server))
        assert second["complete"] and second["counts"]["set_aside"] == {"invalid": 1} and 0 < len(server.requests) - before <= 2 * first["counts"]["set_aside"]["endpoint"]
        assert second["per_task"] == pytest.approx(dict.fromkeys(("t0", "t1", "t2", "t3"), 4 / 6)) and second["aside"]["reasons"] == {"no verdict": 1}
        total = second["cost"]["judge"]["all_runs"]
        assert (total["prompt_tokens"], total["completion_tokens"]) == (server.billed.prompt, server.billed.completion)
        before = len(server.requests)
        third = run_eval("researchrubrics", tmp_path / "out", **given, judge=rubric_judge(server))
        assert len(server.requests) == before and third["score"] == second["score"] and third["cost"]["judge"]["this_run"]["asked"] == 0
    played = Counter(request_key(body["messages"]) for body in server.requests)
    assert max(played.values()) <= 2                                                          # only what had failed was sent again


def test_a_judge_that_never_answers_gives_no_score(tmp_path):
    given = files(tmp_path, bridges(2), [{"task": "t0", "report": "1880"}, {"task": "t1", "report": "1881"}])
    with ScriptedModel(reads, faults=lambda number: "500") as server:
        with pytest.raises(EndpointError, match="no verdict that could be scored"): run_eval("researchrubrics", tmp_path / "out", **given, judge=rubric_judge(server))
    assert not (tmp_path / "out" / "results.json").exists()
    with ScriptedModel(reads) as server: assert run_eval("researchrubrics", tmp_path / "out", **given, judge=rubric_judge(server))["complete"]


def test_short_answers_by_an_endpoint(tmp_path):
    questions = [{"id": f"q{n}", "question": f"Year of {n}?", "answer": str(1900 + n)} for n in range(6)]
    write_jsonl(tmp_path / "q.jsonl", questions)
    write_jsonl(tmp_path / "p.jsonl", [{"id": f"q{n}", "answer": f"It was in {1900 + n}, I believe."} for n in range(4)] + [{"id": "q4", "answer": "1804"}])
    def grader(messages):
        if "1902" in between("answer", messages): return turn("Perhaps.")
        return reply(reason="compared", grade="A" if between("right_answer", messages) in between("answer", messages) else "B")
    with ScriptedModel(grader) as server:
        for _ in range(2):
            found = run_eval("simpleqa", tmp_path / "out", tmp_path / "p.jsonl", data=tmp_path / "q.jsonl", judge=TeacherClient(endpoint(server), ASK, tmp_path / "out" / "judge" / "replies"))
            assert len(server.requests) == 4 + 2
    # three right, one wrong, one not attempted (missing); the one without a grade is left out and counted
    assert found["score"] == {**found["score"], "mean": 0.6, "n": 5} and found["counts"]["aside"] == 1 and found["counts"]["missing"] == 1 and found["counts"]["set_aside"] == {"invalid": 1}
    assert {row["task"]: row["state"] for row in read_jsonl(tmp_path / "out" / "tasks.jsonl")} == {"q0": "judged", "q1": "judged", "q2": "aside", "q3": "judged", "q4": "judged", "q5": "missing"}
    assert found["card"]["judge"]["model"] == "scripted" and list(found["card"]["prompts"]) == ["grade_answer"]


MODEL = """
import sys
from stepdr.evaluate.answering import Answering
from stepdr.evaluate.harness import run_eval
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
policy = ChatEndpoint(EndpointSettings(base_url=sys.argv[1], model="scripted", retries=0, backoff=0.01))
found = run_eval("simpleqa", sys.argv[2] + "/out", model=Answering(policy, "m", agent=False, brief=True, workers=2), data=sys.argv[2] + "/q.jsonl")
print(found["score"]["mean"], found["complete"])
"""


def test_a_model_is_killed_and_goes_on(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": f"q{n}", "question": f"Year of {n}?", "answer": str(1900 + n)} for n in range(20)])
    def knows(messages):
        time.sleep(0.05)
        return turn(str(1900 + int(re.search(r"\d+", messages[-1]["content"])[0])))
    environment = {**os.environ, "IN_TEST": "1"}
    with ScriptedModel(knows) as server:
        command = [sys.executable, "-c", MODEL, server.url, str(tmp_path)]
        child = subprocess.Popen(command, env=environment, cwd=root(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while len(server.requests) < 9 and child.poll() is None: time.sleep(0.01)
        assert child.poll() is None, child.stderr.read().decode()
        os.kill(child.pid, signal.SIGKILL); child.wait()
        kept = len(Answers(tmp_path / "out" / "answers.jsonl").places)
        done = subprocess.run(command, env=environment, cwd=root(), capture_output=True, text=True)
        assert done.stdout.split() == ["1.0", "True"], done.stderr
        assert kept >= 6 and 20 <= len(server.requests) <= 20 + 2                              # two were in flight
    assert len(read_jsonl(tmp_path / "out" / "predictions.jsonl")) == 20


def test_a_model_that_fails_on_some_tasks_is_asked_again_for_these(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": f"q{n}", "question": f"Year of {n}?", "answer": str(1900 + n)} for n in range(6)])
    broken = {"now": ("2", "5")}
    def knows(messages):
        number = re.search(r"\d+", messages[-1]["content"])[0]
        return turn(str(1900 + int(number))) if number not in broken["now"] else 1 / 0
    with ScriptedModel(knows) as server:
        how = lambda: Answering(endpoint(server), "m", agent=False, workers=2)
        first = run_eval("simpleqa", tmp_path / "out", model=how(), data=tmp_path / "q.jsonl")
        assert not first["complete"] and first["counts"]["failed"] == 2 and first["score"]["mean"] == pytest.approx(4 / 6) and first["counts"]["set_aside"] == {"model": 2} and first["missing"]["first"] == ["q2", "q5"]
        asked, broken["now"] = len(server.requests), ()
        second = run_eval("simpleqa", tmp_path / "out", model=how(), data=tmp_path / "q.jsonl")
        assert second["complete"] and second["score"]["mean"] == 1.0 and len(server.requests) == asked + 2 and second["cost"]["model"]["reports"] == 6
    with ScriptedModel(knows, faults=lambda number: "500") as server:
        with pytest.raises(EndpointError, match="got no answer"): run_eval("simpleqa", tmp_path / "dead", model=Answering(endpoint(server), "m", agent=False, workers=1), data=tmp_path / "q.jsonl")
        assert len(server.requests) <= 4 and not (tmp_path / "dead" / "results.json").exists()


def test_an_agent_researches_the_closed_web_and_the_oracle_judges(tmp_path):
    from stepdr.evaluate.answering import default_kit
    from stepdr.evaluate.benchmarks import bench_of
    from stepdr.synthesis.tasks import research_tasks
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    task = research_tasks(ClosedWeb(load_graph(root() / "data" / "kg")), "dev", 0)[0]
    write_jsonl(tmp_path / "tasks.jsonl", [task])
    name, asked = task["meta"]["mention"], task["meta"]["asked"]
    def agent(messages):
        results = [m["content"] for m in messages if m["role"] == "tool"]
        if not results: return turn("", calls=[("batch_web_surfer", {"action": "batch_search", "queries": [f"{name} {relation}" for relation in asked]})])
        cited = re.findall(r"web_[0-9a-f]{8}", results[0])
        return turn(f"<answer>## {asked[0]}\nIt is known \\cite{{{cited[0]}}}, and made up \\cite{{web_ffffffff}}.</answer>")
    with ScriptedModel(agent) as server:
        for _ in range(2):
            found = run_eval("researchrubrics", tmp_path / "out", model=Answering(endpoint(server), "agent", agent=True, kit=default_kit(), workers=1), data=tmp_path / "tasks.jsonl", judge="oracle")
            assert len(server.requests) == 2                                                  # nothing is asked in the second run
    row = read_jsonl(tmp_path / "out" / "predictions.jsonl")[0]
    assert list(row["paragraphs"]) == re.findall(r"web_[0-9a-f]{8}", row["report"])[:1] and row["cost"]["tool_calls"] == 1 and row["cost"]["turns"] == 2
    assert found["counts"]["judged"] == 1 and found["judge"] == "oracle" and found["complete"] and found["card"]["model"]["tools"]


def test_a_models_limit_is_kept_to_in_an_evaluation(tmp_path):
    "A server of 4,096 positions: an agent's episode and an answer without tools are never refused, and what was chosen is part of the answer's identity."
    from stepdr.evaluate.answering import answering, default_kit
    from stepdr.evaluate.benchmarks import bench_of
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "question": "Year of 7?", "answer": "1907"}])
    with ScriptedModel([turn("1907")], limit=4096, kind="old vllm") as server:
        model, bench = f"{server.url}#{server.model}", bench_of("simpleqa")
        for number, kit in enumerate((None, default_kit())):
            found = run_eval("simpleqa", tmp_path / f"out{number}", model=model, data=tmp_path / "q.jsonl", kit=kit, fit={"reply_tokens": 200})
            assert found["complete"] and found["score"]["mean"] == 1.0
        assert not server.problems and all(request["max_tokens"] == 200 for request in server.requests)
        assert answering(model, bench, fit={"context_tokens": 3000}).card()["context_tokens"] == 3000


def test_two_systems_are_compared(tmp_path):
    tasks = bridges(12)
    good, poor = ([{"task": f"t{n}", "report": f"Opened in {1880 + n}." + (f" Closed in {1980 + n}." if n < both else "")} for n in range(12)] for both in (11, 1))
    for name, rows in (("good", good), ("poor", poor)): run_eval("researchrubrics", tmp_path / name, **files(tmp_path, tasks, rows), judge="words")
    run_eval("researchrubrics", tmp_path / "strict", **files(tmp_path, tasks, poor), judge="words", settings=EvalSettings(variant="strict"))
    found, same = compare(tmp_path / "good", tmp_path / "poor"), compare(tmp_path / "good", tmp_path / "good")
    assert found["difference"]["low"] > 0 and found["better"] == "a" and same["difference"]["mean"] == 0.0 and same["better"] is None
    with pytest.raises(InputError, match="variant"): compare(tmp_path / "good", tmp_path / "strict")


def test_pairs_are_judged_blind_and_in_both_orders(tmp_path):
    write_jsonl(tmp_path / "tasks.jsonl", [{"id": f"t{n}", "query": f"Report on bridge {n}."} for n in range(4)])
    write_jsonl(tmp_path / "a.jsonl", [{"task": f"t{n}", "report": f"Opened in {1880 + n}, with a source." if n < 3 else "?"} for n in range(4)])
    write_jsonl(tmp_path / "b.jsonl", [{"task": f"t{n}", "report": "Old."} for n in range(4)])
    def judge(messages):
        left, right = ("source" in between(side, messages) for side in ("left", "right"))
        verdict = "left" if left > right else "right" if right > left else "left"           # where both are alike, it leans to the left
        return reply(reason="read both", **{name: verdict for name in ("information_completeness", "content_depth", "requirement_fitness", "readability", "verdict")})
    with ScriptedModel(judge) as server:
        for _ in range(2): found = run_eval("adr-general", tmp_path / "out", tmp_path / "a.jsonl", data=tmp_path / "tasks.jsonl", against=tmp_path / "b.jsonl", judge=TeacherClient(endpoint(server), ASK, tmp_path / "replies"))
        assert len(server.requests) == 8
    assert found["win_tie_loss"] == {"win": 3, "tie": 1, "loss": 0} and found["model"] == "ours" and found["complete"] and found["card"]["judge"]["model"] == "scripted"
    with pytest.raises(InputError, match="--against"): run_eval("adr-general", tmp_path / "x", tmp_path / "a.jsonl", data=tmp_path / "tasks.jsonl", judge=TeacherClient(endpoint(server), ASK))


def test_fact_reads_the_cited_pages(tmp_path):
    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"<html><head><title>Bridge</title></head><body><main><h1>Bridge</h1><p>The bridge was opened in 1883 after five years of work on its towers.</p></main></body></html>"
            self.send_response(200 if self.path == "/bridge" else 404); self.send_header("Content-Type", "text/html"); self.send_header("Content-Length", str(len(body) if self.path == "/bridge" else 0)); self.end_headers()
            if self.path == "/bridge": self.wfile.write(body)
        def log_message(self, *_): pass
    site = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{site.server_port}"
    def judge(messages):
        if "<report>" in messages[1]["content"]: return reply(citations=[{"statement": "It was opened in 1883.", "url": f"http://{host}/bridge"}, {"statement": "It was painted red.", "url": f"http://{host}/bridge"}, {"statement": "It fell.", "url": f"http://{host}/gone"}])
        shown = messages[1]["content"]
        return reply(verdicts=[{"number": n, "reason": "compared", "verdict": "supported" if "1883" in line and "opened in 1883 after" in shown else "unsupported"} for n, line in enumerate(("It was opened in 1883.", "It was painted red."), 1)])
    write_jsonl(tmp_path / "query.jsonl", [{"id": 1, "prompt": "Report on the bridge."}])
    write_jsonl(tmp_path / "p.jsonl", [{"id": 1, "article": f"It was opened in 1883 [1]. [1]: http://{host}/bridge"}])
    from stepdr.tools.toolset import KitSettings
    with ScriptedModel(judge) as server:
        found = run_eval("fact", tmp_path / "out", tmp_path / "p.jsonl", data=tmp_path / "query.jsonl", judge=TeacherClient(endpoint(server), ASK), kit=KitSettings(allow_hosts=host))
    site.shutdown()
    assert found["citations"] == {"supported": 1, "unsupported": 1, "unknown": 1} and found["score"]["mean"] == 0.5


@pytest.mark.parametrize("rows, says", [
    ([], "holds no prediction"), ([{"task": "t0", "report": "a"}, {"task": "t0", "report": "b"}], "line 2: task: a second, different prediction for t0"), ([{"task": "x", "report": "a"}], "none of 1 predictions is on a task"), ([{"task": "t0"}], "none of 1 predictions")])
def test_predictions_that_cannot_be_meant(tmp_path, rows, says):
    with pytest.raises(InputError, match=says) as error: run_eval("researchrubrics", tmp_path / "out", **files(tmp_path, bridges(2), rows), judge="words")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("out/**/*.partial")) and not (tmp_path / "out" / "results.json").exists()


def test_what_a_benchmark_needs_is_told_in_one_line(tmp_path):
    given = files(tmp_path, bridges(1), [{"task": "t0", "report": "a"}])
    for bench, more, says in (("researchrubrics", {}, "needs one: oracle"), ("researchrubrics", {"judge": "nobody"}, "neither oracle"), ("race", {"data": Path("/none")}, "no such file"), ("researchrubrics", {"model": "x"}, "not both"),
                              ("nonsense", {}, "is not one of"), ("researchrubrics", {"judge": "words", "data": tmp_path / "none.jsonl"}, "no such file")):
        with pytest.raises(InputError, match=says) as error: run_eval(bench, tmp_path / "out", **{**given, **more})
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="ternary, binary"): EvalSettings(variant="loose")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"): run_eval("researchrubrics", tmp_path / "file", **given, judge="words")


def test_a_run_gives_its_own_tasks(tmp_path):
    from stepdr.synthesis.tasks import research_tasks
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    web = ClosedWeb(load_graph(root() / "data" / "kg"))
    (tmp_path / "run" / "world").mkdir(parents=True); (tmp_path / "run" / "data").mkdir(); (tmp_path / "run" / "world" / "pages.json").write_text("{}")
    rows = [{**task, "kind": "research"} for task in research_tasks(web, "dev", 0)[:3]]
    write_jsonl(tmp_path / "run" / "data" / "tasks_test.jsonl", [*rows, {"id": "s", "kind": "simpleqa", "query": "q", "answer": "a", "aliases": ["a"]}, {"id": "f", "kind": "frames", "query": "q", "answer": "a"}])
    research, simple = eval_tasks("researchrubrics", tmp_path / "run"), eval_tasks("simpleqa", tmp_path / "run" / "data" / "tasks_test.jsonl")
    assert len(research.tasks) == 3 and all("check" in rubric for task in research.tasks for rubric in task["rubrics"]) and research.tasks[0]["meta"] == rows[0]["meta"] and research.run == tmp_path / "run"
    assert [task["id"] for task in simple.tasks] == ["s"] and simple.run == tmp_path / "run" and not simple.aside
    with pytest.raises(InputError, match="serve researchrubrics"): eval_tasks("race", tmp_path / "run")


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_real_question_sets_end_to_end(tmp_path):
    from stepdr.evaluate.benchmarks import load_tasks
    for bench, name in (("simpleqa", "simple_qa_test_set.csv"), ("chinese-simpleqa", "chinese_simpleqa.jsonl"), ("frames", "frames_test_set.csv")):
        tasks = load_tasks(bench, SHARED / "qa" / name).tasks
        write_jsonl(tmp_path / "p.jsonl", [{"id": task["id"], "answer": task["aliases"][0] if n % 2 else "no"} for n, task in enumerate(tasks[:40])])
        found = run_eval(bench, tmp_path / bench, tmp_path / "p.jsonl", data=SHARED / "qa" / name)
        assert found["score"]["mean"] == pytest.approx(20 / len(tasks)) and found["counts"]["missing"] == len(tasks) - 40 and bench in results_text(found)
