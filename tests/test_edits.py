"Edits that fit: what is put into a file takes the file's indentation, line ends and last line, and leaves no file broken that its parser accepted."
import difflib
import random
import re
import subprocess
import sys

import pytest

from stepdr.tools.tool import ToolError
from stepdr.tools.edits import check_result, syntax_fault
from stepdr.tools.file import Files
from stepdr.tools.diff import parse_diff, patch_with_diff
from stepdr.tools.patch import patch_text
from stepdr.tools.workspace import Workspace


@pytest.fixture
def files(tmp_path): return Files(Workspace(tmp_path / "work"))


def patched(files, name, before, **arguments):
    "-> (what the tool says, the file afterwards)"
    files.workspace.write_bytes(name, before.encode())
    said = files.file("patch", name, **arguments)
    return said, files.workspace.read_bytes(name).decode()


CLASS = "class A:\n    def f(self):\n        x = 1\n        y = 2\n\n    def g(self):\n        pass\n"
TABS = "func f() {\n\tif a {\n\t\tb()\n\t}\n}\n"
MAKE = "CC = gcc\n\nall: a.o\n\t$(CC) -o a a.o\n\nclean:\n\trm -f a\n"
MIXED = "def f():\n\tif a:\n\t\tb()\n\ndef g():\n    if c:\n        d()\n"


@pytest.mark.parametrize("name, before, edit, old, new", [
    # the first line without its indentation, the further ones with the file's own
    ("a.py", CLASS, {"old": "x = 1 \n        y = 2", "new": "x = 1\n        y = 3"}, "y = 2", "y = 3"),
    # fewer blanks than the file, of one line that is there to the letter; more; other steps; tabs
    ("a.py", CLASS, {"old": "    y = 2", "new": "    y = 3\n    z = 4"}, "        y = 2", "        y = 3\n        z = 4"),
    ("a.py", CLASS, {"old": "            x = 1\n            y = 2", "new": "            x = 1\n            if x:\n                y = 3"}, "        y = 2", "        if x:\n            y = 3"),
    ("a.py", CLASS, {"old": "  def f(self):\n    x = 1", "new": "  def f(self):\n    if 1:\n      x = 1"}, "        x = 1", "        if 1:\n            x = 1"),
    ("a.py", CLASS, {"old": "\tdef f(self):\n\t\tx = 1", "new": "\tdef f(self):\n\t\tif 1:\n\t\t\tx = 1"}, "        x = 1", "        if 1:\n            x = 1"),
    ("a.py", CLASS, {"old": "y = 2", "new": "y = 2\n\t\tz = 3"}, "y = 2", "y = 2\n        z = 3"),
    ("a.py", CLASS, {"old": "x  =  1", "new": "if 1:\n    x = 1"}, "        x = 1", "        if 1:\n            x = 1"),
    # a file of tabs: fragments, insertions, spans, deletions
    ("a.py", "def f(x):\n\tfor i in x:\n\t\ta(i)\n\t\tb(i)\n", {"old": "    for i in x:\n        a(i)", "new": "    for i in x:\n        A(i)"}, "a(i)", "A(i)"),
    ("a.go", TABS, {"old": "b()", "new": "b()\n        c()"}, "\t\tb()", "\t\tb()\n\t\tc()"),
    ("a.go", TABS, {"after": "b()", "new": "\n        c()"}, "\t\tb()", "\t\tb()\n\t\tc()"),
    ("a.go", TABS, {"after": "        b()\n", "new": "        c()\n"}, "\t\tb()\n", "\t\tb()\n\t\tc()\n"),
    ("a.go", TABS, {"before": "        b()\n", "new": "        c()\n"}, "\t\tb()\n", "\t\tc()\n\t\tb()\n"),
    ("a.go", TABS, {"before": "b()", "new": "c()\n        "}, "\t\tb()", "\t\tc()\n\t\tb()"),
    ("a.go", TABS, {"old": "  if a {\n    b()\n  }", "new": "  if a {\n    b()\n    if c {\n      d()\n    }\n  }"}, "\t\tb()\n", "\t\tb()\n\t\tif c {\n\t\t\td()\n\t\t}\n"),
    ("a.go", TABS, {"old": "    if a {", "until": "    }", "new": "    if z {\n        y()\n    }"}, "\tif a {\n\t\tb()\n", "\tif z {\n\t\ty()\n"),
    ("a.go", TABS, {"old": "        b()\n", "new": ""}, "\t\tb()\n", ""),
    # makefiles
    ("Makefile", "all:\n\techo a\n\techo b\n", {"old": "all:\n    echo a", "new": "all:\n    echo a\n    echo c"}, "echo a", "echo a\n\techo c"),
    ("Makefile", MAKE, {"after": "clean:\n", "new": "        echo x\n"}, "clean:\n", "clean:\n\techo x\n"),
    ("sub/GNUmakefile", MAKE, {"after": "\trm -f a\n", "new": "\ntest:\n    ./a\n"}, "rm -f a\n", "rm -f a\n\ntest:\n\t./a\n"),
    # both kinds in one file: each part as it is
    ("m.py", MIXED, {"old": "    if a:\n        b()", "new": "    if a:\n        b()\n        e()"}, "\t\tb()", "\t\tb()\n\t\te()"),
    ("m.py", MIXED, {"old": "\tif c:\n\t\td()", "new": "\tif c:\n\t\td()\n\t\te()"}, "        d()", "        d()\n        e()"),
    # steps of two, YAML, JSON with tabs
    ("a.yml", "a:\n  b: 1\n  c:\n    - x\n", {"old": "    c:\n        - x", "new": "    c:\n        - x\n        - y"}, "- x\n", "- x\n    - y\n"),
    ("a.yaml", "a:\n  b: 1\n", {"old": "b: 1", "new": "b: 1\n\tc: 2"}, "b: 1", "b: 1\n  c: 2"),
    ("a.json", '{\n\t"a": 1,\n\t"b": 2\n}\n', {"old": '    "b": 2\n}', "new": '    "b": 2,\n    "c": {\n        "d": 3\n    }\n}'}, '"b": 2', '"b": 2,\n\t"c": {\n\t\t"d": 3\n\t}'),
    # trailing blanks and empty lines of what stays; the ends of the file
    ("a.py", "def f():\n    x = 1   \n\n    y = 2\n", {"old": "def f():\n    x = 1\n\n    y = 2", "new": "def f():\n    x = 1\n\n    y = 3"}, "y = 2", "y = 3"),
    ("a.c", "a\n    b", {"old": "  b\n", "new": "  c\n"}, "b", "c"),
    ("a.c", "a\n\tb", {"after": "    b\n", "new": "    c\n"}, "b", "b\n\tc"),
    ("a.c", "\ta\n\tb\n", {"before": "    a\n", "new": "    z\n"}, "\ta", "\tz\n\ta"),
    # line ends
    ("a.c", "a\r\n\tb\r\nc\r\n", {"old": "    b\n", "new": "    d\n    e\n"}, "\tb\r\n", "\td\r\n\te\r\n"),
    ("a.c", "a\rb\rc\r", {"old": "a\nb", "new": "x\ny"}, "a\rb", "x\ry"),
    ("a.c", "a\nb\r\nc\r\nd\r\n", {"old": "a\nb\nc", "new": "a\nb\nC"}, "c\r\n", "C\r\n"),
    # prose and tables keep blanks and tabs as written
    ("a.md", "List:\n\tcode\n", {"old": "code", "new": "code\n    - item"}, "code", "code\n    - item"),
    ("a.tsv", "a\tb\n\tc\n", {"old": "c", "new": "c\n  \td"}, "c", "c\n  \td"),
])
def test_new_lines_are_indented_as_the_file_is(files, name, before, edit, old, new):
    assert before.count(old) == 1
    assert patched(files, name, before, edits=[edit])[1] == before.replace(old, new)


@pytest.mark.parametrize("name, before, diff, old, new", [
    ("c.py", "def g(a):\n\tif a:\n\t\tb = 1\n\tc = 2\n", "@@ -2,3 +2,3 @@\n     if a:\n-        b = 1\n+        b = 3\n     c = 2\n", "b = 1", "b = 3"),
    ("Makefile", MAKE, "@@ -6,2 +6,3 @@\n clean:\n-    rm -f a\n+    rm -f a b\n+    rm -f c\n", "rm -f a", "rm -f a b\n\trm -f c"),
    ("Makefile", MAKE, "@@ -6,1 +6,2 @@\n clean:\n+    echo c\n", "clean:\n", "clean:\n\techo c\n"),
    ("m.py", MIXED, "@@ -5,3 +5,4 @@\n def g():\n     if c:\n         d()\n+        h()\n", "        d()\n", "        d()\n        h()\n"),
    ("m.py", MIXED, "@@ -1,3 +1,4 @@\n def f():\n     if a:\n         b()\n+        e()\n", "\t\tb()\n", "\t\tb()\n\t\te()\n"),
    ("a.py", CLASS, "@@\nclass A:\n    def f(self):\n        x = 1\n+        z = 3\n", "x = 1\n", "x = 1\n        z = 3\n"),  # the blank of context lost
    ("a.py", CLASS, "@@ -2,3 +2,3 @@\n   def f(self):\n     x = 1\n-    y = 2\n+    y = 3\n", "y = 2", "y = 3"),
    ("a.txt", "a\rb\rc\r", "@@ -1,2 +1,2 @@\n a\n-b\n+y\n", "b", "y"),
])
def test_added_lines_of_a_diff_are_indented_as_the_file_is(files, name, before, diff, old, new):
    assert patched(files, name, before, patch=diff)[1] == before.replace(old, new)


def test_what_was_indented_anew_is_told(files):
    said, _ = patched(files, "a.go", TABS, edits=[{"old": "b()", "new": "b()\n        c()\n        d()"}])
    assert said.endswith("\n2 lines indented as the file is")
    assert "indented" not in patched(files, "a.go", TABS, edits=[{"old": "b()", "new": "c()"}])[0]


def rendered(lines, step): return [step * level + text if text else "" for level, text in lines]


def test_code_that_a_model_writes_in_other_steps_lands_in_the_files():
    "Random code, random changes, the file and the edit indented in different ways: the result is the changed code in the file's own way."
    right = 0
    for seed in range(1500):
        draw = random.Random(seed)
        code, level = [], 0
        for n in range(draw.randint(8, 20)):
            code.append((level, f"line{n}();") if draw.random() > 0.1 else (0, ""))
            level = max(0, min(4, level + draw.choice([-2, -1, 0, 0, 1, 1])))
        own, theirs = draw.choice(["\t", "  ", "    "]), draw.choice(["\t", "  ", "    ", "        "])
        first = draw.randrange(len(code) - 4)
        block = code[first:first + 4]
        if len({level for level, text in block if text}) < 2 or not block[0][1] or not block[-1][1]: continue  # nothing to learn the steps from
        changed = [line for level, text in block for line in ([(level, text)] if not text or draw.random() < 0.5 else [(level, text), (level + draw.randint(0, 1), "added();")])]
        before, after = rendered(code, own), rendered(code[:first] + changed + code[first + 4:], own)
        if draw.random() < 0.5:
            got, _ = patch_text("\n".join(before), [{"old": "\n".join(rendered(block, theirs)), "new": "\n".join(rendered(changed, theirs))}])
        else:
            diff = "\n".join(difflib.unified_diff(rendered(code, theirs), rendered(code[:first] + changed + code[first + 4:], theirs), "a/x", "b/x", lineterm="", n=3))
            if not diff or len({line[1:len(line) - len(line[1:].lstrip())] for line in diff.split("\n") if line[:1] in " -"}) < 3: continue
            got, _ = patch_with_diff("\n".join(before), parse_diff(diff)[0][2])
        assert got == "\n".join(after), (seed, own, theirs)
        right += 1
    assert right > 400


# ---------------------------------------------------------------- nothing is left broken

@pytest.mark.parametrize("name, before, edit, reason", [
    ("a.py", CLASS, {"old": "y = 2", "new": "y = (2"}, r"a\.py is Python now.*line 4.*never closed"),
    ("a.py", "def f():\n    return 1\n", {"old": "    return 1", "new": "return 1"}, "line 2: expected an indented block"),
    ("a.pyi", "def f() -> int: ...\n", {"old": "...", "new": ""}, "line"),
    ("a.json", '{"a": 1}\n', {"old": "1", "new": "1,"}, "line 1, column 9"),
    ("n.ipynb", '{"cells": []}\n', {"old": "[]", "new": "[{]"}, "JSON"),
    ("a.jsonl", '{"a": 1}\n{"a": 2}\n', {"old": "2}", "new": "2"}, "line 2"),
    ("a.jsonl", '{"a": 1}\n{"a": 2}\n', {"old": '1}\n{"a"', "new": '1},\n{"a"'}, "line 1"),
    ("a.toml", "[a]\nb = 1\n", {"old": "b = 1", "new": "b = 1\nb = 2"}, "TOML"),
    ("a.yaml", "a:\n  - b\n  - c\n", {"old": "- b", "new": "- [b"}, "YAML.*line"),
    ("a.yml", "a: &x 1\nb: *x\n", {"old": "&x ", "new": ""}, "undefined alias"),
])
def test_an_edit_that_its_parser_rejects_is_refused(files, name, before, edit, reason):
    for ends in ("\n", "\r\n"):
        whole = before.replace("\n", ends)
        with pytest.raises(ToolError, match="nothing was changed") as caught: patched(files, name, whole, edits=[edit])
        assert re.search(reason, str(caught.value)), str(caught.value)
        assert files.workspace.read_bytes(name).decode() == whole


def test_a_diff_is_held_to_the_same(files):
    with pytest.raises(ToolError, match="JSON now"): patched(files, "a.json", '{\n "a": 1\n}\n', patch='@@ -1,3 +1,4 @@\n {\n  "a": 1\n+ "b": 2\n }\n')
    with pytest.raises(ToolError, match="line 2: begins with blanks where make needs a tab"):
        patched(files, "Makefile", "all:\n\techo a\n", patch="@@ -1,2 +1,2 @@\n all:\n-\techo a\n+    echo b\n")


def test_what_was_broken_can_be_mended_step_by_step_and_two_edits_are_one(files):
    assert patched(files, "a.py", "def f(:\n  x = (\n", edits=[{"old": "(:", "new": "():"}])[1] == "def f():\n  x = (\n"
    assert patched(files, "a.json", '{"a": [1]}', edits=[{"old": "[", "new": "{"}, {"old": "1]", "new": '"b": 1}'}])[1] == '{"a": {"b": 1}}'
    assert patched(files, "a.txt", "{}", edits=[{"old": "{", "new": "(("}])[1] == "((}"


@pytest.mark.parametrize("name, text", [
    ("a.json", "[" * 100_000 + "]" * 100_000), ("a.py", "x = " + "(" * 50_000 + ")" * 50_000), ("a.yaml", "a: !ruby/object:x\n  b: 1\n---\nc: 2\n"), ("a.py", "x = '\\d'\n"), ("a.json", "\ufeff{}"),
    ("Makefile", "A = 1\nall: b\n  B = 2\n\techo $(A) \\\n  more\n  # note\nifdef X\n  C = 3\nendif\ndefine D\n  words here\nendef\n")])
def test_the_parsers_take_what_is_deep_or_unusual(name, text, recwarn):
    syntax_fault(name, text)
    assert check_result(name, text, text) == "" and not recwarn.list


def test_python_is_read_and_not_run(files, tmp_path):
    patched(files, "a.py", "x = 1\n", edits=[{"old": "x = 1", "new": f"open({str(tmp_path / 'ran')!r}, 'w')"}])
    assert not (tmp_path / "ran").exists()


def test_make_and_python_read_what_was_patched(files):
    _, text = patched(files, "a.py", MIXED, edits=[{"old": "    if a:\n        b()", "new": "    if a:\n        b()\n        if z:\n            e()"}])
    assert subprocess.run([sys.executable, "-c", "import sys; compile(sys.stdin.read(), 'a', 'exec')"], input=text, text=True).returncode == 0 and "\t\t\te()" in text


# ---------------------------------------------------------------- diffs: the last line, heads of files

@pytest.mark.parametrize("before, diff, after", [
    ("a\nb", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n", "a\nb\n"),
    ("a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n", "a\nc"),
    ("a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n+b\n\\ No newline at end of file\n", "a\nb"),
    ("a\nb", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n", "a\nc"),
    ("a\nb", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n\\ No newline at end of file\n", "A\nb"),
    ("a\nb", "@@ -1,2 +1,3 @@\n a\n-b\n\\ No newline at end of file\n+b\n+c\n", "a\nb\nc\n"),
    ("a\nb", "@@ -1,2 +1 @@\n a\n-b\n\\ No newline at end of file\n", "a\n"),
    ("a\nb\n", "@@ -1,2 +1 @@\n-a\n-b\n+a\n\\ No newline at end of file\n", "a"),
    ("a\nb", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n", "a\nc"),  # says nothing of it: stays
    ("a\r\nb", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n", "a\r\nb\r\n"),
    ("a\nb\nc\n", "@@ -1,2 +1,2 @@\n a\n-b\n+B\n\\ No newline at end of file\n", "a\nB\nc\n"),  # not the last line: of no meaning
    # removed `-- x`, added `++ y`
    ("a\n-- x\nb\n", "@@ -1,3 +1,3 @@\n a\n--- x\n+++ y\n b\n", "a\n++ y\nb\n"),
    ("a\n-- x\nb\n", "--- q.sql\n+++ q.sql\n@@ -1,3 +1,3 @@\n a\n--- x\n+++ y\n b\n", "a\n++ y\nb\n"),
    ("a\n-- x\nb\nc\n-- z\n", "@@ -1,2 +1,2 @@\n a\n--- x\n+++ y\n@@ -4,2 +4,2 @@\n c\n--- z\n+++ w\n", "a\n++ y\nb\nc\n++ w\n"),
    ("a\n-- x\nb\n", "@@\n a\n--- x\n+++ y\n b\n", "a\n++ y\nb\n"),
    ("-- x\nb\n", "@@ -1,2 +1 @@\n--- x\n b\n", "b\n"),
    # heads of git, left-over lines
    ("a\nb\n", "diff --git a/f.txt b/f.txt\nindex 1c2b..9f00 100644\n--- a/f.txt\n+++ b/f.txt\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n\n", "a\nc\n"),
    ("a\nindex = 5\nb\n", "@@ -1,3 +1,3 @@\na\nindex = 5\n-b\n+c\n", "a\nindex = 5\nc\n"),
    ("\\section{A}\nb\n", "@@ -1,2 +1,2 @@\n\\section{A}\n-b\n+c\n", "\\section{A}\nc\n"),
])
def test_a_diff_does_what_it_says(files, before, diff, after):
    assert patched(files, "f.txt", before, patch=diff)[1] == after


def test_names_of_files_in_diffs(files):
    files.workspace.write_bytes("a/x.txt", b"one\n")
    files.file("patch", patch="--- a/x.txt\n+++ a/x.txt\n@@ -1 +1 @@\n-one\n+two\n")  # a folder a, no mark of git
    assert files.workspace.read_bytes("a/x.txt") == b"two\n"
    files.workspace.write_bytes("ä.txt", b"one\n")
    files.file("patch", patch='--- "a/\\303\\244.txt"\n+++ "b/\\303\\244.txt"\n@@ -1 +1 @@\n-one\n+two\n')
    assert files.workspace.read_bytes("ä.txt") == b"two\n"
    files.workspace.write_bytes("old.txt", b"one\n")
    with pytest.raises(ToolError, match="renames old.txt to new.txt"):
        files.file("patch", patch="diff --git a/old.txt b/new.txt\nrename from old.txt\nrename to new.txt\n--- a/old.txt\n+++ b/new.txt\n@@ -1 +1 @@\n-one\n+two\n")
    said = files.file("patch", patch="diff --git a/old.txt b/old.txt\nold mode 100644\nnew mode 100755\n--- a/old.txt\n+++ b/old.txt\n@@ -1 +1 @@\n-one\n+two\n")
    assert "change of mode was left out" in said and files.workspace.read_bytes("old.txt") == b"two\n"
    with pytest.raises(ToolError, match="changes 2 files"):
        files.file("patch", patch="--- a/f\n+++ b/f\n@@ -1,9 +1,9 @@\n-one\n+1\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-x\n+y\n")


def test_random_diffs_keep_the_last_line_as_they_say():
    for seed in range(300):
        draw = random.Random(seed)
        old = [draw.choice(["a", "b", "-- c", "++ d", "--- e", ""]) + str(n) for n in range(draw.randint(1, 8))]
        new = [line for line in old if draw.random() > 0.2] + [f"new{seed}"] * draw.randint(0, 2)
        before, after = ("\n".join(lines) + draw.choice(["\n", ""]) for lines in (old, new))
        if before == after or not after.strip(): continue
        diff = "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in
                       difflib.unified_diff(before.splitlines(True), after.splitlines(True), "a/x", "b/x"))
        assert patch_with_diff(before, parse_diff(diff)[0][2])[0] == after, (seed, diff)


# ---------------------------------------------------------------- searching: the same answer whatever the line ends

@pytest.mark.parametrize("pattern, regex", [("end$", True), ("end\nbeta", False), (r"end\nbeta", True), ("^beta", True), (r"^$", True), (r"d$\n^b", True), (r"\w+$", True), ("end", False), (r"[^a-z]$", True), (r"end\s", True)])
def test_search_answers_alike_for_all_line_ends(files, pattern, regex):
    answers = set()
    for ends in ("\n", "\r\n", "\r"):
        files.workspace.write_bytes("f.txt", ends.join(["alpha end", "beta end", "", "gamma", ""]).encode())
        answers.add(files.file("search", "f.txt", pattern=pattern, regex=regex))
    assert len(answers) == 1 and (not answers.pop().startswith("0 matches") or pattern == r"[^a-z]$")


def test_a_pattern_that_names_carriage_returns_sees_them(files):
    files.workspace.write_bytes("f.txt", b"one\r\ntwo\n")
    assert files.file("search", "f.txt", pattern=r"\r$", regex=True).startswith("1 matches") and files.file("search", "f.txt", pattern="one\r\n").startswith("1 matches")


def test_lines_are_counted_and_shown_alike(files):
    for ends, name in (("\n", "LF"), ("\r\n", "CRLF"), ("\r", "CR")):
        files.workspace.write_bytes("f.txt", ends.join(["one", "two\u2028half\x0c", "three"]).encode())
        assert f"3 lines ({name})" in files.file("stat", "f.txt") and files.file("read", "f.txt").startswith("[f.txt: lines 1-3 of 3]")
        assert files.file("read", "f.txt", start=3).endswith("\nthree")
        files.file("append", "f.txt", "\nfour\n")
        assert files.workspace.read_bytes("f.txt").decode().endswith(f"three{ends}four{ends}")
    files.workspace.write_bytes("f.txt", b"a\r\nb\nc\n")
    assert "3 lines (CRLF and LF)" in files.file("stat", "f.txt")


def test_a_mark_at_the_beginning_stays_there(files):
    files.workspace.write_bytes("f.json", "\ufeff{\n\t\"a\": 1\n}\n".encode())
    files.file("patch", "f.json", edits=[{"before": "{", "new": "\n"}])
    assert files.workspace.read_bytes("f.json").decode().startswith("\ufeff\n{")
    with pytest.raises(ToolError, match="JSON now"): files.file("patch", "f.json", edits=[{"old": "1", "new": ""}])
