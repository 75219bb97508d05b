"""The authority list and the paragraph index: what is on the list, kills, second processes, Chinese, filters, hostile input."""
import csv
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from stepdr.core.artifacts import root
from stepdr.core.config import InputError
from stepdr.world.authority import KINDS, TIER_SCORE, Authority, Record
from stepdr.world.paragraphs import Paragraph, paragraph_id
from stepdr.world.paragraph_store import ParagraphStore, StoreSettings, split_scripts

SHARED = Path(__file__).parents[2] / "shared" / "data"
CHINESE = ["长江发源于青藏高原,全长六千三百余公里,是亚洲第一长河。", "黄河流经九个省区,最后注入渤海。", "欧盟碳价在二〇二三年一度超过每吨一百欧元。",
           "人工智能芯片的出口管制影响了全球供应链。", "動態規劃是把原問題分解為子問題的方法。", "国家统计局公布的居民消费价格指数同比上涨。", "最短路问题可以用 Dijkstra 算法求解,复杂度为 O(m log n)。"]


def paragraph(url, text, title="", **more): return Paragraph(paragraph_id(url, text), url, title, text, **more)


# ---------------------------------------------------------------- authority

def test_the_list_is_what_is_asked_for():
    authority = Authority.load()
    listed = [r for r in authority.records.values() if r.origin != "registry rule"]
    assert len(listed) >= 1000
    assert {r.kind for r in listed} == set(KINDS)
    assert {r.tier for r in listed} == {1, 2, 3}
    assert sum(r.language == "zh" for r in listed) >= 150 and sum(r.language == "en" for r in listed) >= 500
    for r in listed:
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", r.domain), r
        assert re.fullmatch(r"[A-Z]{2}|", r.country) and re.fullmatch(r"[a-z]{2}", r.language) and r.name.strip() and r.origin, r


def test_no_badly_rated_source_is_quality_press():
    path = SHARED / "domains" / "DERIVED_wikipedia_perennial_sources.csv"
    if not path.exists(): pytest.skip(f"{path} is not here")
    with open(path, encoding="utf-8", newline="") as lines:
        bad = {d.strip("/") for row in csv.DictReader(lines) if row["status"] in ("deprecated", "blacklisted", "generally_unreliable") for d in row["domains"].split()}
    assert "dailymail.co.uk" in bad
    assert not [r for r in Authority.load().records.values() if r.kind == "quality press" and r.domain in bad]


def test_the_list_can_be_made_again(tmp_path):
    source = SHARED / "domains"
    if not source.exists(): pytest.skip(f"{source} is not here")
    spec = importlib.util.spec_from_file_location("make_authority", root() / "data" / "make_authority.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(source, tmp_path)
    assert (tmp_path / "domains.csv").read_bytes() == (root() / "data" / "authority" / "domains.csv").read_bytes()


@pytest.mark.parametrize("address, domain", [
    ("https://www.cdc.gov/flu", "cdc.gov"), ("HTTPS://WWW.CDC.GOV.:443/", "cdc.gov"), ("cdc.gov", "cdc.gov"), ("user:pw@cdc.gov/x", "cdc.gov"), ("https://x.y.stats.gov.cn/", "stats.gov.cn"),
    ("https://evilcdc.gov/", "gov"), ("https://cdc.gov.evil.example/", None), ("https://evil.example/cdc.gov", None), ("https://evil.example/?u=https://cdc.gov", None),
    ("https://cdc.gov@evil.example/", None), ("", None), ("http://[::1", None), ("http://127.0.0.1/", None), ("https://\ud800.gov/", None), ("а" * 300, None)])
def test_lookup_takes_the_longest_parent_and_is_not_deceived(address, domain):
    record = Authority.load().lookup(address)
    assert (record.domain if record else None) == domain
    assert Authority.load().score(address) == (TIER_SCORE[record.tier] if record else 0.0)


def test_rerank_prefers_authority_only_where_relevance_is_comparable():
    authority = Authority([Record("good.example", "Good", 1, "standards")])
    scored = [(10.0, "https://a.example/", "a"), (9.7, "https://good.example/", "g"), (9.0, "https://b.example/", "b"), (2.0, "https://good.example/2", "g2")]
    assert [i for _, _, i in authority.rerank(scored, 0.1)] == ["g", "a", "b", "g2"]
    assert [i for _, _, i in authority.rerank(scored, 0.0)] == ["a", "g", "b", "g2"]


@pytest.mark.parametrize("text, message", [("", "line 1: no column"), ("domain,name,tier,kind\nx.example,X,7,standards\n", "line 2: tier"), ("domain,name,tier,kind\nx.example,X,1,blog\n", "line 2: kind"),
                                           ("domain,name,tier,kind\nx.example\n", "line 2"), ("domain,name,tier,kind\n,X,1,standards\n", "line 2: domain")])
def test_a_broken_list_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message): Authority.load(path)
    with pytest.raises(InputError, match="cannot be read"): Authority.load(tmp_path / "none.csv")


# ---------------------------------------------------------------- the store: what is found

@pytest.fixture
def store(tmp_path): return ParagraphStore(tmp_path / "store")


def test_every_pair_of_chinese_characters_finds_every_paragraph_that_has_it(store):
    texts = list(CHINESE)
    archive = SHARED / "docs_oiwiki_zh" / "oiwiki_md_docs.tar.gz"
    if archive.exists():
        with tarfile.open(archive) as files:
            for member in [m for m in files.getmembers() if m.name.endswith(".md")][:60]:
                texts += [part.strip() for part in files.extractfile(member).read().decode().split("\n\n") if part.strip()]
    paragraphs = {p.id: p for n, text in enumerate(texts) for p in [paragraph(f"https://{'stats.gov.cn' if n % 3 else 'blog.example'}/{n}", text[:2000])]}
    store.add(paragraphs.values())
    rng, asked = random.Random(0), 0
    runs = [run for p in paragraphs.values() for run in split_scripts(p.text)[1] if len(run) > 1]
    for run in rng.sample(runs, min(150, len(runs))):
        start = rng.randrange(len(run) - 1)
        pair = run[start:start + 2]
        there = {p.id for p in paragraphs.values() if any(pair in r for r in split_scripts(p.text)[1])}
        assert {hit.paragraph.id for hit in store.search(pair, topk=len(paragraphs))} == there, pair
        single = {p.id for p in paragraphs.values() if any(pair[0] in r for r in split_scripts(p.text)[1])}
        assert {hit.paragraph.id for hit in store.search(pair[0], topk=len(paragraphs))} == single, pair[0]
        asked += bool(there)
    assert asked >= min(len(CHINESE), 7)


def test_chinese_and_english_in_one_query_and_full_width_forms(store):
    store.add([paragraph(f"https://a.example/{n}", text) for n, text in enumerate(CHINESE)])
    first = lambda query: store.search(query)[0].paragraph.text
    assert first("dijkstra 最短路") == CHINESE[6] and first("ＤＩＪＫＳＴＲＡ") == CHINESE[6]
    assert first('"居民消费价格指数"') == CHINESE[5] and first("欧盟碳价") == CHINESE[2] and first("動態規劃") == CHINESE[4]
    assert store.search('"价格居民"') == []


def test_filters_and_their_combinations(store):
    rows = [("https://www.who.int/a", "en", "2024-05-01"), ("https://data.who.int/b", "fr", "2023"), ("https://blog.example/c", "en", "2024-06"), ("https://blog.example/d", "en", ""),
            ("https://notwho.example/e", "en", "2020-01-31")]
    store.add([paragraph(url, "malaria cases in the region", language=language, date=day) for url, language, day in rows])
    found = lambda **more: {hit.paragraph.url[-1] for hit in store.search("malaria", topk=10, **more)}
    assert found() == set("abcde")
    assert found(site="who.int") == found(site="https://www.who.int/x") == set("ab") and found(site="data.who.int") == set("b") and found(site="int") == set("ab")
    assert found(language="fr") == set("b") and found(language="xx") == set()
    assert found(since="2024") == set("ac") and found(since="2024-06") == set("c") and found(until="2023") == set("be") and found(until="2020-01") == set("e")
    assert found(since="2023", until="2024-05-01") == set("ab") and found(since="2025", until="2024") == set()
    assert found(authority_only=True) == set("ab") and found(authority_only=True, language="en", since="2024") == set("a")
    for bad in ("yesterday", "2024-13", "2024-02-30", "20240101"):
        with pytest.raises(InputError, match="since"): store.search("malaria", since=bad)
    assert found(site="] OR (") == set()


def test_authority_first_among_near_equals_but_not_before_the_relevant(store):
    store.add([paragraph("https://blog.example/1", "Inflation in the euro area was two percent in May."), paragraph("https://www.ecb.europa.eu/1", "Inflation in the euro area was two percent in May today."),
               paragraph("https://www.ecb.europa.eu/2", "Banknotes of the euro have security features."), paragraph("https://blog.example/2", "A recipe for bread.")] +
              [paragraph(f"https://{site}/{n}", f"Page {n} is about other things than those.") for site in ("www.ecb.europa.eu", "blog.example") for n in range(3, 60)])
    assert [hit.tier for hit in store.search("inflation in the euro area in May")][:2] == [1, 0]
    plain = ParagraphStore(store.folder, StoreSettings(authority_weight=0.0))
    assert [hit.tier for hit in plain.search("inflation in the euro area in May")][:2] == [0, 1]
    assert store.search("recipe bread euro")[0].tier == 0


def test_scores_of_the_two_shards_are_comparable(store):
    "The authority shard is full of one subject; a paragraph on it elsewhere must not win by its word being rare there."
    store.add([paragraph(f"https://www.who.int/{n}", f"malaria report number {n} of the series") for n in range(300)] +
              [paragraph(f"https://blog.example/{n}", f"cooking report number {n} of the series") for n in range(300)] +
              [paragraph("https://blog.example/m", "malaria report number 7 of the series"), paragraph("https://www.who.int/c", "cooking report number 7 of the series")])
    plain = ParagraphStore(store.folder, StoreSettings(authority_weight=0.0))
    for word in ("malaria", "cooking"):
        scores = {hit.tier: hit.score for hit in plain.search(f"{word} 7", topk=300) if hit.paragraph.text == f"{word} report number 7 of the series"}
        assert len(scores) == 2 and abs(scores[0] - scores[1]) < 0.02 * scores[0], scores


# ---------------------------------------------------------------- the store: change

def test_the_same_id_is_kept_once_and_pages_can_be_replaced(store):
    page = [paragraph("https://who.int/a", f"sentence {n}", position=n) for n in range(4)]
    assert store.add(page) == 4 and store.add(page) == 0 and store.add(page + page) == 0 and len(store) == 4
    from dataclasses import replace
    newer = replace(page[0], title="Zebra")
    assert store.add([newer]) == 1 and len(store) == 4 and store.get(newer.id).title == "Zebra" and store.search("zebra")[0].paragraph == newer
    again = [page[1], paragraph("https://who.int/a", "something else", position=0)]
    assert store.add(again, replace=True) == 1 and store.page("https://who.int/a") == [again[1], again[0]]
    assert store.remove("https://who.int/a") == 2 and store.remove("https://who.int/a") == 0 and len(store) == 0
    assert store.search("sentence") == [] and store.add([]) == 0


def test_a_paragraph_moves_with_its_site_onto_the_list(tmp_path):
    p = paragraph("https://new.example/a", "the first report")
    assert ParagraphStore(tmp_path / "s").add([p]) == 1
    store = ParagraphStore(tmp_path / "s", authority=Authority([Record("new.example", "New", 1, "reference")]))
    assert store.search("report", authority_only=True) == []
    assert store.add([p]) == 1 and len(store) == 1
    assert [hit.tier for hit in store.search("report", authority_only=True)] == [1] == [hit.tier for hit in store.search("report")]


def test_hostile_text_and_queries_change_nothing(store):
    texts = ["a\x00b nul", "lone \ud800 surrogate", "x" * 1_000_000, "水" * 100_000, '"unbalanced ( : [ quote', "\u202e right to left", " ".join(f"w{n}" for n in range(100_000)), ""]
    assert store.add([paragraph(f"https://a.example/{n}?{'y' * 200}", text.encode("utf-8", "replace").decode() if n == 1 else text) for n, text in enumerate(texts)]) == len(texts)
    raw = Paragraph("web_00000001", "https://a.example/\ud800", "t\ud800", "lone \ud800 surrogate zebra")
    assert store.add([raw]) == 1 and store.search("zebra")[0].paragraph.text == "lone ? surrogate zebra"
    for query in ("", " ", '"', '""', '" "', "\x00", "\ud800", "AND", "a AND (b", "text:[a TO *]", "/.*/", "*", "水" * 5000, "w " * 5000, "{!func}", "-nul", "nul^1e9", "'; drop"):
        assert isinstance(store.search(query), list), query
    assert store.search("nul")[0].paragraph.text == "a\x00b nul" and store.search("surrogate", topk=0) == []
    assert len(store.search("水水", topk=3)) == 1
    assert store.get("\ud800") is None and store.remove("https://a.example/\ud800") == 1 and store.search("nul", language="\ud800", site="\ud800") == []


# ---------------------------------------------------------------- the store: kills and company

WRITER = """
import sys
from stepdr.world.paragraphs import Paragraph, paragraph_id
from stepdr.world.paragraph_store import ParagraphStore, StoreSettings
store, start = ParagraphStore(sys.argv[1], StoreSettings(lock_wait=60)), int(sys.argv[2])
print("open", flush=True)
for batch in range(start, start + 10_000):
    rows = [(f"https://{'www.who.int' if n % 2 else 'blog.example'}/{batch}/{n}", f"batch{batch} paragraph {n} about rivers 长江 and malaria") for n in range(12)]
    store.add([Paragraph(paragraph_id(url, text), url, "T", text) for url, text in rows])
    print(batch, flush=True)
"""


def writer(folder, start=0):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(start)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})


def test_kill_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(tmp_path):
    folder, acknowledged, rng = tmp_path / "store", [], random.Random(1)
    for life in range(6):
        process = writer(folder, start=life * 100_000)
        assert process.stdout.readline() == "open\n"
        for _ in range(rng.randrange(3, 9)): acknowledged.append(int(process.stdout.readline()))
        time.sleep(rng.random() * 0.06)  # somewhere inside a write
        process.send_signal(signal.SIGKILL)
        acknowledged += map(int, process.stdout.read().split())
        process.wait()
        store = ParagraphStore(folder)
        for batch in acknowledged:
            hits = store.search(f"batch{batch}", topk=50)
            assert len(hits) == 12 and {hit.tier for hit in hits} == {0, 1}, (life, batch)
        assert len(store) >= 12 * len(acknowledged)
    assert len(acknowledged) >= 18
    p = paragraph("https://who.int/after", "after all the kills")
    assert store.add([p]) == 1 and ParagraphStore(folder).get(p.id) == p


def test_two_processes_write_and_a_third_reads(tmp_path):
    folder = tmp_path / "store"
    writers = [writer(folder, 0), writer(folder, 100_000)]
    for process in writers: assert process.stdout.readline() == "open\n"
    reader, sizes = ParagraphStore(folder, StoreSettings(lock_wait=60)), []
    for _ in range(8):
        for process in writers: batch = int(process.stdout.readline())
        assert len(reader.search(f"batch{batch}", topk=50)) == 12   # acknowledged by another process: seen at once
        sizes.append(len(reader))
    for process in writers: process.kill(); process.wait(); process.stdout.close()
    assert sizes == sorted(sizes) and sizes[-1] >= 2 * 8 * 12
    assert reader.add([paragraph("https://who.int/x", "and this process writes too")]) == 1


def test_a_writer_that_does_not_end_gives_a_clear_error_and_then_it_goes_on(tmp_path):
    import fcntl
    store = ParagraphStore(tmp_path / "store", StoreSettings(lock_wait=0.1))
    store.add([paragraph("https://a.example/1", "before")])
    with open(tmp_path / "store" / "writer.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process has been writing"): store.add([paragraph("https://a.example/2", "during")])
        assert len(store.search("before")) == 1     # readers do not wait
    assert store.add([paragraph("https://a.example/2", "during")]) == 1 and len(store) == 2


def test_threads_read_while_others_write(store):
    errors, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                for hit in store.search("river 长江", topk=20): assert hit.paragraph.text.startswith("river")
        except BaseException as error: errors.append(error)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers: thread.start()
    writers = [threading.Thread(target=lambda k=k: [store.add([paragraph(f"https://who.int/{k}/{n}", f"river {k} {n} 长江")]) for n in range(12)]) for k in range(3)]
    for thread in writers: thread.start()
    for thread in writers: thread.join()
    done.set()
    for thread in readers: thread.join()
    assert errors == [] and len(store) == 36


def test_a_broken_or_foreign_folder_is_an_input_error(tmp_path):
    store = ParagraphStore(tmp_path / "store")
    store.add([paragraph("https://a.example/1", "text")])
    for content in ("", "{", '{"index_settings": {}}'):
        broken = tmp_path / f"broken{len(content)}"
        (broken / "other").mkdir(parents=True)
        (broken / "other" / "meta.json").write_text(content)
        with pytest.raises(InputError, match="no paragraph index can be opened"): ParagraphStore(broken)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no paragraph index can be opened"): ParagraphStore(tmp_path / "file")
    assert len(ParagraphStore(tmp_path / "store").search("text")) == 1
