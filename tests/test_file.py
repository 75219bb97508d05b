"The workspace, `file` and `todo`: nothing leaves the folder, a patch is whole or not at all, and every result fits the context."
import difflib
import json
import os
import random
import re
import resource
import shutil
import socket
import threading

import pytest

from stepdr.core.config import InputError
from stepdr.tools import workspace as workspace_module
from stepdr.tools.tool import ToolError, Toolbox
from stepdr.tools.file import Files, FileSettings
from stepdr.tools.diff import parse_diff, patch_with_diff
from stepdr.tools.patch import patch_text
from stepdr.tools.todo import Todo, TodoSettings
from stepdr.core.trajectory import neutralize
from stepdr.tools.workspace import Workspace, WorkspaceSettings, summarize


@pytest.fixture
def space(tmp_path):
    (tmp_path / "secret.txt").write_text("KEY-1234")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("OUTSIDE")
    return Workspace(tmp_path / "work")


@pytest.fixture
def files(space): return Files(space)


def works(files):
    "The tool goes on."
    files.file("write", "after/attack.md", "one\ntwo\n")
    files.file("patch", "after/attack.md", edits=[{"old": "two", "new": "2"}])
    assert files.file("read", "after/attack.md").endswith("one\n2")


def call_all(files, path):
    "Every action on a path; each must fail."
    calls = [("read", {}), ("read", {"offset": 0}), ("write", {"content": "x"}), ("append", {"content": "x"}), ("search", {"pattern": "KEY"}), ("patch", {"edits": [{"old": "KEY", "new": "x"}]}),
             ("patch", {"patch": "@@ -1 +1 @@\n-KEY-1234\n+x\n"})]
    for action, arguments in calls:
        with pytest.raises(ToolError) as caught: files.file(action, path, **arguments)
        yield action, str(caught.value)


# ---------------------------------------------------------------- staying inside

@pytest.mark.parametrize("path", ["../secret.txt", "a/../../secret.txt", "./../secret.txt", "/etc/passwd", "//etc/passwd", "/workspace/../secret.txt", "..", ".stepdr/todo.json", ".STEPDR/x",
                                  "./.stepdr/x", "/workspace/.stepdr/x", "a\0b", "a\nb", "x" * 256, "/".join("d" * 40), "\udcff", "/proc/self/environ"])
def test_names_that_lead_out_are_refused(files, tmp_path, path):
    for action, message in call_all(files, path):
        assert "KEY-1234" not in message and str(tmp_path) not in message
    for action in ("list", "stat"):
        with pytest.raises(ToolError): files.file(action, path)
    assert (tmp_path / "secret.txt").read_text() == "KEY-1234" and sorted(os.listdir(tmp_path)) == ["outside", "secret.txt", "work"]
    works(files)


def test_links_are_never_followed(files, space, tmp_path):
    (space.folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (space.folder / "folder").symlink_to(tmp_path / "outside")
    (space.folder / "self").symlink_to(".")
    (space.folder / "state").symlink_to(".stepdr")
    (space.folder / "dangling").symlink_to(tmp_path / "new.txt")
    (space.folder / "proc").symlink_to("/proc/self")
    for path in ("link.txt", "folder/a.txt", "folder/new.txt", "self/link.txt", "state/todo.json", "dangling", "proc/environ"):
        for action, message in call_all(files, path): assert "KEY-1234" not in message and "OUTSIDE" not in message
    assert not (tmp_path / "new.txt").exists() and os.listdir(tmp_path / "outside") == ["a.txt"] and (tmp_path / "secret.txt").read_text() == "KEY-1234"
    shown = files.file("list", depth=5)
    assert "link.txt  (symbolic link)" in shown and "a.txt" not in shown
    assert files.file("search", pattern="KEY|OUTSIDE", regex=True).startswith("0 matches")
    with pytest.raises(ToolError): space.path("link.txt")
    with pytest.raises(ToolError): files.file("list", "folder")
    works(files)


def test_a_workspace_with_a_linked_state_folder_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".stepdr").symlink_to(tmp_path / "outside")
    with pytest.raises(ToolError): Workspace(tmp_path / "work")
    assert os.listdir(tmp_path / "outside") == []


def test_pipes_sockets_and_devices_do_not_hang(files, space):
    os.mkfifo(space.folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(space.folder)
        try: server.bind("socket")
        finally: os.chdir(here)
        names = ["pipe", "socket", "after"]
        if os.geteuid() == 0:
            try: os.mknod(space.folder / "null", 0o600 | 0o020000, os.makedev(1, 3)); names.append("null")
            except OSError: pass
        (space.folder / "after").mkdir()
        for name in names:
            for action, message in call_all(files, name) if name != "after" else (): assert "not a file" in message
        assert "pipe  (pipe)" in files.file("list") and files.file("stat", "pipe").startswith("pipe: pipe")
        assert "0 matches" in files.file("search", pattern="x")
    works(files)


def test_a_link_put_there_between_check_and_opening_is_not_followed(files, space, tmp_path, monkeypatch):
    "The attack at its best moment: right after the tool has looked at the file and before it opens it."
    real, swaps = os.stat, []

    def look(path, *args, **kwargs):
        info = real(path, *args, **kwargs)
        if path == "victim.txt" and not swaps:
            swaps.append(os.replace(space.folder / "evil", space.folder / "victim.txt"))
        return info
    for attempt in (lambda: files.file("read", "victim.txt"), lambda: files.file("append", "victim.txt", "PWNED"), lambda: space.open("victim.txt", "wb").close()):
        (space.folder / "victim.txt").unlink(missing_ok=True)
        (space.folder / "victim.txt").write_text("harmless\n")
        (space.folder / "evil").symlink_to(tmp_path / "secret.txt")
        swaps.clear()
        with monkeypatch.context() as patch:
            patch.setattr(workspace_module.os, "stat", look)
            with pytest.raises(ToolError, match="symbolic link"): attempt()
        assert swaps and (tmp_path / "secret.txt").read_text() == "KEY-1234"
    works(files)


def test_a_thread_that_swaps_links_in_a_loop_gains_nothing(files, space, tmp_path):
    inside, stop, rounds = space.folder, threading.Event(), []
    (inside / "d").mkdir()
    (inside / "d" / "a.txt").write_text("harmless\n")

    def swap():
        n = 0
        while not stop.is_set():
            n += 1
            link, plain = inside / f"l{n % 7}", inside / f"p{n % 7}"
            link.unlink(missing_ok=True)
            link.symlink_to(tmp_path / "secret.txt")
            os.replace(link, inside / "f.txt")
            plain.write_text("harmless\n")
            os.replace(plain, inside / "f.txt")
            os.rename(inside / "d", inside / "d.away")
            try: (inside / "d").symlink_to(tmp_path / "outside")
            except FileExistsError: pass
            while (inside / "d.away").exists():  # the tool may have made a folder of that name meanwhile
                if (inside / "d").is_symlink(): (inside / "d").unlink()
                else: shutil.rmtree(inside / "d", ignore_errors=True)
                try: os.rename(inside / "d.away", inside / "d")
                except OSError: pass
            rounds.append(n)
    thread = threading.Thread(target=swap)
    thread.start()
    seen, refused = set(), 0
    try:
        for number in range(400):
            for action, path, more in (("read", "f.txt", {}), ("append", "f.txt", {"content": "PWNED\n"}), ("read", "d/a.txt", {}), ("write", f"d/new{number % 3}.txt", {"content": "PWNED\n"}),
                                       ("patch", "f.txt", {"edits": [{"old": "harmless", "new": "PWNED"}]}), ("list", "", {"depth": 3}), ("search", "", {"pattern": "harmless"})):
                try: seen.add(files.file(action, path, **more))
                except ToolError as error: refused += 1; seen.add(str(error))
    finally:
        stop.set()
        thread.join()
    assert not any("KEY-1234" in text or "OUTSIDE" in text for text in seen) and any("harmless" in text for text in seen) and refused and len(rounds) > 50
    assert (tmp_path / "secret.txt").read_text() == "KEY-1234" and os.listdir(tmp_path / "outside") == ["a.txt"] and (tmp_path / "outside" / "a.txt").read_text() == "OUTSIDE"
    works(files)


# ---------------------------------------------------------------- whole or not at all

def test_a_full_disk_leaves_the_old_file(files, space):
    files.file("write", "report.md", "old\n" * 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(ToolError, match="too large"): files.file("write", "report.md", "new\n" * 5000)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert space.read_bytes("report.md") == b"old\n" * 10 and sorted(os.listdir(space.folder)) == [".stepdr", "report.md"]
    works(files)


def test_limits_on_size(tmp_path):
    files = Files(Workspace(tmp_path, WorkspaceSettings(file_mb=0.01)))
    for action, content in (("write", "x" * 10_001), ("append", "x" * 10_001)):
        with pytest.raises(ToolError, match="limit"): files.file(action, "big.txt", content)
    with open(tmp_path / "sparse", "wb") as file: file.truncate(10**12)
    with pytest.raises(ToolError, match="read parts of it by offset"): files.file("read", "sparse")
    (tmp_path / "log.txt").write_text("line\n" * 5000)
    assert files.file("read", "log.txt", offset=24_990).endswith("line\nline\n")
    with pytest.raises(InputError, match="workspace.file_mb"): WorkspaceSettings(file_mb=-1)
    works(files)


def test_edits_of_several_threads_are_all_kept(files):
    files.file("write", "shared.md", "".join(f"marker-{n:02d}\n" for n in range(32)))
    threads = [threading.Thread(target=lambda n=n: (files.file("patch", "shared.md", edits=[{"old": f"marker-{n:02d}", "new": f"done-{n}"}]), files.file("append", "log.md", f"{n}\n"))) for n in range(32)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert files.file("read", "shared.md").split("\n")[1:] == [f"done-{n}" for n in range(32)] and len(files.file("read", "log.md").split("\n")) == 33


def test_a_file_changed_by_something_else_is_not_overwritten(files, space, monkeypatch):
    files.file("write", "shared.md", "one two\n")
    real = space.read_bytes
    def read_bytes(path, **given):
        found = real(path, **given)
        (space.folder / "shared.md").write_text("one two three\n")  # a command in the shell, at the worst moment
        return found
    monkeypatch.setattr(space, "read_bytes", read_bytes)
    with pytest.raises(ToolError, match="read it again"): files.file("patch", "shared.md", edits=[{"old": "two", "new": "2"}])
    monkeypatch.undo()
    assert space.read_bytes("shared.md") == b"one two three\n"
    works(files)


def test_permissions_survive_a_patch(files, space):
    files.file("write", "run.sh", "echo one\n")
    (space.folder / "run.sh").chmod(0o755)
    files.file("patch", "run.sh", edits=[{"old": "one", "new": "two"}])
    assert (space.folder / "run.sh").stat().st_mode & 0o777 == 0o755


# ---------------------------------------------------------------- fragments

REPORT = """# Wind power

Wind gave 7.8 % of the world's electricity in 2023 - more than ever before.
China built most of it (76 GW), the “rest” of the world 41 GW.

## Costs

The costs fell by 70 % between 2010 and 2023.
The costs fell by 30 % between 2000 and 2010.

## 中文摘要

2023年，风力发电占全球电力的7.8%，创下历史新高。中国的新增装机容量最多。
"""


@pytest.mark.parametrize("edit, old, new", [
    ({"old": "(76 GW)", "new": "(75.9 GW)"}, "(76 GW)", "(75.9 GW)"),
    ({"old": r"7.8 %", "new": r"\1 \g<0> 8 %"}, "7.8 % of", r"\1 \g<0> 8 % of"),
    ({"old": "in 2023 – more  than\never", "new": "X"}, "in 2023 - more than ever", "X"),
    ({"old": 'the "rest" of', "new": "what is left of"}, "the “rest” of", "what is left of"),
    ({"old": "2023 年,风力发电占全球电力的 7.8%", "new": "风电占7.8%"}, "2023年，风力发电占全球电力的7.8%", "风电占7.8%"),
    ({"old": "风力发电占了全球电力的7.8%，创历史新高", "new": "新高"}, "风力发电占全球电力的7.8%，创下历史新高", "新高"),
    ({"old": "China has built most of this (76 GW)", "new": "China: 76 GW"}, "China built most of it (76 GW)", "China: 76 GW"),
    ({"old": "Wind gave", "until": "ever before.", "new": "Much wind."}, "Wind gave 7.8 % of the world's electricity in 2023 - more than ever before.", "Much wind."),
    ({"after": "## Costs", "new": "\n\nIn short: cheaper."}, "## Costs", "## Costs\n\nIn short: cheaper."),
    ({"before": "## 中文摘要", "new": "## More\n\n"}, "## 中文摘要", "## More\n\n## 中文摘要"),
    ({"old": "The costs fell by", "new": "Costs:", "line": 9}, "The costs fell by 30", "Costs: 30"),
    ({"old": "中国的新增装机容量最多。\n", "new": ""}, "中国的新增装机容量最多。\n", ""),
])
def test_a_fragment_finds_its_place(files, edit, old, new):
    assert REPORT.count(old) == 1
    files.file("write", "r.md", REPORT)
    files.file("patch", "r.md", edits=[edit])
    assert files.workspace.read_bytes("r.md").decode() == REPORT.replace(old, new)


@pytest.mark.parametrize("edits, message", [
    ([{"old": "The costs fell by", "new": "x"}], "fits 2 places.*line 8: .*line 9: "),
    ([{"old": "The cost fell by 45 % between 2010 and 2016.", "new": "x"}], "not in the file; the closest .* line 8"),
    ([{"old": "Wind gave 7.8 % of the world's electricity in 2022", "new": "x"}], "closest .*in 2023"),
    ([{"old": "nothing of the kind is said here, my friend", "new": "x"}], "is not in the file"),
    ([{"old": "76 GW", "new": "75 GW"}, {"old": "absent words", "new": "y"}, {"old": "The costs", "new": "z"}], "edit 2 'old' is not in the file.*edit 3 'old' fits 2 places"),
    ([{"old": "most of it (76 GW)", "new": "x"}, {"old": "76 GW", "new": "y"}], "overlap"),
    ([{"old": "Wind gave", "until": "# Wind power", "new": "x"}], "'until' is not in the file after 'old'"),
    ([{"old": "", "new": "x"}], "needs one of"), ([{"old": "Wind"}], "needs 'new'"), ([{"old": "Wind", "new": 5}], "must be a text"), (["Wind"], "must be an object"),
    ([{"search": "Wind", "new": "x"}], "has no field 'search'"), ([{"old": "Wind", "new": "x", "line": "3"}], "whole number"), ([{"old": "76 GW", "new": "76 GW"}], "as it is"), ([], "give either"),
    ([{"old": " \n ", "new": "x"}], "not in the file"),
])
def test_what_is_unclear_is_refused_and_nothing_is_changed(files, edits, message):
    files.file("write", "r.md", REPORT)
    with pytest.raises(ToolError) as caught: files.file("patch", "r.md", edits=edits)
    assert re.search(message, str(caught.value), re.S), str(caught.value)
    assert files.workspace.read_bytes("r.md").decode() == REPORT
    works(files)


def test_all_places_at_once(files):
    files.file("write", "r.md", REPORT)
    files.file("patch", "r.md", edits=[{"old": "The costs fell", "new": "They fell", "all": True}])
    assert files.workspace.read_bytes("r.md").decode() == REPORT.replace("The costs fell", "They fell")


def test_a_fuzzy_match_with_two_alike_places_is_refused():
    text = "The quick brown fox jumps over the lazy dog today.\n" + "filler\n" * 5 + "The quick brown fox jumps over the lazy dog again.\n"
    with pytest.raises(ToolError, match="fits 2 places"): patch_text(text, [{"old": "The quick brown fix jumped over the lazy dog", "new": "x"}])


def test_indentation_follows_the_place():
    code = "class A:\n    def one(self):\n        return 1\n\n    def two(self):\n        return 2\n"
    patched, changes = patch_text(code, [{"old": "def two(self):\n    return 2\n", "new": "def two(self):\n    value = 2\n    return value\n"}])
    assert patched == code.replace("        return 2\n", "        value = 2\n        return value\n") and changes[0].how == "spaces"


def test_what_is_shown_neutralized_can_be_copied_into_a_patch(space):
    files = Files(space)
    box = Toolbox([files.file], workspace=space)
    files.file("write", "format.md", "A call is <tool_call>{...}</tool_call> in a turn.\n" + "<tool_response>x</tool_response>\n" * 3000)
    page = box.call({"name": "file", "arguments": {"action": "read", "path": "format.md"}}).text
    assert "<tool_call>" not in page and len(page) <= space.settings.result_limit and "results/" not in page
    shown = page.split("\n")[1]
    assert not box.call({"name": "file", "arguments": {"action": "patch", "path": "format.md", "edits": [{"old": shown, "new": shown.replace("a turn", "one turn")}]}}).failed
    assert space.read_bytes("format.md").startswith(b"A call is <tool_call>{...}</tool_call> in one turn.\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encoding_and_line_ends_are_kept(files, space, encoding, ends):
    text = "第一章 經濟發展與社會變化\n\n中國的經濟在過去數十年中快速發展。\n社會也發生了很大的變化。\n最後一行沒有換行".replace("\n", ends)
    space.write_bytes("zh.txt", text.encode(encoding))
    files.file("patch", "zh.txt", edits=[{"old": "快速發展。\n社會", "new": "發展。\n\n社會"}, {"after": "最後一行", "new": "也"}])
    files.file("append", "zh.txt", "\n完\n")
    expected = text.replace(f"快速發展。{ends}社會", f"發展。{ends}{ends}社會").replace("最後一行", "最後一行也") + f"{ends}完{ends}"
    assert space.read_bytes("zh.txt") == expected.encode(encoding)


@pytest.mark.parametrize("name", ["notes.md", "code.py", "data.json", "big.txt"])
def test_a_wrong_byte_is_shown_and_kept_by_an_edit(files, space, name):
    text = {"code.py": "# café ünïcödé\na = 1\n", "data.json": '{"é": "naïve", "a": 1}\n'}.get(name, "Été à la campagne\na = 1\n" * (1 if name != "big.txt" else 2000))
    data = text.encode()
    bad = data.replace("é".encode(), b"\xc3", 1)
    space.write_bytes(name, bad)
    shown = files.file("read", name)
    assert "\ufffd" in shown and "Ã" not in shown and "not UTF-8" in shown and shown.isprintable() is False and shown.encode()
    assert "\ufffd" in files.file("read", name, offset=0, length=40) and files.file("search", name, pattern="a").encode()
    try: files.file("patch", name, edits=[{"old": '"a": 1' if name == "data.json" else "a = 1", "new": '"a": 2' if name == "data.json" else "a = 2", "all": True}])
    except ToolError as error: assert name in ("code.py", "data.json") and space.read_bytes(name) == bad, error
    else: assert space.read_bytes(name) == bad.replace(b"a = 1", b"a = 2").replace(b'"a": 1', b'"a": 2')


def test_words_are_no_magic_and_utf_16_needs_no_mark(files, space):
    for word in ("GIF89a", "RIFF", "ID3", "%PDF-1.4", "PK", "MZ"):
        space.write_bytes("note.md", f"{word} is a word with which a format begins.\n".encode())
        assert f"{word} is a word" in files.file("read", "note.md")
    space.write_bytes("wide.txt", "water\n水\n".encode("utf-16-le"))
    assert "water\n水" in files.file("read", "wide.txt")


def test_what_an_encoding_lacks_is_refused(files, space):
    space.write_bytes("zh.txt", ("中國的經濟在過去數十年中快速發展。" * 5).encode("big5"))
    with pytest.raises(ToolError, match="has no '🙂'"): files.file("patch", "zh.txt", edits=[{"old": "中國的經濟在過去數十年中快速發展。", "new": "🙂", "all": True}])
    works(files)


@pytest.mark.parametrize("data", [b"%PDF-1.7\n1 0 obj", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04abc", b"a\0b" * 100, bytes(range(256)) * 20])
def test_binary_is_refused_by_name(files, space, data):
    space.write_bytes("blob", data)
    for action, arguments in (("read", {}), ("read", {"offset": 0}), ("append", {"content": "x"}), ("patch", {"edits": [{"old": "a", "new": "b"}]})):
        with pytest.raises(ToolError, match="binary|no text"): files.file(action, "blob", **arguments)
    assert space.read_bytes("blob") == data and "blob" in files.file("list")
    works(files)


def words(draw, n): return " ".join(draw.choice(["wind", "power", "costs", "2023", "the", "a", "风力", "发电", "(76 GW)", "-", "“q”", "*", "\\cite{web_1a2b3c4d}"]) for _ in range(n))


def test_random_fragments_are_replaced_as_plain_replacement_would():
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(words(draw, draw.randint(0, 9)) + draw.choice(["\n", "\n", "\n\n", "\r\n"]) for _ in range(draw.randint(3, 30)))
        plain = text.replace("\r\n", "\n")
        start = draw.randrange(len(plain))
        end = draw.randint(start + 1, min(len(plain), start + 60))
        old, new = plain[start:end], words(draw, 3)
        if plain.count(old) != 1: continue
        patched, _ = patch_text(text, [{"old": old, "new": new}])
        assert patched.replace("\r\n", "\n") == plain[:start] + new + plain[end:]
        assert patched.count("\r\n") >= text.count("\r\n") - old.count("\n")


def test_typing_mistakes_find_their_line_or_are_refused():
    "Never the wrong line: a fragment with mistakes in its letters goes to the line that it was taken from, or nowhere."
    draw, found = random.Random(1), 0
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines = [" ".join("".join(draw.choice(letters) for _ in range(draw.randint(2, 9))) for _ in range(12)) for _ in range(60)]
    for _ in range(150):
        number = draw.randrange(60)
        wrong = list(lines[number])
        for _ in range(draw.randint(1, 12)): wrong[draw.randrange(len(wrong))] = draw.choice(letters)
        if "".join(wrong) == lines[number]: continue
        try: patched, _ = patch_text("\n".join(lines), [{"old": "".join(wrong), "new": "REPLACED"}])
        except ToolError: continue
        assert patched == "\n".join([*lines[:number], "REPLACED", *lines[number + 1:]])
        found += 1
    assert found > 120


# ---------------------------------------------------------------- unified diffs

def test_real_diffs_apply_with_wrong_line_numbers():
    draw = random.Random(2)
    for round in range(200):
        old = [f"{words(draw, draw.randint(1, 6))} #{n}" for n in range(draw.randint(1, 40))]
        new = list(old)
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(new) + 1)
            if draw.random() < 0.4 and place < len(new): del new[place]
            else: new.insert(place, words(draw, 4))
            if not new: new = ["rest"]
        if old == new: continue
        diff = "\n".join(difflib.unified_diff(old, new, "a/x", "b/x", lineterm="", n=3))
        if round % 2: diff = re.sub(r"^@@ -(\d+)", lambda m: f"@@ -{int(m[1]) + draw.randint(-9, 99)}", diff, flags=re.M) if " " in {line[:1] for line in diff.split("\n")} else diff
        try: patched, _ = patch_with_diff("\n".join(old) + "\n", parse_diff(diff)[0][2])
        except ToolError as error:
            assert round % 2 and "fits" in str(error)  # a hunk of context that occurs twice, and a wrong number
            continue
        assert patched == "\n".join(new) + "\n", diff


@pytest.mark.parametrize("diff, expected", [
    ("@@ -3 +3 @@\n-three\n+3\n", "one\ntwo\n3\nfour\nfive\n"),
    ("```diff\n--- a/f.txt\n+++ b/f.txt\n@@ -30,9 +30,2 @@\n two\n-three\n+3\n four\n```", "one\ntwo\n3\nfour\nfive\n"),
    ("@@\n-one\n+1\n@@\n-five\n+5\n", "1\ntwo\nthree\nfour\n5\n"),
    ("@@ @@\n  two \n-three\n+3\n", "one\ntwo\n3\nfour\nfive\n"),
    ("@@ -2,3 +2,2 @@\n two\n-three\n not there\n", "one\ntwo\nfour\nfive\n"),
    ("@@ -1,2 +1,2 @@\n not there\n-two\n+2\n", "one\n2\nthree\nfour\nfive\n"),
    ("@@ -5 +5,2 @@\n five\n+six\n\\ No newline at end of file\n", "one\ntwo\nthree\nfour\nfive\nsix"),
    ("@@ -0,0 +1 @@\n+zero\n", "zero\none\ntwo\nthree\nfour\nfive\n"),
    ("no diff at all", None), ("@@ -1 +1 @@\n-uno\n+1\n", None),
    ("--- a/f.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n", None), ("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+1\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-x\n+y\n", None),
])
def test_diffs_as_models_write_them(files, diff, expected):
    before = "one\ntwo\nthree\nfour\nfive\n"
    files.file("write", "f.txt", before)
    if expected is None:
        with pytest.raises(ToolError): files.file("patch", "f.txt", patch=diff)
    else: files.file("patch", "f.txt", patch=diff)
    assert files.workspace.read_bytes("f.txt").decode() == (expected or before)


def test_a_diff_makes_a_file_but_not_twice(files):
    diff = "--- /dev/null\n+++ b/new/f.txt\n@@ -0,0 +1,2 @@\n+one\n+two\n"
    files.file("patch", patch=diff)
    assert files.file("read", "new/f.txt").endswith("one\ntwo")
    with pytest.raises(ToolError, match="exists already"): files.file("patch", patch=diff)
    with pytest.raises(ToolError, match=r"\.\."): files.file("patch", patch=diff.replace("b/new", "b/../new"))


def test_an_ambiguous_hunk_is_refused_unless_its_number_is_right():
    text = "head\nsame\nx\nsame\ny\nsame\n"
    with pytest.raises(ToolError, match="fits 3 places"): patch_with_diff(text, parse_diff("@@ -9 +9 @@\n-same\n+other\n")[0][2])
    assert patch_with_diff(text, parse_diff("@@ -4 +4 @@\n-same\n+other\n")[0][2])[0] == "head\nsame\nx\nother\ny\nsame\n"


# ---------------------------------------------------------------- reading, searching, long results

def test_pages_join_to_the_whole_file(tmp_path):
    draw = random.Random(3)
    files = Files(Workspace(tmp_path, WorkspaceSettings(result_limit=700)))
    for ends in ("\n", "\r\n"):
        lines = ["".join(draw.choice("ab 水é🙂") for _ in range(draw.choice([0, 3, 50, 390, 2000]))) for _ in range(40)]
        (tmp_path / "f.txt").write_bytes(ends.join(lines).encode())
        got, start = [], 1
        while True:
            page = files.file("read", "f.txt", start=start)
            assert len(page) <= 700
            if found := re.search(r'\n\[go on with "offset": (\d+), or with "start": (\d+)\]$', page):
                line = page.split("\n")[1]
                while len(line) < len(lines[len(got)]):
                    page = files.file("read", "f.txt", offset=len(ends.join(lines[:len(got)] + [line]).encode()), length=100)
                    line += page.split("\n")[1].rstrip("\r")
                got.append(line)
                start += 1
            else:
                rows = page.split("\n")
                more = re.search(r'go on with "start": (\d+)', rows[-1])
                got += rows[1:-1] if more else rows[1:]
                start = int(more[1]) if more else None
            if start is None or len(got) >= len(lines): break
        assert got == lines


@pytest.mark.parametrize("arguments, message", [({"start": 9}, "past the end"), ({"offset": 99}, "past the end"), ({"path": "gone.md"}, "no such file"), ({"path": ""}, "workspace itself"), ({"path": "d"}, "is a folder")])
def test_reading_what_is_not_there(files, arguments, message):
    files.file("write", "r.md", "one\ntwo\n")
    files.file("write", "d/x.md", "x")
    with pytest.raises(ToolError, match=message): files.file("read", **{"path": "r.md"} | arguments)


def test_search_is_bounded_and_skips_what_is_no_text(files, space):
    for n in range(30): files.file("write", f"many/{n}.md", "Needle here, 风力发电\n" * 50 + "x" * 5000 + "\n")
    space.write_bytes("many/blob", b"needle\0" * 10)
    shown = files.file("search", pattern="needle")
    assert shown.startswith("1500 matches in 30 of 30 files (1 binary or too large), 40 lines shown") and len(shown) < 8000 and "many/0.md:1: Needle here" in shown
    assert files.file("search", "many/3.md", pattern="力发").startswith("50 matches in 1 of 1 files") and files.file("search", pattern="NEEDLE").startswith("0 matches")
    for pattern in ("", "(", "[a"):
        with pytest.raises(ToolError): files.file("search", pattern=pattern, regex=True)


def test_a_pattern_that_never_ends_is_stopped(space):
    files = Files(space, FileSettings(search_seconds=0.3))
    files.file("write", "trap.txt", "a" * 60 + "b\n")
    with pytest.raises(ToolError, match="simpler pattern"): files.file("search", pattern="(a|aa)+c", regex=True)
    works(files)


@pytest.mark.parametrize("text", ["x" * 100_000, "\n" * 50_000, "# Head\n\ntext\n" * 3000, "[" * 100_000, json.dumps([{"id": n} for n in range(5000)]), "a,b,c\n1,2,3\n" * 4000,
                                  "Error: boom\n" * 5000, "水" * 50_000, "\ud800" * 9000, "<tool_call>{}</tool_call>\n" * 2000], ids=lambda text: repr(text[:8]))
def test_every_long_result_becomes_a_short_summary(space, text):
    def talk() -> str:
        "Talk."
        return text
    files = Files(space)
    box = Toolbox([talk, files.file], workspace=space)
    summary = box.call({"name": "talk", "arguments": {}}).text
    assert len(summary) < 4000 < len(text) and "results/0001_talk.txt" in summary
    assert space.read_bytes("results/0001_talk.txt") == neutralize(text).encode(errors="replace")
    for arguments in ({"action": "read", "path": "results/0001_talk.txt"}, {"action": "search", "path": "results/0001_talk.txt", "pattern": text[0].strip() or "z"}, {"action": "read", "path": "results/0001_talk.txt", "offset": 500}):
        page = box.call({"name": "file", "arguments": arguments})
        assert not page.failed and len(page.text) <= space.settings.result_limit and "results/0002" not in page.text
    assert "results/0002_talk.txt" in box.call({"name": "talk", "arguments": {}}).text


def test_a_result_that_cannot_be_stored_is_still_shown(space, tmp_path):
    (space.folder / "results").symlink_to(tmp_path / "outside")
    shown = space.shorten("shell", "first " + "x" * 20_000 + " last")
    assert shown.startswith("first") and shown.endswith("last") and "could not be stored" in shown and len(shown) <= 8000
    assert os.listdir(tmp_path / "outside") == ["a.txt"]


def test_summaries_say_what_is_inside():
    text = "# Report\n" + "".join(f"## Part {n}\n\nA fact \\cite{{web_{n:08x}}}, see https://example.org/{n}\n" for n in range(40)) + "Traceback (most recent call last):\nThe end\n"
    shown = summarize(text)
    assert "Markdown; 124 lines" in shown and "2: ## Part 0" in shown and "40 paragraphs to cite: web_00000000" in shown and "errors or warnings: 1 (line 122)" in shown and "The end" in shown
    assert summarize('{"rows": [1, 2], "name": "x"}' + " " * 9000).startswith("JSON, object: rows (list of 2 (number)), name (text)")


# ---------------------------------------------------------------- todo

def test_the_list_outlives_its_process_and_a_broken_file(space):
    plan = Todo(space)
    shown = plan.todo("create", [{"text": "find"}, {"id": "b", "text": "compare\n both", "after": 1}], texts=["write"])
    assert shown == "todo: 0 of 3 done\n[ ] 1. find\n[ ] b. compare both (after 1)\n[ ] 2. write" and Todo(Workspace(space.folder)).todo("update") == shown
    for broken in ('{"1": {"te', "[]", '{"1": {"text": "x", "state": "lost", "after": []}}', '{"1": {"text": "x", "state": "done", "after": ["1"]}}', "\xff"):
        (space.state / "todo.json").write_bytes(broken.encode("latin1"))
        assert Todo(space).todo("update") == "todo: empty" and (space.state / "todo.broken.json").read_bytes() == broken.encode("latin1")
    assert Todo(space).todo("rewrite", texts=["again"]).endswith("[ ] 1. again")


@pytest.mark.parametrize("items, message", [
    ([{"id": 1, "after": ["2"]}, {"id": 2, "after": ["1"]}], "wait for one another"), ([{"id": 1, "after": ["1"]}], "wait for one another"), ([{"id": 1, "after": ["nine"]}], "not in the list"),
    ([{"id": 3, "state": "done"}], "comes after 1, 2"), ([{"id": 3, "state": "in_progress"}, {"id": 1, "state": "done"}], "comes after 2"), ([{"id": 9}], "is new and has no text"),
    ([{"id": 1, "state": "finished"}], "state must be one of"), ([{"id": 1, "status": "done"}], "no field 'status'"), ([{"text": "x" * 401}], "at most 400"), ([{"text": "x"}] * 61, "too many"), ([5], "a text or an object"),
])
def test_what_makes_no_sense_is_refused_and_the_list_stays(space, items, message):
    plan = Todo(space)
    before = plan.todo("create", [{"text": "one"}, {"text": "two"}, {"text": "three", "after": ["1", "2"]}])
    with pytest.raises(ToolError, match=message): plan.todo("update", items)
    assert plan.todo("update") == before
    assert plan.todo("update", [{"id": "1", "state": "done"}, {"id": "2", "state": "cancelled"}, {"id": "3", "state": "in_progress"}]).startswith("todo: 1 of 2 done\n[x] 1. one\n[-] 2. two\n[>] 3.")


def test_create_does_not_drop_open_items_and_reminders_come_in_time(space):
    plan = Todo(space, TodoSettings(remind_after=3))
    plan.todo("create", texts=["one"])
    with pytest.raises(ToolError, match="use update, rewrite or clear"): plan.todo("create", texts=["two"])
    assert [bool(plan.reminder(n)) for n in range(7)] == [False, False, False, True, False, False, True] and "[ ] 1. one" in plan.reminder(3)
    plan.todo("update", [{"id": "1", "state": "done"}])
    assert plan.reminder(3) == "" and plan.todo("create", texts=["two"]).endswith("[ ] 1. two") and plan.todo("clear") == "todo: empty" and plan.reminder(3) == ""


def test_a_linked_todo_file_is_not_followed(space, tmp_path):
    (space.state / "todo.json").symlink_to(tmp_path / "secret.txt")
    plan = Todo(space)
    with pytest.raises(ToolError): plan.todo("create", texts=["one"])
    with pytest.raises(ToolError): plan.todo("update")
    assert (tmp_path / "secret.txt").read_text() == "KEY-1234" and plan.reminder(6) == "(the todo list cannot be read: .stepdr/todo.json: is a symbolic link, not a file)"
    (space.state / "todo.json").unlink()
    assert plan.todo("create", texts=["one"]).endswith("[ ] 1. one")
