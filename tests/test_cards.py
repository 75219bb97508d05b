"Prices with dates, costs from traces, cards, decontamination, and comparisons of two evaluations: worked by hand, against brute force, and with broken input."
import asyncio
import itertools
import json
import random
from html.parser import HTMLParser

import numpy as np
import pytest
from scripted_model import ScriptedModel, turn

from stepdr.core.artifacts import root, sha256_path, write_json, write_jsonl
from stepdr.core.outcomes import Work, work_counts
from stepdr.core.config import InputError
from stepdr.evaluate.benchmarks import score_verdicts
from stepdr.evaluate.cards import (
    CARD_FIELDS, PUBLISHED, card_html, card_line, check_card, cost_summary, decontaminated, front, load_prices,
    price_for, prompt_hashes, quality_cost_figure, report_cost, score_card, trace_cost)
from stepdr.evaluate.comparison import compare, compare_text
from stepdr.judge.intervals import paired_test, sign_flip_p
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
from stepdr.core.usage import Usage
from stepdr.core.replies import Reply
from stepdr.agent.episode import ResearchResult
from stepdr.agent.budget import Spent
from stepdr.agent.drivers import ResearchAgent
from stepdr.tools.tool import Toolbox
from stepdr.tools.workspace import Workspace


# prices

def test_the_shipped_table_is_whole_and_every_price_has_date_and_page():
    prices = load_prices()
    assert len(prices) >= 20 and len({(p.model, p.date) for p in prices}) == len(prices)
    assert all(p.source.startswith("https://") and "2024-01-01" <= p.date and 0 < p.cached <= p.input <= p.output for p in prices)
    listed = dict(reversed(line.split(maxsplit=1)) for line in (root() / "data" / "SHA256SUMS").read_text().splitlines())
    assert listed["prices.csv"] == sha256_path(root() / "data" / "prices.csv")


def test_the_price_of_a_day():
    assert price_for("o3", "2025-06-09").input == 10 and price_for("o3", "2025-06-10").input == 2 and price_for("O3").date == "2025-06-10"
    assert price_for("openai/gpt-4.1-mini-2025-04-14").model == "gpt-4.1-mini" and price_for("claude-3-5-haiku@20241022").provider == "Anthropic" and price_for("claude-3-7-sonnet-latest").input == 3
    with pytest.raises(InputError, match="first known price of o3"): price_for("o3", "2024-01-01")
    with pytest.raises(InputError, match="did you mean gpt-4o"): price_for("gpt-4oo")
    price = price_for("gpt-4o")
    assert price.cost(Usage(1_000_000, 0)) == 2.5 and price.cost(Usage(1_000_000, 100_000, 1_000_000)) == 1.25 + 1.0 and price_for("gemini-2.5-pro").cached == 1.25


@pytest.mark.parametrize("line, complaint", [("m,v,x,1,,USD,2025-01-01,p,", "line 2: input"), ("m,v,-1,1,,USD,2025-01-01,p,", "line 2: input"), ("m,v,nan,1,,USD,2025-01-01,p,", "line 2: input"), ("m,v,1,1,,USD,last year,p,", "line 2: date"), ("m,v,1,1,,dollars,2025-01-01,p,", "line 2: currency"),
                                             ("m,v,1,1,,USD,2025-01-01,,", "line 2: source"), (",v,1,1,,USD,2025-01-01,p,", "line 2: model"), ("", "holds no prices")])
def test_a_broken_table_of_prices_says_where(tmp_path, line, complaint):
    path = tmp_path / "prices.csv"
    path.write_text("model,provider,input,output,cached,currency,date,source,note\n" + line)
    with pytest.raises(InputError, match=complaint): load_prices(path)
    with pytest.raises(InputError, match="cannot be read"): load_prices(tmp_path / "none.csv")


# costs

def look(query: str) -> str:
    """Looks something up.

    query: what to look up
    """
    return f"Nothing is known of {query}."


def test_the_cost_of_an_episode_is_what_the_server_billed(tmp_path):
    with ScriptedModel([turn("I will look.", calls=[("look", {"query": "it"})]), turn("<answer>It is 42, as far as I know.</answer>")], faults={0: "cut_usage"}) as server:
        endpoint = ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model, retries=2, backoff=0.01, price_in=1.0, price_out=3.0, currency="CNY"))
        workspace = Workspace(tmp_path)
        async def work():
            try: return await ResearchAgent(endpoint, Toolbox([look]), workspace).run("What is it?")
            finally: await endpoint.close()
        result = asyncio.run(work())
        found = trace_cost(workspace.state / "trace.jsonl", currency="CNY")
        assert (found["prompt"], found["completion"]) == (server.billed.prompt, server.billed.completion) and found["turns"] == result.spent.turns
        assert found["turns"] == 2 and found["tool_calls"] == 1 and found["money"] == pytest.approx(result.spent.money) and found["seconds"] > 0
        whole = report_cost(result, currency="CNY")
        assert whole["tokens"] == found["tokens"] == server.billed.prompt + server.billed.completion and whole["money"] == pytest.approx(found["money"])
    with pytest.raises(InputError, match="no trace"): trace_cost(tmp_path / "none.jsonl")


def test_a_trace_with_broken_lines_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"event": "model", "usage": {"prompt": 10, "completion": 2}, "cost": 1.5, "time": "x"}\nnonsense\n[1]\n{"event": "call", "name": "todo"}\n{"event": "model", "usa')
    found = trace_cost(path)
    assert (found["prompt"], found["money"], found["tool_calls"], found["torn_lines"]) == (10, 1.5, 1, 3)


def test_costs_from_everything_that_counts():
    usage = Usage(1000, 100, 500)
    assert report_cost(usage)["tokens"] == 1100 and report_cost(Reply({}, usage, 0.5, "stop", 3.0))["money"] == 0.5
    assert report_cost(ResearchResult("q", "a", spent=Spent(2, 5, 900, 4.0, 0.1)))["tool_calls"] == 5
    work = Work(usage=usage, cost=0.25)
    assert report_cost(work)["money"] == 0.25 and report_cost(work_counts(work))["prompt"] == 1000
    assert report_cost(report_cost(usage, price_for("gpt-4o"))) == report_cost(usage, price_for("gpt-4o"))
    with pytest.raises(InputError, match="neither tokens nor money"): report_cost({})
    with pytest.raises(InputError, match="only their sum"): report_cost({"tokens": 3}, price_for("gpt-4o"))


def test_means_and_sums_of_costs():
    costs = [{"tokens": t, "money": t / 1000, "currency": "USD", "tool_calls": 3} for t in (100, 200, 600)] + [None]
    table = cost_summary(costs)
    assert table["tokens"]["mean"] == 300 and table["total"]["tokens"] == 900 and table["tool_calls"]["low"] == 3 and "seconds" not in table and (table["reports"], table["unknown"]) == (3, 1)
    mixed = [{"money": 7.0, "currency": "CNY"}, {"money": 2.0, "currency": "USD"}, {"money": 0.0, "currency": ""}]
    with pytest.raises(InputError, match="CNY and USD"): cost_summary(mixed)
    assert cost_summary(mixed, {"CNY": 0.14}, "USD")["total"]["money"] == pytest.approx(2.98)
    with pytest.raises(InputError, match="no rate from USD"): cost_summary(mixed, {"CNY": 1.0}, "EUR")
    with pytest.raises(InputError, match="no report"): cost_summary([None])


def test_the_front_against_brute_force():
    rng = random.Random(0)
    for _ in range(200):
        points = [(rng.randrange(6), rng.randrange(6)) for _ in range(rng.randrange(1, 9))]
        beaten = lambda i: any((c <= points[i][0] and s >= points[i][1] and (c, s) != points[i]) for c, s in points)
        assert {points[i] for i in front(points)} == {points[i] for i in range(len(points)) if not beaten(i)}


def test_the_figure_of_quality_against_cost():
    own = [{"name": "<b>ours</b>", "cost": {"mean": 0.4, "low": 0.3, "high": 0.5}, "score": {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 9}, "currency": "CNY"}, {"name": "free", "cost": 0, "score": 0.2}]
    figure = quality_cost_figure([*own, *PUBLISHED])
    assert figure.layout.xaxis.type == "log" and [trace.name for trace in figure.data] == ["front", "measured here", "published elsewhere"]
    marks = figure.data[1]
    assert list(marks.error_y.array) == pytest.approx([0.1, 0.0]) and min(marks.x) > 0 and "&lt;b&gt;" in marks.text[0] and marks.text[1] == "free (0)"
    assert set(figure.data[0].y) == {0.2, 0.6}                                          # published figures are never on the front
    with pytest.raises(InputError, match="no common axis"): quality_cost_figure([{"name": "a", "cost": 1, "score": 1, "currency": "USD"}, {"name": "b", "cost": 1, "score": 1, "currency": "CNY"}])
    with pytest.raises(InputError, match=r"points\[0\]"): quality_cost_figure([{"name": "a", "cost": -1, "score": 1}])
    assert quality_cost_figure([{"name": "a", "cost": 900, "score": 0.3, "currency": "USD"}, {"name": "b", "cost": 90, "score": 0.1, "currency": "CNY"}], "tokens").layout.xaxis.title.text.endswith("tokens (log)")


# cards

def card(**more): return score_card("simpleqa", **{"judge": "exact rule", "n": 4, **more})


def test_a_card_is_whole_and_names_no_folder(tmp_path):
    data = write_jsonl(tmp_path / "secret folder" / "questions.jsonl", [{"id": 1}])
    made = card(data=data, predictions=data, prompts=["fact_check", "judge_positive"], variant="strict", trials=3, seed=5, model="m")
    assert set(CARD_FIELDS) <= set(made) and made["data"] == {"name": "questions.jsonl", "sha256": sha256_path(data)} and "secret folder" not in json.dumps(made)
    assert made["versions"]["stepdr"] and made["versions"]["python"] and check_card(json.loads(json.dumps(made))) == json.loads(json.dumps(made))
    assert card(data="owner/name")["data"] == {"name": "owner/name"} and card()["decontamination"]["checked"] is False
    for wrong, told in (({"variant": "lenient"}, "variant"), ({"prompts": ["no_such"]}, "no_such"), ({"judge": None}, "judge"), ({"n": -1}, "n: -1"), ({"n": True}, "n: True")):
        with pytest.raises(InputError, match=told): card(**wrong)
    with pytest.raises(InputError, match="lacks variant"): check_card({name: 1 for name in CARD_FIELDS if name != "variant"})
    with pytest.raises(InputError, match="missing"): check_card(None)


def test_prompt_hashes_change_with_a_word(monkeypatch):
    from stepdr.core import prompts
    before = prompt_hashes(["fact_check", "race"])
    monkeypatch.setitem(prompts.CHINESE, "fact_check", prompts.CHINESE["fact_check"] + "。")
    after = prompt_hashes(["fact_check", "race"])
    assert before["race"] == after["race"] and before["fact_check"] != after["fact_check"]


def test_card_html_is_well_formed_and_shows_untrusted_text_as_text():
    evil = "<script>alert(1)</script>\" onclick=x <img src=http://evil.example/x>"
    text = card_html(card(model=evil, judge={"judge": evil, "of": [{"model": evil}]}, data=evil, decontamination={"checked": True, "rows": 10, "leaked": 1, "first": [{"id": evil}]}))
    tags, stack = set(), []
    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.add(tag); assert set(dict(attributes)) <= {"class", "style"}
            if tag != "br": stack.append(tag)
        def handle_endtag(self, tag): assert stack.pop() == tag
    Reader().feed(text)
    assert tags == {"details", "summary", "table", "tr", "th", "td", "br"} and not stack
    assert "1 of 10 training rows leak" in text and "\n" not in card_line(card())


def chat(key, question, answer="no"): return {"id": key, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"<answer>{answer}</answer>"}]}


def test_decontamination_of_training_data(tmp_path):
    question = "How long is the old east bridge of the harbour city in metres, and who built it?"
    rows = [chat(f"r{n}", f"What is fact number {n} about the town of {n}?") for n in range(2500)] + [chat("copied", question), {"id": "page", "messages": [], "text": f"Someone asked: {question} Nobody knew."}, {"prompt": question, "completion": "480"}]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    with open(path, "a") as file: file.write("{broken\n")
    found = decontaminated([{"query": question, "answer": "480"}, {"query": "Which of the seven rivers of the northern plain is the longest one?"}], [path])
    assert found["leaked"] == 3 and found["rows"] == 2504 and found["unread"] == 1 and found["files"][0]["sha256"] == sha256_path(path) and {row["id"] for row in found["first"]} >= {"copied", "page"}
    clean = decontaminated([{"query": "Which of the seven rivers of the northern plain is the longest one?"}], path)
    assert clean["leaked"] == 0 and clean["checked"] and card(decontamination=clean)["decontamination"] == clean
    with pytest.raises(InputError, match="no such file"): decontaminated([{"query": question}], tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no task"): decontaminated([], path)


# comparisons

def test_randomisation_against_brute_force():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 9):
        values = np.round(rng.normal(0.1, 1, n), 2)
        brute = np.mean([abs(np.dot(signs, values)) >= abs(values.sum()) - 1e-12 for signs in itertools.product((-1, 1), repeat=n)])
        assert sign_flip_p(values) == pytest.approx(brute)
    values = rng.normal(0.3, 1, 13)
    assert sign_flip_p([*values, 1e-9]) == pytest.approx(sign_flip_p(values), abs=0.02)         # 14 values are drawn, 13 counted out
    assert sign_flip_p([0.0, 0.0]) == 1.0 and sign_flip_p([]) == 1.0


def test_paired_differences_by_hand():
    found = paired_test({"x": 0.9, "y": 0.5, "z": 0.4, "only": 1.0}, {"x": 0.8, "y": 0.5, "z": 0.1, "other": 0.0})
    assert found["difference"]["mean"] == pytest.approx(0.4 / 3) and found["difference"]["n"] == 3 and (found["wins"], found["ties"], found["losses"]) == (2, 1, 0) and found["p"] == 0.5 and not found["shown"]
    always = paired_test({n: 0.6 for n in range(8)}, {n: 0.5 for n in range(8)})
    assert always["better"] == "a" and always["p"] == 2 / 256 and always["effect_size"] is None
    assert paired_test({n: 0.5 for n in range(8)}, {n: 0.6 for n in range(8)})["better"] == "b"
    five = paired_test({n: 0.6 for n in range(5)}, {n: 0.5 for n in range(5)})
    assert five["difference"]["low"] > 0 and not five["shown"]                                   # the interval alone would have said so
    with pytest.raises(InputError, match="no task in common"): paired_test({"a": 1}, {"b": 1})


def evaluation(folder, scores, variant="ternary", judge="oracle", bench="researchrubrics", missing=(), costs=None, parts=None, **more):
    values = list(scores.values())
    write_json(folder / "results.json", {"bench": bench, "variant": variant, "judge": judge, "score": {"mean": float(np.mean(values)), "low": 0, "high": 1, "n": len(values)},
               "card": score_card(bench, judge={"judge": judge}, n=len(values), variant=variant, model=folder.name, **more)})
    write_jsonl(folder / "tasks.jsonl", [{"task": task, "score": value, "state": "missing" if task in missing else "judged", **({"cost": costs[task]} if costs else {}), **({"parts": {k: v[task] for k, v in parts.items()}} if parts else {})} for task, value in scores.items()])
    return folder


def test_comparing_two_folders(tmp_path):
    rng = np.random.default_rng(1)
    base = {f"t{n}": float(score) for n, score in enumerate(rng.random(60))}
    better = {task: score + 0.1 + rng.normal(0, 0.1) for task, score in list(base.items())[:55]} | {"extra": 0.5}
    cost = lambda scores, money: {task: {"tokens": 100 + n, "money": money + n / 1000, "currency": "USD"} for n, task in enumerate(scores)}
    a = evaluation(tmp_path / "new", better, costs=cost(better, 0.5), parts={"axis: style": {t: s / 2 for t, s in better.items()}}, missing=["t3"])
    b = evaluation(tmp_path / "old", base, costs=cost(base, 0.2), parts={"axis: style": {t: s / 2 for t, s in base.items()}})
    found = compare(a, b)
    assert found["better"] == "a" and found["difference"]["n"] == 55 and found["missing"]["only_a"] == {"count": 1, "first": ["extra"]} and found["missing"]["only_b"]["count"] == 5 and found["missing"]["no_prediction_a"]["first"] == ["t3"]
    assert found["cost"]["money"]["difference"]["mean"] == pytest.approx(0.3) and found["cost"]["money"]["shown"] and found["parts"]["axis: style"]["difference"]["mean"] == pytest.approx(found["difference"]["mean"] / 2)
    assert "This is a difference: new scores higher" in found["words"] and "5 tasks only in old" in found["words"] and "1 without a prediction of new" in found["words"] and json.loads(json.dumps(found)) == found
    turned = compare(b, a)
    assert turned["better"] == "b" and turned["difference"]["mean"] == pytest.approx(-found["difference"]["mean"]) and turned["p"] == pytest.approx(found["p"], abs=0.01)
    assert compare(a / "results.json", b) == found and found == compare(a, b)
    same = compare(b, b)
    assert same["better"] is None and "same score on every task" in same["words"] and same["a"]["name"] != same["b"]["name"]
    assert "against" in compare_text(found)


def test_unlike_scores_are_refused_in_one_line(tmp_path):
    scores = {f"t{n}": n / 10 for n in range(10)}
    first = evaluation(tmp_path / "first", scores)
    data = write_jsonl(tmp_path / "data.jsonl", [{"id": 1}])
    for name, more in (("variant", {"variant": "strict"}), ("judge", {"judge": "words"}), ("trials", {"trials": 3}), ("prompts", {"prompts": ["race"]}), ("data", {"data": data}), ("bench", {"bench": "adr-professional"})):
        other = evaluation(tmp_path / name, scores, **more)
        with pytest.raises(InputError, match=f"differ in {name} ") as error: compare(first, other)
        assert "\n" not in str(error.value) and f"allow {name}" in str(error.value)
        assert compare(first, other, allow=[name])["allowed"] == [name] and f"differ in {name}, as allowed" in compare(first, other, allow=[name])["words"]
    both = evaluation(tmp_path / "both", scores, variant="strict", trials=3)
    with pytest.raises(InputError, match="allow variant,trials"): compare(first, both)
    with pytest.raises(InputError, match="differ in trials"): compare(first, both, allow=["variant"])
    with pytest.raises(InputError, match="allow: 'everything'"): compare(first, both, allow=["everything"])


def test_results_without_a_file_of_tasks_are_compared_too(tmp_path):
    rows = lambda verdict: [{"task": f"t{n}", "criterion": "c", "weight": 1, "verdict": verdict if n % 4 else "not"} for n in range(20)]
    for name, verdict in (("good", "satisfied"), ("poor", "partially")): write_json(tmp_path / f"{name}.json", score_verdicts("researchrubrics", rows(verdict)))
    found = compare(tmp_path / "good.json", tmp_path / "poor.json")
    assert found["difference"]["mean"] == pytest.approx(0.375) and found["better"] == "a" and found["a"]["name"] == "good"


@pytest.mark.parametrize("broken, told", [({"results.json": None}, "no such file"), ({"results.json": "{"}, "results.json"), ({"results.json": "[]"}, "no result"), ({"tasks.jsonl": "{\n"}, "line 1: not JSON"), ({"tasks.jsonl": '{"task": "a"}\n{"task": "b", "score": "high"}\n'}, "line 2: expected"),
                                          ({"tasks.jsonl": '{"task": "a", "score": 1}\n{"task": "a", "score": 1}\n'}, "twice"), ({"tasks.jsonl": ""}, "no score a task")])
def test_broken_folders_say_what_is_wrong(tmp_path, broken, told):
    good, bad = evaluation(tmp_path / "good", {"a": 1.0}), evaluation(tmp_path / "bad", {"a": 1.0})
    for name, text in broken.items():
        if text is None: (bad / name).unlink()
        else: (bad / name).write_text(text)
    with pytest.raises(ValueError, match=told) as error: compare(good, bad)
    assert "\n" not in str(error.value)


def test_few_tasks_never_show_a_difference_and_many_equal_ones_seldom(tmp_path):
    few = compare(evaluation(tmp_path / "a", {f"t{n}": 1.0 for n in range(5)}), evaluation(tmp_path / "b", {f"t{n}": 0.0 for n in range(5)}))
    assert few["better"] is None and "5 tasks could show none" in few["words"]
    rng, shown = np.random.default_rng(2), 0
    for _ in range(300):
        values = rng.normal(0, 0.3, 20)
        shown += paired_test(dict(enumerate(values)), dict(enumerate(np.zeros(20))), samples=300)["shown"]
    assert shown <= 27                                                                           # 15 expected; 27 is 3 standard deviations above
