"""The episode viewer: rows of every kind, and the page in a browser, where it is filtered, jumped in, compared, and asks nobody for anything."""
import json
import random

import pytest

from stepdr.core.artifacts import write_json, write_jsonl, write_parquet
from stepdr.core.config import InputError
from stepdr.run.cli import main
from stepdr.run.view_command import view_html
from stepdr.run.view_page import page_of
from stepdr.run.view_rows import episode_of, shown_context
from stepdr.run.view_sources import judged_rows, rows_from

HOSTILE = "<script>document.title='broken'</script><img src=https://evil.example/x.png onerror=alert(1)> [a](javascript:alert(1))"
LONG = "\n".join(f"press.example, 2020-01-{n % 28 + 1:02}: Line {n} of a page that nobody cites." for n in range(60))


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def row(model, score, answer, **more):
    "An episode of three turns: a search, a call that cannot be read, a report."
    return {"id": f"{model}-1", "task_id": "t1", "model": model, "stage": "evaluation", "kind": "research", "score": score, "ended": "answered",
            "query": "Where did Katie Couric study?", "messages": [
                {"role": "system", "content": "Answer from what you read."}, {"role": "user", "content": "Where did Katie Couric study?"},
                {"role": "assistant", "reasoning_content": "I search first.", "content": "", "tool_calls": [call("batch_web_surfer", queries=["Katie Couric"])]},
                {"role": "tool", "name": "batch_web_surfer", "content": LONG + "\ncollege.example, 2017-08-14: Couric studied in Virginia. \\cite{web_0000000a}\n\n[left: 3 turns, 2 tool calls]"},
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "", "error": "not valid JSON"}}]},
                {"role": "tool", "name": "", "content": "error: the call is not valid JSON", "failed": True},
                {"role": "assistant", "reasoning_content": HOSTILE, "content": f"<answer>{answer}</answer>"}],
            "rubrics": [{"criterion": "Says Virginia.", "weight": 3.0}, {"criterion": "Gives a wrong place.", "weight": -2.0}],
            "verdicts": {"judge": [{"verdict": "satisfied", "explanation": "It says Virginia."}, "not"], "oracle": ["satisfied", "satisfied"]}, **more}


def context(seed=0):
    noise = random.Random(seed)
    return {"ids": list(range(40)), "mask": [0] * 10 + [1] * 12 + [0] * 8 + [1] * 10, "logprobs": [-noise.random() for _ in range(22)],
            "values": [noise.random() for _ in range(22)], "advantages": [noise.uniform(-1, 1) for _ in range(22)]}


GOOD = "She studied in **Virginia** \\cite{web_0000000a}, and in Rome \\cite{web_0badc0de}. " + HOSTILE
ROWS = [row("sft", -0.25, "I do not know."), row("ppo", 0.75, GOOD, contexts=[context()]),
        {"id": "other", "task_id": "t2", "model": "ppo", "kind": "question", "reward": 0.0, "messages": [
            {"role": "user", "content": "谁写了《尤利西斯》?"}, {"role": "assistant", "content": "<think>想</think><answer>乔伊斯</answer>"}]}]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "rows.jsonl"
    write_jsonl(path, ROWS)
    return path


# ---------------------------------------------------------------- rows

FORMS = {
    "sharegpt": {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "<think>Joyce</think>It was Joyce."}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "It was Joyce."}]}]},
    "chatml": {"text": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nIt was Joyce.<|im_end|>"},
    "langgraph": {"values": {"messages": [{"type": "human", "content": "Who?"}, {"type": "ai", "content": "It was Joyce."}]}, "checkpoint": {}},
    "adp": {"id": "x", "content": [{"class_": "text_observation", "content": "Who?", "source": "user"}, {"class_": "message_action", "content": "It was Joyce."}]},
    "a report": {"task": "t9", "report": "It was Joyce.", "paragraphs": {}}, "question and answer": {"question": "Who?", "answer": "It was Joyce."}}


@pytest.mark.parametrize("name", FORMS)
def test_every_format_opens(name, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [FORMS[name]])
    (found, refused), = rows_from(tmp_path / "rows.jsonl")
    episode = episode_of(found)
    assert refused is None and "It was Joyce." in episode.body["messages"][-1]["report"] and episode.head["faults"] == []


def test_a_react_log_opens(tmp_path):
    (tmp_path / "log.txt").write_text("Question: Who?\nThought: I search\nAction: Search[Ulysses]\nObservation: Joyce wrote it.\nThought: done\nAction: Finish[Joyce]\n")
    episode = episode_of(next(rows_from(tmp_path / "log.txt"))[0])
    assert [message["role"] for message in episode.body["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert episode.body["messages"][2]["name"] == "Search"


def test_what_is_shown_of_an_episode():
    episode = episode_of(ROWS[1])
    assert episode.head["faults"] == ["call not read", "failed call", "citation of nothing read"] and episode.head["turns"] == 3
    assert episode.body["messages"][4]["left"] == "3 turns, 2 tool calls"
    known, unknown = episode.body["sources"]
    assert known["site"] == "college.example" and known["authority"] == "authority 0.8" and known["text"] == "Couric studied in Virginia." and known["read"]
    assert "read" not in unknown and "known" not in unknown
    assert episode.body["rubrics"][0]["said"][0][2] == "It says Virginia." and "flaw present" in episode.body["rubrics"][1]["said"][1][1]
    assert "<script" not in json.dumps(episode.body["messages"][-1]["report"]) and "javascript:" not in episode.body["messages"][-1]["report"].replace("[a](javascript", "")


def test_numbers_of_tokens_may_stand_at_all_tokens_or_at_the_sampled_ones():
    every = shown_context({"ids": [1, 2, 3], "mask": [0, 1, 1], "values": [9.0, 0.1, float("nan")], "note": "x"})
    assert every == {"ids": [1, 2, 3], "runs": [1, 2], "measures": {"values": [0.1, None]}}


def test_verdicts_of_a_task_with_several_episodes_need_the_report(tmp_path, file):
    verdict = {"task": "t1", "number": 0, "criterion": "Says Virginia.", "weight": 3.0, "verdict": "not", "explanation": "No."}
    write_jsonl(tmp_path / "strict.jsonl", [verdict])
    with pytest.raises(InputError, match="none of 1 verdicts .*a task has several episodes"): list(judged_rows(file, [tmp_path / "strict.jsonl"]))
    write_jsonl(tmp_path / "strict.jsonl", [{**verdict, "query": ROWS[0]["query"], "report": "I do not know."}])
    rows = [found for found, _ in judged_rows(file, [tmp_path / "strict.jsonl"])]
    assert list(rows[0]["verdicts"]) == ["judge", "oracle", "strict"] and "strict" not in rows[1]["verdicts"]
    write_jsonl(tmp_path / "alone.jsonl", [{**verdict, "task": "t2", "criterion": "Says Joyce."}])
    judged = [found for found, _ in judged_rows(file, [tmp_path / "alone.jsonl"])][2]
    assert episode_of(judged).body["rubrics"][0]["said"][0][::2] == ["alone", "No."]


def test_a_run_with_what_each_stage_left(tmp_path, capsys):
    run = tmp_path / "quick-seed0"
    write_json(run / "run.json", {"profile": "quick", "seed": 0})
    write_jsonl(run / "data" / "tasks_test.jsonl", [{"id": "t1", "query": "Where?", "rubrics": ROWS[0]["rubrics"]}])
    write_jsonl(run / "data" / "trajectories_sft.jsonl", [ROWS[0], {"messages": [], "text": "a document"}])
    write_jsonl(run / "data" / "dropped.jsonl", [{**ROWS[2], "filter": "repetition"}])
    write_jsonl(run / "models" / "ppo" / "episodes.jsonl", [{**ROWS[1], "step": 4}])
    text = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<answer>Virginia \\cite{web_0000000a}</answer><|im_end|>"
    record = {"model": "sft", "set": "research", "temperature": 1.0, "task_id": "t1", "verdicts": ["satisfied", "not"], "rubric_strict": 1.0,
              "correct": None, "ended": "answered", "answer": "Virginia", "cited": [], "kinds": [], "roles": [], "text": text}
    strange = {**record, "model": "base", "text": "User: Where? Assistant: Virginia"}
    write_parquet(run / "evaluation" / "episodes.parquet", [record, strange], json_columns=("verdicts", "cited", "kinds", "roles"))
    paragraph = {"id": "web_0000000a", "url": "https://college.example/q1", "site": "college.example", "title": "Katie Couric", "text": "Virginia."}
    write_parquet(run / "world" / "paragraphs.parquet", [paragraph])
    found = [one for one, _ in rows_from(run) if one]
    assert [(one.get("model"), one["stage"]) for one in found] == [
        ("sft", "evaluation, temperature 1"), ("base", "evaluation, temperature 1"), ("ppo", "PPO's last iteration"), ("sft", "data: sft"), ("ppo", "data: dropped")]
    evaluated, unread = episode_of(found[0]), episode_of(found[1])
    assert evaluated.body["sources"] == [{"id": "web_0000000a", "title": "Katie Couric", "site": "college.example", "url": "https://college.example/q1",
                                          "text": "Virginia.", "authority": "authority 0.8", "known": True}]  # of the web, though this episode never read it
    assert "User: Where?" in unread.body["messages"][-1]["report"] and "dropped: repetition" in episode_of(found[4]).head["faults"]
    assert main(["view", str(run)]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["episodes"] == 5 and counts["aside"] == {"no messages": 1} and (run / "view.html").stat().st_size < 100_000


@pytest.mark.parametrize("source, message", [("none.jsonl", "no such file or folder"), ("empty.jsonl", "no episode in it"), ("bad.jsonl", "set aside: no messages")])
def test_what_holds_no_episode_is_one_line(source, message, tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    write_jsonl(tmp_path / "bad.jsonl", [{"id": 1}])
    assert main(["view", str(tmp_path / source), "--out", str(tmp_path / "v.html")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("stepdr: ") and message in said and not (tmp_path / "v.html").exists()


def test_the_same_rows_give_the_same_page(file):
    assert view_html(file) == view_html(file)


# ---------------------------------------------------------------- the page in a browser

@pytest.fixture
def opened(browser, tmp_path):
    "A function that opens a page; at the end nothing was asked for and nothing complained."
    asked, said, contexts = [], [], []
    def opened(text, address="", width=1280, scheme="light"):
        (tmp_path / "view.html").write_text(text, encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "view.html").as_uri() + address)
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        return page
    yield opened
    for one in contexts: one.close()
    assert not said and {url.partition("#")[0] for url in asked} <= {(tmp_path / "view.html").as_uri(), "data:,"}


@pytest.fixture(scope="module")
def text(file): return view_html(file)[0]


def listed(page): return page.locator("#count").inner_text()


def test_filters(opened, text):
    page = opened(text)
    assert listed(page) == "3 of 3 episodes" and page.title() == "rows.jsonl: episodes"
    for name, value, count in (("model", "sft", 1), ("kind", "question", 1), ("fault", "citation of nothing read", 1), ("fault", " none", 1)):
        page.select_option(f"#{name}", value)
        assert listed(page) == f"{count} of 3 episodes"
        page.click("#clear")
    page.fill("#low", "0.5")
    assert listed(page) == "1 of 3 episodes" and "ppo · evaluation · 0.75" in page.locator(".row").inner_text()
    page.click("#clear")
    page.fill("#search", "couric T1")
    assert listed(page) == "2 of 3 episodes"
    page.select_option("#order", "score -1")
    assert "0.75" in page.locator(".row").first.inner_text()
    page.fill("#search", "尤利西斯")
    page.locator(".row").click()
    assert "乔伊斯" in page.locator("article .report").inner_text() and page.locator("article .thought").inner_text() == "想"


def test_a_citation_leads_to_its_paragraph_and_back(opened, text):
    page = opened(text, "#1")
    assert page.locator("article .turn.model").count() == 3 and page.locator("article h3 small").first.inner_text() == "left: 3 turns, 2 tool calls"
    result = page.locator("details:has([data-shown])").last
    assert result.get_attribute("open") is None  # long, so it is folded
    page.locator(".report .cite").first.click()
    source = page.locator("li.hit")
    assert source.get_attribute("data-source") == "web_0000000a" and "college.example · 2017-08-14 · authority 0.8" in source.inner_text()
    assert page.evaluate("document.activeElement.dataset.source") == "web_0000000a"
    source.locator("button").click()
    line = page.locator(".line.hit")
    assert "Couric studied in Virginia." in line.inner_text() and result.get_attribute("open") is not None and line.is_visible()
    assert "never read" in page.locator(".report .cite").last.inner_text()
    assert page.locator("article table").inner_text().count("flaw present") == 1 and "It says Virginia." in page.locator(".reason").inner_text()
    assert page.title() == "rows.jsonl: episodes" and page.locator("article img, article script").count() == 0  # of the model's HTML, nothing


def test_two_episodes_side_by_side(opened, text):
    page = opened(text, "#0")
    page.locator("article select").first.select_option("1")
    page.wait_for_selector("article:nth-of-type(2)")
    boxes = [one.bounding_box() for one in page.locator("article").all()]
    assert len(boxes) == 2 and boxes[0]["y"] == boxes[1]["y"] and boxes[1]["x"] > boxes[0]["x"] + 200 and page.url.endswith("#0,1")
    page.locator("article").nth(1).locator(".report .cite").first.click()
    assert page.locator("article").nth(1).locator("li.hit").count() == 1 and page.locator("article").nth(0).locator(".hit").count() == 0
    page.reload()
    page.wait_for_selector("article:nth-of-type(2)")  # the address names both


def test_keys(opened, text):
    page = opened(text)
    page.locator("#list").focus()
    for key in ("ArrowDown", "ArrowDown", "Home", "ArrowDown"): page.keyboard.press(key)
    assert page.locator("#list").get_attribute("aria-activedescendant") == "row-1" and page.locator("#row-1").get_attribute("aria-selected") == "true"
    page.keyboard.press("Enter")
    page.wait_for_selector("article[data-episode='1']")
    page.wait_for_function("document.activeElement.tagName === 'H2'")
    page.keyboard.press("p")
    page.keyboard.press("j")
    page.wait_for_selector("article[data-episode='2']")
    assert page.locator("article").count() == 2 and page.locator("#pin").get_attribute("aria-pressed") == "true"
    page.keyboard.press("/")
    page.keyboard.type("jkp")  # in a field a letter is a letter
    assert page.locator("#search").input_value() == "jkp" and listed(page) == "0 of 3 episodes"


def test_tokens_in_colour(opened, text):
    page = opened(text, "#1")
    strip, readout = page.locator(".strip"), page.locator(".readout")
    assert strip.locator(".own").count() == 22 and page.locator("article .chips select").last.input_value() == "advantages"
    assert strip.locator(".own.low").count() + strip.locator(".own.high").count() == 22
    page.locator("article .chips select").last.select_option("values")
    assert strip.locator(".low, .high").count() == 0 and strip.locator(".own[style]").count() == 22
    strip.focus()
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("token 10 · id 10 ·") and "(p 0." in readout.inner_text() and "advantages" in readout.inner_text()
    strip.locator("summary").first.click()
    strip.locator(".t").nth(31).wait_for(state="attached", timeout=5000)  # what is opened is written a moment later
    assert strip.locator(".t").count() == 32  # ten of the prompt too
    strip.locator(".t").first.hover()
    assert readout.inner_text().endswith("not trained")


def test_ids_and_mask_by_a_tokenizer(opened, tmp_path):
    from stepdr.model.base import make_model, save_model, train_tokenizer
    tokenizer = train_tokenizer(["Where did Katie Couric study? She studied in Virginia."] * 3, 500)
    save_model(tmp_path / "model", make_model(len(tokenizer), 16, 1, context=512), tokenizer)
    write_jsonl(tmp_path / "rows.jsonl", [ROWS[2]])
    page = opened(view_html(tmp_path / "rows.jsonl", tokenizer=str(tmp_path / "model"))[0])
    page.locator("section:has(.strip) > details > summary").click()
    page.locator(".strip .own").first.wait_for(timeout=5000)
    said = page.locator(".strip .own").all_inner_texts()
    assert "".join(said).replace("·", "").replace("⏎", "").startswith("<think>\n想\n</think>") and "<|im_end|>" in said
    with pytest.raises(InputError, match="--tokenizer /nowhere: no model's folder"): view_html(tmp_path / "rows.jsonl", tokenizer="/nowhere")


@pytest.mark.parametrize("width, scheme", [(1280, "dark"), (360, "light"), (360, "dark")])
def test_narrow_and_dark(opened, text, width, scheme):
    page = opened(text, "#1", width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 26, 35)"
    assert dark == (scheme == "dark")
    if width == 360:
        assert not page.locator("#list").is_visible()
        page.click("#back")
        assert page.locator("#list").is_visible() and page.evaluate("document.activeElement.id") == "list"


def test_every_control_has_a_name(opened, text):
    page = opened(text, "#0,1")
    nameless = """[...document.querySelectorAll('button, input, select, [role], [tabindex="0"]')].filter(one => one.checkVisibility())
        .filter(one => !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim() || one.id === 'space')).map(one => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("document.documentElement.lang") == "en" and page.locator("h1").count() == 1


def test_ten_thousand_episodes_open_in_three_seconds(opened):
    noise = random.Random(0)
    words = [f"word{n}" for n in range(3000)]
    def episodes():
        for number in range(10_000):
            said = " ".join(noise.choices(words, k=120))
            messages = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": said[:300], "reasoning_content": said}]
            yield episode_of({"id": f"e{number}", "task_id": f"t{number // 4}", "model": f"m{number % 5}", "score": number / 10_000, "messages": messages})
    page = opened(page_of(episodes(), "many"))
    assert int(page.locator("body").get_attribute("data-ready")) < 3000
    assert listed(page) == "10,000 of 10,000 episodes" and page.locator(".row").count() < 40
    page.locator("#list").focus()
    page.keyboard.press("End")
    assert "Question 9999?" in page.locator(".row[aria-selected=true]").inner_text() and page.locator(".row").count() < 40
    page.keyboard.press("Enter")
    page.wait_for_selector("article[data-episode='9999']")
    page.fill("#search", "t1234")
    assert listed(page) == "4 of 10,000 episodes"


def test_in_a_notebook(opened, file):
    from stepdr.run.view_command import show_episodes
    page = opened(f"<!doctype html><title>notebook</title>{show_episodes(file, height=600).data}<script>document.body.dataset.ready = 1</script>")
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert frame.locator("#count").inner_text() == "3 of 3 episodes"
    frame.locator(".row").nth(1).click()
    frame.locator("article[data-episode='1'] .report .cite").first.click()
    assert frame.locator("li.hit").count() == 1
