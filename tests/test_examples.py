"Every example that is printed somewhere works as printed; what it needs that does not ship is said beside it, and stood in for here."
import contextlib
import http.server
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from example_run import make_offline, make_own_files, make_prepared, make_run
from scripted_model import ScriptedModel, turn

from stepdr.core.artifacts import root
from stepdr.run.cli import main, make_parser
from stepdr.world.closed_web import shipped_web
from stepdr.world.index import contains, relation_words, words

PAGES = {path.relative_to(root()).as_posix(): path.read_text(encoding="utf-8")
         for path in [*sorted(root().glob("*.md")), *sorted((root() / "docs").rglob("*.md"))]}
ADDRESS = re.compile(r"https?://[^\s'\"]+#[\w.-]+")


def command_lines(text):
    "The `stepdr` commands of a text, without the comments behind them."
    found = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    return [" ".join(re.split(r"\s{2,}#|\s#\s", line)[0].split()) if "'" not in line else re.split(r"\s{2,}#\s", line)[0] for line in found if line.startswith("stepdr ")]


def parsers(parser=None, name="stepdr"):
    "-> (full name, parser) of every command and action"
    parser = parser or make_parser()
    actions = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    if not actions: yield name, parser
    for choices in actions:
        for word, child in choices.items(): yield from parsers(child, f"{name} {word}")


HELP = {name: parser.epilog or "" for name, parser in parsers()}
BLOCKS = [(where, kind, block) for where, page in PAGES.items() for kind, block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)]
PRINTED = [(where, line) for where, kind, block in BLOCKS if kind == "sh" for part in command_lines(block) for line in part.split(" && ")
           if line.startswith("stepdr ")]
PRINTED += [(name, line) for name, epilog in HELP.items() for line in command_lines(epilog)]
LONG = {"judge train": ["--steps", "2", "--rl-iterations", "1", "--rl-labels", "2", "--rl-samples", "2", "--answer-tokens", "8"],
        "run": ["--list"], "ppo": ["--iterations", "1", "--episodes", "4", "--episodes-per-task", "2", "--reply-tokens", "8"], "sft": ["--steps", "2"], "midtrain": ["--steps", "2"], "corpus walk": ["-n", "20"]}  # what takes minutes is looked at here, and run in the pipeline's own tests
READ = ("judge train reports/", "model smollm2")  # of these only the words are read: their own tests train a judge of a run, and prepare a tiny model


def in_order(printed): # builds before what reads them
    return sorted(enumerate(printed), key=lambda one: (next((n for n, start in enumerate(("stepdr graph build", "stepdr corpus build", "stepdr pairwise make")) if one[1][1].startswith(start)), 9), one[0]))


PRINTED = [example for _, example in in_order(dict.fromkeys(PRINTED))]


# ---------------------------------------------------------------- what is said beside the examples

def own_paths(line):
    "The files and folders that an example reads and the project does not ship."
    words, skip, found = shlex.split(line)[2:], False, []
    for word in words:
        if skip: skip = False
        elif word in ("--out", "--workspace", "--dropped", "--funnel"): skip = True
        elif re.fullmatch(r"(?:[\w-]+=)?[\w.-]+(?:/[\w.-]+)*/?", word) and ("/" in word or re.search(r"\.(?:jsonl?|csv|toml|parquet|md)$", word)): found.append(word.rpartition("=")[2])
    return [path for path in found if not re.fullmatch(r"[\d./]+", path) and not (root() / path).exists()]


@pytest.mark.parametrize("where, line", PRINTED)
def test_what_an_example_needs_is_said_beside_it(where, line):
    block = next((block for page, kind, block in BLOCKS if page == where and kind == "sh" and line.split(" --")[0] in block), "")
    beside = PAGES[where].replace(block, "") if where in PAGES else HELP[where].partition("needs:")[2]
    made = set(re.findall(r"--out (\S+)", block.partition(line.split(" --")[0])[0]))  # by the lines before it
    for path in set(own_paths(line)) - made:
        assert any(part in beside for part in (path, path.rstrip("/") + "/", "/".join(path.split("/")[:2]))), f"{where}: {path} is said nowhere: {line}"
    if ADDRESS.search(line): assert "server" in beside, f"{where}: {line}"
    if "--web live" in line: assert "search key" in beside or "_API_KEY" in beside, f"{where}: {line}"


@pytest.mark.parametrize("name", [name for name in HELP if name != "stepdr doctor"])
def test_every_command_has_an_example(name): assert command_lines(HELP[name]) and all(line.startswith(name) for line in command_lines(HELP[name]))


def test_every_fact_that_an_example_asks_for_is_on_a_page_of_the_closed_web():
    web = shipped_web()
    stated = defaultdict(set)
    for paragraph in web.world.paragraphs.values():
        stated[paragraph.title].update(fact.relation for fact in paragraph.statements)
    cues = {relation: [tuple(words(cue)) for cue in relation_words(wording)] for relation, wording in web.graph.wording.items()}
    quoted = {text for shown in (*PAGES.values(), *HELP.values()) for text in re.findall(r'"([^"\n]+)"', shown)}
    asked = {(name, relation) for text in quoted for name in stated if len(words(name)) > 1 and contains(words(text), words(name))
             for relation, said in cues.items() if any(contains(words(text), cue) for cue in said)}
    assert len(asked) >= 2
    assert [(name, relation) for name, relation in asked if relation not in stated[name]] == []


def test_every_file_that_a_page_names_is_there():
    modules = {path.relative_to(root()).with_suffix("").as_posix().replace("/", ".") for path in (root() / "stepdr").rglob("*.py")}
    targets = re.findall(r"^(\w+):", (root() / "Makefile").read_text(), re.MULTILINE)
    guides = {where: page for where, page in PAGES.items() if not where.startswith(("docs/decisions/", "docs/log", "CHANGELOG"))}  # those tell of former things too
    assert len(guides) > 10
    for where, page in guides.items():
        named = re.findall(r"`((?:data|docs|nbs|benchmarks|tests|\.ci|\.github)(?:/[\w.-]+)*)/?`", page)
        assert [name for name in named if not (root() / name).exists()] == [], where
        notebooks = re.findall(r"`(\d\d_[a-z]+/\d\d_\w+)`", page)
        assert [name for name in notebooks if not (root() / "nbs" / f"{name}.ipynb").is_file()] == [], where
        names = re.findall(r"`(stepdr(?:\.\w+)+)`", page)
        assert [name for name in names if name not in modules and name.rpartition(".")[0] not in modules and f"{name}.__init__" not in modules] == [], where
        assert set(re.findall(r"`?make (\w+)`?(?=[ `,);.]| *#)", page)) & {"pipeline", "test", "setup", "tools"} <= set(targets), where


def test_the_reading_order_has_each_notebook_once_with_its_module():
    cells = [line.split(" | ") for line in PAGES["docs/notebooks.md"].splitlines() if line.startswith("| `")]
    rows = [(re.findall(r"`([\w/]+)`", row), re.findall(r"\.(\w+)`", modules)) for row, modules, *_ in cells]
    there = {path.relative_to(root() / "nbs").with_suffix("").as_posix(): path for path in (root() / "nbs").rglob("*.ipynb")
             if ".ipynb_checkpoints" not in path.parts}
    assert sorted(name for names, _ in rows for name in names) == sorted(there)
    for names, modules in rows:
        assert modules == [name.rpartition("/")[2][3:] for name in names if "#| default_exp" in there[name].read_text(encoding="utf-8")], names


# ---------------------------------------------------------------- and they run

class NoResults(http.server.BaseHTTPRequestHandler):
    "A SearXNG that finds nothing."
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.end_headers()
        self.wfile.write(b'{"query": "", "results": [], "unresponsive_engines": []}')
    def log_message(self, *_): pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder as a newcomer's checkout looks after `make setup` and a run, with files of their own under the names of the examples."
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "data").symlink_to(root() / "data")
    (folder / "docs").symlink_to(root() / "docs")
    make_prepared(folder / "models", [PAGES["README.md"], PAGES["docs/research.md"], PAGES["docs/training.md"]])
    web = make_run(folder / "reports" / "quick-seed0")
    make_own_files(folder)
    make_offline(folder / "offline", web)
    return folder


def answers(messages):
    "A model for whatever an example asks: one search, then a report; to a judge it says something that can be read as a grade."
    if any("batch_web_surfer" in json.dumps(message.get("tool_calls") or "") for message in messages): return turn("<answer># Found\n\nNothing more.</answer>")
    if messages[0]["role"] == "system" and "batch_web_surfer" in messages[0]["content"]: return turn("", calls=[("batch_web_surfer", {"action": "batch_search", "queries": ["tides", "Jack Lemmon record label"]})])
    return turn('{"verdict": "satisfied", "grade": "A", "preference": "left", "reason": "so it is", "query": "How did the towns live?"}')


@pytest.fixture(scope="module")
def servers():
    searx = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoResults)
    threading.Thread(target=searx.serve_forever, daemon=True).start()
    with ScriptedModel(answers, models=["scripted", "qwen3", "deepseek-chat"]) as model: yield model.url, f"http://127.0.0.1:{searx.server_port}"
    searx.shutdown()


def serve_for_a_moment(words, place, environment):
    "A command that serves until it is stopped: it must be up, and end when it is told to."
    if "--port" in words:  # a free one: the printed port may be taken on this machine
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            words[words.index("--port") + 1] = str(free.getsockname()[1])
    elif words[0] == "pairwise": words += ["--port", "0"]
    process = subprocess.Popen([sys.executable, "-c", "import sys; from stepdr.run.cli import main; sys.exit(main())", *words], cwd=place, env={**os.environ, **environment},
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(12)
    process.send_signal(signal.SIGINT)
    try: said = process.communicate(timeout=30)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[0]
    assert "Traceback" not in said.replace("KeyboardInterrupt", "") or "KeyboardInterrupt" in said, said[-2000:]
    assert not re.search(r"^stepdr: (?!interrupted)", said, re.MULTILINE), said[-2000:]


@pytest.mark.parametrize("line", dict.fromkeys(line for _, line in PRINTED))
def test_an_example_runs_as_printed(place, servers, line, monkeypatch, capsys):
    model, searx = servers
    words = shlex.split(ADDRESS.sub(lambda found: f"{model}#{found[0].rpartition('#')[2]}", line).replace("URL#NAME", f"{model}#qwen3").replace("QUESTION", "What is known of tides?"))[1:]
    environment = {"SEARXNG_URL": searx, "OPENAI_API_KEY": "none", "DEEPSEEK_API_KEY": "none", "STEPDR_API_KEY": "none", "STEPDR_MODELS": str(place / "models")}
    for name, value in environment.items(): monkeypatch.setenv(name, value)
    monkeypatch.chdir(place)
    if words[0] == "mcp" or words[:2] == ["pairwise", "serve"]: return serve_for_a_moment(words, place, environment)
    if words[:1] == ["compare"]: compared(place / words[1], place / words[2])
    if " ".join(words).startswith(READ):
        options = make_parser().parse_args(words)
        assert words[0] != "judge" or (place / options.run / "world" / "pages.json").is_file()
        return
    if "--list-parameters" not in words: words += LONG.get(words[0], LONG.get(" ".join(words[:2]), []))
    status = main(words)
    said = capsys.readouterr()
    needs_model = bool(ADDRESS.search(line)) or "models/" in line or "URL#NAME" in line
    assert status == 0 or (status == 1 and (needs_model or words[0] == "doctor")), said.err[-2000:]


def compared(first, second):
    "Two evaluations of one benchmark to compare."
    if not (first / "results.json").exists():
        with contextlib.redirect_stdout(io.StringIO()): assert main(["eval", "researchrubrics", "--verdicts", "verdicts.jsonl", "--out", str(first), "--json"]) == 0
    if not (second / "results.json").exists(): shutil.copytree(first, second, dirs_exist_ok=True)


def test_the_offline_config_runs_as_it_says(place, monkeypatch, capsys):
    text = (root() / "docs" / "offline.toml").read_text()
    lines = [re.split(r"\s{2,}\(", line.removeprefix("#").removeprefix(" Then:").strip())[0] for line in text.splitlines() if "stepdr " in line and line.startswith("#")]
    monkeypatch.chdir(place / "offline")
    assert len(lines) == 3
    for line in lines: assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err[-2000:]
    parts = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["parts"]
    assert set(parts) == {part["name"] for part in tomllib.loads(text)["part"]}
    assert all(part["items"] for name, part in parts.items() if name != "hard"), parts  # hard takes what graph made
    assert sum(part["rows"] > 0 for part in parts.values()) >= 8, parts


def test_the_python_examples_run_one_after_the_other(place, servers, monkeypatch, capsys):
    "In one namespace, as a reader would paste them; what a comment says comes out is what comes out."
    monkeypatch.chdir(place)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    space, blocks = {}, [(where, block) for where, kind, block in BLOCKS if kind == "python"]
    assert len(blocks) >= 5
    for where, block in blocks:
        exec(compile(ADDRESS.sub(f"{servers[0]}#qwen3", block), where, "exec"), space)
        for line, result in re.findall(r"^(\w+\(.*\)) +# (True|False|-?\d[\d.]*)(?:;|$)", block, re.MULTILINE): assert eval(line, space) == eval(result), line
    assert "Jack Lemmon" in capsys.readouterr().out


def test_the_headers_of_benchmarks_name_options_that_they_have():
    for path in sorted((root() / "benchmarks").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        for usage in re.findall(r"^    python benchmarks/(\S+)(.*)$", source, re.MULTILINE):
            assert usage[0] == path.name, path
            for option in re.findall(r"--[\w-]+", usage[1]): assert option[2:] in source.replace(usage[1], ""), f"{path.name} {option}"
    assert Path(root() / "benchmarks" / "README.md").is_file()


def test_nothing_cites_what_readers_do_not_have():
    "Readers have this repository and the report; what is cited is the report's section, by its topic."
    for path in [*(root() / "nbs").rglob("*.ipynb"), *(root() / "docs").rglob("*.*"), *root().glob("*.md"), *(root() / "stepdr").rglob("*.py")]:
        found = re.search(r"\bSPEC(?:\.md| ?\d|\b)", path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[0]}"
