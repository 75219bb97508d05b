"""What bytes are: labels of encodings, bytes that were damaged, words that are no magic, and text that is shown as it stands whatever it was sent as."""
import bz2
import io
import json
import random
import struct
import wave
import zipfile

import pytest

from stepdr.tools.tool import ToolError
from stepdr.tools.content import binary_kind, codec_of, decode_bytes, moved_to, text_kind
from stepdr.tools.extract import extract, parse_document
from stepdr.tools.document import ExtractSettings

HERE = ExtractSettings(isolate=False)
THAI, HEBREW, GREEK, RUSSIAN, CHINESE = "ประเทศไทยเป็นประเทศในเอเชีย", "ירושלים היא עיר הבירה של מדינת ישראל", "Η Αθήνα είναι η πρωτεύουσα", "Москва — столица России", "北京是中华人民共和国的首都，也是全国政治、文化中心。"
JAPANESE, KOREAN = "これは日本語の文章です。", "이것은 한국어 문장입니다."


def page(text, said="", tag="meta"):
    head = {"meta": f"<meta charset={said}>", "http-equiv": f'<meta content="text/html; charset={said}" http-equiv=Content-Type>'}[tag] if said else ""
    return f"<html><head>{head}<title>x</title></head><body><main><p>{text} {text}</p></main></body></html>"


# ---------------------------------------------------------------- labels

@pytest.mark.parametrize("label, encoding, text", [
    ("windows-874", "cp874", THAI), ("TIS-620", "cp874", THAI), ("iso-8859-11", "cp874", THAI), ("iso-8859-8-i", "iso8859_8", HEBREW), ("logical", "iso8859_8", HEBREW), ("visual", "iso8859_8", HEBREW), ("csISO88598I", "iso8859_8", HEBREW),
    ("windows-1253", "cp1253", GREEK), ("greek8", "iso8859_7", "Η Αθήνα"), ("x-mac-cyrillic", "mac_cyrillic", RUSSIAN), ("x-mac-ukrainian", "mac_cyrillic", RUSSIAN), ("koi8-ru", "koi8_u", "Москва и Київ"), ("koi", "koi8_r", "Москва"), ("win-1251", "cp1251", RUSSIAN),
    ("x-cp1251", "cp1251", RUSSIAN), ("macintosh", "mac_roman", "Été à la plage"), ("x-mac-roman", "mac_roman", "Été"), ("gb2312", "gb18030", "镕基，囍"), ("x-gbk", "gb18030", CHINESE), ("chinese", "gbk", CHINESE), ("big5-hkscs", "big5hkscs", "香港嘅㗎"), ("x-x-big5", "big5", "臺灣"),
    ("Shift_JIS", "cp932", "①髙﨑 " + JAPANESE), ("x-sjis", "cp932", JAPANESE), ("windows-31j", "cp932", "㈱" + JAPANESE), ("x-euc-jp", "euc_jis_2004", "①" + JAPANESE), ("iso-2022-jp", "iso2022_jp", JAPANESE), ("ks_c_5601-1987", "cp949", "똠방각하 " + KOREAN), ("windows-949", "cp949", KOREAN),
    ("iso-8859-1", "cp1252", "“quoted” – €5 café"), ("latin1", "cp1252", "’tis naïve"), ("us-ascii", "cp1252", "’tis"), ("latin5", "cp1254", "İstanbul ğüş"), ("iso-8859-2", "iso8859_2", "Příliš žluťoučký"), ("l9", "iso8859_15", "œuvre €"), ("utf8", "utf-8", CHINESE), ("unicode-1-1-utf-8", "utf-8", CHINESE),
    ("hz-gb-2312", "hz", "北京"), ("ibm866", "cp866", RUSSIAN.replace("—", "-")), ("arabic", "iso8859_6", "القاهرة"), ("dos-874", "cp874", THAI)])
def test_labels_that_browsers_know(label, encoding, text):
    data = page(text).encode(encoding)
    assert text in extract(data, f'text/html; Charset="{label}"', "https://a.example/", HERE).text, label
    for tag in ("meta", "http-equiv"):
        document = extract(page(text, label, tag).encode(encoding), "text/html", "https://a.example/", HERE)
        assert text in document.text and not document.warnings, (label, document.text, document.warnings)


def test_labels_that_name_no_encoding():
    for label in ("rot13", "hex", "unicode_escape", "idna", "undefined", "utf-7", "x-nothing", "base64", "zlib", "", "ÿ", "a" * 99): assert codec_of(label) == "", label
    document = extract(page(CHINESE, "x-nothing").encode("gb18030"), "text/html; charset=none", "https://a.example/", HERE)
    assert CHINESE in document.text and "none and x-nothing" in " ".join(document.warnings)


def test_the_header_before_the_page_before_a_guess():
    data = page(RUSSIAN, "koi8-r").encode("cp1251")
    assert RUSSIAN in extract(data, "text/html; charset=windows-1251", "https://a.example/", HERE).text
    assert RUSSIAN in extract(page(RUSSIAN, "utf-16").encode(), "text/html", "https://a.example/", HERE).text                  # a page that can be read is not UTF-16
    assert RUSSIAN in extract(b"\xef\xbb\xbf" + page(RUSSIAN, "koi8-r").encode(), "text/html; charset=big5", "https://a.example/", HERE).text   # its mark counts most
    assert "Été" in extract(page("Été à la plage", "utf-8").encode("cp1252"), "text/html; charset=utf-8", "https://a.example/", HERE).text
    assert "said to be utf-8" in extract(page("Été à la plage", "utf-8").encode("cp1252"), "text/html", "https://a.example/", HERE).warnings[-1]
    assert decode_bytes("通".encode("gbk"), "text/plain; charset=gb2312").text == "通" and decode_bytes("é".encode(), "text/plain; charset=iso-8859-1").text == "é"


@pytest.mark.parametrize("encoding, mark", [("utf-16-le", b""), ("utf-16-be", b""), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff"), ("utf-32-le", b"\xff\xfe\0\0"), ("utf-32-be", b"\0\0\xfe\xff")])
def test_wide_encodings_with_and_without_a_mark(encoding, mark):
    data = mark + page(CHINESE).encode(encoding)
    assert CHINESE in extract(data, "text/html", "https://a.example/", HERE).text
    assert CHINESE in extract(data, f"text/html; charset={encoding}", "https://a.example/", HERE).text
    if not mark: assert decode_bytes(CHINESE.encode(encoding), f"text/plain; charset={encoding}").text == CHINESE
    assert '{"a": "水"}' in extract(mark + '{"a": "水"}'.encode(encoding), "application/json", "https://a.example/", HERE).text


# ---------------------------------------------------------------- damage

@pytest.mark.parametrize("name", ["x.html", "x.txt", "x.md", "x.csv", "x.json", ""])
@pytest.mark.parametrize("text", [CHINESE, "Été à la campagne: les élèves étaient très fatigués.", RUSSIAN, "A – B"])
def test_one_wrong_byte_or_a_cut_costs_one_character(name, text):
    data = (page(text) if name in ("x.html", "") else json.dumps({"a": text}, ensure_ascii=False) if name == "x.json" else f"{text}\n").encode()
    first = next(place for place, byte in enumerate(data) if byte >= 0xC0)
    wrong = data[:first] + b"\xff" + data[first:]
    document = parse_document(wrong, name, HERE)
    assert "\ufffd" + text[1:] in document.text or "\ufffd" + text in document.text or text.replace("–", "\ufffd–") in document.text, document.text
    assert document.warnings == ("1 character could not be read (not valid utf-8); \ufffd stands for each",)
    if text == "A – B": return   # with nothing else to go by, its first byte alone would be a letter of Latin-1
    last = max(place for place, byte in enumerate(data) if byte >= 0xC0)
    cut = parse_document(data[:last + 1], name, HERE)
    assert "Ã" not in cut.text and "Ð" not in cut.text and "could not be read" in cut.warnings[0]


def test_damage_does_not_change_the_encoding_whatever_its_place():
    draw = random.Random(3)
    for text in (CHINESE, RUSSIAN, "Größe über alles: naïve Äpfel", HEBREW, JAPANESE):
        good = (text * 20).encode()
        for _ in range(60):
            bad = bytearray(good)
            for place in draw.sample(range(len(bad)), draw.choice((1, 2, 3))): bad[place] = draw.randrange(0x80, 0x100)
            found = decode_bytes(bytes(bad), draw.choice(("", "text/html; charset=utf-8")))
            assert found.encoding == "utf-8" and text in found.text and found.lost <= 9
    for encoding, text in (("gb18030", CHINESE), ("cp932", JAPANESE), ("cp949", KOREAN), ("cp1251", RUSSIAN), ("cp874", THAI)):   # and other encodings stay what they are
        data = (text * 5).encode(encoding)
        assert decode_bytes(data).text == text * 5 and decode_bytes(data, f"text/html; charset={encoding}").text == text * 5
        found = decode_bytes(data[:-1] if encoding in ("gb18030", "cp932", "cp949") else data, f"text/html; charset={encoding}")
        assert text * 4 in found.text and found.lost <= 1


def test_mixed_lines_and_pairs_of_surrogates():
    mixed = "Zürich, Genève\n".encode() * 4 + "Zürich, Genève\n".encode("cp1252") * 3
    found = decode_bytes(mixed)
    assert found.text == "Zürich, Genève\n" * 7 and "3 of 8 lines" in found.note
    assert decode_bytes(b"smile \xed\xa0\xbd\xed\xb8\x80 \xc3\xa9").text == "smile 😀 é" and decode_bytes(b"half \xed\xa0\xbd of \xc3\xa9\xc3\xa8\xc3\xa9\xc3\xa9\xc3\xa8\xc3\xa9").encoding == "utf-8"


# ---------------------------------------------------------------- words that are no magic

@pytest.mark.parametrize("start", ["ID3", "RIFF", "GIF87a", "GIF89a", "GIF8", "%PDF-1.4", "PK", "BM", "OggS", "MZ", "fLaC", "abcdftyp", "Rar!", "BZh9", "7z", "wOFF", "II*", "MM", "PAR1", "SQLite format 3", "ELF", "PNG", "JFIF", "true", "OTTO"])
@pytest.mark.parametrize("name", ["note.txt", "note.md", "", "note.html"])
def test_a_note_may_begin_with_any_word(start, name):
    text = f"{start} is the first word of a format.\n\nThis note tells how it came by its name."
    document = parse_document(text.encode(), name, HERE)
    assert document.text.startswith(f"{start} is the first word") and "came by its name" in document.text
    french = f"{start} est né à Orléans, où l'été est déjà là."
    assert "né à Orléans" in parse_document(french.encode("cp1252"), name, HERE).text


def test_a_note_may_speak_of_a_pdf_and_a_pdf_may_begin_late():
    for text in ("How do you tell a PDF? It starts with %PDF-1.4 and so on.", "Its parts:\n%PDF-1.7\n1 0 obj\n<< >>\nendobj\nand the end is %%EOF, as everybody knows.", "%PDF-1.7\nis the first line of every such file, followed by objects."):
        assert "PDF" in parse_document(text.encode(), "note.txt", HERE).text
    with pytest.raises(ToolError, match="PDF"): parse_document(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100), "", HERE)
    with pytest.raises(ToolError, match="PDF"): parse_document(b"<b>Warning</b>: x\n%PDF-1.7\n1 0 obj\n\0\1\2", "", HERE)


def test_files_that_are_what_their_first_word_says():
    sound, packed = io.BytesIO(), io.BytesIO()
    with wave.open(sound, "wb") as out: out.setnchannels(1); out.setsampwidth(2); out.setframerate(8000); out.writeframes(bytes(100))
    with zipfile.ZipFile(packed, "w") as out: out.writestr("a.txt", "words")
    for data, said in ((sound.getvalue(), "RIFF"), (packed.getvalue(), "zip"), (b"ID3\x04\0\0\0\0\0\x0fTIT2" + b"words", "MP3"), (b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\xff\xff\xff", "GIF"), (b"OggS\0\2" + bytes(20), "Ogg"),
                       (bz2.compress(b"words"), "bzip2"), (b"\0\0\0\x18ftypmp42" + bytes(8), "MP4"), (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0" + b"xyz" * 20, "BMP"), (b"MZ\x90\0\3\0\0\0" + b"x" * 200, "program"), (b"wOF2\0\1\0\0" + b"x" * 99, "font")):
        for name in ("x.txt", "x.md", "x.html", ""):
            with pytest.raises(ToolError, match=said): parse_document(data, name, HERE)


# ---------------------------------------------------------------- text that is shown as it stands

JSON = '{"a": [1, 2, {"b": "<p>x</p>"}],\n  "title":  "T <b>y</b>  z"}'
LINES = '{"html": "<div>one</div>"}\n{"html": "<html><body>two</body></html>"}\n'
SCRIPT = "function f(a) {\n    if (a<b && c>d) { return '<p>x</p>'; }\n\n\n    return \"<div>\";\n}"
PYTHON = "import os\n\n\ndef f(x):\n    return '<p>' + x + '</p>'   # a page\n"
RSS = '<?xml version="1.0"?>\n<rss version="2.0"><channel><title>News</title><item><link>https://a.example/1</link><description><![CDATA[<p>Not <b>lost</b></p>]]></description></item></channel></rss>'
TABLE = "name,height\nFundy,16 m\nBristol,14 m"


@pytest.mark.parametrize("body, kind, types", [
    (JSON, "json", ("application/json", "text/html", "text/plain; charset=utf-8", "application/ld+json", "", "application/octet-stream", "text/javascript+json", "application/vnd.api+json")),
    (LINES, "json", ("application/x-ndjson", "application/json", "text/html", "")), ("[1, 2, \"<p>\"]", "json", ("application/json", "text/html", "")), (")]}',\n" + JSON, "json", ("application/json", "text/html")), (JSON[:40], "json", ("application/json", "text/html", "")),
    ('call({"a": "<p>x</p>"});', "code", ("application/javascript", "text/html", "")), (SCRIPT, "code", ("application/javascript", "text/javascript; charset=utf-8", "application/x-javascript", "text/html", "")), (PYTHON, "code", ("text/x-python", "text/html", "")), (RSS, "xml", ("application/rss+xml", "text/xml", "application/xml", "text/html", "")),
    ("<note><to>Ann</to></note>", "xml", ("application/xml", "text/xml")), ("body { color: red } /* <p> */", "code", ("text/css",)), ("a: <p>\nb:\n  - 1", "code", ("application/yaml", "text/x-yaml"))])
def test_data_and_code_are_shown_unchanged(body, kind, types):
    for media in types:
        document = extract(body.encode(), media, "https://a.example/x", HERE)
        if media.startswith("text/plain") and kind != "json": continue
        assert document.kind == kind and document.text == body.strip("\n"), (media, document.kind, document.text)
        assert "\n".join(p.text for p in document.paragraphs) == body.strip("\n")


def test_names_say_what_plain_text_is():
    for name, body in (("x.py", PYTHON), ("x.js", SCRIPT), ("x.json", JSON), ("x.ndjson", LINES), ("feed.xml", RSS), ("x.css", "p{}\n\n\nq  {}"), ("x.yaml", "a:\n  b: '<p>'"), ("x.log", "one\ntwo\n\nthree"), ("Makefile.mk", "a:\n\tb")):
        document = parse_document(body.encode(), name, HERE)
        assert document.text == body.strip("\n"), name
        assert extract(body.encode(), "text/plain", f"https://a.example/{name}?raw=1", HERE).text == body.strip("\n"), name
    assert extract(TABLE.encode(), "text/plain", "https://a.example/x", HERE).text == TABLE


def test_pages_stay_pages_whatever_they_were_sent_as():
    whole = "<!DOCTYPE html><html><head><title>Tides</title></head><body><main><p>The sea rises and falls twice a day, every day of the year.</p></main></body></html>"
    for media, url in (("text/html", "x"), ("application/json", "x"), ("text/plain", "x"), ("", "x"), ("application/xhtml+xml", "x"), ("text/xml", "x"), ("text/html", "x.php"), ("text/html", "x.json"), ("text/html", "main.js?x"), ("text/html", "x.py"), ("application/octet-stream", "x")):
        document = extract(whole.encode(), media, f"https://a.example/{url}", HERE)
        assert document.kind == "html" and document.title == "Tides" and "<p>" not in document.text, (media, url)
    for start in ("<!-- made by a tool -->\n", "\ufeff", "\n\n", '<?xml version="1.0" encoding="utf-8"?>\n'): assert extract((start + whole).encode(), "text/html", "https://a.example/", HERE).kind == "html"
    assert extract(b"<p>Not found</p>", "application/json", "https://a.example/", HERE).text == "Not found"
    assert extract(b"<div>{ \"a\": 1 }</div>", "text/html", "https://a.example/", HERE).kind == "html"
    assert extract(b"Mail Ann <ann@a.example>, if a<b.", "text/html", "https://a.example/", HERE).text == "Mail Ann <ann@a.example>, if a<b."


def test_plain_text_keeps_its_lines_unless_it_was_broken_to_a_width():
    prose = "The sea rises and falls twice a day, as the moon pulls its\nwater; this is called the tide, and it differs from place\nto place."
    assert parse_document(f"{prose}\n\n{prose}!".encode(), "x.txt", HERE).text == prose.replace("\n", " ") + "\n\n" + prose.replace("\n", " ") + "!"
    for kept in ("Roses are red\nViolets are blue", "- one\n- two", "Name:   Ann\nTown:   Exeter", "if a:\n    b()\nelse:\n    c()", "1  2  3\n4  5  6"):
        assert kept in parse_document(f"A line before it.\n\n{kept}\n\nA line after it.".encode(), "x.txt", HERE).text


def test_anything_is_text_or_one_refusal():
    draw = random.Random(7)
    pieces = [b"<p>", b"</p>", b"<!doctype html>", b'{"a":', b"[", b"]", b"}", b"%PDF-1.4", b"obj", b"GIF89a", b"RIFF", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", "水".encode(), "é".encode("cp1252"), b"\n", b" ", b"words", b"<meta charset=", b"utf-16", b"gb2312>", b"<?xml version='1.0'?>", b"\x1b$B", b"~{", b"http-equiv=refresh content='0;url="]
    for _ in range(1500):
        data = b"".join(draw.choice(pieces) for _ in range(draw.randint(1, 25)))
        media = draw.choice(("", "text/html", "text/plain; charset=utf-16", "application/json", "text/xml; charset=hz", "text/html; charset=iso-2022-jp"))
        assert isinstance(decode_bytes(data, media).text, str) and text_kind(data, media) and isinstance(moved_to(data), str)
        binary_kind(data, media)
