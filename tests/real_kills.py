"""The profile `quick` with few steps, on the real model: killed in the middle of each stage, it ends with the same numbers.

    make kills

Not collected by `make test`: it trains, plays and judges with SmolLM2-135M, which must be prepared (`stepdr model smollm2`), twice: once undisturbed,
once with SIGKILL to all processes of every stage. Threads are fixed, as sums depend on their number.
"""
import os

import pytest

from stepdr.core.artifacts import read_json
from stepdr.run.kernels import end_leftover_kernels
from stepdr.run.state import read_record

from killed_runs import assert_same_outcome, files, kill_when, rows, stepdr

SHORT = {"turns": 3, "tool_calls": 3, "reply_tokens": 48}
FEW = {"processes": 1, "threads": 1, **SHORT,
       "synthesis.stage1_rows": 80, "synthesis.stage2_rows": 30, "synthesis.sft_rows": 30, "synthesis.subgraphs": 10, "synthesis.walks": 20,
       "synthesis.research": 60, "synthesis.heldout_research": 2, "synthesis.heldout_questions": 2,
       "midtrain.tokens_per_step": 64, "midtrain.stage1_tokens": 9000, "midtrain.stage2_tokens": 1500,  # a row a step: a checkpoint after 50
       "sft.tokens_per_step": 64, "sft.tokens": 3500,
       "judge.tokens": 1500, "judge.train_reports": 6, "judge.test_reports": 2, "judge.probed_reports": 0, "judge.rl_labels": 2, "judge.rl_samples": 2,
       "judge.rl_dev_labels": 2, "judge.answer_tokens": 16,
       "ppo.iterations": 6, "ppo.episodes": 2, "ppo.episodes_per_task": 2, "ppo.minibatch": 2, "ppo.guard_window": 0,  # a checkpoint after 5 iterations
       "evaluate.samples": 50}
FIXED = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MODELS = ("base", "midtrain", "sft_without_midtrain", "sft", "judge", "ppo")


def half(stage, folder, undisturbed):
    "Whether a stage has worked for half of the time that it took undisturbed."
    return read_record(folder / f"checkpoints/{stage}.json").get("seconds", 0) >= read_json(undisturbed / f"manifests/{stage}.json")["seconds"] / 2


REACHED = {  # stage -> function (folder, undisturbed folder) that says that its work is under way
    **{stage: lambda folder, undisturbed, stage=stage: half(stage, folder, undisturbed) for stage in ("world", "synthesis", "base")},
    "midtrain": lambda folder, _: files(folder, "checkpoints/midtrain/.midtrain1.training/checkpoint.pt", 1),
    "sft": lambda folder, _: rows(folder, "metrics/sft_without_midtrain.jsonl", 1),
    "judge": lambda folder, _: files(folder, "checkpoints/judge/labels.jsonl", 1),
    "ppo": lambda folder, _: files(folder, "models/.ppo.training/checkpoint.pt", 1),
    "evaluate": lambda folder, _: files(folder, "checkpoints/evaluate/*.jsonl", 6)}


@pytest.fixture(scope="session", autouse=True)
def models():
    "The models that are prepared on this machine, in the place of the empty folder of the other tests."


def command(folder, until):
    return ["run", "--profile", "quick", "--seed", "0", "--out", str(folder), "--device", "cpu", "--until", until,
            *(text for name, value in FEW.items() for text in ("-p", f"{name}={value}"))]


def run(folder, until):
    "The command, to the end of a stage; what it printed."
    done = stepdr(*command(folder, until), environment=FIXED, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_killed_in_each_stage_it_ends_with_the_same_results(tmp_path, monkeypatch):
    for name, value in FIXED.items():
        monkeypatch.setenv(name, value)
    undisturbed, folder = (tmp_path / name for name in ("undisturbed", "killed"))
    assert "smollm2" in os.listdir(os.environ.get("STEPDR_MODELS") or os.path.expanduser("~/.cache/stepdr/models")), "stepdr model smollm2 prepares it"
    run(undisturbed, "report")
    try:
        for stage, reached in REACHED.items():
            assert kill_when(command(folder, stage), lambda: reached(folder, undisturbed), whole=True, seconds=3600), f"{stage}: ended before it could be killed"
            assert not (folder / f"manifests/{stage}.json").exists(), f"{stage}: was finished when it was killed"
            assert "interrupted" in run(folder, stage), stage
        run(folder, "report")
    finally:
        end_leftover_kernels(folder)
    assert_same_outcome(folder, undisturbed, MODELS)
