"""The closed web of natural pages: from any facts, true to them, the same for the same seed."""
import json
import re
from collections import Counter

import pytest
from stepdr.core.artifacts import root
from stepdr.core.config import InputError, WorldSettings
from stepdr.run.settings import open_run
from stepdr.run.state import fingerprint_difference, stage_fingerprint
from stepdr.world.closed_web import ClosedWeb, check_facts, load_web, save_web, shipped_web
from stepdr.world.facts import load_graph, split_topics, topic_type
from stepdr.world.index import contains, words
from stepdr.world.pages import TRUSTED, Rates, build_world
from stepdr.world.passages import passage_kind
from stepdr.world.server import Site, page_html
from stepdr.world.styles import STYLES


@pytest.fixture(scope="module")
def web(): return shipped_web()


def facts_folder(folder, wording=None):
    "Thirty ships of one kind, with relations that the project does not have."
    folder.mkdir()
    names = [f"Ship {n}" for n in range(30)] + [f"Port {n}" for n in range(7)] + ["steam", "sail"]
    (folder / "entity.txt").write_text("".join(f"e{n}\t{name}\n" for n, name in enumerate(names)))
    (folder / "relation.txt").write_text("r1\thome_port\nr2\tpropulsion\nr3\tbuilt-in\n")
    (folder / "triples.txt").write_text("".join(
        f"e{n}\tr1\te{30 + n % 7}\ne{n}\tr2\te{37 + n % 2}\ne{n}\tr3\te{30 + n % 5}\n" for n in range(30)))
    if wording is not None: (folder / "wording.json").write_text(json.dumps(wording))
    return folder


def statements(world): return [(p, s) for p in world.paragraphs.values() for s in p.statements]


def test_statements_hold_their_values_where_they_say(web):
    for p, s in statements(web.world):
        assert s.value_name == web.graph.names[s.value] and s.value_name in p.text[s.start:s.end], (p.text, s)
        assert s.correct == (web.graph.facts[s.entity][s.relation] == s.value and not s.year)
        assert not s.year or p.date[:4] == str(s.year) or str(s.year) in p.text
    kinds = {passage_kind(p.text, p.heading) for p in web.world.paragraphs.values()}
    assert kinds == {"prose", "data"} and not [p for p in web.world.paragraphs.values() if "{" in p.text]


def test_every_fact_stands_on_a_trusted_page_unless_it_is_silent(web):
    said = {(s.entity, s.relation) for _, s in statements(web.world)}
    right = {(s.entity, s.relation) for p, s in statements(web.world) if s.correct and p.site in TRUSTED}
    silent = {(e, r) for e, relations in web.world.silent.items() for r in relations}
    assert right == {(e, r) for e, facts in web.graph.facts.items() for r in facts} - silent and not said & silent
    facts = sum(len(f) for e, f in web.graph.facts.items() if topic_type(web.graph, e))
    assert 0.04 < len(silent) / facts < 0.06


def test_trusted_sites_differ_on_disputed_facts_only(web):
    trusted = {}
    for p, s in statements(web.world):
        if p.site in TRUSTED and not s.year: trusted.setdefault((s.entity, s.relation), set()).add(s.value)
    disputed = {(e, r): values for e, facts in web.world.disputed.items() for r, values in facts.items()}
    differ = {fact: found for fact, found in trusted.items() if len(found) > 1}
    assert differ == {fact: set(values) for fact, values in disputed.items()}
    assert all(web.graph.facts[e][r] == values[0] for (e, r), values in disputed.items())
    facts = sum(len(f) for e, f in web.graph.facts.items() if topic_type(web.graph, e))
    assert 0.05 < len(disputed) / facts < 0.07


def test_the_same_seed_gives_the_same_web(web):
    split = split_topics(web.graph, 0)
    again, other = build_world(web.graph, split, 0), build_world(web.graph, split, 1)
    assert again == web.world and list(again.paragraphs) == list(web.world.paragraphs) and other != again


def test_rates_are_kept(web):
    calm = build_world(web.graph, web.split, 0, Rates(disputed=0, silent=0, wrong_on_low=0, old_press=0, dead=0))
    assert all(s.correct for _, s in statements(calm)) and not calm.disputed and not calm.silent and not calm.dead
    old = [(p, s) for p, s in statements(web.world) if s.year]
    assert old and all(not s.correct for _, s in old) and {p.site for p, _ in old} & TRUSTED == {"press.example"}


def test_words_of_a_relation_tell_it_from_the_others(web):
    "Each way to say a relation holds a cue of its own, and no longer cue of another; fillers hold none."
    cues = [(len(cue), w.relation, tuple(words(cue))) for w in web.graph.wording.values() for cue in w.cues]
    def told(text): return max(((n, r) for n, r, cue in cues if contains(words(text), cue)), default=(0, ""))[1]
    for w in web.graph.wording.values():
        for text in (*w.sentences, w.label, w.noun, w.question, *filter(None, [w.opening])):
            assert told(text) == w.relation, (text, told(text))
    fillers = [text for style in STYLES.values() for text in style.before + style.after + style.hedges]
    assert [text for text in fillers if told(text)] == []


def test_facts_of_any_folder_make_a_web(tmp_path):
    folder = facts_folder(tmp_path / "ships")
    check_facts(WorldSettings(graph=str(folder)))
    web = ClosedWeb(load_graph(folder), 3)
    assert Counter(topic_type(web.graph, e) for e in web.graph.facts) == {"topic": 30}
    assert web.graph.wording["home_port"].question == "What is the home port of {S}?"
    assert all(s.value_name in p.text[s.start:s.end] for p, s in statements(web.world))
    found = web.index.search("Ship 3 home port, propulsion", 3)
    assert {p.entity for p in found} == {"e3"}
    assert all(page_html(web, url) for url in web.world.pages)
    save_web(web, folder, tmp_path / "web")
    again = load_web(tmp_path / "web")
    assert again.world == web.world and again.graph == web.graph
    assert sorted(p.name for p in (tmp_path / "web" / "kg").iterdir()) == ["entity.txt", "relation.txt", "triples.txt"]


def test_a_folder_may_say_some_of_its_words(tmp_path):
    wording = {"relations": {"built-in": {"noun": "yard", "sentences": ["{S} was built in {V}."], "cues": ["built"]}},
               "kinds": {"ship": {"has": ["propulsion"], "reference": "The ship"}}}
    graph = load_graph(facts_folder(tmp_path / "ships", wording))
    assert graph.wording["built-in"].question == "What is the yard of {S}?" and topic_type(graph, "e0") == "ship"
    assert list(graph.wording) == ["built-in", "home_port", "propulsion"]
    assert any("The ship " in p.text for p in build_world(graph, {}, 0).paragraphs.values())


def test_ids_and_names_may_be_of_any_script(tmp_path):
    "Ids with slashes, ids that differ in case alone, names with accents: each has its own page, which is found and served."
    folder = facts_folder(tmp_path / "ships")
    for old, new in (("e0\t", "a/b c\t"), ("e1\t", "Ab\t"), ("e2\t", "aB\t"), ("Ship 0\n", "Zoë Ångström\n")):
        for path in (folder / "entity.txt", folder / "triples.txt"):
            path.write_text("".join(re.sub(f"^{re.escape(old)}", new, line) if old[0] == "e" else line.replace(old, new)
                                    for line in path.read_text().splitlines(keepends=True)))
    web = ClosedWeb(load_graph(folder), rates=Rates(dead=0))
    site = Site(web)
    for url, keys in web.world.pages.items():
        assert len({web.world.paragraphs[key].entity for key in keys}) == 1
        status, _, html = site.answer(url.split("/")[2], "/" + url.split("/", 3)[3])
        assert status == 200 and web.title(url) in html
    assert web.index.every("zoë ångström home port", 1)[0].entity == "a/b c"


@pytest.mark.parametrize("wording, message", [
    ([], "expected an object with relations and kinds"),
    ({"relation": {}}, "unknown part 'relation'"),
    ({"relations": {"speed": {}}}, "relations.speed: not a relation of relation.txt"),
    ({"relations": {"home_port": {"nouns": "port"}}}, "relations.home_port.nouns: unknown field"),
    ({"relations": {"home_port": {"noun": 3}}}, "relations.home_port.noun: expected a text, got 3"),
    ({"relations": {"home_port": {"sentences": []}}}, "relations.home_port.sentences: must not be empty"),
    ({"relations": {"home_port": {"sentences": ["{S} is there."]}}}, r"sentences\[0\]: must hold"),
    ({"relations": {"home_port": {"question": "Where?"}}}, "home_port.question: must hold"),
    ({"relations": {"home_port": {"opening": "Home"}}}, "home_port.opening: must hold"),
    ({"kinds": {"ship": {"has": ["speed"]}}}, "kinds.ship.has: unknown relation 'speed'"),
    ({"kinds": {"ship": {"surname": "yes"}}}, "kinds.ship.surname: expected true or false"),
])
def test_bad_words_are_named_with_file_and_field(tmp_path, wording, message):
    folder = facts_folder(tmp_path / "ships", wording)
    with pytest.raises(InputError, match=f"wording.json: .*{message}"): load_graph(folder)


def test_facts_without_topics_are_refused_before_a_run(tmp_path):
    folder = facts_folder(tmp_path / "ships", {"kinds": {"boat": {"has": []}}})
    (folder / "triples.txt").write_text("e0\tr1\te30\n")
    with pytest.raises(InputError, match="0 topics, 10 are needed"): check_facts(WorldSettings(graph=str(folder)))
    missing = WorldSettings(graph=str(tmp_path / "none"))
    with pytest.raises(InputError, match="entity.txt: no such file"): check_facts(missing)
    (folder / "wording.json").write_text("{")
    with pytest.raises(InputError, match="wording.json: not JSON"): check_facts(WorldSettings(graph=str(folder)))


def test_a_run_takes_the_facts_of_a_folder_as_its_input(tmp_path):
    "A run on one's own facts: other facts or other words make the stage stale."
    folder = facts_folder(tmp_path / "ships")
    def fingerprint():
        run = open_run("quick", tmp_path / "run", overrides=[f"world.graph={folder}"])
        return stage_fingerprint(run, run.stages[0])
    before = fingerprint()
    assert before["parameters"]["graph"] == str(folder) and list(before["inputs"]) == [f"project:{folder}"]
    (folder / "wording.json").write_text("{}")
    assert fingerprint_difference(before, fingerprint()) == f"project:{folder} has changed"
    own = open_run("quick", tmp_path / "run")
    assert list(stage_fingerprint(own, own.stages[0])["inputs"]) == ["project:data/kg"]


def test_the_shipped_words_are_whole():
    "Each relation of the project has words of its own."
    raw = json.loads((root() / "data" / "kg" / "wording.json").read_text())
    relations = [line.split("\t")[1] for line in (root() / "data" / "kg" / "relation.txt").read_text().splitlines()]
    assert sorted(raw["relations"]) == sorted(relations)
