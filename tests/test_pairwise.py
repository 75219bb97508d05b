"""Blind pairs: the session, the page in a real browser, the form in JupyterLab, the judge over a faulty endpoint, and the statistics by hand."""
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from scripted_model import ScriptedModel, turn
from stepdr.core.teacher import TeacherClient, TeacherSettings, run_to_end
from stepdr.core.config import InputError
from stepdr.core.judge_prompts import SIDE_VERDICTS
from stepdr.evaluate.leaderboards import comparisons_needed, simulate, win_tie_loss_chances
from stepdr.evaluate.pairwise import (
    EndpointPairJudge, both_orders, comparison, conclusion, judge_study, majority, net_interval, rater_agreement,
    side_preference, study_from_files, study_results, versus, votes, write_study_results)
from stepdr.evaluate.rating import RatingServer, Session
from stepdr.evaluate.shown_reports import ALLOWED, PAIR_DIMENSIONS, render_report
from stepdr.evaluate.predictions import read_predictions
from stepdr.evaluate.studies import Pair, PairwiseSettings, Study, make_pairs, make_study, study_tasks
from stepdr.judge.ratings import bradley_terry
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings

ROOT = Path(__file__).resolve().parent.parent
FAIR = dict.fromkeys(PAIR_DIMENSIONS, "both fair")
HOSTILE = """# Report <script>window.pwned = 1</script>
<img src="http://tracker.example/a.png" onerror="window.pwned = 2"> ![a chart](http://tracker.example/b.png "onload=1")
<svg onload="window.pwned = 3"><iframe src="http://tracker.example/"></iframe><meta http-equiv="refresh" content="0; url=http://tracker.example/">
<style>body{display:none}</style><form action="http://tracker.example/"><input name=x></form><base href="http://tracker.example/">
[run](javascript:window.pwned=4) [data](data:text/html,<script>window.pwned=5</script>) [vb](vbscript:x) [file](file:///etc/passwd) [out](https://example.org/?q="><script>window.pwned=6</script>)
</div></div></section><h1 style="position:fixed" onclick="window.pwned=7">loose</h1>
[ref]: javascript:window.pwned=8
[ref] <javascript:window.pwned=9> <https://example.org>

| a | b |
|:-:|---|
| <b onmouseover="window.pwned=10">x</b> | y |

```"><script>window.pwned=11</script>
<script>window.pwned=12</script>
```
It costs 4 \\cite{web_0000000a, <script>window.pwned=13</script>} and \u202eright to left\u202c."""


def pairs(n=10, hostile=()):
    make = lambda name, i: HOSTILE if i in hostile else f"# Bridge {i}\n\nThe {name[-1]} report says **why** it costs {i} million \\cite{{web_{i:08x}}}.\n\n| part | cost |\n|---|---|\n| beam | {i} |\n" + "Because of the soil, the river and the law. " * 60
    return [Pair(f"t{i:02}", f"What does bridge {i} cost, and why?\nGive sources.", "alpha-system", "beta-system", make("alpha", i), make("beta", i), "science" if i % 2 else "law") for i in range(n)]


@pytest.fixture
def study(tmp_path): return make_study(tmp_path / "study", pairs(), PairwiseSettings(seed=3))


class Tags(HTMLParser):
    def __init__(self, text): super().__init__(); self.tags, self.depth, self.low = [], 0, 0; self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs))); self.depth += tag not in ("br", "hr")
    def handle_endtag(self, tag): self.depth -= tag not in ("br", "hr"); self.low = min(self.low, self.depth)


# --- reports as text

@pytest.mark.parametrize("text", [HOSTILE, "", "x" * 50_000, "> " * 3000 + "x", "[" * 20_000, "*" * 20_000, "`" * 20_001, "|a|b|\n|-|-|\n" + "|x|y|\n" * 3000, "\ud800 \x00 \x1b[2J", "![](a)" * 2000, "&lt;script&gt; &#60;script&#62;"])
def test_a_report_becomes_allowed_tags_only(text):
    shown = Tags(render_report(text))
    assert {tag for tag, _ in shown.tags} <= ALLOWED and shown.depth == 0 and shown.low == 0  # and it cannot close what it did not open
    for tag, attrs in shown.tags:
        assert set(attrs) <= ({"href", "target", "rel"} if tag == "a" else {"start"} if tag == "ol" else {"align"} if tag in ("td", "th") else set())
        assert re.match(r"https?://", attrs.get("href", "http://")) and attrs.get("align", "left") in ("left", "right", "center")


def test_two_megabytes_are_cut_and_said():
    shown = render_report("Cost and cause. " * 125_000)
    assert len(shown) < 310_000 and "1700000 characters, is not shown" in shown
    assert "\N{REPLACEMENT CHARACTER}right to left" in render_report(HOSTILE)


def test_citations_are_numbered_alike_for_all_systems():
    assert re.findall(r"<sup>\[(\d+)\]</sup>", render_report("a \\cite{web_0000000b} b \\cite{web_0000000a,web_0000000b}\n\nc \\cite{other-style}")) == ["1", "2", "1", "3"]


# --- pairs and files

def test_pairs_keep_what_is_missing_and_name_what_is_unknown():
    tasks = {"a": {"query": "?"}, "b": {"query": "?"}}
    made, notes = make_pairs(tasks, {"z": {"a": "x"}, "m": {"a": "y", "b": "y", "c": "y"}, "k": {"a": "w", "b": "w"}})
    assert len(made) == 6 and [(pair.first, pair.second) for pair in made[:3]] == [("k", "m"), ("k", "z"), ("m", "z")] and made[4].second_report == ""
    assert any("c), left out" in note for note in notes) and any("z: no report on 1 of 2" in note for note in notes)
    assert len(make_pairs(tasks, {"z": {}, "m": {}, "k": {}}, against="m")[0]) == 4
    for wrong in ({"one": {}}, {}):
        with pytest.raises(InputError, match="two systems"): make_pairs(tasks, wrong)


def test_what_betrays_a_system_is_masked_for_people_and_judges(tmp_path):
    logo = "<img\nsrc='https://cdn.maker.example/logo.png' class=\"logo\"/> <SVG onload=1> <picture><source srcset=x></picture>\nThe MAKER report: 3 < 4 and 5 > 4."
    made, notes = make_pairs({"a": {"query": "?"}}, {"maker": {"a": logo}, "other": {"a": "plain"}})
    assert notes == ["maker: 1 of its reports hold the word 'maker'; mask it if that betrays them (settings: mask)"]
    study, seen = make_study(tmp_path / "s", made, PairwiseSettings(mask="Maker, maker.example")), []
    class Looks:
        async def compare(self, *texts): seen.extend(texts); return {"verdict": "both good", "dimensions": {}, "reason": "x"}
    run_to_end(judge_study(Looks(), study, "judge"))
    for text in (Session(study, "ann").view()["left"] + Session(study, "ann").view()["right"], *seen): assert "maker" not in text.lower() and "logo" not in text and "onload" not in text
    assert "[…] report: 3 &lt; 4 and 5 &gt; 4." in json.dumps(Session(study, "ann").view(), ensure_ascii=False) and len(seen) == 6


def test_files_are_read_or_named_with_their_row(tmp_path):
    (tmp_path / "ok.jsonl").write_text('{"id": 1, "prompt": "p", "topic": "law"}\n')
    assert study_tasks(tmp_path / "ok.jsonl") == {"1": {"query": "p", "domain": "law"}}
    for text, what in (('{"id": 1}\n', "line 1: report: is missing"), ('{"id": 1, "report": "a"}\n{"task": "1", "report": "b"}\n', "line 2: id: 1 occurred before"), ("", "no prediction"), ("{", "line 1: not JSON")):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(InputError, match=re.escape(what)): read_predictions(tmp_path / "bad.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="line 1: compressed data is broken"): read_predictions(tmp_path / "x.jsonl.gz")
    (tmp_path / "folder").mkdir(); (tmp_path / "folder" / "t1.md").write_text("report")
    assert read_predictions(tmp_path / "folder") == {"t1": "report"}


def test_a_study_is_not_mixed_up_with_another(tmp_path, study):
    assert make_study(study.folder, pairs(), PairwiseSettings(seed=3)).order("a") == study.order("a")
    for other, settings in ((pairs(9), PairwiseSettings(seed=3)), (pairs(), PairwiseSettings(seed=4))):
        with pytest.raises(InputError, match="holds another study"): make_study(study.folder, other, settings)
    with pytest.raises(InputError, match="occurs twice"): make_study(tmp_path / "b", pairs() + pairs(1))
    (study.folder / "pairs.jsonl").write_text((study.folder / "pairs.jsonl").read_text().replace("Bridge 3", "Bridge 4"))
    with pytest.raises(InputError, match="was changed"): Study(study.folder)


# --- the session

def test_sides_are_random_balanced_and_fixed_by_the_seed(tmp_path):
    study = make_study(tmp_path / "s", pairs(40), PairwiseSettings(seed=1))
    orders = {rater: study.order(rater) for rater in map(str, range(200))}
    assert all(sum(order.values()) == 20 for order in orders.values()) and orders["7"] == Study(tmp_path / "s").order("7")
    left = {key: sum(order[key] for order in orders.values()) for key in study.pairs}
    assert all(70 < count < 130 for count in left.values())  # of 200, binomial: 100 ± 4.2 standard deviations
    assert len({tuple(order) for order in orders.values()}) == 200


def test_a_view_is_blind_and_a_rating_is_not(study):
    session = Session(study, "ann")
    for number in range(10):
        view = session.view()
        assert "alpha" not in json.dumps(view) and "beta" not in json.dumps(view) and "t0" not in json.dumps(view)
        row = session.submit(view["key"], "left", FAIR, "the left one says why")
        first_left = study.order("ann")[view["key"]]
        assert (row["left"], row["right"]) == (("alpha-system", "beta-system") if first_left else ("beta-system", "alpha-system"))
        assert "report says" in view["left"] and view["left"] == render_report(study.pairs[view["key"]].report(row["left"]))
    assert session.view() == {"rater": "ann", "done": 10, "total": 10, "language": "en", "finished": True}
    assert votes(study.ratings())[0]["label"] in ("first", "second") and Counter(row["left"] for row in study.ratings()) == {"alpha-system": 5, "beta-system": 5}


def test_a_revision_keeps_its_sides_and_replaces(study):
    session = Session(study, "ann")
    key = session.view()["key"]
    first = session.submit(key, "left", FAIR, "a good reason")
    again = session.submit(key, "both poor", FAIR, "a second thought")
    assert again["left"] == first["left"] and len(study.ratings()) == 1 and study.ratings()[0]["verdict"] == "both poor" and study.path.read_text().count("\n") == 2


@pytest.mark.parametrize("change, what", [({"verdict": None}, "overall"), ({"verdict": "tie"}, "overall"), ({"dimensions": None}, "information completeness"), ({"dimensions": {**FAIR, "x": "left"}}, "dimensions"),
                                          ({"dimensions": {**FAIR, "readability": ["left"]}}, "readability"), ({"reason": "   \n . "}, "reason"), ({"key": "nothing"}, "pair: unknown")])
def test_what_is_missing_is_said_and_nothing_is_kept(study, change, what):
    session = Session(study, "ann")
    with pytest.raises(InputError, match=what): session.submit(**{"key": session.view()["key"], "verdict": "left", "dimensions": FAIR, "reason": "a good reason", **change})
    assert study.ratings() == [] and session.view()["number"] == 1


@pytest.mark.parametrize("name", ["", "a b", "x" * 41, "../x", "a\n", None, 3])
def test_raters_have_plain_names(study, name):
    with pytest.raises(InputError, match="rater"): Session(study, name)
    assert Session(study, "李雷").view()["number"] == 1


def test_each_pair_is_given_to_so_many_raters(tmp_path):
    study = make_study(tmp_path / "s", pairs(), PairwiseSettings(ratings_per_pair=2))
    for rater in ("a", "b", "c"):
        session = Session(study, rater)
        while not (view := session.view())["finished"] and view["done"] < 8: session.submit(view["key"], "left", FAIR, "a good reason")
    assert len(study.ratings()) == 20 and set(Counter(study.key(row) for row in study.ratings()).values()) == {2}
    late = Session(study, "d")
    assert late.view()["finished"]
    with pytest.raises(InputError, match="enough others"): late.submit(next(iter(study.pairs)), "left", FAIR, "a good reason")


# --- the file of ratings

def test_torn_and_foreign_lines_are_named_and_nothing_else_is_lost(study):
    session = Session(study, "ann")
    session.submit(session.view()["key"], "left", FAIR, "a good reason")
    with open(study.path, "a") as file: file.write('{"task": "t01", "left": "alp')  # a crash in the middle of a line
    session.submit(session.view()["key"], "right", FAIR, "a good reason")
    with open(study.path, "a") as file: file.write('[1]\n{"task": "t99", "left": "a", "right": "b", "verdict": "left"}\n{"task": "t01", "left": "a", "right": "a", "verdict": "left"}\n{"task": "t01", "left": "a", "right": "b", "verdict": "better"}\n')
    assert [row["verdict"] for row in Study(study.folder).ratings()] == ["left", "right"]
    study.ratings()
    assert len(study.problems) == 5 and "line 2" in study.problems[0] and "which the study does not have" in study.problems[-1]


def test_a_full_disk_leaves_the_file_as_it_was(study, monkeypatch):
    session = Session(study, "ann")
    session.submit(session.view()["key"], "left", FAIR, "a good reason")
    before, real = study.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:20]))
    with pytest.raises(OSError): session.submit(session.view()["key"], "left", FAIR, "a good reason")
    monkeypatch.undo()
    assert study.path.read_bytes() == before and session.view()["number"] == 2


WRITER = """
import sys
from stepdr.evaluate.shown_reports import PAIR_DIMENSIONS
from stepdr.evaluate.rating import Session
from stepdr.evaluate.predictions import read_predictions
from stepdr.evaluate.studies import Study
session = Session(Study(sys.argv[1]), sys.argv[2])
while not (view := session.view())["finished"]:
    session.submit(view["key"], "left", dict.fromkeys(PAIR_DIMENSIONS, "left"), "a good reason " * 300)
    print(view["key"], flush=True)
"""


def test_what_was_acknowledged_survives_kills_of_several_writers(tmp_path):
    study = make_study(tmp_path / "s", pairs(60))
    said = {}
    for _ in range(2):
        running = {rater: subprocess.Popen([sys.executable, "-c", WRITER, str(study.folder), rater], stdout=subprocess.PIPE, text=True) for rater in ("a", "b")}
        for rater, process in running.items(): said.setdefault(rater, []).append(process.stdout.readline())
        for rater, process in running.items(): process.send_signal(signal.SIGKILL); said[rater] += process.stdout.read().splitlines(); process.wait()
    rows = {(row["rater"], row["pair"]) for row in study.ratings()}
    lost = [(rater, key.strip()) for rater, keys in said.items() for key in keys if len(key.strip()) == 12 and (rater, key.strip()) not in rows]
    assert not lost and len(study.problems) <= 4 and sum(map(len, said.values())) >= 4
    for rater in said: subprocess.run([sys.executable, "-c", WRITER, str(study.folder), rater], check=True, capture_output=True)
    assert len(Study(study.folder).ratings()) == 120


# --- the server

def request(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_only_who_has_the_address_gets_in(study):
    with RatingServer(study) as server:
        key, cookie = Session(study, "ann").view()["key"], f"stepdr_{server.port}={server.token}"
        good = json.dumps({"rater": "ann", "key": key, "verdict": "left", "dimensions": FAIR, "reason": "a good reason"})
        kind = {"Content_Type": "application/json"}
        refused = [request(server, "GET", "/"), request(server, "GET", "/view?rater=ann"), request(server, "GET", "/?token=wrong"), request(server, "GET", "/view?rater=ann", Cookie=f"stepdr_{server.port}=wrong"),
                   request(server, "GET", "/view?rater=ann", Cookie=cookie, Host=f"evil.example:{server.port}"), request(server, "GET", f"/?token={server.token}", Host="evil.example"),
                   request(server, "POST", "/rate", good, **kind), request(server, "POST", "/rate", good, Cookie=cookie, Content_Type="text/plain"), request(server, "POST", "/rate", good, Cookie=cookie, Origin="http://evil.example", **kind)]
        assert [status for status, _, _ in refused] == [403] * 9 and study.ratings() == []
        for body in ("[1]", "{", "[" * 100_000): assert request(server, "POST", "/rate", body, Cookie=cookie, **kind)[0] == 400
        assert request(server, "POST", "/rate", "x" * 300_000, Cookie=cookie, **kind)[0] == 413
        assert request(server, "POST", "/rate", json.dumps({"rater": ["ann"], "key": {}, "verdict": {}}), Cookie=cookie, **kind)[0] == 422
        status, headers, _ = request(server, "GET", f"/?token={server.token}&rater=ann")
        assert status == 303 and headers["Location"] == "/?rater=ann" and "HttpOnly" in headers["Set-Cookie"]
        status, headers, page = request(server, "GET", "/?rater=ann", Cookie=cookie)
        assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"] and "alpha" not in page
        status, _, text = request(server, "POST", "/rate", good, Cookie=cookie, Origin=f"http://127.0.0.1:{server.port}", **kind)
        assert status == 200 and json.loads(text)["number"] == 2 and len(study.ratings()) == 1
        with pytest.raises(InputError, match="port"): RatingServer(study, server.port)


# --- a person in a browser

def rate(page, verdict, reason, dimensions=None):
    for name in PAIR_DIMENSIONS: page.locator(f"fieldset.{name} label:has(input[value='{(dimensions or {}).get(name, verdict)}'])").click()
    page.locator(f"fieldset.overall label:has(input[value='{verdict}'])").click()
    page.locator("#reason").fill(reason)


def test_a_person_rates_ten_pairs_and_ratings_survive_reload_and_restart(tmp_path, browser):
    study = make_study(tmp_path / "study", pairs(10, hostile=(4,)), PairwiseSettings(seed=3))
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page, asked, dialogs = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url)); page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    verdicts = [SIDE_VERDICTS[i % 5] for i in range(10)]
    server = RatingServer(study).__enter__()
    try:
        page.goto(server.url)
        page.locator("#rater").fill("ann"); page.locator("#start button").click()
        for number in range(1, 5):
            page.locator("#progress", has_text=f"Pair {number} of 10, {number - 1} rated").wait_for()
            assert "alpha" not in page.content() and "beta" not in page.content()
            rate(page, verdicts[number - 1], f"reason number {number}")
            page.locator("#save").click()
        page.locator("#progress", has_text="Pair 5 of 10, 4 rated").wait_for()
        page.locator("#reason").fill("begun and not saved"); page.locator("fieldset.overall label:has(input[value='right'])").click()
        page.reload()  # in the middle of the fifth pair
        page.locator("#progress", has_text="Pair 5 of 10, 4 rated").wait_for()
        assert page.locator("#reason").input_value() == "begun and not saved" and page.locator("fieldset.overall input[value='right']").is_checked()
        page.locator("#save").click()  # the dimensions are missing
        page.locator("#message.bad", has_text="information completeness").wait_for()
        server.__exit__()  # the server goes away: the rating is not lost
        rate(page, verdicts[4], "reason number 5"); page.locator("#save").click()
        page.locator("#message.bad").filter(has_text=re.compile("fetch", re.I)).wait_for()
        assert len(study.ratings()) == 4
        server = RatingServer(Study(study.folder), server.port).__enter__()
        page.goto(server.url + "&rater=ann")
        page.locator("#progress", has_text="Pair 5 of 10, 4 rated").wait_for()
        assert page.locator("#reason").input_value() == "reason number 5"
        page.locator("#save").click()
        for number in range(6, 11):
            page.locator("#progress", has_text=f"Pair {number} of 10").wait_for()
            rate(page, verdicts[number - 1], f"reason number {number}")
            page.locator("#save").click()
        page.locator("#progress", has_text="All pairs are rated").wait_for()
        page.locator("#back").click()  # and one is revised
        page.locator("#revise").wait_for()
        assert page.locator("#reason").input_value() == "reason number 10" and page.locator("fieldset.overall input[value='both poor']").is_checked()
        page.locator("fieldset.overall label:has(input[value='both fair'])").click(); page.locator("#save").click()
        page.locator("#progress", has_text="All pairs are rated").wait_for()
        assert page.evaluate("window.pwned") is None and not dialogs and all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:,")) for url in asked)
    finally:
        server.__exit__(); context.close()
    rows = Study(study.folder).ratings()
    assert [row["verdict"] for row in rows] == verdicts[:9] + ["both fair"] and [row["reason"] for row in rows] == [f"reason number {n}" for n in range(1, 11)]
    assert [row["pair"] for row in rows] == list(study.order("ann")) and all(set(row["dimensions"]) == set(PAIR_DIMENSIONS) for row in rows) and all(row["seconds"] > 0 for row in rows)


def test_hostile_reports_do_nothing_in_the_page(tmp_path, browser):
    study = make_study(tmp_path / "study", pairs(1, hostile=(0,)), PairwiseSettings(language="zh"))
    context = browser.new_context()
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    with RatingServer(study) as server:
        page.goto(server.url + "&rater=bob")
        page.locator("#progress", has_text="第 1 对").wait_for()
        for link in page.locator(".report a").all(): assert re.match(r"https://example\.org", link.get_attribute("href") or "https://example.org")
        for word in ("Report", "javascript", "loose"): page.locator("#left, #right").get_by_text(word).first.click()  # whatever reacts to a click would now
        assert page.locator(".report td[align='center']").count() == 2  # one on each side
        page.wait_for_timeout(300)
        assert page.evaluate("window.pwned") is None and page.locator(".report script, .report img, .report iframe, .report form, .report style, .report svg").count() == 0
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:,")) for url in asked) and page.locator("#left").is_visible()
        rate(page, "both poor", "两份都不可用"); page.locator("#save").click()
        page.locator("#progress", has_text="谢谢").wait_for()
    context.close()
    assert study.ratings()[0]["reason"] == "两份都不可用"


def test_the_form_in_jupyterlab(tmp_path, browser):
    pytest.importorskip("jupyterlab"); pytest.importorskip("ipywidgets"); import nbformat
    study = make_study(tmp_path / "study", pairs(3, hostile=(1,)))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"from stepdr.evaluate.rating import rating_form\nrating_form({str(study.folder)!r}, 'ann')")], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(book, tmp_path / "rate.ipynb")
    home = {**os.environ, "HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "c"), "JUPYTER_DATA_DIR": str(tmp_path / "d"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--ServerApp.port_retries=0", "--IdentityProvider.token=here", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(tmp_path / "lab.log", "w") as log: lab = subprocess.Popen(command + (["--allow-root"] if os.geteuid() == 0 else []), env=home, stdout=log, stderr=log)
    try:
        info = None
        for _ in range(300):
            if lab.poll() is None and (found := list((tmp_path / "r").glob("jpserver-*.json"))) and found[0].read_text().endswith("}"): info = json.loads(found[0].read_text()); break
            time.sleep(0.2)
        assert info, (tmp_path / "lab.log").read_text()[-2000:]
        context = browser.new_context(viewport={"width": 1500, "height": 1300})
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        def open_and_run():
            page.goto(f"http://127.0.0.1:{info['port']}/lab/tree/rate.ipynb?token=here&reset")
            page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60000)
            page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").first.click()
            page.locator(".jp-NotebookPanel [data-status='idle'], .jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for(timeout=60000)
            page.keyboard.press("Shift+Enter")
            page.locator(".jp-OutputArea .widget-textarea textarea").first.wait_for(timeout=60000)
        open_and_run()
        out = page.locator(".jp-OutputArea").first
        for number in (1, 2):
            out.get_by_text(f"Pair {number} of 3, {number - 1} rated").wait_for()
            for row in range(5): out.locator(".widget-toggle-buttons").nth(row).get_by_text("Left better").click()
            out.locator("textarea").fill(f"reason {number} in the lab"); out.get_by_role("button", name="Save and go on").click()
        out.get_by_text("Pair 3 of 3, 2 rated").wait_for()
        if os.environ.get("STEPDR_SCREENSHOTS"): page.screenshot(path=f"{os.environ['STEPDR_SCREENSHOTS']}/lab.png")
        open_and_run()  # reload, and run the cell again
        page.locator(".jp-OutputArea").first.get_by_text("Pair 3 of 3, 2 rated").wait_for()
        assert page.evaluate("window.pwned") is None and not [url for url in asked if "tracker.example" in url]
        context.close()
    finally:
        lab.terminate()
        try: lab.wait(15)
        except subprocess.TimeoutExpired: lab.kill()
    rows = study.ratings()
    assert [(row["verdict"], row["reason"]) for row in rows] == [("left", "reason 1 in the lab"), ("left", "reason 2 in the lab")] and set(rows[0]["dimensions"].values()) == {"left"}


# --- by a judge

def judged(messages):  # prefers what says why; for bridge 7 always the left one, for bridge 8 nothing that can be read
    text = messages[-1]["content"] if "<left>" in messages[-1]["content"] else messages[1]["content"]
    left, right = re.search(r"<left>(.*)</left>\s*<right>(.*)</right>", text, re.DOTALL).groups()
    if "Bridge 8" in left: return turn("I would rather not choose a format.")
    verdict = "left" if "Bridge 7" in left or "The a" in left else "right"
    return turn(json.dumps({"reason": "It says why.", **dict.fromkeys(PAIR_DIMENSIONS, verdict), "verdict": verdict}))


def named_pairs(n=10):
    return [Pair(f"t{i:02}", "What does it cost?", "alpha", "beta", f"# Bridge {i}\nThe a report.", f"# Bridge {i}\nThe b report.") for i in range(n)]


def endpoint(server): return ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model, backoff=0.01, price_in=1.0, price_out=2.0))


def test_a_judge_in_both_orders_over_a_faulty_endpoint(tmp_path):
    study = make_study(tmp_path / "study", named_pairs())
    with ScriptedModel(judged, faults={1: "500", 4: "cut", 7: "garbage", 9: "429:0.05", 11: "drop"}) as server:
        judge = EndpointPairJudge(TeacherClient(endpoint(server), TeacherSettings(repairs=1, most_aside=1.0), tmp_path / "cache"))
        counts = run_to_end(judge_study(judge, study, "judge"))
        assert counts["done"] + counts["aside"] + counts["before"] == counts["pairs"] == 10 and counts["kinds"] == {"invalid": 1} and counts["aside"] == 1
        assert (judge.teacher.totals.usage.prompt, judge.teacher.totals.usage.completion) == (server.billed.prompt, server.billed.completion)
        verdicts = {row["task"]: row["verdict"] for row in study.ratings()}
        assert verdicts == {f"t{i:02}": "tie" if i == 7 else "left" for i in range(10) if i != 8}
        aside = [json.loads(line) for line in (study.folder / "aside.jsonl").read_text().splitlines()]
        assert [row["task"] for row in aside] == ["t08"] and aside[0]["replies"]
        assert side_preference(study.ratings())["contradictions"]["mean"] == pytest.approx(1 / 9)
        asked = len(server.requests)
        again = run_to_end(judge_study(judge, Study(study.folder), "judge"))
        assert again["before"] == 9 and again["done"] == 0 and len(server.requests) == asked  # even the bad replies come from the cache


JUDGE = """
import sys
from stepdr.core.teacher import TeacherClient, TeacherSettings, run_to_end
from stepdr.evaluate.pairwise import EndpointPairJudge, judge_study
from stepdr.evaluate.predictions import read_predictions
from stepdr.evaluate.studies import Study
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
url, folder, cache = sys.argv[1:]
endpoint = ChatEndpoint(EndpointSettings(base_url=url, model="scripted", backoff=0.01))
print(run_to_end(judge_study(EndpointPairJudge(TeacherClient(endpoint, TeacherSettings(concurrency=2), cache)), Study(folder), "judge", concurrency=2)))
"""


def test_nothing_is_asked_twice_after_a_kill(tmp_path):
    study = make_study(tmp_path / "study", [pair for pair in named_pairs(12) if "8" not in pair.task])
    with ScriptedModel(lambda messages: (time.sleep(0.02), judged(messages))[1]) as server:
        run = lambda: subprocess.Popen([sys.executable, "-c", JUDGE, server.url, str(study.folder), str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True)
        first = run()
        deadline = time.monotonic() + 60
        while len(server.requests) < 8 and time.monotonic() < deadline: time.sleep(0.005)
        first.send_signal(signal.SIGKILL); first.wait()
        at_kill = len(server.requests)
        assert 8 <= at_kill < 22
        last = run(); text = last.communicate(timeout=60)[0]
        assert last.returncode == 0 and len(study.ratings()) == 11
        bodies = Counter(json.dumps(request["messages"]) for request in server.requests)
        assert len(bodies) == 22 and sum(bodies.values()) <= 22 + 2 and "'aside': 0" in text  # at most the two that were under way at the kill


def test_missing_reports_cost_nothing(tmp_path):
    class Never:
        async def compare(self, *texts): raise AssertionError("asked")
    study = make_study(tmp_path / "s", [Pair("a", "q", "x", "y", "", "text"), Pair("b", "q", "x", "y", " \n", ""), Pair("c", "q", "x", "y", "text", "")])
    counts = run_to_end(judge_study(Never(), study, "judge"))
    assert counts["done"] == 3 and {row["task"]: row["verdict"] for row in study.ratings()} == {"a": "right", "b": "both poor", "c": "left"}


def test_a_mistake_of_the_user_stops_a_judge_with_one_line(tmp_path):
    study = make_study(tmp_path / "s", named_pairs(4))
    with ScriptedModel(judged, key="secret") as server, pytest.raises(InputError, match="401|key"):
        run_to_end(judge_study(EndpointPairJudge(TeacherClient(endpoint(server))), study, "judge"))
    assert study.ratings() == []


def test_a_mistake_of_the_user_comes_before_what_else_fails(tmp_path):
    class Judge:
        def __init__(self, *errors):
            self.errors = list(errors)

        async def compare(self, *texts):
            raise self.errors.pop(0)

    study = make_study(tmp_path / "s", named_pairs(4))
    with pytest.raises(InputError, match="wrong key"):
        run_to_end(judge_study(Judge(KeyError("x"), InputError("wrong key"), InputError("again"), KeyError("y")), study, "judge"))
    with pytest.raises(ExceptionGroup) as several: # a fault of the program is shown whole
        run_to_end(judge_study(Judge(KeyError("x"), KeyError("y")), study, "judge", concurrency=2))
    assert [type(error) for error in several.value.exceptions] == [KeyError, KeyError]


@pytest.mark.parametrize("forward, backward, joined", [("left", "right", "left"), ("right", "left", "right"), ("left", "left", "tie"), ("right", "right", "tie"), ("both fair", "both fair", "both fair"), ("both good", "both poor", "tie"), ("left", "both good", "tie")])
def test_two_orders_make_one_verdict(forward, backward, joined): assert both_orders(forward, backward) == joined


# --- numbers, by hand

def row(task, left, right, verdict, rater="", **more): return {"task": task, "left": left, "right": right, "verdict": verdict, "rater": rater, **more}


def test_majority_by_hand():
    ratings = [row("1", "a", "b", "left", "x"), row("1", "b", "a", "right", "y"), row("1", "a", "b", "right", "z"),   # win, win, loss -> win
               row("2", "a", "b", "left", "x"), row("2", "a", "b", "both good", "y"),                                 # win, tie -> no majority -> tie
               row("3", "b", "a", "left", "x"),                                                                       # loss
               row("4", "a", "b", "left", "x"), row("4", "a", "b", "both poor", "y"), row("4", "a", "b", "right", "z")]  # one each -> tie
    assert majority(votes(ratings)) == [("1", "a", "b", "win"), ("2", "a", "b", "tie"), ("3", "a", "b", "loss"), ("4", "a", "b", "tie")]
    found = comparison(ratings, samples=50)["pairs"]["a_vs_b"]
    assert (found["win"], found["tie"], found["loss"], found["n"]) == (1, 2, 1, 4) and found["non_inferior"]["mean"] == 0.75 and found["net"]["mean"] == 0


def test_the_reports_figures():
    published = {(59, 6, 5): .929, (30, 17, 23): .671, (33, 12, 25): .643, (41, 16, 13): .814}
    for (win, tie, loss), share in published.items():
        found = versus(["win"] * win + ["tie"] * tie + ["loss"] * loss)
        assert round(found["non_inferior"]["mean"], 3) == share and found["non_inferior"]["low"] < share < found["non_inferior"]["high"]
    # Wilson for 47 of 70: centre (47 + 1.9207) / (70 + 3.8415) = 0.66251, half width 1.96 sqrt(47 * 23 / 70 + 0.96036) / 73.8415 = 0.10738
    gemini = versus(["win"] * 30 + ["tie"] * 17 + ["loss"] * 23)["non_inferior"]
    assert gemini["low"] == pytest.approx(0.66251 - 0.10738, abs=2e-4) and gemini["high"] == pytest.approx(0.66251 + 0.10738, abs=2e-4)


@pytest.mark.parametrize("low, high, margin, said", [(0.01, 0.2, 0.1, "superior"), (-0.05, 0.2, 0.1, "non-inferior"), (-0.2, 0.2, 0.1, "undecided"), (-0.3, -0.01, 0.1, "inferior"), (-0.09, -0.01, 0.1, "non-inferior"), (0.0, 0.1, 0.0, "undecided")])
def test_conclusions(low, high, margin, said): assert conclusion({"low": low, "high": high, "n": 70}, margin) == said


def test_the_ratings_of_a_study_score_as_the_bench_of_pairs(study):
    from stepdr.evaluate.benchmarks import score_file
    session, rng = Session(study, "ann"), random.Random(0)
    while not (view := session.view())["finished"]: session.submit(view["key"], rng.choice(SIDE_VERDICTS), FAIR, "a good reason")
    session.submit(session.view(1) and next(iter(session.mine())), "both poor", dict.fromkeys(PAIR_DIMENSIONS, "right"), "a second thought")
    mine, theirs = study_results(study.folder, samples=50)["pairs"]["alpha-system_vs_beta-system"], score_file("pairs", study.path, model="alpha-system")
    assert {name: mine[name] for name in ("win", "tie", "loss")} == theirs["win_tie_loss"] and theirs["score"]["mean"] == pytest.approx(mine["non_inferior"]["mean"])


def test_net_wins_by_hand():
    # 10-0-0: centre 10 / 12, standard error sqrt((11 / 12 - (10 / 12) ** 2) / 12) = 0.13612
    assert net_interval(10, 0, 10) == pytest.approx({"mean": 1.0, "low": 0.83333 - 1.95996 * 0.13612, "high": 1.0, "n": 10}, abs=1e-4)
    assert versus(["win"] * 9)["conclusion"] == "too few tasks" and versus(["win"] * 10)["conclusion"] == "superior"
    mirrored = net_interval(5, 9, 20), net_interval(9, 5, 20)
    assert (mirrored[0]["low"], mirrored[0]["high"]) == pytest.approx((-mirrored[1]["high"], -mirrored[1]["low"]))
    # it holds what it promises: of 400 studies of 70 tasks, the true net is inside about 95 %
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        win, tie, loss = rng.multinomial(70, (0.4, 0.3, 0.3))
        found = net_interval(int(win), int(loss), 70)
        inside += found["low"] <= 0.1 <= found["high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_alpha_does_not_depend_on_the_sides():
    rng, verdicts = random.Random(0), ("left", "right", "both good")
    ratings, turned = [], []
    for task in range(30):
        for rater in "xyz":
            verdict = rng.choice(verdicts)
            ratings.append(row(str(task), "a", "b", verdict, rater))
            turned.append(row(str(task), "b", "a", {"left": "right", "right": "left"}.get(verdict, verdict), rater) if rng.random() < 0.5 else ratings[-1])
    assert rater_agreement(ratings, samples=0) == rater_agreement(turned, samples=0) and abs(rater_agreement(ratings, samples=0)["verdicts"]["mean"]) < 0.25
    same = [row(str(task), "a", "b", verdicts[task % 3], rater) for task in range(9) for rater in "xy"]
    assert rater_agreement(same, samples=0)["verdicts"]["mean"] == 1.0 and rater_agreement(same[:1]) == {}
    # by hand, two raters, two pairs, verdicts (win, win) and (win, loss): observed disagreement 2/4, expected 2 * 3 * 1 / (4 * 3) = 1/2, so alpha = 0
    hand = [row("1", "a", "b", "left", "x"), row("1", "a", "b", "left", "y"), row("2", "a", "b", "left", "x"), row("2", "a", "b", "right", "y")]
    assert rater_agreement(hand, samples=0)["verdicts"]["mean"] == pytest.approx(0)


def test_a_leaderboard_and_its_ratings():
    rng = random.Random(1)
    ratings = [row(str(task), left, right, rng.choices(("left", "both fair", "right"), (3, 1, 1))[0]) for task in range(60) for left, right in (("a", "b"), ("b", "c"), ("a", "c"))]
    found = comparison(ratings, samples=100)
    order = lambda name: sorted(found[name], key=lambda system: -found[name][system]["mean"])
    assert order("bradley_terry") == order("elo") == ["a", "b", "c"] and all(cell["low"] <= cell["mean"] <= cell["high"] and cell["n"] == 60 for name in ("bradley_terry", "elo") for cell in found[name].values())
    assert found == comparison(ratings, samples=100) and np.isclose(sum(cell["mean"] for cell in found["elo"].values()), 3000)
    with pytest.raises(InputError, match="none yet"): comparison([])


def test_the_simulation_against_arithmetic_and_the_fit():
    from math import comb
    for gap, n in ((50, 9), (100, 25)):
        p = win_tie_loss_chances(gap, 0.0)[0]
        exact = sum(comb(n, k) * p ** k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1))
        assert simulate(2, gap, n, ties=0.0, samples=40_000)["order"] == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 40_000) ** 0.5)
    p = win_tie_loss_chances(100, 0.0)[0]
    assert p == pytest.approx(1 / (1 + 10 ** (-100 / 400))) and win_tie_loss_chances(300, 0.4).sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    for _ in range(20):  # points in a full round give the fit's order
        points = np.zeros((5, 5))
        for i in range(5):
            for j in range(i + 1, 5): points[i, j] = rng.integers(0, 41) / 2; points[j, i] = 20 - points[i, j]
        if len(set(points.sum(1))) == 5: assert (np.argsort(bradley_terry(points)) == np.argsort(points.sum(1))).all()
    needed = comparisons_needed(3, 100, samples=400)
    assert needed["order"] >= 0.95 > simulate(3, 100, max(1, int(needed["rounds"] * 0.8)), samples=400)["order"] - 0.02


def test_commands(tmp_path):
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps({"id": f"t{i}", "query": f"q{i}"}) + "\n" for i in range(4)))
    for name in ("north", "south"): (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"task": f"t{i}", "report": f"a northern report {i}"}) + "\n" for i in range(4)))
    made = study_from_files(tmp_path / "tasks.jsonl", {name: tmp_path / f"{name}.jsonl" for name in ("north", "south")}, tmp_path / "study", settings=PairwiseSettings(dimensions=False, reason_characters=0))
    assert made["pairs"] == 4 and made["notes"] == []
    with pytest.raises(InputError, match="none yet"): write_study_results(tmp_path / "study")
    session = Session(Study(tmp_path / "study"), "ann")
    while not (view := session.view())["finished"]: session.submit(view["key"], "left", {}, "")
    found = write_study_results(tmp_path / "study", samples=50)
    assert found["card"]["pairs_sha256"] == json.loads((tmp_path / "study" / "study.json").read_text())["pairs_sha256"] and len(found["card"]["judge_prompt_sha256"]) == 64
    assert found == json.loads((tmp_path / "study" / "results.json").read_text()) and found["pairs"]["north_vs_south"]["n"] == 4 and "plotly" in (tmp_path / "study" / "results.html").read_text()
