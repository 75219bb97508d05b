"""Pictures, documents and speech: by local programs, by endpoints on loopback, and hostile files."""
import io
import shutil
import struct
import subprocess
import wave
import zlib

import pytest
from PIL import Image, ImageDraw, ImageFont

from scripted_model import ScriptedModel, turn
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
from stepdr.tools.tool import Toolbox
from stepdr.tools.media import Media, MediaSettings, ocr_languages
from stepdr.tools.workspace import Workspace


def picture(text, kind="PNG", font=None):
    image, data = Image.new("RGB", (900, 120), "white"), io.BytesIO()
    ImageDraw.Draw(image).text((20, 30), text, fill="black", font=font or ImageFont.load_default(size=44))
    image.save(data, kind)
    return data.getvalue()


@pytest.fixture
def box(tmp_path): return kit(Workspace(tmp_path))


def kit(workspace, **more):
    media = Media(workspace, **more)
    return Toolbox([media.analyze_image, media.file_parser, media.asr], workspace)


def call(box, name, **arguments): return box.call({"name": name, "arguments": arguments})


needs_tesseract = pytest.mark.skipif(not ocr_languages(MediaSettings()), reason="tesseract is not installed")


@needs_tesseract
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_words_of_a_picture(box, kind):
    box.workspace.write_bytes(f"a.{kind.lower()}", picture("Revenue rose by 12 percent", kind))
    found = call(box, "analyze_image", path=f"a.{kind.lower()}", question="How much?")
    assert not found.failed and "Revenue rose by 12 percent" in found.text and "Tesseract" in found.text and "not answered" in found.text and "900 x 120" in found.text


def chinese_font():
    fonts = subprocess.run(["fc-list", ":lang=zh", "file"], capture_output=True, text=True).stdout.split(":") if shutil.which("fc-list") else []
    return next((f.strip() for f in fonts if f.strip().endswith((".ttc", ".ttf", ".otf"))), None)


@needs_tesseract
@pytest.mark.skipif("chi_sim" not in ocr_languages(MediaSettings()) or not chinese_font(), reason="no Chinese language data or font")
def test_chinese_words_of_a_picture(box):
    box.workspace.write_bytes("a.png", picture("长江是中国最长的河流", font=ImageFont.truetype(chinese_font(), 60)))
    assert "中国最长的河流" in call(box, "analyze_image", path="a.png").text


@needs_tesseract
@pytest.mark.skipif("chi_sim" not in ocr_languages(MediaSettings()) or not chinese_font(), reason="no Chinese language data or font")
@pytest.mark.parametrize("words, size", [("长江是中国最长的河流", 60), ("Revenue 12%", 60), ("营业收入增长百分之十二", 60), ("东桥开放", 60)])
def test_a_single_line_is_read(box, words, size):
    box.workspace.write_bytes("a.png", picture(words, font=ImageFont.truetype(chinese_font(), size)))
    assert words in call(box, "analyze_image", path="a.png").text


@needs_tesseract
@pytest.mark.parametrize("draw", [lambda: Image.effect_noise((600, 400), 80), lambda: Image.radial_gradient("L"), lambda: Image.new("L", (900, 120), 255)])
def test_no_words_are_seen_in_noise(box, draw):
    data = io.BytesIO()
    draw().save(data, "PNG")
    box.workspace.write_bytes("a.png", data.getvalue())
    assert call(box, "analyze_image", path="a.png").text.endswith("(none found)")


def test_a_model_that_sees_answers(tmp_path):
    with ScriptedModel([turn("It rose by 12 %.")]) as server:
        box = kit(Workspace(tmp_path), vision=ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model)))
        box.workspace.write_bytes("a.png", picture("x"))
        found = call(box, "analyze_image", path="a.png", question="How much?")
        parts = server.requests[0]["messages"][0]["content"]
    assert "It rose by 12 %." in found.text and "seen by scripted" in found.text
    assert {p["type"] for p in parts} == {"text", "image_url"} and any(p.get("text") == "How much?" for p in parts)


def test_a_vision_endpoint_that_fails_is_told(tmp_path):
    with ScriptedModel([turn("x")], faults=lambda n: "500") as server:
        box = kit(Workspace(tmp_path), vision=ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model, retries=1, backoff=0.01)))
        box.workspace.write_bytes("a.png", picture("x"))
        assert call(box, "analyze_image", path="a.png").text.startswith("error: the vision endpoint failed")


def bomb(side):
    "A PNG of side x side black pixels in a few kilobytes."
    def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data, words", [(bomb(15000), "pixels"), (b"\x89PNG\r\n\x1a\nbroken", "no picture"), (picture("x")[:200], "no picture"), (b"<svg onload='x'/>", "no picture"), (b"", "no picture")])
def test_hostile_pictures_are_refused_and_the_next_one_is_read(box, data, words):
    box.workspace.write_bytes("evil.png", data)
    box.workspace.write_bytes("good.png", picture("fine"))
    found = call(box, "analyze_image", path="evil.png")
    assert found.failed and words in found.text and len(found.text) < 200
    assert not call(box, "analyze_image", path="good.png").failed


@pytest.mark.parametrize("name", ["analyze_image", "file_parser", "asr"])
def test_files_outside_the_workspace_are_refused(box, name):
    (box.workspace.folder / "link").symlink_to("/etc/passwd")
    for path in ("/etc/passwd", "../x", "link", "no/such/file", ".stepdr/todo.json"):
        assert call(box, name, path=path).failed, path


def test_documents_become_text_with_ids(box):
    import docx, openpyxl
    document = docx.Document()
    document.add_heading("Tides", 1)
    document.add_paragraph("The moon draws the sea.")
    document.save(box.workspace.folder / "tides.docx")
    book = openpyxl.Workbook()
    book.active.title = "Ports"
    book.active.append(["port", "metres"]); book.active.append(["Brest", 5.9])
    book.save(box.workspace.folder / "ports.xlsx")
    words, table = call(box, "file_parser", path="tides.docx"), call(box, "file_parser", path="ports.xlsx")
    assert "# Tides" in words.text and f"\\cite{{{words.paragraphs[-1].id}}}" in words.text and words.paragraphs[-1].url == "file:///tides.docx"
    assert "Ports" in table.text and "Brest" in table.text and "5.9" in table.text
    (box.workspace.folder / "broken.docx").write_bytes(b"PK\x03\x04 and nothing")
    assert call(box, "file_parser", path="broken.docx").failed and not call(box, "file_parser", path="tides.docx").failed


def speech(path, text):
    subprocess.run(["espeak-ng", "-s", "130", "-w", str(path), text], check=True)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_speech_by_a_local_engine(box):
    pytest.importorskip("pocketsphinx")
    speech(box.workspace.folder / "a.wav", "one two three four five six seven")
    found = call(box, "asr", path="a.wav")
    heard = found.text.split("\n")[1].split()                    # a robot's voice and a small model: most numbers, not all
    assert not found.failed and "PocketSphinx" in found.text and len({"one", "two", "three", "four", "five", "six", "seven"} & set(heard)) >= 4, found.text
    assert "English only" in call(box, "asr", path="a.wav", language="zh").text


def test_speech_by_an_endpoint(tmp_path):
    with ScriptedModel([turn("x")], transcript="你好,世界") as server:
        box = kit(Workspace(tmp_path), transcription=ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model)))
        box.workspace.write_bytes("a.mp3", b"ID3 sound")
        found = call(box, "asr", path="a.mp3", language="zh")
        assert server.audio[0]["bytes"] == b"ID3 sound" and server.audio[0]["language"] == "zh"
    assert "你好,世界" in found.text


def test_recordings_that_are_none_are_refused(box):
    with wave.open(str(box.workspace.folder / "eight.wav"), "wb") as sound:
        sound.setnchannels(1); sound.setsampwidth(1); sound.setframerate(8000); sound.writeframes(b"\x80" * 800)
    box.workspace.write_bytes("broken.wav", b"RIFF and nothing")
    assert "16 bits" in call(box, "asr", path="eight.wav").text and call(box, "asr", path="broken.wav").failed
