"""Three stages with tiny notebooks, for the tests of the runner: a source, a slow stage with checkpoints, a sum."""
import sys
from dataclasses import dataclass
from pathlib import Path

from stepdr.core.artifacts import write_json
from stepdr.core.config import setting, validate
from stepdr.run.pipeline import run_pipeline
from stepdr.run.stages import Stage

STAGES = (Stage("source", "source.ipynb", writes=("data",)),
          Stage("slow", "slow.ipynb", reads=("data",), writes=("models/slow",), metrics=("slow",)),
          Stage("sum", "sum.ipynb", reads=("models/slow",), writes=("sum.json",)))

SOURCE = """
from stepdr.core.artifacts import atomic_write
import random
random.seed(seed)
atomic_write(f"{run_dir}/data/numbers.txt", " ".join(str(random.randrange(100)) for _ in range(count)))
print("wrote", count, "numbers")
"""
SLOW = """
import time
from pathlib import Path
from stepdr.core.artifacts import MetricsLog, atomic_directory, read_json, write_json
from stepdr.core.config import InputError
numbers = [int(word) for word in Path(run_dir, "data/numbers.txt").read_text().split()]
checkpoint = Path(run_dir, "checkpoints/slow/last")
state = read_json(checkpoint/"state.json") if checkpoint.exists() else {"step": 0, "total": 0}
if fail == "input": raise InputError(f"{run_dir}/data/numbers.txt, line 1: 'x' is no number; make it again")
if fail == "bug": 1/0
if fail == "die":
    import os; os.kill(os.getpid(), 9)
if fail == "disk": raise OSError(28, "No space left on device")
log = MetricsLog(f"{run_dir}/metrics/slow.jsonl", resume_step=state["step"])
while state["step"] < steps:
    time.sleep(pause)
    state = {"step": state["step"] + 1, "total": (state["total"]*31 + numbers[state["step"] % len(numbers)]) % 1000003}
    log.log(step=state["step"], loss=1.0/state["step"])
    with atomic_directory(checkpoint) as folder: write_json(folder/"state.json", state)
    print(f"step {state['step']}")
with atomic_directory(Path(run_dir, "models/slow")) as folder: write_json(folder/"model.json", state)
"""
SUM = """
from stepdr.core.artifacts import read_json, write_json
write_json(f"{run_dir}/sum.json", {"total": read_json(f"{run_dir}/models/slow/model.json")["total"]*scale})
"""


@dataclass(frozen=True)
class SourceSettings:
    count: int = setting(5, "how many numbers", 1, 100)
    def __post_init__(self): validate(self)


@dataclass(frozen=True)
class SlowSettings:
    steps: int = setting(4, "steps", 1, 1000)
    pause: float = setting(0.0, "seconds a step", 0.0, 1.0)
    fail: str = setting("", "how to fail")
    def __post_init__(self): validate(self)


@dataclass(frozen=True)
class SumSettings:
    scale: float = setting(1.0, "factor", -10.0, 10.0)
    def __post_init__(self): validate(self)


PROFILES = {"small": {"source": SourceSettings(), "slow": SlowSettings(), "sum": SumSettings()}}
PARAMETERS = {"source": "count: int = 1", "slow": 'steps: int = 1\npause: float = 0.0\nfail: str = ""', "sum": "scale: float = 1.0"}


def write_notebook(path, *cells):
    "A notebook of run cells; the first one holds the parameters."
    rows = [{"cell_type": "code", "id": f"cell{i}", "metadata": {"tags": [] if i else ["parameters"]}, "execution_count": None,
             "outputs": [], "source": "#| run\n" + source.strip()} for i, source in enumerate(cells)]
    write_json(path, {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": rows})


def make(folder):
    "Write the three notebooks into folder/nbs."
    for name, code in (("source", SOURCE), ("slow", SLOW), ("sum", SUM)):
        parameters = 'run_dir: str = ""\nseed: int = 0\ndevice: str = "auto"\n' + PARAMETERS[name]
        write_notebook(Path(folder)/"nbs"/f"{name}.ipynb", parameters, code)


def run(folder, *overrides, out="run", **more):
    "Run the small pipeline in `folder`; returns the progress lines and the run folder."
    lines = []
    place = run_pipeline(**{"profile": "small", "out": Path(folder)/out, "overrides": overrides, "stages": STAGES,
                            "notebooks": Path(folder)/"nbs", "profiles": PROFILES, "say": lines.append} | more)
    return lines, place


if __name__ == "__main__":  # python small_project.py FOLDER OVERRIDE...: the runner that the tests kill
    run(sys.argv[1], *sys.argv[2:], say=None)
