"Packages that are missing: every command says in one line what to install, no reader calls a document damaged for it, and `[tools]` alone is enough for the tools."
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_model import ScriptedModel, turn

from stepdr.core.artifacts import root
from stepdr.run.cli import make_parser
from stepdr.core.extras import EXTRAS, MissingPackage, extra_of, extras, how_to_get, missing_package, need

STEPDR = [sys.executable, "-c", "import sys; from stepdr.run.cli import main; sys.exit(main())"]


def third_party():
    "-> {module: files} of all that the package imports from outside, wherever it does"
    found = {}
    for path in (root() / "stepdr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"stepdr"}: found.setdefault(name, set()).add(path.name)
    return found


def test_every_package_that_is_imported_belongs_to_the_core_or_an_extra():
    unknown = {name: files for name, files in third_party().items() if extra_of(name) is None}
    assert set(unknown) <= {"faster_whisper"}, unknown  # asked for by name, if the user has set a model for it


def heads(path):
    "What a module imports at its head: (packages of others, modules of this project)."
    theirs, ours = set(), set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import): theirs |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            ours |= {base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom): theirs.add(node.module.partition(".")[0])
    return theirs - sys.stdlib_module_names - {"stepdr"}, ours


def test_the_core_is_imported_at_the_head_of_modules_and_nothing_else():
    "But for modules that are torch through and through: no other imports those at its head."
    found = {path: heads(path) for path in (root() / "stepdr").rglob("*.py")}
    heavy = {path for path, (theirs, _) in found.items() if any(extra_of(name)[1] for name in theirs)}
    for path in heavy: assert {name for name in found[path][0] if extra_of(name)[1]} == {"torch"}, path.name
    for path, (_, ours) in found.items(): assert path in heavy or not ours & heavy, (path.name, [one.name for one in ours & heavy])


def test_what_is_said():
    assert how_to_get(["pyarrow", "docx", "numba"]) == "pyarrow, python-docx and numba are not installed: pip install 'stepdr[data,tools]'"
    assert str(missing_package(MissingPackage("x"))) == "x" and missing_package(ModuleNotFoundError("y", name="no_such_module_here")) is None
    assert missing_package(ModuleNotFoundError("y", name="numpy.gone")) is None  # numpy is there: a fault of another kind
    need("json", "numpy")


# ---------------------------------------------------------------- commands without the extras

def blocked(folder, *installed):
    "-> the environment of a Python in which only the core and some extras are installed, for its child processes too"
    names = [name for name in third_party() if (found := extra_of(name)) and found[1] not in ("", *installed)]
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({sorted(names)!r}))\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root()), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "pages").mkdir()
    (folder / "pages" / "a.html").write_text("<html><head><title>Tides</title></head><body><main><p>Tides come twice a day, by the moon. <a href='b.html'>b</a></p></main></body></html>")
    (folder / "pages" / "b.html").write_text("<html><head><title>Moon</title></head><body><main><p>The moon goes round in a month or so. <a href='a.html'>a</a></p></main></body></html>")
    (folder / "rows.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}]}) + "\n")
    (folder / "tasks.jsonl").write_text('{"query": "What is 2+2?", "answer": "4"}\n')
    (folder / "kg.tsv").write_text("a\tspouse\tb\nb\tchild\tc\nc\tspouse\td\n")
    (folder / "reports.jsonl").write_text('{"task": "adr-law-01", "report": "x"}\n')
    (folder / "verdicts.jsonl").write_text('{"task": "a", "criterion": "c", "weight": 1, "verdict": "satisfied"}\n')
    (folder / "work").mkdir()
    (folder / "work" / "t.txt").write_text("alpha\n")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    (folder / "synth.toml").write_text('seed = 0\nteacher = "rules"\n[[part]]\nname = "a"\nmaker = "query_report"\ninput = "pages"\nnumber = 1\ninto = "sft"\n')
    return folder


MODEL = "http://127.0.0.1:9/v1#none"
COMMANDS = {  # command -> (arguments, what it must name as missing in the core; "" where it works without, or fails for another reason)
    "run --list": "train", "run --list --profile micro": "", "run --out o/run": "notebooks,train", "results o/none": "", "doctor": "", "model": "", "model smollm2 --wheel pages/a.html": "train", "model checkpoint": "train",
    f"research Tides? --model {MODEL} --workspace o/w1": "tools", f"research Tides? --model {MODEL} --workspace o/w2 --web pages": "tools",
    "research Tides? --model checkpoint --workspace o/w3": "train",
    "tool file {\"action\":\"read\",\"path\":\"t.txt\"} --workspace work": "", "tool file {\"action\":\"search\",\"pattern\":\"x\"} --workspace work": "tools",
    "tool batch_web_surfer {\"action\":\"batch_search\",\"queries\":[\"tides\"]} --web pages": "tools", "tool todo {\"action\":\"update\"}": "",
    "mcp --web pages": "tools", "graph build kg.tsv --out o/g": "", "graph sample o/g -n 1 --out o/s.parquet": "data", "corpus build pages --out o/c": "data",
    "corpus walk o/none --out o/w.jsonl": "", "import rows.jsonl --out o/rows.jsonl": "", "filter rows.jsonl --out o/kept.jsonl": "", "filter --list": "",
    "midtrain --model checkpoint --rows rows.jsonl --out o/midtrain": "train", "sft --model checkpoint --rows rows.jsonl --out o/sft": "train",
    "synth --config synth.toml --out o/made": None, "eval --list": "", "eval researchrubrics --verdicts verdicts.jsonl": "",
    f"eval adr-professional --predictions reports.jsonl --judge {MODEL} --out o/e --limit 1": "tools", "eval adr-professional --predictions reports.jsonl --judge words --out o/e2": "",
    "queries adr": "", "compare o/a o/b": "", "judge train o/none --out o/j": "", f"judge score --tasks adr --predictions reports.jsonl --judge {MODEL} --out o/v.jsonl": None,
    "judge probe --tasks adr --predictions reports.jsonl --judge checkpoint": None, "pairwise plan --systems 3 --gap 100": "",
    "ppo --model checkpoint --tasks tasks.jsonl --out o/ppo": "train", "view rows.jsonl --out o/v.html": "tools"}


@pytest.fixture(scope="module")
def core(tmp_path_factory): return blocked(tmp_path_factory.mktemp("core"))


def test_the_list_of_commands_is_whole():
    commands = next(action.choices for action in make_parser()._actions if action.dest == "==SUPPRESS==" or hasattr(action, "choices") and isinstance(action.choices, dict))
    assert {line.split()[0] for line in COMMANDS} == set(commands)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_without_its_packages_says_in_one_line_what_to_install(core, inputs, line):
    done = subprocess.run([*STEPDR, *line.split()], cwd=inputs, env=core, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    said = done.stdout + done.stderr
    assert "Traceback" not in said and "damaged" not in said and "ModuleNotFoundError" not in said, said[-2000:]
    named = re.findall(r"^(?:stepdr|error): (.+ (?:is|are) not installed: pip install 'stepdr\[(.+)\]')$", said, re.MULTILINE)
    if COMMANDS[line]:
        assert len(named) == 1 and named[0][1] == COMMANDS[line] and done.returncode in (1, 2), said[-2000:]
    elif COMMANDS[line] == "":
        assert not named, said[-2000:]
    assert done.returncode in (0, 1, 2)


def test_a_document_is_not_called_damaged_for_a_package_that_is_missing(inputs, tmp_path):
    environment = blocked(tmp_path, "data")
    done = subprocess.run([*STEPDR, "corpus", "build", "pages", "--out", str(tmp_path / "c")], cwd=inputs, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.endswith("stepdr: resiliparse is not installed: pip install 'stepdr[tools]'\n"), done.stderr
    again = subprocess.run([*STEPDR, "corpus", "build", "pages", "--out", str(tmp_path / "c")], cwd=inputs, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(root())})
    assert again.returncode == 0 and '"documents": 2' in again.stdout and '"aside": 0' in again.stdout, again.stderr  # nothing of the failed build stays


def test_a_folder_of_documents_is_indexed_whole_once_the_package_is_there(inputs, tmp_path):
    call = [*STEPDR, "tool", "batch_web_surfer", '{"action": "batch_search", "queries": ["tides moon"]}', "--web", "pages", "--workspace", str(tmp_path / "w")]
    missing = subprocess.run(call, cwd=inputs, env=blocked(tmp_path), capture_output=True, text=True, timeout=120)
    assert missing.returncode == 2 and "resiliparse is not installed" in missing.stderr
    there = subprocess.run(call, cwd=inputs, env={**os.environ, "PYTHONPATH": str(root())}, capture_output=True, text=True, timeout=120)
    assert there.returncode == 0 and "twice a day" in there.stdout, there.stderr


# ---------------------------------------------------------------- [tools] alone

def test_tools_alone_are_enough_for_research_with_an_endpoint(inputs, tmp_path):
    "As docs/parts.md says: with `pip install '.[tools]'`, on the closed web and on a folder."
    environment = blocked(tmp_path, "tools")
    for number, web in enumerate(("closed", "pages")):
        turns = [turn("", calls=[("batch_web_surfer", {"action": "batch_search", "queries": ["Jack Lemmon school", "tides moon"]}), ("todo", {"action": "create", "texts": ["look"]})]),
                 turn("", calls=[("shell", {"command": "echo $((6*7))"}), ("file", {"action": "write", "path": "notes/a.yaml", "content": "a: 1\n"})]), turn("<answer># Found\n\nEnough.</answer>")]
        with ScriptedModel(turns) as server:
            done = subprocess.run([*STEPDR, "research", "What is known?", "--model", f"{server.url}#scripted", "--web", web, "--tools", "batch_web_surfer,todo,file,shell", "--workspace", str(tmp_path / f"w{number}"), "--out", str(tmp_path / f"{number}.html")],
                                  cwd=inputs, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "not installed" not in done.stderr + done.stdout, done.stderr[-2000:]
        shown = json.dumps(server.requests[-1]["messages"])
        assert "Enough." in (tmp_path / f"{number}.html").read_text() and "error" not in shown.lower().replace("errors", "") and ("twice a day" if number else "school") in shown


@pytest.mark.parametrize("line", [line for line, extra in COMMANDS.items() if (extra == "tools" and MODEL not in line) or "words" in line])
def test_tools_alone_are_enough_for_the_tools_and_the_measures(inputs, tmp_path, line):
    done = subprocess.run([*STEPDR, *line.split()], cwd=inputs, env=blocked(tmp_path, "tools"), capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr and "not installed" not in done.stderr + done.stdout, done.stderr[-2000:]


def test_the_extras_are_those_of_the_package():
    assert set(EXTRAS) | {""} == set(extras()) and all(extras().values())
    assert Path(root() / "settings.ini").is_file()
