"The chain of docs/own_documents.md, in its order, each command as it is printed, on what those before it wrote."
import json
import re
import shlex

import pytest
from example_run import TOWNS, long_report, make_prepared, town_page

from stepdr.agent.protocol import opening
from stepdr.core.artifacts import root
from stepdr.run.cli import main

PAGE = (root() / "docs" / "own_documents.md").read_text(encoding="utf-8")
CONFIG, = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^\$ stepdr (.+)$", PAGE, re.MULTILINE)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with documents and the config, and a random model under the name that the page gives."
    (tmp_path / "wiki").mkdir()
    for name in TOWNS:
        (tmp_path / "wiki" / f"{name}.md").write_text(town_page(name))
    for topic in ("How the old market towns lived", "How the harbours were kept"):
        (tmp_path / "wiki" / f"{topic.rpartition(' ')[2]}.md").write_text(long_report(topic))
    (tmp_path / "synth.toml").write_text(CONFIG)
    seen = [*map(town_page, TOWNS), *map(json.dumps, opening("Which towns were known for what?"))]  # what its words are made of
    make_prepared(tmp_path / "models", seen)
    monkeypatch.setenv("STEPDR_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_chain_runs_from_documents_to_an_answer(place, capsys):
    for line in COMMANDS:
        status = main(shlex.split(line))
        assert status == 0, f"{line}\n{capsys.readouterr().err[-2000:]}"
    made = place / "made"
    questions, heldout, rows = (lines_of(made / f"{name}.jsonl") for name in ("questions", "heldout", "kept"))
    pages = lambda tasks: {task["meta"]["url"] for task in tasks}
    assert questions and heldout and not pages(questions + lines_of(made / "reports.jsonl")) & pages(heldout)
    assert all(row["success"] and row["protocol"] == "brief" for row in rows)
    score = json.loads((place / "eval" / "after" / "results.json").read_text())["cited_answer"]
    assert score["n"] == min(20, len(heldout)) and 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    assert {"agent.json", "ppo.json", "metrics.jsonl"} <= {path.name for path in (place / "trained" / "ppo").iterdir()}
    assert "copper goods" in (place / "answer.html").read_text()


def test_five_documents_that_do_not_link_make_rows_and_what_makes_none_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wiki").mkdir()
    for name in list(TOWNS)[:5]:
        (tmp_path / "wiki" / f"{name}.md").write_text(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", town_page(name)))
    (tmp_path / "synth.toml").write_text(CONFIG)
    for line in COMMANDS[:2]:
        assert main(shlex.split(line)) == 0, capsys.readouterr().err[-2000:]
    assert lines_of(tmp_path / "made" / "sft.jsonl") and lines_of(tmp_path / "made" / "heldout.jsonl")
    assert re.search(r"questions: \d+ items of 1,000 wanted = \d+ kept", capsys.readouterr().err)
    (tmp_path / "none.toml").write_text('provider = "corpus"\n[[part]]\nname = "few"\nmaker = "section_report"\ninput = "sections:corpus"\n'
                                        'number = 9\noptions = {least = 50}\ninto = "tasks"\n')
    assert main(["synth", "--config", "none.toml", "--out", "none"]) == 1
    told = capsys.readouterr().err
    assert "few made nothing; most often: too few statements in the section" in told and "lower least" in told and "nothing was made" in told


def test_what_is_held_out_must_be_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki" / "one.md").write_text(town_page("Ashford"))
    (tmp_path / "synth.toml").write_text(CONFIG)
    assert main(["corpus", "build", "wiki", "--out", "corpus", "--holdout", "1.5"]) == 2
    assert "holdout: 1.5 is out of range" in capsys.readouterr().err
    assert main(["corpus", "build", "wiki", "--out", "corpus"]) == 0
    assert main(["synth", "--config", "synth.toml", "--out", "made"]) == 2
    assert "holds no document out; build it with `stepdr corpus build … --holdout 0.25`" in capsys.readouterr().err
