"""The command line: what it prints, and one line with the right exit status for every mistake."""
import argparse
import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import small_project
from example_run import write_results

import stepdr
from stepdr.run import cli, options, pipeline, run_commands, settings
from stepdr.core.config import InputError
from stepdr.run.cli import main, make_parser

STEPDR = [sys.executable, "-c", "import sys; from stepdr.run.cli import main; sys.exit(main())"]


@pytest.fixture
def small(project, monkeypatch):
    "The command line on the small pipeline."
    more = dict(stages=small_project.STAGES, notebooks=project/"nbs", profiles=small_project.PROFILES)
    monkeypatch.setattr(run_commands, "run_pipeline", partial(pipeline.run_pipeline, **more))
    monkeypatch.setattr(run_commands, "open_run", partial(settings.open_run, **more))
    monkeypatch.setattr(run_commands, "resolve_settings", partial(settings.resolve_settings, profiles=small_project.PROFILES))
    return partial(lambda *arguments: cli.main(["run", "--profile", "small", "--out", str(project/"run"), *arguments]))


@pytest.fixture
def finished(tmp_path):
    "The files of a finished run that the results come from."
    write_results(tmp_path)
    return tmp_path


def complaint(capsys):
    "The one line on standard error."
    error = capsys.readouterr().err
    assert error.startswith("stepdr: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error


def test_list_and_run(small, capsys):
    assert small("--list") == 0
    assert capsys.readouterr().out.count("to do") == 3
    assert small("--until", "source") == 0
    out = capsys.readouterr().out
    assert "[1/3] source" in out and "      | wrote 5 numbers" in out
    assert small("--list") == 0
    out = capsys.readouterr().out
    assert "source     done" in out and "slow       to do" in out
    assert small("--list", "-p", "count=6") == 0
    assert "source     stale        count was 5, is 6" in capsys.readouterr().out


def test_list_parameters(small, capsys):
    assert small("--list-parameters") == 0
    assert "slow.steps" in (out := capsys.readouterr().out) and "(1 to 1000)" in out


@pytest.mark.parametrize("arguments, message", [
    (("-p", "nothing=1"), "no parameter"), (("-p", "steps=0"), "slow.steps"), (("-p", "steps=x"), "expected int"),
    (("--from", "nowhere"), "no such stage"), (("--seed", "-5"), "--seed -5"), (("--profile", "huge"), "no such profile"), (("-p", "fail=input"), "line 1")])
def test_user_mistakes_are_one_line_and_status_2(small, capsys, arguments, message):
    assert small(*arguments) == 2
    assert message in complaint(capsys)


def test_failed_stage_is_status_1(small, capsys):
    assert small("-p", "fail=bug") == 1
    assert "stage slow: cell 3 failed with ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("error, status, text", [
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "/x/y: the disk is full"), (PermissionError(errno.EACCES, "no", "/x"), 2, "/x: no permission"),
    (KeyboardInterrupt(), 130, "goes on"), (InputError("a.json,\n line 3: bad"), 2, "a.json, line 3: bad")])
def test_errors_of_the_system(monkeypatch, capsys, error, status, text):
    def fail(options): raise error
    monkeypatch.setattr(cli, "doctor_command", fail)
    assert cli.main(["doctor"]) == status
    assert text in complaint(capsys)


def test_results_json(finished, capsys):
    assert cli.main(["results", str(finished), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results) >= {"profile", "seed", "wall_seconds", "peak_rss_mb", "stages", "judge", "pairwise", "differences"}
    assert set(results["stages"]) == {"base", "midtrain", "sft_without_midtrain", "sft", "ppo"}
    assert set(results["stages"]["ppo"]["rubric_strict"]) == {"mean", "low", "high", "n"} and results["wall_seconds"] == 100.5
    assert isinstance(results["judge"]["macro_f1"], float) and results["judge"]["n"]
    assert set(results["differences"]["ppo_gain"]) >= {"metric", "mean", "low", "high"}


def test_results_table(finished, capsys):
    assert cli.main(["results", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "sft_without_midtrain" in out and "midtrain_gain" in out and "1:40 of wall time" in out


def test_results_of_nothing(tmp_path, capsys):
    assert cli.main(["results", str(tmp_path/"none")]) == 2
    assert "no such run folder" in complaint(capsys)
    assert cli.main(["results", str(tmp_path)]) == 2
    assert "run.json" in complaint(capsys)
    (tmp_path/"run.json").write_text('{"profile": "ti')
    assert cli.main(["results", str(tmp_path)]) == 2
    assert "run.json, line 1" in complaint(capsys)


def test_closed_pipe_is_silent(finished):
    command = f"{' '.join([sys.executable, '-c', repr(STEPDR[2])])} results {finished} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


@pytest.mark.parametrize("command", ["run", "results", "doctor", "tool", "research", "ppo"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended: cli.main([command, "--help"])
    assert ended.value.code == 0 and f"example:\n  stepdr {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["walk"], ["run", "--nothing"], ["run", "--seed", "x"], ["research", "Who?"], []])
def test_bad_options_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended: cli.main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_tool_and_research_check_what_they_are_given(capsys, tmp_path):
    assert cli.main(["tool", "todo", "{bad"]) == 2
    assert "arguments, line 1, column 2: not JSON" in complaint(capsys)
    assert cli.main(["tool", "todo", "[1]"]) == 2
    assert "expected a JSON object" in complaint(capsys)
    assert cli.main(["research", "Who?", "--model", str(tmp_path)]) == 2
    assert "neither a URL nor a checkpoint (config.json is missing)" in complaint(capsys)


def test_doctor(capsys, monkeypatch, tmp_path):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out and "CPU cores" in out and "tmux" in out and "ready: stepdr run" in out
    (tmp_path/"nbs").mkdir(); (tmp_path/"data/kg").mkdir(parents=True)
    (tmp_path/"data/kg/triples.txt").write_text("Q1\tP1\tQ2\n")
    (tmp_path/"data/SHA256SUMS").write_text(f"{'0'*64}  kg/triples.txt\n{'0'*64}  kg/entity.txt\n")
    monkeypatch.setenv("STEPDR_HOME", str(tmp_path))
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "damaged or edited" in out and "data/kg/entity.txt" in out and "missing" in out


# standard output is the answer's

def stdout_and_stderr(*arguments):
    "What a user sees, with bars."
    environment = {name: value for name, value in os.environ.items() if name != "IN_TEST"}
    done = subprocess.run([*STEPDR, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_answer_of_a_tool_is_all_of_standard_output(tmp_path):
    (tmp_path/"docs").mkdir()
    (tmp_path/"docs/tides.md").write_text("# Tides\n\nThe Moon pulls the sea and so makes the tides.\n")
    query = '{"action": "batch_search", "queries": ["tides"]}'
    out, error = stdout_and_stderr("tool", "batch_web_surfer", query, "--web", tmp_path/"docs", "--workspace", tmp_path/"work")
    assert out.startswith("## tides\n1. Tides") and "%|" not in out and "documents: 100%" in error


@pytest.mark.parametrize("command", ["corpus", "filter"])
def test_counts_are_one_line_of_json(tmp_path, command):
    (tmp_path/"docs").mkdir()
    (tmp_path/"docs/tides.md").write_text("# Tides\n\n" + "The Moon pulls the sea and so makes the tides, twice a day, on every coast of the world. " * 5)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "<answer>The Moon.</answer>"}]
    (tmp_path/"rows.jsonl").write_text(json.dumps({"id": "a", "messages": messages}) + "\n")
    arguments = {"corpus": ("corpus", "build", tmp_path/"docs", "--out", tmp_path/"corpus"), "filter": ("filter", tmp_path/"rows.jsonl", "--out", tmp_path/"kept.jsonl")}[command]
    out, error = stdout_and_stderr(*arguments)
    assert out.count("\n") == 1 and isinstance(json.loads(out), dict) and ("it/s" in error or "rows" in error)


def test_what_children_write_is_not_the_answer(capfd):
    "Also past Python: a child process, and a library that writes to the descriptor."
    def work():
        print("printed")
        os.write(1, b"written\n")
        subprocess.run(["echo", "from a child"])
        return {"rows": 1}
    assert options.print_counts(work) == 0
    out, error = capfd.readouterr()
    assert out == '{"rows": 1}\n' and {"printed", "written", "from a child"} <= set(error.splitlines())


def test_every_bar_is_made_in_one_place():
    "`progress_bar` draws on standard error; another call of tqdm might not."
    package = Path(stepdr.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "import tqdm" in path.read_text() or "file=sys.stdout" in path.read_text()]
    assert found == ["artifacts.py"]


# ---------------------------------------------------------------- commands that ask a model

def commands(parser=None, words=()):
    "Every command and action with its parser."
    parser = parser or make_parser()
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below: yield words, parser
    for name, inner in (below[0].choices.items() if below else ()): yield from commands(inner, (*words, name))


def options_of(parser): return {option for action in parser._actions for option in action.option_strings}


ASKS = {"--model", "--judge", "--teacher", "--vision"}  # options that may name an endpoint
LOCAL = {("midtrain",), ("sft",), ("ppo",), ("judge", "train")}  # take a folder alone

ASKING = {  # command -> arguments that make it ask; PORT is where nothing listens, DIR a folder
    "research": ["What?", "--model", "URL", "--workspace", "DIR/w", "--web", "DIR/papers"], "eval": ["simpleqa", "--data", "DIR/qa.csv", "--model", "URL", "--out", "DIR/out"],
    "tool": ["analyze_image", '{"path": "a.png"}', "--vision", "URL", "--workspace", "DIR/w"], "mcp": ["--vision", "URL", "--port", "1", "--workspace", "DIR/w", "--tools", "analyze_image"],
    "synth": ["--config", "DIR/synth.json", "--out", "DIR/out", "--teacher", "URL"], "judge score": ["--tasks", "DIR/tasks.jsonl", "--predictions", "DIR/reports.jsonl", "--judge", "URL", "--out", "DIR/v.jsonl"],
    "judge probe": ["--tasks", "DIR/tasks.jsonl", "--predictions", "DIR/reports.jsonl", "--judge", "URL"], "judge modes": ["--tasks", "DIR/tasks.jsonl", "--predictions", "DIR/reports.jsonl", "--judge", "URL", "--out", "DIR/out"],
    "pairwise judge": ["DIR/study", "--judge", "URL"]}


def test_every_command_that_asks_is_tried():
    found = {" ".join(words) for words, parser in commands() if options_of(parser) & ASKS and words not in LOCAL}
    assert found == set(ASKING)


@pytest.mark.parametrize("command", ASKING)
def test_every_command_that_asks_takes_timeout_and_concurrency(command, tmp_path, monkeypatch, capsys):
    "From the command line to the endpoint's settings; a number that makes no sense is one line."
    import stepdr.core.endpoint
    from stepdr.evaluate.pairwise import study_from_files
    from stepdr.evaluate.studies import PairwiseSettings
    parser = next(parser for words, parser in commands() if " ".join(words) == command)
    told = parser.format_help()
    assert "--timeout 600 for a slow server" in " ".join(told.split()) and "--concurrency 1 for a server that takes one at a time" in " ".join(told.split())
    task = {"id": "t", "kind": "research", "query": "Which rivers?", "language": "en", "rubrics": [{"criterion": "Names a river.", "weight": 1.0, "axis": "content", "role": "explicit"}]}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    (tmp_path / "reports.jsonl").write_text(json.dumps({"task": "t", "report": "The Exe is a river of Devon."}) + "\n")
    (tmp_path / "qa.csv").write_text("metadata,problem,answer\n\"{'topic': 'rivers'}\",Which river?,Exe\n")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.md").write_text("The Exe is a river of Devon.")
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "a", "text": "# On rivers\n\n" + "The Exe is a river of Devon. " * 20, "language": "en"}) + "\n")
    (tmp_path / "synth.json").write_text(json.dumps({"part": [{"name": "plans", "maker": "planning_task", "input": "items.jsonl"}]}))
    (tmp_path / "w").mkdir()
    from PIL import Image
    Image.new("RGB", (8, 8)).save(tmp_path / "w" / "a.png")
    study_from_files(tmp_path / "tasks.jsonl", {"a": tmp_path / "reports.jsonl", "b": tmp_path / "reports.jsonl"}, tmp_path / "study", "", PairwiseSettings()) if command == "pairwise judge" else None
    seen = []
    def watch(self, settings):
        seen.append(settings)
        raise InputError("seen")
    monkeypatch.setattr(stepdr.core.endpoint.ChatEndpoint, "__init__", watch)
    given = [text.replace("DIR", str(tmp_path)).replace("URL", "http://127.0.0.1:9/v1#none") for text in ASKING[command]]
    assert main([*command.split(), *given, "--timeout", "7", "--concurrency", "3"]) == 2
    assert seen and all((one.timeout, one.concurrency) == (7.0, 3) for one in seen), capsys.readouterr().err
    assert main([*command.split(), *given, "--timeout", "-7"]) == 2 and "--timeout -7: expected more than 0" in capsys.readouterr().err
