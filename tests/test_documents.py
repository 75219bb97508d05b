"""Sources of all kinds become corpora; what is broken is set aside and the rest is unharmed; walks and builds do not depend on workers or kills."""
import bz2
import gzip
import html
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import polars as pl
import pytest

from stepdr.core.config import InputError
from stepdr.tools.tool import run_async
from stepdr.synthesis import documents as module
from stepdr.synthesis.documents import Corpus, corpus_build, link_key
from stepdr.synthesis.walks import WalkSettings, corpus_walk, walk, walk_async
from stepdr.synthesis.sources import CorpusSettings
from stepdr.synthesis.wiki import read_wiki, unfold
from stepdr.world.paragraphs import paragraph_id

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
<siteinfo><sitename>Wiki</sitename><base>https://wiki.example/wiki/Main_Page</base><case>first-letter</case>
<namespaces><namespace key="0" case="first-letter" /><namespace key="1" case="first-letter">Talk</namespace>
<namespace key="6" case="first-letter">File</namespace><namespace key="14" case="first-letter">Category</namespace></namespaces></siteinfo>
"""


def build(src, out, **more):
    return corpus_build(src, out, **{"index": False, "workers": 1, "show": False, **more})


def aside(out): return [json.loads(line) for line in (Path(out) / "aside.jsonl").read_text().splitlines()]


def page(title, text, space=0, more=""):
    return (f'<page>\n<title>{html.escape(title)}</title>\n<ns>{space}</ns>\n{more}<revision><timestamp>2020-02-03T04:05:06Z</timestamp>'
            f'<model>wikitext</model><text xml:space="preserve">{html.escape(text)}</text></revision>\n</page>\n')


def wiki_pages(count, seed=0):
    "Articles that link to one another, each with prose of its own."
    rng = random.Random(seed)
    words = "river stone tower market harbour winter council bridge garden letter engine forest island castle window".split()
    for number in range(count):
        text = [f"'''Town {number}''' is a town in [[Town {rng.randrange(count)}|a county]] founded in {rng.randrange(1000, 2000)}; it trades with [[town {rng.randrange(count)}]] since long."]
        text += [" ".join(rng.choices(words, k=30)).capitalize() + f" [[Town {rng.randrange(count)}]]." for _ in range(4)]
        yield page(f"Town {number}", "\n\n".join(text))


def same_files(one, two):
    for name in ("documents.parquet", "paragraphs.parquet", "links.parquet", "sites.parquet", "starts.npy", "keys.npy", "aside.jsonl", "corpus.json"):
        assert (Path(one) / name).read_bytes() == (Path(two) / name).read_bytes(), name


def test_dump_with_redirects_talk_and_broken_pages(tmp_path):
    broken = "<page><title>Cut <b></title></page>\n" + page("Entities", "x").replace("<page>", "<page><!DOCTYPE a>", 1)
    pages = [page("Oslo", "'''Oslo''' is the capital of [[norway]] and of [[Kristiania (old)|an older]] kind, see [[Nowhere]]. It has 717,710 inhabitants."),
             page("Talk:Oslo", "chat", 1), page("Norway", "'''Norway''' has the capital [[Christiania]], and it borders on Sweden along 1,630 km of frontier."),
             page("Christiania", "#REDIRECT [[Kristiania]]", more='<redirect title="Kristiania" />'), page("Kristiania", "#redirect [[oslo]]"), page("Loop", "#REDIRECT [[Loop 2]]"),
             page("Loop 2", "#REDIRECT [[Loop]]"), page("Nothing", "{{stub}}"), broken, page("Oslo", "A second one of the same name, with other words in it.")]
    data = (HEAD + "".join(pages)).encode() + page("Latin", "caf\xe9").encode("latin-1") + b"<page>\n<title>Torn"
    for name, packed in (("wiki.xml", data), ("wiki.xml.bz2", bz2.compress(data)), ("wiki.xml.gz", gzip.compress(data)), ("wiki.xml.xz", lzma.compress(data))):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(InputError, match="more than corpus.max_aside") as error: build(tmp_path / name, tmp_path / "out")
        assert name in str(error.value) and len((tmp_path / "out.aside.jsonl").read_text().splitlines()) == 5 and not (tmp_path / "out").exists()
        counts = build(tmp_path / name, tmp_path / "out", settings=CorpusSettings(max_aside=0.6))
        assert counts["documents"] == 2 and counts["redirects"] == 4 and counts["skipped"] == 1 and counts["aside"] == 6 and not (tmp_path / "out.aside.jsonl").exists()
        assert counts["read"] == counts["documents"] + counts["redirects"] + counts["skipped"] + counts["aside"]
    reasons = [(row["line"], row["reason"]) for row in aside(tmp_path / "out")]
    lines = data.split(b"\n")
    assert all(b"<page>" in lines[line - 1] for line, _ in reasons)
    for (_, reason), part in zip(reasons, ("no text", "broken XML", "entities", "not UTF-8", "ends inside", "second page")): assert part in reason, reasons
    corpus = Corpus(tmp_path / "out")
    oslo, norway = (corpus.number(f"https://wiki.example/wiki/{name}") for name in ("Oslo", "Norway"))
    assert [(link.target, link.text, link.paragraph) for link in corpus.links(norway)] == [(oslo, "Christiania", 0)]   # over two redirects
    assert [link.target for link in corpus.links(oslo)] == [norway, -1, -1] and corpus.number("https://wiki.example/wiki/Loop") == -1
    assert corpus.document(oslo)["date"] == "2020-02-03" and corpus.paragraphs(oslo)[0].id == paragraph_id("https://wiki.example/wiki/Oslo", corpus.paragraphs(oslo)[0].text)


def test_a_wrong_byte_costs_one_character_of_a_page(tmp_path):
    prose = "The sea – seen from Orléans – rises and falls twice a day, as the moon pulls its water. "
    spoil = lambda text: text.encode().replace("é".encode(), b"\xe9", 1)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.md").write_bytes(b"title: Tides\n\n" + spoil(prose * 3))
    (tmp_path / "tree" / "b.html").write_bytes(spoil(f"<html><head><title>B</title></head><body><main><p>{prose * 3}</p></main></body></html>"))
    (tmp_path / "w.xml").write_bytes((HEAD + page("Whole", prose * 3)).encode() + spoil(page("Spoilt", prose * 3)) + b"</mediawiki>")
    for source, number in (("tree", 2), ("w.xml", 2)):
        counts = build(tmp_path / source, tmp_path / f"{source}-out")
        corpus = Corpus(tmp_path / f"{source}-out")
        texts = [" ".join(paragraph.text for paragraph in corpus.paragraphs(n)) for n in range(counts["documents"])]
        assert len(texts) == number and sum("Orl\ufffdans – rises" in text for text in texts) == (2 if source == "tree" else 1) and all("Orléans" in text and "â€“" not in text for text in texts)


def test_truncated_dumps_keep_what_came_before(tmp_path):
    data = (HEAD + "".join(wiki_pages(300))).encode()
    for name, packed in (("a.xml.gz", gzip.compress(data)), ("a.xml.bz2", bz2.compress(data))):
        cut = packed[:len(packed) * 3 // 4] if name.endswith("gz") else packed[:-10]
        (tmp_path / name).write_bytes(cut)
        if name.endswith("bz2"):   # a block of bzip2 is lost as a whole: all of this small file
            with pytest.raises(InputError): build(tmp_path / name, tmp_path / "out")
            continue
        counts = build(tmp_path / name, tmp_path / "out")
        assert 150 < counts["documents"] < 300 and counts["aside"] == 1 and "damaged" in aside(tmp_path / "out")[0]["reason"]


def test_long_pages_and_hostile_markup(tmp_path):
    pages = [*wiki_pages(20), page("Long", "word " * 150_000), page("Nest", "{{" * 40_000 + "x" + "[[" * 40_000), page("Refs", "<ref>" * 40_000 + "end of it"),
             page("Rows", "{|\n" * 20_000), page("Bar", "[[a" + "|b" * 50_000 + "]] says [[File:x.jpg|thumb|of [[Town 1]]]] this"), page("Bomb", "&amp;lol;" * 10_000)]
    (tmp_path / "wiki.xml").write_text(HEAD + "".join(pages))
    counts = build(tmp_path / "wiki.xml", tmp_path / "out", settings=CorpusSettings(max_bytes=600_000))
    assert counts["documents"] == 24 and counts["aside"] == 2 and [row["reason"] for row in aside(tmp_path / "out")][0] == "longer than 600,000 bytes"
    text = " ".join(pl.read_parquet(tmp_path / "out" / "paragraphs.parquet")["text"])
    assert not any(mark in text for mark in ("[[", "]]", "{{", "}}", "\x01", "\x02", "\x03", "\x04", "thumb"))


def test_wiki_markup_of_chinese_pages():
    about = {"base": "", "language": "zh", "first_letter": True, "namespaces": {"6": "文件", "14": "分类", "0": ""}}
    source = "[[文件:a.jpg|thumb|[[甲]]]]'''长江'''(-{zh-cn:英语;zh-tw:英文}-:Yangtze)是[[亚洲]]最长的河流,流入[[东海 (海)|东海]]。\n[[en:Yangtze]]\n[[分类:河流]]\n== 参考文献 ==\n* [[某书]]\n== 水文 ==\n年均流量为30166 m³/s。"
    blocks, links, categories = read_wiki(source, about)
    assert blocks[0] == ("p", 0, "长江(英语:Yangtze)是亚洲最长的河流,流入东海。") and links == [("亚洲", "亚洲"), ("东海", "东海 (海)")] and categories == ["河流"]
    assert blocks[1:] == [("h", 2, "水文"), ("p", 0, "年均流量为30166 m³/s。")]
    assert unfold("a {{x|[[b]] {{c}} [[d", lambda inside: inside.upper()) == "a x|B  d"


PAGES = {"index.html": ("Start", "<p>Welcome to the atlas of rivers, see <a href='rivers/rhine/'>the Rhine</a> and <a href=rivers/elbe.html#top>the Elbe</a>, all of them long and wide.</p>"),
         "rivers/rhine/index.html": ("Rhine", "<p>The Rhine flows for 1,233 km through six countries, and <a href='../elbe.html'>the Elbe</a> lies east of it, as <a href='https://other.example/x'>others say</a>.</p>"),
         "rivers/elbe.html": ("Elbe", "<p>The Elbe rises in the Giant Mountains at 1,386 m and ends at Cuxhaven, far from <a href='/rivers/rhine'>the Rhine</a> and its vineyards.</p>")}


def html_tree(folder, canonical=True):
    for name, (title, body) in PAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        link = f"<link rel=canonical href='https://atlas.example/{name.removesuffix('index.html')}'>" if canonical else ""
        (folder / name).write_text(f"<!doctype html><html lang=en><head><title>{title}</title>{link}</head><body><nav><a href=/about.html>About</a></nav><main><h1>{title}</h1>{body}</main></body></html>")
    (folder / "old.html").write_text("<html><head><meta http-equiv='refresh' content='0; url=rivers/rhine/'></head></html>")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    (folder / ".hidden.html").write_text("<p>no</p>")
    (folder / "loop.html").symlink_to("index.html")


def test_html_tree_as_folder_and_archives(tmp_path):
    html_tree(tmp_path / "tree")
    with tarfile.open(tmp_path / "tree.tar.xz", "w:xz") as archive: archive.add(tmp_path / "tree", ".")
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for file in (tmp_path / "tree").rglob("*.html"):
            if not file.is_symlink(): archive.write(file, file.relative_to(tmp_path / "tree"))
    for name in ("tree", "tree.tar.xz", "tree.zip"):
        counts = build(tmp_path / name, tmp_path / "out")
        assert counts["documents"] == 3 and counts["redirects"] == 1 and counts["aside"] == 0, name
        corpus = Corpus(tmp_path / "out")
        number = {title: corpus.number(url) for title, url in (("Start", "https://atlas.example/"), ("Rhine", "https://atlas.example/rivers/rhine/"), ("Elbe", "https://atlas.example/rivers/elbe.html"))}
        assert {title: {link.target for link in corpus.links(at) if link.paragraph >= 0} for title, at in number.items()} == {"Start": {number["Rhine"], number["Elbe"]}, "Rhine": {number["Elbe"], -1}, "Elbe": {number["Rhine"]}}
        assert {link.url for at in number.values() for link in corpus.links(at) if link.paragraph < 0} <= {"https://atlas.example/about.html"}   # the menu
    html_tree(tmp_path / "bare", canonical=False)
    assert build(tmp_path / "bare", tmp_path / "out")["links_inside"] >= 3 and Corpus(tmp_path / "out").document(0)["url"] == "file:///"
    assert build(tmp_path / "bare", tmp_path / "out", base="http://here.example/a")["documents"] == 3 and Corpus(tmp_path / "out").number("http://here.example/a/rivers/elbe") == -1


def test_archives_that_are_broken_or_lead_outside(tmp_path):
    html_tree(tmp_path / "tree")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in PAGES: archive.write(tmp_path / "tree" / name, name)
        archive.writestr("../../evil.html", "<p>out</p>")
        archive.writestr("bomb.html", b"0" * 3_000_000)
    counts = build(tmp_path / "a.zip", tmp_path / "out", settings=CorpusSettings(max_bytes=1_000_000, max_aside=0.5))
    assert counts["documents"] == 3 and {row["reason"].split()[0] for row in aside(tmp_path / "out")} == {"its", "3,000,000"} and not (tmp_path.parent / "evil.html").exists()
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        for number in range(200):
            (tmp_path / "one.md").write_text(f"# Page {number}\n\n" + " ".join(str(random.Random(number).random()) for _ in range(50)))
            archive.add(tmp_path / "one.md", f"{number:03}.md")
    data = (tmp_path / "b.tar.gz").read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(data[:len(data) // 2])
    counts = build(tmp_path / "b.tar.gz", tmp_path / "out")
    assert 50 < counts["documents"] < 150 and counts["aside"] == 1 and "damaged" in aside(tmp_path / "out")[0]["reason"]
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(8): archive.add(tmp_path / "one.md", f"{number:03}.md")
    size = 512 + -(-(tmp_path / "one.md").stat().st_size // 512) * 512         # of a member: the cut between two of them shows in nothing but the missing end
    (tmp_path / "d.tar").write_bytes((tmp_path / "d.tar").read_bytes()[:5 * size])
    counts = build(tmp_path / "d.tar", tmp_path / "out", settings=CorpusSettings(max_aside=0.5))
    assert counts["documents"] == 5 and counts["aside"] == 1 and "no end" in aside(tmp_path / "out")[0]["reason"]
    for name, data in (("c.zip", b"PK\3\4 no"), ("c.tar.gz", b"no"), ("c.tar", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name): build(tmp_path / name, tmp_path / "none")


def test_markdown_wiki_names_links_and_dirt(tmp_path):
    wiki = tmp_path / "wiki"; (wiki / "sub").mkdir(parents=True)
    (wiki / "README.md").write_bytes("\ufeff# 首页\r\n\r\n见[前缀函数](sub/kmp.md)和[后缀](./sub/suffix)。这里介绍字符串的各种算法,包括匹配与自动机。\r\n".encode())
    (wiki / "sub" / "kmp.md").write_text("author: A, B\n\n## 定义\n\n前缀函数的定义见[首页](../README.md)。给定一个长度为 n 的字符串。")
    (wiki / "sub" / "suffix.md").write_bytes("title: 后缀数组\n\n后缀数组与[前缀函数](kmp.html)有关。给定一个长度为 n 的字符串,后缀排序。".encode("gb18030"))
    (wiki / "sub" / "bad.md").write_bytes(b"\0\1\2\3" * 50); (wiki / "sub" / "empty.md").write_text("")
    counts = build(wiki, tmp_path / "out", settings=CorpusSettings(max_aside=0.5))
    assert counts["documents"] == 3 and sorted(row["file"] for row in aside(tmp_path / "out")) == ["sub/bad.md", "sub/empty.md"]
    corpus = Corpus(tmp_path / "out")
    titles = {corpus.document(n)["url"]: corpus.document(n)["title"] for n in range(3)}
    assert titles["file:///sub/kmp.md"] == "前缀函数" and titles["file:///README.md"] == "首页"   # the first has no title of its own
    assert all("author" not in p.text for p in corpus.paragraphs(corpus.number("file:///sub/kmp.md"))) and corpus.paragraphs(corpus.number("file:///sub/kmp.md"))[0].title == "前缀函数"
    assert counts["links_inside"] == counts["links"] == 4


def test_wikispeedia_layout_with_dirty_tables(tmp_path):
    src = tmp_path / "src"; (src / "plaintext_articles").mkdir(parents=True)
    names = ["Oslo", "Norway", "%C3%81rea"]
    for name in names: (src / "plaintext_articles" / f"{name}.txt").write_text(f"#copyright\n\n{name}\n\n2007 Schools Wikipedia Selection. Related subjects: Places\n\n   This is about Oslo and Norway,\n   and it is rather long for a\n   paragraph of a test.\n")
    (src / "articles.tsv").write_text("# comment\n\n" + "\n".join(names) + "\n")
    (src / "links.tsv").write_bytes("\ufeff# comment\nOslo\tNorway\r\nNorway\tOslo\nOslo\tNorway\nOslo\tOslo\nOslo\tMars\nOslo\nA\tB\tC\nNorway\t%C3%81rea\n".encode())
    with pytest.raises(InputError, match="links.tsv, line 4: a second time the same link"): build(src, tmp_path / "out")
    counts = build(src, tmp_path / "out", settings=CorpusSettings(max_aside=0.7))
    assert counts["documents"] == 3 and counts["links_inside"] == 3 and counts["links_aside"] == 5
    assert [(row["line"], row["reason"].split()[0]) for row in aside(tmp_path / "out")] == [(4, "a"), (5, "a"), (6, "unknown"), (7, "1"), (8, "3")]


def test_folder_of_documents_of_all_kinds(tmp_path):
    from test_extract import pdf
    src = tmp_path / "src"; src.mkdir()
    (src / "report.pdf").write_bytes(pdf([["The tide rises twice a day in the harbour of the old town."], ["A second page follows here with more about the sea."]]))
    import docx
    document = docx.Document(); document.add_heading("Ports", 1); document.add_paragraph("The port of the old town handles nine million tonnes a year."); document.save(src / "ports.docx")
    (src / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing"); (src / "notes.txt").write_text("Plain notes about the sea, long enough to be kept as a paragraph."); (src / "table.csv").write_text("port,tonnes\nOld,9\nNew,3\n")
    counts = build(src, tmp_path / "out", settings=CorpusSettings(max_aside=0.3), index=True)
    assert counts["documents"] == 4 and counts["aside"] == 1 and counts["indexed"] == counts["paragraphs"] and Corpus(tmp_path / "out").about["kind"] == "files"
    hit = Corpus(tmp_path / "out").store().search("nine million tonnes")[0]
    assert hit.paragraph.url == "file:///ports.docx"


def test_what_cannot_be_a_source_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir(); (tmp_path / "x.bin").write_bytes(b"\0" * 100); (tmp_path / "pictures").mkdir(); (tmp_path / "pictures" / "a.png").write_bytes(b"")
    (tmp_path / "a.xml").write_text("<rss></rss>"); (tmp_path / "w.xml").write_bytes((HEAD + page("A", "b")).encode("utf-16"))
    for name, text in (("missing", "no such file"), ("empty", "empty"), ("pictures", "no document found"), ("a.xml", "no MediaWiki dump"), ("w.xml", "UTF-16"), ("x.bin", "binary data")):
        with pytest.raises(InputError, match=text): build(tmp_path / name, tmp_path / "out")
    (tmp_path / "mine").mkdir(); (tmp_path / "mine" / "letter.txt").write_text("dear"); (tmp_path / "a.md").write_text("# A\n\nText of a page.")
    with pytest.raises(InputError, match="is there already and is no corpus"): build(tmp_path / "a.md", tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    for more in ({"kind": "word"}, {"base": "wiki.example"}, {"workers": 0}):
        with pytest.raises(InputError): build(tmp_path / "a.md", tmp_path / "out", **more)
    with pytest.raises(InputError, match="no corpus"): Corpus(tmp_path / "mine")
    assert build(tmp_path / "a.md", tmp_path / "out")["documents"] == 1
    with pytest.raises(InputError, match="no page of this corpus links"): corpus_walk(tmp_path / "out", tmp_path / "w.jsonl", 1, show=False)
    with pytest.raises(InputError, match="built without an index"): Corpus(tmp_path / "out").store()


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towns")
    (folder / "wiki.xml").write_text(HEAD + "".join(wiki_pages(600)))
    build(folder / "wiki.xml", folder / "one", settings=CorpusSettings(part=400))
    return folder


def test_the_same_bytes_for_one_and_four_workers(towns):
    build(towns / "wiki.xml", towns / "four", workers=4, settings=CorpusSettings(part=400))
    same_files(towns / "one", towns / "four")
    for name in ("a.jsonl", "a.parquet"):
        counts = [corpus_walk(towns / "one", towns / f"{workers}{name}", 40, seed=3, workers=workers, show=False) for workers in (1, 4)]
        assert counts[0] == counts[1] and counts[0]["walks"] == 40 and (towns / f"1{name}").read_bytes() == (towns / f"4{name}").read_bytes()
    assert pl.read_parquet(towns / "1a.parquet").to_dicts() == [json.loads(line) for line in (towns / "1a.jsonl").read_text().splitlines()]
    corpus_walk(towns / "one", towns / "other.jsonl", 40, seed=4, show=False)
    assert (towns / "other.jsonl").read_bytes() != (towns / "1a.jsonl").read_bytes()


def test_a_killed_build_goes_on(towns):
    script = f"from stepdr.synthesis.documents import corpus_build; from stepdr.synthesis.sources import CorpusSettings; corpus_build({str(towns / 'wiki.xml')!r}, {str(towns / 'killed')!r}, index=False, workers=1, show=False, settings=CorpusSettings(part=400))"
    work, seen = towns / ".killed.building", set()
    for wanted in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", script])
        while process.poll() is None and not (work / f"part-{wanted:06}.json").exists(): time.sleep(0.002)
        process.send_signal(signal.SIGKILL); process.wait()
        seen.add(len(list(work.glob("part-*.json"))))
        assert not (towns / "killed").exists() or process.returncode == 0
    (work / "out").mkdir(exist_ok=True); (work / "out" / "rubbish").write_text("from the build that was killed")
    read, counted = module.read_unit, []
    try:
        module.read_unit = lambda unit, *rest: (counted.append(unit.line), read(unit, *rest))[1]
        if not (towns / "killed").exists(): counts = build(towns / "wiki.xml", towns / "killed", settings=CorpusSettings(part=400))
    finally: module.read_unit = read
    assert counts["documents"] == 600 and len(counted) < 600 - 2 * 60   # the parts that were there are not read again
    same_files(towns / "one", towns / "killed")
    assert not work.exists() and not (towns / "killed" / "rubbish").exists()


def test_a_changed_source_is_read_again(tmp_path):
    (tmp_path / "w").mkdir()
    for name in "ab": (tmp_path / "w" / f"{name}.md").write_text(f"# {name}\n\nA page about one thing or another, see [b](b.md) and [a](a.md).")
    (tmp_path / "w" / "c.md").write_text("")
    with pytest.raises(InputError, match="c.md"): build(tmp_path / "w", tmp_path / "out")
    (tmp_path / "w" / "c.md").write_text("# c\n\nNow there is something here about the third thing.")
    assert build(tmp_path / "w", tmp_path / "out")["documents"] == 3
    (tmp_path / "w" / "d.md").write_text("# d\n\nAnd a fourth one, which was not there before, on the fourth thing.")
    assert build(tmp_path / "w", tmp_path / "out")["documents"] == 4 == len(Corpus(tmp_path / "out"))


def test_walks_follow_real_links_and_collect_the_sentences_with_them(towns):
    corpus = Corpus(towns / "one")
    for number in range(30):
        record = walk(corpus, 1, number, WalkSettings(longest=6, enough=2000))
        urls = [entry["url"] for entry in record["pages"]]
        assert 2 <= len(urls) <= 6 and len(set(urls)) == len(urls) and record["stopped"] in ("enough", "longest", "no more links")
        texts = {p["id"]: p for p in record["paragraphs"]}
        for link in record["links"]:
            assert link["target"] in urls and urls.index(link["source"]) < urls.index(link["target"])
            source = corpus.number(link["source"])
            assert corpus.number(link["target"]) in [each.target for each in corpus.links(source)]
            assert texts[link["paragraph"]]["url"] == link["source"] and link["text"].lower() in texts[link["paragraph"]]["text"].lower()
        assert all(paragraph_id(p["url"], p["text"]) == p["id"] and f"\\cite{{{p['id']}}}" in record["text"] for p in record["paragraphs"])
        assert record["characters"] == sum(len(p["text"]) for p in record["paragraphs"])


def test_walks_stay_out_of_hubs_and_can_be_led(towns):
    corpus = Corpus(towns / "one")
    hubs = {number for number in range(len(corpus)) if corpus.links_in[number] > 6}
    for number in range(20):
        visited = [entry["document"] for entry in walk(corpus, 2, number, WalkSettings(hub=6))["pages"]]
        assert hubs and not hubs & set(visited[1:])
    async def last(course, options): return None if len(course.steps) == 4 else len(options) - 1
    record = run_async(walk_async(corpus, 0, start=5, choose=last), 20)
    assert record["stopped"] == "chosen" and len(record["pages"]) == 4 and record["pages"][0]["document"] == 5
    with pytest.raises(InputError, match="a walk's choice: 99"): walk(corpus, 0, choose=lambda course, options: 99)
    with pytest.raises(InputError, match="walk.fewest"): WalkSettings(fewest=9)
    with pytest.raises(InputError, match=".jsonl or a .parquet"): corpus_walk(towns / "one", towns / "w.csv", show=False)


def test_a_second_build_at_the_same_time_is_refused(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\nText of a page that is long enough.")
    with module._building(tmp_path / "out", "other"):
        with pytest.raises(InputError, match="another process is building"): build(tmp_path / "a.md", tmp_path / "out")
    assert build(tmp_path / "a.md", tmp_path / "out")["documents"] == 1


def test_keys_of_addresses():
    assert link_key("https://en.wikipedia.org/wiki/%C3%89ire") == link_key("https://en.wikipedia.org/wiki/Éire") and link_key("http://a/b?x=1") != link_key("http://a/b?x=2")
    assert isinstance(link_key("http://[broken"), int) and link_key("file:///a/README.md") == link_key("file:///a/")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data in ../shared/data")
def test_oi_wiki_html_and_markdown(tmp_path):
    counts = build(SHARED / "docs_oiwiki_zh" / "oiwiki_html_graph_intro.tar.xz", tmp_path / "html", index=True, workers=2)
    assert counts["read"] == 105 and counts["documents"] + counts["redirects"] == 105 and counts["aside"] == 0 and counts["indexed"] == counts["paragraphs"]
    corpus = Corpus(tmp_path / "html")
    assert corpus.about["base"] == "https://oi-wiki.org/" and corpus.number("https://oi-wiki.org/graph/flow/min-cost/") >= 0
    assert corpus.store().search("费用流 最小费用最大流")[0].paragraph.url.startswith("https://oi-wiki.org/graph/flow/")
    assert corpus_walk(tmp_path / "html", tmp_path / "w.jsonl", 20, show=False)["walks"] == 20
    counts = build(SHARED / "docs_oiwiki_zh" / "oiwiki_md_docs.tar.gz", tmp_path / "md")
    assert counts["read"] == 465 and counts["documents"] >= 455 and counts["links_inside"] > 900
    assert corpus_walk(tmp_path / "md", tmp_path / "w.jsonl", 20, show=False)["walks"] == 20


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the development data in ../shared/data")
def test_freshwiki_articles(tmp_path):
    counts = build(SHARED / "docs_freshwiki" / "freshwiki_json.tar.gz", tmp_path / "out")
    assert counts["documents"] == counts["read"] >= 71 and counts["links"] > 1000 and Corpus(tmp_path / "out").about["kind"] == "freshwiki"


ODD = {"C# notes.md": "# Head one\n\nSee [the table](<Q1 #2.csv>), [who](who%3F.md), [percent](sub%20dir/100%25%20ä.md) on generics of the language.\n", "Q1 #2.csv": "name,value\nalpha,1\n",
       "who?.md": "# Who\n\nA text about who is asked, see [the notes](C%23%20notes.md#head-one) there.\n", "sub dir/100% ä.md": "# Percent\n\nA text in a folder, see [up](<../C# notes.md#head>) and [who](../who?.md) there.\n",
       "a%23b.html": "<html><head><title>Odd</title></head><body><main><p>A page of an odd name, see <a href='C# notes.md'>the notes</a> and <a href='#top'>its top</a> as well.</p></main></body></html>"}


def test_files_of_odd_names_are_read_and_linked(tmp_path):
    for name, text in ODD.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "src.zip", "w") as archive:
        for name, text in ODD.items(): archive.writestr(name, text)
    for source in ("src", "src.zip"):
        assert build(tmp_path / source, tmp_path / "out")["documents"] == 5
        corpus = Corpus(tmp_path / "out")
        title = {number: corpus.document(number)["title"] for number in range(5)}
        assert sorted(title.values()) == ["Head one", "Odd", "Percent", "Q1 #2", "Who"]
        assert {title[number]: {title[link.target] for link in corpus.links(number)} for number in title} == {"Head one": {"Q1 #2", "Who", "Percent"}, "Who": {"Head one"}, "Percent": {"Head one", "Who"}, "Odd": {"Head one"}, "Q1 #2": set()}
        table = next(number for number in title if title[number] == "Q1 #2")
        assert corpus.paragraphs(table)[0].text == "name | value\nalpha | 1"


def test_files_of_odd_names_are_opened_as_a_model_writes_them(tmp_path):
    from stepdr.tools.search import page_url
    from stepdr.tools.folder import FolderProvider, folder_store
    for name, text in ODD.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    provider = FolderProvider(folder_store(tmp_path / "src", tmp_path / "store", show=False))
    for url, title in (("file:///C%23%20notes.md", "Head one"), ("file:///C# notes.md", "Head one"), ("file:///C%23%20notes.md#head-one", "Head one"), ("file:///who?.md", "Who"), ("file:///sub dir/100% ä.md", "Percent"), ("file:///a%2523b.html", "Odd")):
        document = run_async(provider.open(page_url(url)))
        assert document.title == title and document.url.startswith("file:///") and all(address.startswith("file:///") for _, address in document.links), url
        assert all(p.id == paragraph_id(document.url, p.text) for p in document.paragraphs)
    from stepdr.tools.tool import ToolError
    with pytest.raises(ToolError, match="no such file"): run_async(provider.open("file:///C"))


def test_what_is_left_out_of_pages_is_counted(tmp_path):
    pages = [page("Oslo", "'''Oslo''' has {{population of|Oslo}} people and {{convert|454|km2}} of land, all of it around the fjord.<ref>A</ref>"),
             page("Bergen", "'''Bergen''' is a town on the coast of the west, with 280,000 people in it.")]
    (tmp_path / "wiki.xml").write_text(HEAD + "".join(pages))
    counts = build(tmp_path / "wiki.xml", tmp_path / "out")
    corpus = Corpus(tmp_path / "out")
    assert counts["incomplete"] == 1 and corpus.document(0)["warnings"] == ["left out: 1 template (population of), 1 reference"] and not corpus.document(1)["warnings"]
    assert corpus.paragraphs(0)[0].text == "Oslo has […] people and 454 km² of land, all of it around the fjord."
