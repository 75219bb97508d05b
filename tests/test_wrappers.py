"Toolboxes around toolboxes, and the tools of one episode in process."
import random

import pytest

from stepdr.agent.protocol import PROTOCOLS
from stepdr.core.artifacts import root
from stepdr.core.config import InputError
from stepdr.core.trajectory import cited_ids
from stepdr.tools.providers import ClosedWebProvider
from stepdr.tools.results import paragraph_line
from stepdr.tools.toolset import KitSettings, episode_toolbox, kit_in, open_kit
from stepdr.tools.workspace import Workspace
from stepdr.tools.wrappers import Failing, Limited, Recorded
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph


@pytest.fixture(scope="module")
def web(): return ClosedWeb(load_graph(root() / "data" / "kg"))


def search(*queries, **more): return {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": list(queries), **more}}
def blocks(text): return [line[3:] for line in text.splitlines() if line.startswith("## ")]


@pytest.mark.parametrize("form", ["full", "line"])
def test_what_fails_keeps_its_place_and_the_rest_says_what_it_would(web, form):
    "Each request of a batch as it was asked for; a block that comes is the block of a toolbox without failures."
    names = [web.graph.names[e] for e in sorted(web.graph.facts)[:400]]
    rng = random.Random(0)
    for number in range(60):
        queries = [f"{name} {rng.choice(['occupation', 'language', 'star', 'nothing at all'])}" for name in rng.sample(names, rng.randint(1, 5))]
        calm, flaky = (episode_toolbox(web, form, failure_rate=rate, seed=number) for rate in (0.0, 0.4))
        whole, found = calm.call(search(*queries)), flaky.call(search(*queries))
        assert blocks(whole.text) == blocks(found.text) == queries
        lost = sum(block.endswith(("\nerror: timed out", "\nno results")) for block in found.text.split("\n\n"))
        assert flaky.failures <= lost and set(cited_ids(found.text)) <= set(cited_ids(whole.text)) == set(calm.read)
        if not flaky.failures: assert found == whole
        assert set(flaky.read) == set(cited_ids(found.text))


def test_a_repeated_attempt_is_drawn_anew_and_an_episode_is_the_same_again(web):
    def play(seed):
        toolbox = episode_toolbox(web, failure_rate=0.5, seed=seed)
        return [toolbox.call(search("Jack Lemmon school")).text for _ in range(8)]
    assert play(1) == play(1) and len({tuple(play(seed)) for seed in range(6)}) > 3 and len(set(play(2))) > 1


def test_a_line_is_what_a_paragraph_says(web):
    toolbox = episode_toolbox(web)
    text = toolbox.call(search("Jack Lemmon school")).text
    assert text.splitlines()[1:] == [paragraph_line(web.world.paragraphs[one]) for one in cited_ids(text)] and len(cited_ids(text)) == 3
    assert toolbox.call(search("Jack Lemmon school")).text == text                # shown again: nothing is named by its id alone
    assert len(cited_ids(toolbox.call(search("Jack Lemmon school", topk=1)).text)) == 1
    assert toolbox.call(search("Jack Lemmon school", topk=50)).failed


def test_what_a_brief_schema_leaves_out_works_all_the_same(web, tmp_path):
    from jsonschema import Draft202012Validator
    whole, brief = (episode_toolbox(web, schemas=told) for told in ("full", "brief"))
    for long, short in zip(whole.schemas, brief.schemas):
        long, short = long["function"]["parameters"], short["function"]["parameters"]
        Draft202012Validator.check_schema(short)
        assert set(short["properties"]) <= set(long["properties"]) and short["required"] == long["required"]
        for name, one in short["properties"].items():
            assert {**long["properties"][name], **one} == {**long["properties"][name], "description": one.get("description", long["properties"][name]["description"])}
        Draft202012Validator(short).validate({"action": short["properties"]["action"]["enum"][0], "topk": 2, "after": ["x"]})
    assert brief.call(search("Jack Lemmon school", topk=1)).text == whole.call(search("Jack Lemmon school", topk=1)).text
    assert "authority_only" not in str(brief.schemas) and "authority_only" in str(whole.schemas)
    for protocol in PROTOCOLS:
        with open_kit(Workspace(tmp_path / protocol), kit_in(KitSettings(tools="batch_web_surfer,todo"), PROTOCOLS[protocol]), web) as kit:
            assert kit.schemas == (brief if protocol == "brief" else whole).schemas
    with pytest.raises(InputError, match="schemas"): KitSettings(schemas="none")


def test_files_of_an_episode_go_with_it(web):
    toolbox = episode_toolbox(web, tools="file,batch_web_surfer")
    assert list(toolbox.tools) == ["batch_web_surfer", "file"]
    assert not toolbox.call({"name": "file", "arguments": {"action": "write", "path": "notes.md", "content": "the school"}}).failed
    place = toolbox.workspace.folder
    assert "the school" in toolbox.call({"name": "file", "arguments": {"action": "read", "path": "notes.md"}}).text and (place / "notes.md").is_file()
    toolbox.close()
    assert not place.exists() and "file" not in episode_toolbox(web).tools


def test_one_in_a_process_has_no_other_tools(web):
    with pytest.raises(InputError, match="tools: 'shell'"): episode_toolbox(web, tools="batch_web_surfer,shell")
    assert list(episode_toolbox(ClosedWebProvider(web), tools="todo").tools) == ["todo"]
    with pytest.raises(InputError, match="failure_rate"): episode_toolbox(web, failure_rate=2.0)


def test_a_record_is_played_without_tools(web, tmp_path):
    calls = [search("Jack Lemmon school"), search("Jack Lemmon school"), {"name": "todo", "arguments": {"action": "create", "texts": ["a"]}}, {"name": "no"}, "odd", search(5),
             {"name": "batch_web_surfer", "arguments": {"action": "open", "url": "https://nowhere.example"}}]
    recorder = Recorded(episode_toolbox(web, failure_rate=0.3, seed=2), tmp_path / "calls.jsonl")
    said = [recorder.call(call) for call in calls]
    player = Recorded(episode_toolbox(web), tmp_path / "calls.jsonl", "replay")
    assert [player.call(call) for call in calls] == said and player.read == recorder.read and player.toolbox.calls == 0
    with pytest.raises(InputError, match="no record"): Recorded(player, tmp_path / "other.jsonl", "replay")


def test_wrappers_stack(web):
    limited = Limited(Failing(episode_toolbox(web), 1.0, 0), 2)
    said = [limited.call(search("Jack Lemmon school")) for _ in range(3)]
    assert all("timed out" in one.text or "no results" in one.text for one in said[:2]) and said[2].text == "error: no tool calls left"
    assert limited.failures == 2 and limited.schemas == episode_toolbox(web).schemas and limited.reminder() == "" and limited.calls == 3
    limited.close()
