"A run of docs/offline.toml's kind goes on through a teacher that raises, is late and lies: what is kept, set aside and asked adds up."
import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from faulty_teachers import LIES, NOWHERE, by_rule
from scripted_model import ScriptedModel, turn

from stepdr.core.artifacts import read_json, read_jsonl, root, write_jsonl
from stepdr.run.cli import main
from stepdr.synthesis.synth import synth
from stepdr.synthesis.chunks import kind_of

HERE = Path(__file__).parent
TOWNS = ["Ashford", "Brennock", "Coldwell", "Dunmere", "Eastholt", "Farlow", "Garsdale", "Hexby", "Ilminster", "Jarrowick", "Kelby", "Lorne", "Marfield", "Norwell"]
LINKS = [("twin town", 1, "The twin town of {0} is [{1}]({1}.md), and each spring the two councils meet there."), ("old road", 3, "The old road of {0} leads over a moor and two fords to [{1}]({1}.md)."),
         ("river port", 5, "The river port of {0} lies at [{1}]({1}.md), where its wool was weighed.")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "What docs/offline.toml names: a corpus of linked pages, a graph of what they state, reports, and paragraphs to check."
    from stepdr.synthesis.documents import corpus_build
    from stepdr.world.knowledge_graph import graph_build
    folder = tmp_path_factory.mktemp("project")
    (folder / "wiki").mkdir(); (folder / "reports").mkdir()
    facts, paragraphs = [], []
    for place, town in enumerate(TOWNS):
        lines = [text.format(town, TOWNS[(place + step) % len(TOWNS)]) for _, step, text in LINKS] + [f"The guild hall of {town} was built by the river in {1611 + 23 * place} after a great fire in the town."]
        facts += [f"{town}\t{relation}\t{TOWNS[(place + step) % len(TOWNS)]}" for relation, step, _ in LINKS]
        (folder / "wiki" / f"{town}.md").write_text(f"# {town}\n\n" + "\n\n".join(lines) + "\n")
        paragraphs.append({"id": f"p{place}", "text": f"The guild hall of {town} was built by the river in {1611 + 23 * place}."})
    (folder / "facts.tsv").write_text("\n".join(facts) + "\n")
    corpus_build(folder / "wiki", folder / "corpus", workers=1, show=False)
    graph_build(folder / "facts.tsv", folder / "graph")
    write_jsonl(folder / "paragraphs.jsonl", paragraphs)
    for name, words in (("iron", ("timber", "smelter", "paving", "stalls")), ("tides", ("seal", "pump", "causeway", "bobbins")), ("looms", ("weaving", "dyeing", "fulling", "carting"))):
        parts = [f"## The trade in {word}\n\n" + " ".join(f"The archive in volume {n + 2} records that the {word} of {1803 + 5 * n} took {120 + 11 * n} pounds from the parish accounts. This let the work go on while money was short, and made all who paid for it careful." for n in range(5)) for word in words]
        (folder / "reports" / f"{name}.md").write_text(f"# How the {name} trades lived\n\n" + "\n\n".join(parts) + "\n\n## References\n\n[1] https://archive.example/accounts\n")
    return folder


def config(project, **changes):
    "docs/offline.toml beside this material, with fewer items."
    value = tomllib.loads((root() / "docs" / "offline.toml").read_text())
    parts = [{**part, "number": min(part.get("number", 0), 14), "input": part["input"] if part["input"].startswith("part:") else ":".join([*part["input"].split(":")[:-1], str(project / part["input"].split(":")[-1])])} for part in value["part"]]
    return {**value, "provider": str(project / "corpus"), "part": parts, **changes}


def add_up(out, counts):
    "Every item is kept or set aside, every record is counted once, with a reason."
    for name, part in counts["parts"].items():
        folder = Path(out) / "parts" / name
        rows, records = read_jsonl(folder / "done.jsonl"), read_jsonl(folder / "aside.jsonl")
        assert part["rows"] == len(rows) and part["aside"] == len(records) == sum(part["kinds"].values()) and part["items_kept"] + part["items_aside"] == part["items"], (name, part)
        assert Counter(map(kind_of, records)) == part["kinds"] and all(record["reason"].strip() and record["id"] for record in records)
        assert part["failed"] == sum(told["items"] for told in part["failures"].values()) <= part["items_aside"], (name, part)
    assert counts["items"] == counts["kept"] + counts["aside"] == sum(part["items"] for part in counts["parts"].values())
    assert counts["rows"] == sum(sum(taken.values()) for taken in counts["sets"].values()) == sum(len(read_jsonl(Path(out) / f"{name}.jsonl")) for name in counts["sets"])
    assert read_json(Path(out) / "counts.json") == counts
    made = [json.dumps(row) for name in counts["sets"] for row in read_jsonl(Path(out) / f"{name}.jsonl")]
    assert not any(NOWHERE in row or "made up" in row or "Atlantis" in row for row in made), "what was a lie is in no row"


def test_a_teacher_that_raises_is_late_and_lies(project, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    value = config(project, teacher="faulty_teachers:Unreliable", most_failed=1.0)
    counts = synth(value, tmp_path / "out")
    add_up(tmp_path / "out", counts)
    kinds = Counter({kind: n for part in counts["parts"].values() for kind, n in part["kinds"].items()})
    failures = {name for part in counts["parts"].values() for name in part["failures"]}
    assert counts["kept"] > 10 and counts["failed"] > 2 and {"KeyError", "TimeoutError"} <= {name.split(" at ")[0] for name in failures} and kinds["endpoint"], (kinds, failures)
    some = [part for part in value["part"] if part["name"] in ("graph", "walks", "verified")]
    apart = synth({**value, "part": some}, tmp_path / "apart", workers=2)
    add_up(tmp_path / "apart", apart)
    assert all(apart["parts"][name] == counts["parts"][name] for name in ("graph", "walks", "verified")), "processes of their own fail and go on alike"
    well = synth(config(project, teacher="rules"), tmp_path / "well")
    add_up(tmp_path / "well", well)
    assert well["failed"] == 0 and well["kept"] > counts["kept"]
    mended = synth({**value, "teacher": "rules"}, tmp_path / "out")
    assert mended["failed"] == 0, "the next run tries what failed again"
    add_up(tmp_path / "out", mended)


def test_a_server_that_breaks_is_late_and_lies(project, tmp_path, capsys):
    "Through the command line; what was asked is the server's own count."
    asked = Counter()
    def play(messages):
        name, reply = by_rule(messages)
        asked[name] += 1
        if asked[name] % 5 == 0 and name in LIES: return turn(json.dumps(LIES[name]))
        if asked[name] % 7 == 0: return turn("I'm sorry, but I can't help with that.")
        return turn(json.dumps(reply) if reply else json.dumps({"unfit": "no rule knows this"}))
    faults = {3: "429:0.01", 5: "500", 9: "hang", 14: "cut", 20: "garbage", 21: "garbage", 30: "empty", 41: "drop"}
    parts = [part for part in config(project)["part"] if part["maker"] in ("graph_question", "verification", "query_report", "planning_task")]
    value = config(project, part=parts, concurrency=4, chunk=3, price="1/2", endpoint={"backoff": 0.01, "retries": 2, "timeout": 1.0}, teaching={"repairs": 1})
    with ScriptedModel(play, faults=lambda number: faults.get(number) or ("500" if 60 <= number < 72 else None)) as server:
        (tmp_path / "synth.json").write_text(json.dumps(value))
        assert main(["synth", "--config", str(tmp_path / "synth.json"), "--out", str(tmp_path / "out"), "--teacher", f"{server.url}#{server.model}"]) == 0
        said = capsys.readouterr()
        counts = json.loads(said.out)
        add_up(tmp_path / "out", counts)
        assert counts["kept"] and {"refusal", "invalid"} <= {kind for part in counts["parts"].values() for kind in part["kinds"]} | {why.split(": ")[1] for record in read_jsonl(tmp_path / "out" / "parts" / "graph" / "aside.jsonl") for edge in record["checked"] if (why := edge["why"]).startswith("teacher")}
        assert counts["spent"]["prompt_tokens"] == server.billed.prompt and counts["spent"]["cost"] == pytest.approx((server.billed.prompt + 2 * server.billed.completion) / 1e6)
        assert counts["spent"]["asked"] == len(read_jsonl(tmp_path / "out" / "cache" / "ledger.jsonl")) <= len(server.requests), "each reply asked for stands in the ledger"
        for name, part in counts["parts"].items(): assert f"{name}" in said.err and f"{part['items']}" in said.err
