"""Files: whole or not at all, and one clear error for a broken one."""
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepdr.core import artifacts
from stepdr.core.artifacts import (
    MetricsLog, atomic_directory, atomic_write, read_json, read_jsonl, read_metrics, read_parquet, root, sha256_path,
    write_json, write_jsonl, write_parquet)
from stepdr.core.config import InputError


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = atomic_write(tmp_path/"a.txt", "old")
    def full(*_): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(artifacts.os, "replace", full)
    with pytest.raises(OSError): atomic_write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path/"plain").write_text("")
    assert atomic_write(tmp_path/"a.txt", b"x").stat().st_mode == (tmp_path/"plain").stat().st_mode


def test_directory_appears_whole_or_keeps_the_old_one(tmp_path):
    for text in ("one", "two"):
        with atomic_directory(tmp_path/"model") as folder: (folder/"weights").write_text(text)
    with pytest.raises(RuntimeError), atomic_directory(tmp_path/"model") as folder:
        (folder/"weights").write_text("three"); raise RuntimeError
    assert (tmp_path/"model/weights").read_text() == "two" and os.listdir(tmp_path) == ["model"]


def test_kill_in_the_middle_of_many_writes(tmp_path):
    "Whatever the moment of the kill, the file under its name is complete."
    code = f"from stepdr.core.artifacts import write_json\nwhile True: write_json({str(tmp_path/'a.json')!r}, list(range(50000)))"
    for wait in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", code])
        while not (tmp_path/"a.json").exists(): time.sleep(0.01)
        time.sleep(wait); process.kill(); process.wait()
        assert read_json(tmp_path/"a.json") == list(range(50000))


@pytest.mark.parametrize("content, where", [("[1, 2", "line 1"), ('{"a": 1,\n "b" 2}', "line 2"), ("", "line 1")])
def test_broken_json_names_file_and_line(tmp_path, content, where):
    (tmp_path/"a.json").write_text(content)
    with pytest.raises(InputError, match=rf"a\.json, {where}"): read_json(tmp_path/"a.json")


def test_broken_lines_name_file_and_line(tmp_path):
    (tmp_path/"a.jsonl").write_text('{"id": 1}\n\n{"id": 2\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 3: not JSON"): read_jsonl(tmp_path/"a.jsonl")
    (tmp_path/"b.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"b\.jsonl, line 1: expected a JSON object"): read_jsonl(tmp_path/"b.jsonl")
    with pytest.raises(InputError, match="no such file"): read_jsonl(tmp_path/"c.jsonl")
    (tmp_path/"d.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"): read_jsonl(tmp_path/"d.jsonl")


def test_lines_with_odd_separators_survive(tmp_path):
    rows = [{"text": "a\u2028b\x85c\nd"}, {"text": "é 東京"}]
    assert read_jsonl(write_jsonl(tmp_path/"a.jsonl", rows)) == rows


def test_torn_metrics_line_is_left_out_and_resumed_over(tmp_path):
    log = MetricsLog(tmp_path/"m.jsonl")
    for step in (1, 2, 3): log.log(step=step, loss=1/3)
    with open(log.path, "a") as file: file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2, 3]
    log = MetricsLog(log.path, resume_step=2)
    log.log(step=3, loss=0.25)
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2, 3] and read_metrics(log.path)[-1]["loss"] == 0.25
    assert read_metrics(MetricsLog(log.path).path) == []


def test_torn_line_in_the_middle_of_metrics_is_an_error(tmp_path):
    (tmp_path/"m.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"m\.jsonl, line 2"): read_metrics(tmp_path/"m.jsonl")


def test_hash_follows_names_and_contents_only(tmp_path):
    for name in ("a", "b"): atomic_write(tmp_path/name/"sub"/"x.txt", "same")
    assert sha256_path(tmp_path/"a") == sha256_path(tmp_path/"b")
    (tmp_path/"a/.x.partial").write_text("left behind")
    assert sha256_path(tmp_path/"a") == sha256_path(tmp_path/"b")
    (tmp_path/"a/sub/x.txt").rename(tmp_path/"a/sub/y.txt")
    assert sha256_path(tmp_path/"a") != sha256_path(tmp_path/"b")
    with pytest.raises(InputError, match="no such file or folder"): sha256_path(tmp_path/"c")


def test_parquet_gives_back_what_it_was_given(tmp_path):
    rows = [{"id": "a", "reward": None, "messages": [{"role": "user", "content": "?"}], "meta": {"k": 1}},
            {"id": "b", "reward": 0.5, "messages": [{"role": "assistant", "content": "!", "tool_calls": [{"type": "function"}]}], "meta": {"k": ["x", None]}}]
    assert read_parquet(write_parquet(tmp_path/"a.parquet", rows, json_columns=["meta"])) == rows
    (tmp_path/"a.parquet").write_bytes((tmp_path/"a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable Parquet file"): read_parquet(tmp_path/"a.parquet")


def test_root(monkeypatch, tmp_path):
    assert (root()/"settings.ini").is_file()
    monkeypatch.setenv("STEPDR_HOME", str(tmp_path))
    with pytest.raises(InputError, match="STEPDR_HOME"): root()
    (tmp_path/"nbs").mkdir()
    assert root() == tmp_path.resolve()


def test_imports_are_light():
    "Nothing heavy comes with the package or its command line."
    code = ("import sys, stepdr, stepdr.core.artifacts, stepdr.run.pipeline, stepdr.run.cli; "
            "print([name for name in ('torch', 'transformers', 'trl', 'polars', 'numpy', 'plotly', 'papermill', 'nbdev') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_import_time(record_property):
    "Recorded, not asserted: a busy machine must not fail a test."
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import stepdr"], check=True)
        times.append(time.perf_counter() - began)
    record_property("import_seconds", min(times))


def test_parquet_in_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    path = tmp_path / "a[1] * {b}" / "rows.parquet"
    write_parquet(path, [{"a": 1, "b": [1, 2]}])
    assert read_parquet(path) == [{"a": 1, "b": [1, 2]}]
