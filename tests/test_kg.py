"""Knowledge graphs at full size: layouts, dirty dumps, both kernels, subgraphs that keep the rules, the same bytes for any number of workers."""
import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars
import pytest

from stepdr.core.config import InputError
from stepdr.world.dumps import Aside, GraphSettings, list_members
from stepdr.world.graph_arrays import TextIds
from stepdr.world.knowledge_graph import KnowledgeGraph, build, graph_build
from stepdr.world.subgraphs import SampleSettings, graph_sample
from stepdr.world.triples import nt_triples

SHARED = Path(__file__).parents[2] / "shared" / "data"
os.environ["IN_TEST"] = "1"


def triples_of(folder):
    "All edges of a built graph in the ids of the source, from the rows of their heads; the rows of their tails must say the same."
    graph = KnowledgeGraph.open(folder)
    ids, names = graph.ids(np.arange(len(graph))), graph.names.relation_ids
    out, back = [], []
    for node in range(len(graph)):
        for h, r, t in graph.triples(node): (out if h == node else back).append((ids[h], names[r], ids[t]))
    assert sorted(out) == sorted(back) and len(set(out)) == len(out)
    return set(out)


def aside_of(folder): return [json.loads(line) for line in (Path(folder) / "aside.jsonl").read_text(encoding="utf-8").splitlines()]


def random_triples(count, nodes, seed=0, text=False):
    "Triples of a graph with hubs."
    rng = np.random.default_rng(seed)
    name = (lambda n: f"节点 {n} é") if text else (lambda n: f"Q{n + 1}")
    head, tail = rng.integers(0, nodes, count), (nodes * rng.random(count) ** 4).astype(int)
    return [(name(h), f"P{r + 1}", name(t)) for h, r, t in zip(head, rng.integers(0, 9, count), tail) if h != t]


def write_tsv(path, rows, end="\n"):
    path.write_bytes("".join("\t".join(row) + end for row in rows).encode())
    return path


@pytest.fixture(scope="module")
def hubs(tmp_path_factory):
    "A graph of 6,000 nodes with hubs over a cap of 100, and its triples."
    folder = tmp_path_factory.mktemp("hubs")
    rows = random_triples(20_000, 6_000)
    build(write_tsv(folder / "g.tsv", rows), folder / "graph")
    return folder / "graph", set(rows)


# ---------------------------------------------------------------- dirty dumps

def test_each_bad_row_is_set_aside_with_its_line_and_the_rest_is_unharmed(tmp_path):
    good = [(f"Q{n}", "P1", f"Q{n + 1}") for n in range(1, 1000)]
    lines = ["\t".join(row).encode() for row in good]
    bad = {10: (b"Q1\tP1", "not three columns"), 400: (b"Q1\tP1\tQ2\tQ3", "not three columns"), 20: (b"Q\xff1\tP1\tQ2", "not UTF-8"), 30: (b"Q5\tP1\tQ6", "duplicate"),
           40: (b"Q7\tP1\tQ7", "self edge"), 50: (b"Q7\t\tQ8", "not three columns"), 60: (b"Berlin\tP1\tQ8", "not ids such as Q1 P1"), 70: (b"Q07\tP1\tQ8", "not ids such as Q1 P1"),
           80: (b"Q99999999999\tP1\tQ8", "not ids such as Q1 P1"), 90: (b'"Q1"\tP1\t"Q2"', "not ids such as Q1 P1"), 100: (b"Q\x001\tP1\tQ2", "not ids such as Q1 P1"), 950: (b"no tabs", "not three columns")}
    for number in sorted(bad): lines.insert(number - 1, bad[number][0])
    lines.insert(500, b"")  # an empty line is nothing
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    counts = build(tmp_path / "t.tsv", tmp_path / "g")
    assert triples_of(tmp_path / "g") == set(good)
    found = {row["line"]: row for row in aside_of(tmp_path / "g")}
    assert sorted(found) == sorted(n + (n > 500) for n in bad)
    for number, (_, reason) in bad.items(): assert found[number + (number > 500)]["reason"].startswith(reason) and found[number + (number > 500)]["file"] == "t.tsv"
    assert counts["rows"] == 999 + len(bad) == counts["edges"] + counts["duplicates"] + counts["self_edges"] + counts["malformed"]
    assert (counts["duplicates"], counts["self_edges"], counts["malformed"]) == (1, 1, 10)


def test_lines_are_counted_across_blocks_and_files(tmp_path):
    (tmp_path / "d").mkdir()
    rows = random_triples(150_000, 40_000)
    first, second = rows[:100_000], rows[100_000:]
    lines = ["\t".join(row) for row in first]
    lines[90_000] = "one\ttwo"
    lines[99_000] = "\t".join((*first[99_000], "fourth"))
    (tmp_path / "d" / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_tsv(tmp_path / "d" / "b.txt", second)
    counts = build(tmp_path / "d", tmp_path / "g", settings=GraphSettings(block_mb=1))
    kept = first[:90_000] + first[90_001:99_000] + first[99_001:]
    assert triples_of(tmp_path / "g") == set(kept + second)
    aside = aside_of(tmp_path / "g")
    assert [(r["file"], r["line"]) for r in aside if r["reason"] == "not three columns"] == [("a.txt", 90_001), ("a.txt", 99_001)]
    seen, expected = set(), []
    for name, part in (("a.txt", list(enumerate(first, 1))), ("b.txt", list(enumerate(second, 1)))):
        for line, row in part:
            if name == "a.txt" and line in (90_001, 99_001): continue
            if row in seen: expected.append((name, line))
            seen.add(row)
    assert [(r["file"], r["line"]) for r in aside if r["reason"] == "duplicate"] == expected and counts["duplicates"] == len(expected) > 10


def test_a_cut_archive_keeps_what_came_before_the_cut(tmp_path):
    rows = random_triples(60_000, 20_000)
    whole = gzip.compress(write_tsv(tmp_path / "t.tsv", rows).read_bytes())
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cut.txt.gz").write_bytes(whole[:len(whole) * 2 // 3])
    (tmp_path / "d" / "noise.txt.gz").write_bytes(b"this is no gzip")
    (tmp_path / "d" / "empty.txt").write_bytes(b"")
    write_tsv(tmp_path / "d" / "good.txt", [("Q1000001", "P1", "Q1000002")])
    counts = build(tmp_path / "d", tmp_path / "g")
    found, reasons = triples_of(tmp_path / "g"), {r["file"]: r for r in aside_of(tmp_path / "g") if r["reason"] != "duplicate"}
    line = reasons["cut.txt.gz"]["line"]
    assert 1000 < line < len(rows) and found == set(rows[:line - 1]) | {("Q1000001", "P1", "Q1000002")}
    assert "breaks off" in reasons["cut.txt.gz"]["reason"] and "breaks off" in reasons["noise.txt.gz"]["reason"] and reasons["empty.txt"]["reason"] == "empty file"
    assert counts["malformed"] == 3


def test_a_line_without_end_costs_only_itself(tmp_path):
    with open(tmp_path / "t.tsv", "wb") as file:
        file.write(b"Q1\tP1\tQ2\n" + b"Q" * (5 << 20) + b"\nQ2\tP1\tQ3\nQ3\tP1\tQ3\n")
    build(tmp_path / "t.tsv", tmp_path / "g", settings=GraphSettings(block_mb=1, line_mb=2, bad_share=0.5))
    assert triples_of(tmp_path / "g") == {("Q1", "P1", "Q2"), ("Q2", "P1", "Q3")}
    assert [(r["line"], r["reason"]) for r in aside_of(tmp_path / "g")] == [(2, "line longer than 2 MB"), (4, "self edge")]


def test_too_large_a_share_stops_and_leaves_the_old_graph(tmp_path):
    build(write_tsv(tmp_path / "good.tsv", [("Q1", "P1", "Q2")]), tmp_path / "g")
    rows = ["Q1\tP1\tQ2"] * 90 + ["what is this"] * 10
    (tmp_path / "t.tsv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"graph.bad_share: 10 of 100 rows .* first t.tsv, line 91: not three columns: 'what is this'"): build(tmp_path / "t.tsv", tmp_path / "g")
    assert triples_of(tmp_path / "g") == {("Q1", "P1", "Q2")} and sorted(p.name for p in tmp_path.iterdir()) == ["g", "good.tsv", "t.tsv"]
    assert build(tmp_path / "t.tsv", tmp_path / "g", settings=GraphSettings(bad_share=0.1))["malformed"] == 10


def test_only_so_many_rows_are_written_down_but_all_are_counted(tmp_path):
    (tmp_path / "t.tsv").write_text("Q1\tP1\tQ2\n" * 50 + "Q3\tP1\tQ3\n" * 50, encoding="utf-8")
    counts = build(tmp_path / "t.tsv", tmp_path / "g", settings=GraphSettings(aside_rows=5))
    assert counts["duplicates"] == 49 and counts["self_edges"] == 50 and counts["aside"] == {"duplicate": 49, "self edge": 50}
    assert Counter(r["reason"] for r in aside_of(tmp_path / "g")) == {"duplicate": 5, "self edge": 5}


@pytest.mark.parametrize("make, said", [
    (lambda d: d / "nothing", "no such file"), (lambda d: write_tsv(d / "e.tsv", []), "no triples"), (lambda d: (d / "only.json").write_text("{}") and d / "only.json", "no file of triples"),
    (lambda d: (d / "bad.zip").write_bytes(b"PK no zip") and d / "bad.zip", "not a readable archive")])
def test_no_graph_is_one_clear_error(tmp_path, make, said):
    with pytest.raises(InputError, match=said) as caught: build(make(tmp_path), tmp_path / "g")
    assert "\n" not in str(caught.value) and not (tmp_path / "g").exists()


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is no graph"): build(write_tsv(tmp_path / "t.tsv", [("Q1", "P1", "Q2")]), tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


# ---------------------------------------------------------------- layouts

ROWS = [("Q1", "P1", "Q2"), ("Q2", "P2", "Q3"), ("Q3", "P1", "Q1")]


@pytest.mark.parametrize("ending, pack", [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_files_are_read_directly(tmp_path, ending, pack):
    (tmp_path / f"t.txt{ending}").write_bytes(pack(write_tsv(tmp_path / "t.tsv", ROWS).read_bytes()))
    build(tmp_path / f"t.txt{ending}", tmp_path / "g")
    assert triples_of(tmp_path / "g") == set(ROWS)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.xz", "tar.bz2"])
def test_an_archive_that_was_cut_is_one_error(tmp_path, ending):
    text = "".join("\t".join(row) + "\n" for row in ROWS).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("a_train.txt", "b_test.txt", "c_valid.txt"): info = tarfile.TarInfo(name); info.size = len(text); archive.addfile(info, io.BytesIO(text))
    pack = {"gz": gzip.compress, "tgz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}.get(ending.rpartition(".")[2], bytes)
    data, member = whole.getvalue(), 512 + -(-len(text) // 512) * 512
    (tmp_path / f"t.{ending}").write_bytes(pack(data))
    build(tmp_path / f"t.{ending}", tmp_path / "g")
    assert triples_of(tmp_path / "g") == set(ROWS)
    for cut in (data[:2 * member], data[:3 * member], data[:3 * member + 512], data[:member + 700], data[:0]):     # between two members, before the end, in the middle of it, in a member, all
        (tmp_path / f"t.{ending}").write_bytes(pack(cut))
        with pytest.raises(InputError, match=rf"t\.{ending}: not a readable archive"): build(tmp_path / f"t.{ending}", tmp_path / "none")
    packed = pack(data)
    (tmp_path / f"t.{ending}").write_bytes(packed[:min(len(packed) // 2, 2 * member)])
    with pytest.raises(InputError, match="fetch it again"): build(tmp_path / f"t.{ending}", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_wikidata5m_as_published(tmp_path):
    text = "".join("\t".join(row) + "\n" for row in ROWS).encode()
    (tmp_path / "w").mkdir()
    with tarfile.open(tmp_path / "w" / "wikidata5m_transductive.tar.gz", "w:gz") as archive:
        for name, data in (("train", text), ("valid", b"Q4\tP1\tQ1\n"), ("test", b"Q5\tP1\tQ1\n")):
            info = tarfile.TarInfo(f"wikidata5m_transductive_{name}.txt"); info.size = len(data); archive.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(tmp_path / "w" / "wikidata5m_inductive.zip", "w") as archive: archive.writestr("wikidata5m_inductive_train.txt", "Q8\tP1\tQ9\n")
    with tarfile.open(tmp_path / "w" / "wikidata5m_alias.tar.gz", "w:gz") as archive:
        for name, data in (("entity", "Q1\tAfrica\tAfrican continent\tthe continent\nQ77\tunknown\nQ2\tŁódź\n".encode()), ("relation", b"P1\tpart of\tin\nP2\tnext\n")):
            info = tarfile.TarInfo(f"wikidata5m_{name}.txt"); info.size = len(data); archive.addfile(info, io.BytesIO(data))
    (tmp_path / "w" / "wikidata5m_text.txt.gz").write_bytes(gzip.compress(b"Q3\tA third thing, described at length.\n"))
    counts = graph_build(tmp_path / "w", tmp_path / "g", only="*transductive*")
    assert triples_of(tmp_path / "g") == {*ROWS, ("Q4", "P1", "Q1"), ("Q5", "P1", "Q1")} and counts["unknown_names"] == 1
    graph = KnowledgeGraph.open(tmp_path / "g")
    assert graph.about["kind"] == "wikidata5m" and graph.names([0, 1, 2]) == ["Africa", "Łódź", None] and graph.names.relations == ["part of", "next"]
    stored = polars.concat([polars.read_parquet(f) for f in (tmp_path / "g" / "names").iterdir()]).sort("node")
    assert stored["aliases"].to_list() == [["African continent", "the continent"], [], []] and stored["description"][2] == "A third thing, described at length."
    graph_build(tmp_path / "w", tmp_path / "g")
    assert ("Q8", "P1", "Q9") in triples_of(tmp_path / "g")


def test_cn_dbpedia_values_that_are_no_entities_are_attributes(tmp_path):
    rows = [("长江", "发源于", "青藏高原"), ("青藏高原", "位于", "中国"), ("长江", "长度", "6300公里"), ("中国", "简称", "华"), ("中国", "河流", "长江"), ("长江", "发源于", "青藏高原")]
    (tmp_path / "c").mkdir()
    write_tsv(tmp_path / "c" / "baike_triples.txt", rows)
    write_tsv(tmp_path / "c" / "m2e.txt", [("扬子江", "长江"), ("神州", "中国")])
    counts = build(tmp_path / "c", tmp_path / "g")
    assert triples_of(tmp_path / "g") == {rows[0], rows[1], rows[4]} and counts["duplicates"] == 1 and counts["attributes"] == 2
    assert counts["rows"] == counts["edges"] + counts["attributes"] + counts["duplicates"] + counts["malformed"] + counts["self_edges"]
    assert [r["line"] for r in aside_of(tmp_path / "g")] == [6]
    graph = KnowledgeGraph.open(tmp_path / "g")
    stored = polars.concat([polars.read_parquet(f) for f in sorted((tmp_path / "g" / "attributes").iterdir())])
    assert {(graph.ids([n])[0], r, v) for n, r, v in stored.rows()} == {("长江", "长度", "6300公里"), ("中国", "简称", "华")}
    aliases = polars.concat([polars.read_parquet(f) for f in sorted((tmp_path / "g" / "names").iterdir())])
    assert {graph.ids([n])[0]: a for n, a in aliases.select("node", "aliases").rows()} == {"长江": ["扬子江"], "中国": ["神州"]}
    assert graph.names([graph.find("长江")]) == ["长江"] and graph.find("华") is None


def test_n_triples(tmp_path):
    (tmp_path / "g.nt").write_text('# a comment\n\n<http://x/a> <http://x/p> <http://x/b> .\n<http://x/b> <http://x/p> _:c . # more\n_:c <http://x/size> "12 \\"in\\" \\u00e9"^^<http://x/int> .\n'
        '<http://x/a> <http://www.w3.org/2000/01/rdf-schema#label> "甲"@zh .\n<http://x/a> <http://www.w3.org/2000/01/rdf-schema#label> "A"@en .\n<http://x/a> broken\n<http://x/%E4%B9%99> <http://x/p> <http://x/a>.\n', encoding="utf-8")
    counts = build(tmp_path / "g.nt", tmp_path / "g", settings=GraphSettings(bad_share=0.5))
    assert triples_of(tmp_path / "g") == {("http://x/a", "http://x/p", "http://x/b"), ("http://x/b", "http://x/p", "_:c"), ("http://x/%E4%B9%99", "http://x/p", "http://x/a")}
    graph = KnowledgeGraph.open(tmp_path / "g")
    assert graph.names([graph.find("http://x/a"), graph.find("http://x/b"), graph.find("http://x/%E4%B9%99")]) == ["A", "b", "乙"] and graph.names.relations == ["p"]
    assert polars.read_parquet(next((tmp_path / "g" / "attributes").iterdir())).rows() == [(graph.find("_:c"), "http://x/size", '12 "in" é')]
    assert [(r["line"], r["reason"]) for r in aside_of(tmp_path / "g")] == [(8, "not N-Triples")] and counts["rows"] == 7
    build(tmp_path / "g.nt", tmp_path / "g", settings=GraphSettings(bad_share=0.5, language="zh"))
    assert KnowledgeGraph.open(tmp_path / "g").names([graph.find("http://x/a")]) == ["甲"]


LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
VALID = {  # statement -> (head, relation, tail), or (literal, language)
    "<http://x/a><http://x/p><http://x/b>.": ("http://x/a", "http://x/p", "http://x/b"), "_:s<http://x/p>_:o.": ("_:s", "http://x/p", "_:o"), "\t<http://x/a>\t<http://x/p>\t<http://x/c>\t.\t# a comment . ": ("http://x/a", "http://x/p", "http://x/c"),
    "<http://x/a> <http://x/p> <http://x/d> <http://x/graph> .": ("http://x/a", "http://x/p", "http://x/d"), "<http://x/a><http://x/p>_:e_:graph.": ("http://x/a", "http://x/p", "_:e_:graph"), "_:a.b-c <http://x/p> _:f.g .#": ("_:a.b-c", "http://x/p", "_:f.g"),
    r"<http://x/\u00e9> <http://x/p> <http://x/\U0001F600> .": ("http://x/é", "http://x/p", "http://x/😀"), r"<http://x/\uD83D\uDE00> <http://x/p> <http://x/h{1}> .": ("http://x/😀", "http://x/p", "http://x/h{1}"),
    f'<http://x/a>{LABEL}"A"@en.': ("A", "en"), f'<http://x/a> {LABEL} "B \\uD83D\\uDE00"@zh-Hant-TW .': ("B 😀", "zh-Hant-TW"), f'<http://x/a> {LABEL} "C \\"q\\" \\t\\\\"@ar--rtl .': ('C "q" \t\\', "ar"), f'<http://x/a> {LABEL} "D"^^<http://x/string> <http://x/g> .': ("D", None),
    f'<http://x/a> {LABEL} ""@en .': ("", "en"), f'<http://x/a> {LABEL} "a . # \' <b> _:c" .': ("a . # ' <b> _:c", None), f'<http://x/a> {LABEL} "E"^^ <http://x/string>.# end': ("E", None)}
WRONG = ("<http://x/a> <http://x/p> <http://x/b>", "<http://x/a> <http://x/p> .", '"a" <http://x/p> <http://x/b> .', "<http://x/a> _:p <http://x/b> .", "<http://x/a b> <http://x/p> <http://x/b> .", f'<http://x/a> {LABEL} "half \\uD83D"@de .', f'<http://x/a> {LABEL} "half \\uDE00 \\uD83D" .',
         f'<http://x/a> {LABEL} "odd \\x" .', f'<http://x/a> {LABEL} "\\U00110000" .', r"<http://x/\n> <http://x/p> <http://x/b> .", f'<http://x/a> {LABEL} "open .', "<< <http://x/a> <http://x/p> <http://x/b> >> <http://x/p> <http://x/b> .", f'<http://x/a> {LABEL} "x"@1 .', r"<http://x/\uD800> <http://x/p> <http://x/b> .")


@pytest.mark.parametrize("end, pack", [("\n", None), ("\r\n", None), ("\r", None), ("\n", gzip.compress), ("\r\n", bz2.compress)])
def test_n_triples_and_n_quads_by_their_grammar(tmp_path, end, pack):
    rows = [row for pair in zip(VALID, [*WRONG, "# no row", ""][:len(VALID)]) for row in pair] + list(WRONG)[len(VALID):]
    data = b"\xef\xbb\xbf" + (end.join(rows) + end).encode()
    path = tmp_path / ("g.nq" + {gzip.compress: ".gz", bz2.compress: ".bz2"}.get(pack, ""))
    path.write_bytes(pack(data) if pack else data)
    (member,), aside = list_members(path), Aside(tmp_path / "aside.jsonl", GraphSettings())
    found = polars.concat(nt_triples(member, aside, GraphSettings()))
    aside.file.close()
    told = {rows[line - 1]: (literal, language) if tail is None else (head, relation, tail) for line, head, relation, tail, literal, language in found.select("line", "h", "r", "t", "literal", "language").rows()}
    assert told == VALID
    assert {rows[row["line"] - 1] for row in map(json.loads, (tmp_path / "aside.jsonl").read_text().splitlines())} == set(WRONG) and aside.bad == len(WRONG)


def test_one_wrong_escape_costs_one_row_of_a_small_dump(tmp_path):
    (tmp_path / "g.nt").write_text(f'<http://x/a> <http://x/p> <http://x/b> .\n<http://x/a> {LABEL} "Alpha"@en .\n<http://x/b> {LABEL} "half \\uD83D"@de .\n')
    assert build(tmp_path / "g.nt", tmp_path / "g")["malformed"] == 1 and [(r["line"], r["reason"]) for r in aside_of(tmp_path / "g")] == [(3, "a wrong escape")]
    with pytest.raises(InputError, match="line 3"): build(tmp_path / "g.nt", tmp_path / "g", settings=GraphSettings(bad_share=0.0))


@pytest.mark.parametrize("name, text, said", [("baike_triples.txt", "复旦大学\t简称\t复旦\n复旦大学\t创办\t1905年\n", "2 of 2 rows are attributes"), ("g.tsv", "Q1\tP1\tQ1\nQ2\tP1\tQ2\n", "2 rows join a node with itself"), ("t.tsv", "水\t是\t水\n", "1 rows join a node with itself"),
                                              ("g.nt", f'<http://x/a> {LABEL} "A" .\n<http://x/b> {LABEL} "B" .\n', "2 rows are names or attributes alone"), ("h.nt", f'<http://x/a> <http://x/p> <http://x/a> .\n<http://x/b> {LABEL} "B" .\n', "no edge")])
def test_a_source_without_an_edge_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught: build(tmp_path / name, tmp_path / "g")
    assert "\n" not in str(caught.value) and not (tmp_path / "g").exists()


FUZZ = 8  # sources of each layout
LAYOUTS = {"wikidata5m": ("wikidata5m_triples.txt", "wikidata5m_entity.txt", "wikidata5m_relation.txt", "wikidata5m_text.txt"), "fb15k": ("entity2id.txt", "relation2id.txt", "train.txt"), "dbp15k": ("entity2id_en.txt", "relation2id_en.txt", "triples_en.txt"),
           "cndbpedia": ("baike_triples.txt", "m2e.txt"), "ntriples": ("g.nt",), "tsv": ("g.tsv", "entities.json"), "codex": ("triples/codex-s/train.txt", "entities/en/entities.json"), "datasets": ("t.parquet", "u.arrow")}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_whatever_a_dump_holds_is_a_graph_or_one_clear_error(tmp_path, kind):
    draw, built = np.random.default_rng(len(kind)), 0
    pieces = [b"Q1", b"Q2", b"Q3", b"P1", b"0", b"1", b"2", b"3", b"\t", b"\t", b"\t", b" ", b"\n", b"\n", b"\r\n", b"\r", b"\xff", b"\0", b'"', b"\\", b"\\uD83D", b"<http://x/a>", b"<http://x/b>", b"<p>", b" .", b'"x"@en', b"\xe6\xb0\xb4", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\x0b", b"\x1c",
              b"\xef\xbb\xbf", b"{", b"}", b":", b",", b"99999999999", b"-1", b"NaN", b"null", b"Q0", b"Q4294967296", b"_:b"]
    lines = {"ntriples": b"<http://x/a> <http://x/p> <http://x/b> .\n", "fb15k": b"0 1 0\n", "dbp15k": b"0\t1\t0\n"}.get(kind, b"Q1\tP1\tQ2\nQ2\tP1\tQ3\n")
    for turn in range(FUZZ):
        for name in LAYOUTS[kind]:
            path = tmp_path / str(turn) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = b"".join(pieces[n] for n in draw.integers(0, len(pieces), draw.integers(0, 60)))
            whole = b"Q1\tname\nQ2\tother\n" if "2id" not in name else b"/m/a\t0\n/m/b\t1\n/m/c\t2\n"
            path.write_bytes((lines if name in (LAYOUTS[kind][0], "train.txt", "triples_en.txt") and "2id" not in name else b'{"Q1": "x"}' if name.endswith(".json") and turn % 2 else whole) + noise)
        try: built += build(tmp_path / str(turn), tmp_path / f"g{turn}", kind, GraphSettings(bad_share=1.0))["edges"] > 0
        except InputError as error: assert "\n" not in str(error) and not (tmp_path / f"g{turn}").exists()
    assert built or kind not in ("wikidata5m", "cndbpedia", "ntriples")


def test_names_with_halves_of_pairs_or_wrong_bytes_cost_themselves(tmp_path):
    folder = tmp_path / "c"
    (folder / "triples" / "codex-s").mkdir(parents=True)
    (folder / "triples" / "codex-s" / "train.txt").write_text("Q1\tP1\tQ2\nQ2\tP1\tQ3\n")
    (folder / "entities" / "en").mkdir(parents=True)
    (folder / "entities" / "en" / "entities.json").write_bytes(rb'{"Q1": {"label": "half \ud83d", "aliases": ["\ude00", "\ud83d\ude00"]}, "\ud83d": "x", "Q2": "caf' + b"\xe9" + rb'", "Q3": "three"}')
    build(folder, tmp_path / "g", settings=GraphSettings(bad_share=0.5))
    graph = KnowledgeGraph.open(tmp_path / "g")
    assert graph.names([graph.find(q) for q in ("Q1", "Q2", "Q3")]) == ["half \ufffd", "caf\ufffd", "three"]
    assert Counter(r["reason"] for r in aside_of(tmp_path / "g")) == {"a wrong escape": 1, "not UTF-8": 1}
    polars.DataFrame({"head": [b"\xff"], "relation": [b"P1"], "tail": [b"Q2"]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no text"): build(tmp_path / "t.parquet", tmp_path / "g2")


def test_datasets_and_parquet(tmp_path):
    from datasets import Dataset, DatasetDict
    part = lambda rows: Dataset.from_dict({"subject": [r[0] for r in rows], "predicate": [r[1] for r in rows], "object": [r[2] for r in rows], "more": [1] * len(rows)})
    DatasetDict({"train": part(ROWS), "test": part([("Q4", "P1", "Q1"), ("Q4", None, "Q2")])}).save_to_disk(tmp_path / "d")
    build(tmp_path / "d", tmp_path / "g", settings=GraphSettings(bad_share=0.5))
    assert triples_of(tmp_path / "g") == {*ROWS, ("Q4", "P1", "Q1")} and [r["line"] for r in aside_of(tmp_path / "g")] == [2]
    polars.DataFrame(ROWS, ["head", "relation", "tail"], orient="row").write_parquet(tmp_path / "t.parquet")
    build(tmp_path / "t.parquet", tmp_path / "g")
    assert triples_of(tmp_path / "g") == set(ROWS)
    polars.DataFrame(ROWS, ["a", "b", "c"], orient="row").write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="have no head, relation and tail"): build(tmp_path / "t.parquet", tmp_path / "g")


def test_numbered_layout_with_unknown_ids(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "entity2id.txt").write_text("3\r\n/m/a\t0\r\n/m/b\t1\r\n/m/c\t2\r\n")
    (tmp_path / "f" / "relation2id.txt").write_text("1\n/people/born in\t0\n")
    (tmp_path / "f" / "train2id.txt").write_text("4\n0 1 0\n1 2 0\n1 9 0\nx 1 0\n")
    build(tmp_path / "f", tmp_path / "g", settings=GraphSettings(bad_share=0.9))
    assert triples_of(tmp_path / "g") == {("/m/a", "/people/born in", "/m/b"), ("/m/b", "/people/born in", "/m/c")}
    assert [(r["file"], r["line"], r["reason"]) for r in aside_of(tmp_path / "g")] == [("train2id.txt", 4, "unknown id"), ("train2id.txt", 5, "unknown id")]


def test_numbers_and_text_give_the_same_graph(tmp_path):
    rows = random_triples(5000, 900)
    write_tsv(tmp_path / "t.tsv", rows)
    for ids in ("number", "text"):
        build(tmp_path / "t.tsv", tmp_path / ids, settings=GraphSettings(ids=ids))
        assert triples_of(tmp_path / ids) == set(rows)
    words = random_triples(5000, 900, text=True)
    build(write_tsv(tmp_path / "t.tsv", words, "\r\n"), tmp_path / "g")
    assert triples_of(tmp_path / "g") == set(words)
    with pytest.raises(InputError, match="graph.ids"): build(tmp_path / "t.tsv", tmp_path / "g", settings=GraphSettings(ids="number"))


def test_texts_that_share_a_hash_are_kept_apart(tmp_path, monkeypatch):
    parse, salts = TextIds.parse, []

    def weak(self, frame):
        salts.append(self.salt)
        arrays, good = parse(self, frame)
        return ([a % np.uint64(3) for a in arrays] if self.salt < 2 else arrays), good
    monkeypatch.setattr(TextIds, "parse", weak)
    rows = random_triples(500, 90, text=True)
    build(write_tsv(tmp_path / "t.tsv", rows), tmp_path / "g")
    assert triples_of(tmp_path / "g") == set(rows) and salts == [0, 1, 2]


# ---------------------------------------------------------------- subgraphs

def check(rows, triples, cap, fewest=10, most=40, low=3, high=10):
    "The rules, in plain Python, from the triples of the source."
    degree, near = Counter(), defaultdict(set)
    for h, _, t in triples: degree.update((h, t)); near[h].add(t); near[t].add(h)
    by_head = defaultdict(set)
    for triple in triples: by_head[triple[0]].add(triple)
    for row in rows:
        nodes, edges = row["nodes"], {(e["head"], e["relation"], e["tail"]) for e in row["edges"]}
        inside = set(nodes)
        assert row["seed"] == nodes[0] and len(inside) == len(nodes) and fewest <= len(nodes) <= most
        assert degree[row["seed"]] <= high and len(near[row["seed"]]) >= low
        assert len(edges) == len(row["edges"]) and edges == {e for n in inside for e in by_head[n] if e[2] in inside and min(degree[n], degree[e[2]]) <= cap}
        reached, stack = {row["seed"]}, [row["seed"]]  # through nodes under the cap alone
        links = defaultdict(set)
        for h, _, t in edges: links[h].add(t); links[t].add(h)
        while stack:
            node = stack.pop()
            if degree[node] > cap: continue
            fresh = links[node] - reached
            reached |= fresh
            stack += fresh
        assert reached == inside


@pytest.mark.parametrize("method", ["bfs", "snowball", "walk"])
def test_subgraphs_keep_the_rules(hubs, tmp_path, method):
    folder, triples = hubs
    counts = graph_sample(folder, 300, 3, tmp_path / "s.parquet", method=method, cap=100)
    rows = polars.read_parquet(tmp_path / "s.parquet").to_dicts()
    check(rows, triples, 100)
    assert len(rows) == counts["subgraphs"] == 300 and len({tuple(sorted(r["nodes"])) for r in rows}) == 300
    assert len({len(r["nodes"]) for r in rows}) > 20 and any(len(r["nodes"]) == 40 for r in rows)


def test_the_same_bytes_for_any_number_of_workers_and_others_for_another_seed(hubs, tmp_path):
    folder, _ = hubs
    made = {}
    for seed, workers in ((0, 1), (0, 4), (0, 2), (1, 4)):
        graph_sample(folder, 900, seed, tmp_path / "s.parquet", workers=workers)
        made[seed, workers] = (tmp_path / "s.parquet").read_bytes()
    assert made[0, 1] == made[0, 4] == made[0, 2] != made[1, 4]


def test_more_than_there_are(hubs, tmp_path):
    build(write_tsv(tmp_path / "t.tsv", [(f"Q{a}", "P1", f"Q{b}") for a in range(1, 13) for b in range(a + 1, 13) if (a * b) % 3]), tmp_path / "g")
    counts = graph_sample(tmp_path / "g", 1000, 0, tmp_path / "s.parquet", fewest=3, most=12)
    rows = polars.read_parquet(tmp_path / "s.parquet").to_dicts()
    assert 5 < counts["subgraphs"] == len(rows) < 1000 and len({tuple(sorted(r["nodes"])) for r in rows}) == len(rows)


def test_fewer_than_asked_says_how_many_nodes_could_be_seeds(hubs, tmp_path):
    degrees = Counter(node for h, _, t in hubs[1] for node in (h, t))
    fitting = sum(20 <= degree <= 25 for degree in degrees.values())
    counts = graph_sample(hubs[0], 100_000, 0, tmp_path / "s.parquet", fewest=3, most=4, seed_low=20, seed_high=25)
    assert 0 < counts["subgraphs"] < 100_000 and f"{counts['subgraphs']} of 100000: {fitting} of {len(degrees)} nodes have 20 to 25 edges; " in counts["fewer"]
    assert "fewer" not in graph_sample(hubs[0], 5, 0, tmp_path / "s.parquet")


def test_filters_of_relations(hubs, tmp_path):
    folder, triples = hubs
    graph_sample(folder, 100, 0, tmp_path / "s.parquet", relations="P1, P2,P3", without="P3", cap=100)
    rows = polars.read_parquet(tmp_path / "s.parquet").to_dicts()
    assert len(rows) == 100 and {e["relation"] for r in rows for e in r["edges"]} == {"P1", "P2"}
    with pytest.raises(InputError, match="sample.without: the graph has no relation 'P99'"): graph_sample(folder, 1, 0, tmp_path / "s.parquet", without="P99")


def test_plain_python_does_the_same_as_compiled_code(tmp_path):
    rows = random_triples(4000, 1200, seed=5) + random_triples(300, 1200, seed=5)
    write_tsv(tmp_path / "t.tsv", rows)
    code = """
import sys
from stepdr.world.dumps import GraphSettings
from stepdr.world.graph_arrays import COMPILED
from stepdr.world.knowledge_graph import build
from stepdr.world.subgraphs import graph_sample
print(not COMPILED)
if __name__ == "__main__":
    for ids in ("number", "text"):
        build("t.tsv", f"{sys.argv[1]}-{ids}", settings=GraphSettings(ids=ids))
        for method in ("bfs", "snowball", "walk"): graph_sample(f"{sys.argv[1]}-{ids}", 60, 1, f"{sys.argv[1]}-{ids}-{method}.parquet", workers=int(sys.argv[2]), method=method, cap=60, without="P4")
"""
    (tmp_path / "both.py").write_text(code)
    for name, workers, more in (("compiled", 4, {}), ("plain", 1, {"STEPDR_NO_NUMBA": "1"}), ("plainer", 2, {"STEPDR_NO_NUMBA": "1"})):
        done = subprocess.run([sys.executable, "both.py", name, str(workers)], cwd=tmp_path, env=os.environ | more, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.splitlines()[0] == str(bool(more)), done.stderr
    compared = 0
    for ids in ("number", "text"):
        for file in sorted((tmp_path / f"compiled-{ids}").iterdir()):
            if file.is_file() and file.suffix != ".parquet": assert file.read_bytes() == (tmp_path / f"plain-{ids}" / file.name).read_bytes(), file; compared += 1
        for method in ("bfs", "snowball", "walk"):
            whole = [(tmp_path / f"{name}-{ids}-{method}.parquet").read_bytes() for name in ("compiled", "plain", "plainer")]
            assert whole[0] == whole[1] == whole[2]
    assert compared >= 10


@pytest.mark.parametrize("settings, said", [({"fewest": 41}, "sample.fewest: 41 is more than most"), ({"method": "dfs"}, "none of bfs"), ({"cap": 0}, "sample.cap"), ({"most": 300}, "sample.most")])
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(InputError, match=said): SampleSettings(**settings)


def test_wrong_use_of_sampling_is_one_clear_error(hubs, tmp_path):
    folder, _ = hubs
    for given, said in (((folder, 0, 0, tmp_path / "s.parquet"), "number: 0"), ((tmp_path, 1, 0, tmp_path / "s.parquet"), "no graph there"), ((folder, 1, 0, tmp_path), "is a folder")):
        with pytest.raises(InputError, match=said): graph_sample(*given)
    with pytest.raises(InputError, match="workers"): graph_sample(folder, 1, 0, tmp_path / "s.parquet", workers=0)
    with pytest.raises(InputError, match="no node has"): graph_sample(folder, 1, 0, tmp_path / "s.parquet", seed_low=500, seed_high=501, cap=501)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, size", [("graph.json", 20), ("starts.npy", 300), ("neighbours.npy", 1000), ("keys.npy", 50), ("labels.npy", 0)])
def test_a_damaged_graph_is_one_clear_error(tmp_path, name, size):
    build(write_tsv(tmp_path / "t.tsv", random_triples(500, 100)), tmp_path / "g")
    (tmp_path / "g" / name).write_bytes((tmp_path / "g" / name).read_bytes()[:size])
    with pytest.raises(InputError, match="damaged graph") as caught: KnowledgeGraph.open(tmp_path / "g")
    assert "\n" not in str(caught.value)


def test_memory_does_not_grow_with_the_file(tmp_path):
    "Four times the rows of the same nodes: the peak of the process grows by no more than the arrays of the graph."
    peaks = []
    for times in (1, 4):
        with open(tmp_path / "t.tsv", "w") as file:
            rng = np.random.default_rng(0)
            for _ in range(times): file.write("".join(f"Q{h}\tP{r}\tQ{t}\n" for h, r, t in zip(rng.integers(1, 50_000, 400_000), rng.integers(1, 400, 400_000), rng.integers(1, 50_000, 400_000))))
        code = "from stepdr.world.dumps import GraphSettings\nfrom stepdr.world.knowledge_graph import build\ncounts = build('t.tsv', 'g', settings=GraphSettings(block_mb=4))\npeak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\nprint(counts['rows'], int(peak) // 1024)"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        rows, peak = map(int, done.stdout.split()[-2:])
        assert rows == times * 400_000
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 1_200_000 * 40 / 1e6 + 60, peaks


# ---------------------------------------------------------------- real data

@pytest.mark.parametrize("source, language, edges, nodes", [("kg_codex", "", 206_205, 17_050), ("kg_fb15k237", "", 308_310, 14_541), ("kg_dbp15k_zh_en", "zh", 70_195, 19_388)])
def test_real_graphs_build_and_sample(tmp_path, source, language, edges, nodes):
    if not (SHARED / source).exists(): pytest.skip(f"{SHARED / source} is not here")
    counts = graph_build(SHARED / source, tmp_path / "g", language=language)
    assert (counts["edges"], counts["nodes"], counts["malformed"]) == (edges, nodes, 0)
    assert counts["rows"] == counts["edges"] + counts["self_edges"] + counts["duplicates"]
    triples = triples_of(tmp_path / "g")
    for method in ("bfs", "snowball", "walk"):
        graph_sample(tmp_path / "g", 400, 0, tmp_path / "s.parquet", workers=2, method=method)
        rows = polars.read_parquet(tmp_path / "s.parquet").to_dicts()
        assert len(rows) == 400
        check(rows, triples, 1000)
    named = [name for row in rows for name in row["names"]]
    assert sum(map(bool, named)) > (0.3 if source == "kg_codex" else 0.95) * len(named)
