"""Runs through the real command that are killed and started again, and what must be the same afterwards."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stepdr.core.artifacts import read_metrics, sha256_path

STEPDR = [sys.executable, "-c", "import sys; from stepdr.run.cli import main; sys.exit(main())"]
METRICS = ("midtrain1", "midtrain2", "sft", "sft_without_midtrain", "judge", "ppo")


def stepdr(*given, home=None, environment=None, timeout=600):
    "The command, to its end."
    changed = ({"STEPDR_HOME": str(home)} if home else {}) | (environment or {})
    return subprocess.run([*STEPDR, *map(str, given)], capture_output=True, text=True, timeout=timeout, env=os.environ | changed)


def results(folder):
    "What `stepdr results --json` prints."
    done = stepdr("results", folder, "--json")
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
    return json.loads(done.stdout)


def files(folder, pattern, count) -> bool:
    "Whether that many files of a run match."
    return len(list(folder.glob(pattern))) >= count


def rows(folder, path, count) -> bool:
    "Whether a file of a run has that many lines."
    return (folder / path).is_file() and (folder / path).read_bytes().count(b"\n") >= count


def end_tree(process):
    "SIGKILL to a process and all that it started, so that none can start another in between."
    process.send_signal(signal.SIGSTOP)
    parent = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    ended = [process.pid]
    for one in ended:  # grows on the way
        ended += [child for child, its in parent.items() if its == one]
    for one in ended:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_when(command, reached, whole=False, seconds=300) -> bool:
    """Start a command and kill it with SIGKILL as soon as `reached()`, with all its processes where `whole` says so, else alone; whether it
    was killed in time."""
    runner = subprocess.Popen([*STEPDR, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + seconds
        while not reached():
            if runner.poll() is not None or time.monotonic() > deadline: return False
            time.sleep(0.01)
    finally:
        if whole: end_tree(runner)
        runner.send_signal(signal.SIGKILL); runner.wait()
    return True


def assert_same_outcome(folder, undisturbed, models):
    "Weights, metrics but for their times, and results are those of a run that was not killed."
    assert not list(folder.rglob(".*.partial*"))
    assert [model for model in models if sha256_path(folder / "models" / model) != sha256_path(undisturbed / "models" / model)] == []
    for name in METRICS:
        found = [[{key: value for key, value in row.items() if not key.endswith("seconds")} for row in read_metrics(place / f"metrics/{name}.jsonl")] for place in (folder, undisturbed)]
        assert found[0] == found[1], name
    for name in ("evaluation/results.json", "judge.json"): assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    ours, theirs = ({key: value for key, value in results(place).items() if key not in ("wall_seconds", "peak_rss_mb")} for place in (folder, undisturbed))
    assert ours == theirs
