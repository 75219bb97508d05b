"""graph, corpus, synth, import and filter as a newcomer types them, on the project's own facts and on small files."""
import json
import subprocess
import sys
from pathlib import Path

import polars
import pytest

from stepdr.core.artifacts import root

STEPDR = str(Path(sys.executable).with_name("stepdr"))


def stepdr(cwd, *arguments):
    done = subprocess.run([STEPDR, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 and done.stdout.startswith("{") else done.stdout, done.stderr


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    "The project's facts, which have Wikidata5m's layout, as a graph with subgraphs drawn from it."
    folder = tmp_path_factory.mktemp("graph")
    code, counts, errors = stepdr(folder, "graph", "build", root() / "data" / "kg", "--out", "g")
    assert code == 0, errors
    return folder, counts


def test_graph_build_and_sample(graph):
    folder, counts = graph
    lines = len((root() / "data" / "kg" / "triples.txt").read_text().splitlines())
    assert counts["rows"] == lines == counts["edges"] + counts["duplicates"] + counts["self_edges"] + counts["malformed"]
    for workers in (1, 4): assert stepdr(folder, "graph", "sample", "g", "-n", 40, "--seed", 3, "--out", f"s{workers}.parquet", "--workers", workers)[0] == 0
    rows = polars.read_parquet(folder / "s1.parquet").to_dicts()
    assert (folder / "s1.parquet").read_bytes() == (folder / "s4.parquet").read_bytes() and len(rows) == 40
    for row in rows:
        nodes, seen = set(row["nodes"]), {row["seed"]}
        for _ in nodes:                                                   # connected, by the edges alone
            seen |= {e["tail"] for e in row["edges"] if e["head"] in seen} | {e["head"] for e in row["edges"] if e["tail"] in seen}
        assert 10 <= len(nodes) <= 40 and seen == nodes


def test_graph_sample_takes_ranges_and_says_why_fewer(graph):
    folder, _ = graph
    code, counts, errors = stepdr(folder, "graph", "sample", "g", "-n", 500, "--seed-degree", "20-30", "--nodes", "5-8", "--out", "r.parquet")
    rows = polars.read_parquet(folder / "r.parquet").to_dicts()
    assert code == 0 and len(rows) == counts["subgraphs"] < 500 and all(5 <= len(row["nodes"]) <= 8 for row in rows) and "nodes have 20 to 30 edges" in counts["fewer"] and counts["fewer"] in errors
    assert stepdr(folder, "graph", "sample", "g", "-n", 3, "--nodes", 6, "--out", "r.parquet")[0] == 0 and {len(row["nodes"]) for row in polars.read_parquet(folder / "r.parquet").to_dicts()} == {6}
    for option, text in (("--nodes", "9-3"), ("--nodes", "5-900"), ("--seed-degree", "few"), ("--seed-degree", "3-"), ("--seed-degree", "5000-6000")):
        code, _, errors = stepdr(folder, "graph", "sample", "g", option, text, "--out", "n.parquet")
        assert code and errors.splitlines()[-1].startswith("stepdr: ") and "Traceback" not in errors and not (folder / "n.parquet").exists()


def test_synth_filter_and_import(graph, tmp_path):
    folder, _ = graph
    assert stepdr(folder, "graph", "sample", "g", "-n", 12, "--seed", 1, "--out", "few.parquet")[0] == 0
    (tmp_path / "synth.toml").write_text(f'seed = 5\nteacher = "rules"\n[[part]]\nname = "graph"\nmaker = "graph_question"\ninput = "{folder / "few.parquet"}"\ninto = "tasks"\n')
    code, first, errors = stepdr(tmp_path, "synth", "--config", "synth.toml", "--out", "one")
    assert code == 0, errors
    assert first["items"] == 12 and first["rows"] + first["aside"] == 12
    code, second, errors = stepdr(tmp_path, "synth", "--config", "synth.toml", "--out", "two", "--workers", 2)
    assert code == 0 and (tmp_path / "one" / "tasks.jsonl").read_bytes() == (tmp_path / "two" / "tasks.jsonl").read_bytes()


CHAT = [{"role": "user", "content": "Which river flows through Exeter, and where does it reach the sea?"},
        {"role": "assistant", "content": '<think>search</think><tool_call>{"name": "search", "arguments": {"query": "river Exeter"}}</tool_call>'},
        {"role": "user", "content": "<tool_response>\nThe Exe flows through Exeter.\n</tool_response>"},
        {"role": "assistant", "content": "<think>done</think><answer>The Exe, at Exmouth, where it has flowed since before there was a town.</answer>"}]


def test_import_and_filter_account_for_every_row(tmp_path):
    broken = [*CHAT[:1], CHAT[2], CHAT[3]]                              # a response without its call
    loop = [*CHAT[:3], {"role": "assistant", "content": "<answer>" + "the same ten words again and again until the very end " * 30 + "</answer>"}]
    rows = [{"messages": CHAT}, {"messages": broken}, {"messages": loop}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{not json\n")
    code, counts, errors = stepdr(tmp_path, "import", "in.jsonl", "--out", "rows.jsonl", "--aside", "aside.jsonl")
    assert code == 0 and (counts["read"], counts["kept"], counts["aside"]) == (4, 2, 2), errors
    assert [json.loads(line)["line"] for line in (tmp_path / "aside.jsonl").read_text().splitlines()] == [2, 4]
    (tmp_path / "eval.csv").write_text('question,answer\n"Which river flows through Exeter, and where does it reach the sea?",Exe\n')
    code, counts, errors = stepdr(tmp_path, "filter", "rows.jsonl", "--out", "kept.jsonl", "--only", "ngram_repetition,decontamination", "--against", "eval.csv", "--dropped", "dropped.jsonl", "--funnel", "funnel.json")
    assert code == 0 and counts == {"read": 2, "kept": 0, "dropped": 2, "aside": 0}, errors
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert sorted(row["filter"] for row in dropped) == ["decontamination", "ngram_repetition"] and all(row["id"] and row["reason"] and "measure" in row for row in dropped)
    assert json.loads((tmp_path / "funnel.json").read_text())["read"] == 2


def test_corpus_build_and_walk(tmp_path):
    wiki = tmp_path / "wiki"
    wiki.mkdir()
    names = ["Tides", "The Moon", "Gravity", "The Sea"]
    for number, name in enumerate(names):
        other = names[(number + 1) % 4]
        (wiki / f"{name}.md").write_text(f"# {name}\n\nThe page on {name} says at some length what is known of it, and it leads on to [{other}]({other.replace(' ', '%20')}.md), which is told there.\n")
    code, counts, errors = stepdr(tmp_path, "corpus", "build", "wiki", "--out", "corpus")
    assert code == 0 and counts["documents"] == 4 and counts["links_inside"] == 4, errors
    code, counts, errors = stepdr(tmp_path, "corpus", "walk", "corpus", "-n", 3, "--seed", 2, "--out", "walks.jsonl")
    assert code == 0 and counts["walks"] == len((tmp_path / "walks.jsonl").read_text().splitlines()) >= 1, errors


def test_walks_stay_out_of_what_is_held_out(tmp_path):
    from stepdr.synthesis.documents import Corpus
    wiki = tmp_path / "wiki"
    wiki.mkdir()
    names = ["Tides", "Moons", "Gravity", "Seas", "Sand", "Winds"]
    for name in names:
        links = ", ".join(f"[{other}]({other}.md)" for other in names if other != name)
        (wiki / f"{name}.md").write_text(f"# {name}\n\nThe page on {name} says at some length what is known of it, and it leads on to {links}, each told there.\n")
    code, _, errors = stepdr(tmp_path, "corpus", "build", "wiki", "--out", "corpus", "--holdout", "0.34")
    assert code == 0, errors
    corpus = Corpus(tmp_path / "corpus")
    held = {corpus.document(number)["title"] for number in corpus.held}
    assert len(held) == 2 and Corpus(tmp_path / "corpus").held == corpus.held
    assert stepdr(tmp_path, "corpus", "walk", "corpus", "-n", 12, "--seed", 2, "--out", "walks.jsonl")[0] == 0
    walked = [{page["title"] for page in json.loads(line)["pages"]} for line in (tmp_path / "walks.jsonl").read_text().splitlines()]
    assert walked and not held & set().union(*walked)


@pytest.mark.parametrize("arguments, words", [
    (["graph", "build", "no/such", "--out", "g"], "no/such"), (["graph", "sample", "no/such", "--out", "s.parquet"], "no/such"), (["corpus", "build", "no/such", "--out", "c"], "no/such"),
    (["import", "no/such.jsonl", "--out", "o.jsonl"], "no/such"), (["filter", "no/such.jsonl", "--out", "o.jsonl"], "no/such"), (["filter"], "IN and --out are needed"),
    (["filter", "x.jsonl", "--out", "o.jsonl", "--only", "sieve"], "no such filter"), (["synth", "--config", "no.toml", "--out", "o"], "no.toml")])
def test_mistakes_are_one_line(tmp_path, arguments, words):
    code, _, errors = stepdr(tmp_path, *arguments)
    assert code == 2 and words in errors and len(errors.strip().splitlines()) == 1, errors
