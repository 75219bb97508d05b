"""The runner: order, what is repeated and what is not, kills, and every way a stage can fail."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small_project
from small_project import PROFILES, run, write_notebook

from stepdr.core.artifacts import read_json, read_metrics
from stepdr.core.config import InputError
from stepdr.run.stages import STAGES
from stepdr.run.kernels import StageError
from stepdr.run.state import stage_state
from stepdr.run.settings import open_run, resolve_settings


def notes(lines):
    "Stage -> what happened, of the progress lines."
    return {line.split()[1]: line for line in lines if line.startswith("[")}


def test_runs_then_keeps_then_repeats_what_changed(project):
    lines, folder = run(project)
    first = read_json(folder/"sum.json")
    manifest = read_json(folder/"manifests/slow.json")
    assert set(manifest) >= {"stage", "inputs", "outputs", "parameters", "seed", "versions", "code", "started", "seconds", "peak_rss_mb"}
    assert manifest["parameters"] == {"seed": 0, "device": "auto", "steps": 4, "pause": 0.0, "fail": ""}
    summary = read_json(folder/"run.json")
    assert set(summary) >= {"profile", "seed", "wall_seconds", "peak_rss_mb", "started", "stages", "device"}
    assert list(summary["stages"]) == ["source", "slow", "sum"] and summary["peak_rss_mb"] > 30
    assert not (folder/"checkpoints/slow").exists() and [row["step"] for row in read_metrics(folder/"metrics/slow.jsonl")] == [1, 2, 3, 4]
    page = (folder/"notebooks/slow.html").read_text()
    assert 'src="http' not in page and 'import("http' not in page and 'import "http' not in page

    again = notes(run(project)[0])
    assert all("unchanged, kept" in line for line in again.values())
    assert read_json(folder/"run.json")["wall_seconds"] == summary["wall_seconds"]

    changed = notes(run(project, "slow.steps=6")[0])
    assert "kept" in changed["source"] and "done" in changed["slow"] and "done" in changed["sum"]
    assert read_json(folder/"sum.json") != first
    scaled = notes(run(project, "slow.steps=6", "scale=2")[0])
    assert "kept" in scaled["slow"] and "done" in scaled["sum"]


def test_changed_or_missing_outputs_and_code_are_noticed(project):
    _, folder = run(project, until_stage="slow")
    opened = open_run("small", folder, stages=small_project.STAGES, notebooks=project/"nbs", profiles=PROFILES)
    slow = opened.stages[1]
    assert stage_state(opened, slow)[0] == "done" and stage_state(opened, opened.stages[2])[0] == "to do"
    model = folder/"models/slow/model.json"
    text = model.read_text()
    model.write_text(text + " ")
    assert stage_state(opened, slow) == ("stale", "models/slow has been changed")
    model.write_text(text)
    assert stage_state(opened, slow)[0] == "done"
    notebook = json.loads((project/"nbs/slow.ipynb").read_text())
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "prose"})
    (project/"nbs/slow.ipynb").write_text(json.dumps(notebook))
    assert stage_state(opened, slow)[0] == "done"
    notebook["cells"][1]["source"] += "\n# changed"
    (project/"nbs/slow.ipynb").write_text(json.dumps(notebook))
    assert stage_state(opened, slow) == ("stale", "its code has changed (notebook)")
    (folder/"data/numbers.txt").unlink(); (folder/"data").rmdir()
    assert stage_state(opened, slow) == ("stale", "an input is missing (data: no such file or folder)")


def test_from_and_until(project):
    with pytest.raises(InputError, match="source has not been run"): run(project, from_stage="slow")
    run(project, until_stage="source")
    lines, folder = run(project, "count=9", from_stage="slow")  # source is stale now, and left as it is
    assert "source" not in notes(lines) and len((folder/"data/numbers.txt").read_text().split()) == 5
    for wrong in ({"from_stage": "nowhere"}, {"until_stage": "nowhere"}, {"from_stage": "sum", "until_stage": "slow"}):
        with pytest.raises(InputError, match="--from|--until"): run(project, **wrong)


@pytest.mark.parametrize("moment", [1, 7])
def test_killed_run_goes_on_to_the_same_result(project, moment):
    overrides = ("slow.steps=12", "slow.pause=0.1")
    _, undisturbed = run(project, *overrides, out="undisturbed")
    command = [sys.executable, small_project.__file__, str(project), *overrides]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(small_project.__file__).parent), os.environ.get("PYTHONPATH", "")])})
    metrics = project/"run/metrics/slow.jsonl"
    while not (metrics.exists() and len(read_metrics(metrics)) >= moment):
        assert runner.poll() is None, "the runner ended before it could be killed"
        time.sleep(0.02)
    runner.send_signal(signal.SIGKILL); runner.wait()
    assert not (project/"run/manifests/slow.json").exists()
    lines, folder = run(project, *overrides)
    assert "interrupted" in "".join(lines) and "kept" in notes(lines)["source"]
    for name in ("data/numbers.txt", "models/slow/model.json", "sum.json", "metrics/slow.jsonl"):
        assert (folder/name).read_bytes() == (undisturbed/name).read_bytes()
    assert not [path for path in folder.rglob(".*.partial*")]


def test_interrupted_attempt_with_other_parameters_starts_afresh(project):
    with pytest.raises(StageError): run(project, "fail=bug")
    stray = project/"run/checkpoints/slow/last/state.json"
    stray.parent.mkdir(parents=True); stray.write_text('{"step": 3, "total": 999}')
    _, folder = run(project)
    assert [row["step"] for row in read_metrics(folder/"metrics/slow.jsonl")] == [1, 2, 3, 4]


def test_one_run_at_a_time(project):
    command = [sys.executable, small_project.__file__, str(project), "slow.pause=1", "slow.steps=100"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(small_project.__file__).parent), os.environ.get("PYTHONPATH", "")])})
    try:
        while not (project/"run/checkpoints/slow.json").exists(): time.sleep(0.05); assert runner.poll() is None
        with pytest.raises(InputError, match=f"in use by another run .process {runner.pid}"): run(project)
    finally: runner.kill(); runner.wait()


@pytest.mark.parametrize("way, kind, text", [
    ("input", InputError, r"numbers.txt, line 1: 'x' is no number"), ("disk", InputError, "the disk is full"),
    ("bug", StageError, r"(?s)stage slow: cell 3 failed with ZeroDivisionError.*1/0.*slow\.ipynb"), ("die", StageError, "kernel died")])
def test_failures_are_told_once_and_leave_no_output(project, way, kind, text):
    with pytest.raises(kind, match=text): run(project, f"fail={way}")
    assert not (project/"run/manifests/slow.json").exists() and not (project/"run/models").exists()
    assert (project/"run/notebooks/slow.ipynb").exists()


def test_cell_timeout(project):
    with pytest.raises(StageError, match="longer than 2 s"): run(project, "pause=1", "steps=100", cell_timeout=2)


def test_interrupt_ends_the_kernel(project):
    command = [sys.executable, small_project.__file__, str(project), "slow.pause=1", "slow.steps=100"]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(small_project.__file__).parent), os.environ.get("PYTHONPATH", "")])})
    while not (project/"run/metrics/slow.jsonl").exists(): time.sleep(0.05); assert runner.poll() is None
    runner.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in runner.communicate(timeout=30)[1]
    mark = f"STEPDR_RUN_FOLDER={project/'run'}".encode()
    def kernels():
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes(): yield path
            except OSError: pass
    deadline = time.monotonic() + 10
    while list(kernels()) and time.monotonic() < deadline: time.sleep(0.1)
    assert not list(kernels())


def test_setting_without_a_parameter_in_the_notebook(project):
    write_notebook(project/"nbs/source.ipynb", 'run_dir: str = ""\nseed: int = 0\ndevice: str = ""', small_project.SOURCE)
    with pytest.raises(StageError, match="lacks count"): run(project)
    assert not (project/"run").exists()


def test_unknown_kernel(project):
    with pytest.raises(InputError, match="no such Jupyter kernel"): run(project, kernel_name="nothing-of-the-kind")


@pytest.mark.parametrize("override, message", [
    ("nothing=1", "no parameter 'nothing'"), ("slow.stepz=1", "did you mean slow.steps"), ("sum.steps=3", "no parameter 'sum.steps'"),
    ("steps", "expected NAME=VALUE"), ("steps=many", "expected int"), ("steps=0", r"slow\.steps: 0 is out of range"), ("pause=nan", "expected float")])
def test_bad_overrides(override, message):
    with pytest.raises(InputError, match=message): resolve_settings("small", [override], PROFILES)


def test_bad_profile_seed_and_folder(tmp_path):
    options = dict(stages=small_project.STAGES, notebooks=tmp_path, profiles=PROFILES)
    with pytest.raises(InputError, match="--profile huge"): open_run("huge", tmp_path, **options)
    with pytest.raises(InputError, match="--seed -1"): open_run("small", tmp_path, seed=-1, **options)
    (tmp_path/"file").write_text("")
    with pytest.raises(InputError, match="is a file"): open_run("small", tmp_path/"file", **options)
    with pytest.raises(InputError, match="is a file"): open_run("small", tmp_path/"file/run", **options)
    (tmp_path/"link").symlink_to(tmp_path/"nowhere")
    with pytest.raises(InputError, match="a link to .*nowhere, which does not exist"): open_run("small", tmp_path/"link", **options)


@pytest.mark.parametrize("name", ["{seed} 100%", "a{", "}b [x]* #1?", "%41 '中'\n"])
def test_any_name_of_a_folder_works(project, name):
    _, folder = run(project, out=name)
    assert folder.name == name and (folder/"sum.json").exists() and (folder/"notebooks/sum.html").exists()


def test_stages_are_checked_before_the_first_one_starts(project):
    def refuse(settings): raise InputError(f"sum.scale: {settings.scale} is nothing to multiply with")
    sys.modules["stepdr.only_here"] = type(sys)("stepdr.only_here")
    sys.modules["stepdr.only_here"].refuse = refuse
    stages = (*small_project.STAGES[:2], replace(small_project.STAGES[2], check="only_here:refuse"))
    try:
        with pytest.raises(InputError, match="sum.scale: 0.0 is nothing"): run(project, "sum.scale=0", stages=stages)
        assert not (project/"run").exists()
        assert (run(project, "sum.scale=0", stages=stages, until_stage="slow")[1]/"models/slow").exists()  # the stage that it is for is not run
    finally: del sys.modules["stepdr.only_here"]


def test_gpu_index_and_environment_reach_the_kernel(project):
    write_notebook(project/"nbs/source.ipynb", 'run_dir: str = ""\nseed: int = 0\ndevice: str = ""\ncount: int = 1', """
        |import os, sys
        |from stepdr.core.artifacts import atomic_write
        |atomic_write(f"{run_dir}/data/numbers.txt", " ".join([os.environ["CUDA_VISIBLE_DEVICES"], os.environ["PYTHONHASHSEED"], sys.executable, device]))
        """.replace("        |", ""))
    _, folder = run(project, until_stage="source", gpu="3", device="cpu")
    assert (folder/"data/numbers.txt").read_text() == f"3 0 {sys.executable} cpu"


def test_declared_stages_follow_one_another():
    written = {"metrics"}
    for stage in STAGES:
        assert set(stage.reads) <= written, stage.name
        written |= set(stage.writes)
