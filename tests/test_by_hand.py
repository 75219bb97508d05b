"The README's chain by hand, in its order, each command on what those before it wrote."
import json
import re
import shlex

from example_run import long_report, make_own_files, make_run, town_page, TOWNS

from stepdr.agent.protocol import opening
from stepdr.core.artifacts import root
from stepdr.model.base import make_model, save_model, train_tokenizer
from stepdr.run.cli import main

BLOCK = (root() / "README.md").read_text(encoding="utf-8").partition("## By hand")[2].partition("\n## ")[0]
CONFIG, = re.findall(r"```toml\n(.*?)```", BLOCK, re.DOTALL)
COMMANDS = re.findall(r"^\$ stepdr (.+)$", BLOCK, re.MULTILINE)


def test_the_chain_runs_from_documents_to_an_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "reports" / "quick-seed0")
    make_own_files(tmp_path)
    seen = [*map(town_page, TOWNS), *map(json.dumps, opening("Which towns were known for what?"))]  # what its words are made of
    tokenizer = train_tokenizer(seen * 3, 2000)
    save_model(tmp_path / "reports" / "quick-seed0" / "models" / "base", make_model(len(tokenizer), 32, 2, context=8192), tokenizer)
    for topic in ("How the old market towns lived", "How the harbours were kept"):
        (tmp_path / "wiki" / f"{topic.rpartition(' ')[2]}.md").write_text(long_report(topic))
    (tmp_path / "synth.toml").write_text(CONFIG)
    for line in COMMANDS:
        status = main(shlex.split(line))
        assert status == 0, f"{line}\n{capsys.readouterr().err[-2000:]}"
    rows = [json.loads(line) for line in (tmp_path / "made" / "tasks.jsonl").read_text().splitlines()]
    assert any(row["rubrics"] for row in rows) and (tmp_path / "made" / "kept.jsonl").read_text()
    assert {"agent.json", "ppo.json", "metrics.jsonl"} <= {path.name for path in (tmp_path / "trained" / "ppo").iterdir()}
    assert json.loads((tmp_path / "eval" / "chain" / "results.json").read_text())
    assert "volcanoes" in (tmp_path / "answer.html").read_text()
