"""The real chain of stages with a few steps each, through the real command: what it writes, what it keeps, kills, bad input.

Models of this size and length of training answer nothing; what is tested is that everything fits together and is the same every time.
"""
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from stepdr.core.artifacts import read_json, read_jsonl, read_metrics, root, sha256_path
import stepdr as stepdr_package
from stepdr.core.config import PROFILES
from stepdr.run.stages import STAGES
from stepdr.run.kernels import end_leftover_kernels
from stepdr.run.settings import open_run
from stepdr.run.state import code_hashes

from killed_runs import assert_same_outcome, files, kill_when, results, stepdr

MICRO = ("--profile", "micro")
SMALL = {"tokens_per_step": 1024, "processes": 2,
         "midtrain.curve": 3, "midtrain.stage1_tokens": 60_000, "midtrain.stage2_tokens": 20_000, "sft.tokens": 110_000,  # a checkpoint after 50 steps
         "judge.tokens": 10_000, "ppo.iterations": 7, "ppo.minibatch": 8}  # a checkpoint after 5 iterations
MODELS = {"base", "midtrain", "sft_without_midtrain", "sft", "ppo"}
METRICS = {"simpleqa", "triviaqa", "frames", "rubric", "rubric_strict", "report_success", "citation_precision", "citation_recall", "tool_calls", "tokens"}
KILLS = {  # stage -> what lies in the run's folder at the moment of the kill, in the middle of the stage's work
    "midtrain": ("checkpoints/midtrain/.midtrain1.training/checkpoint.pt", 1), "sft": ("models/.sft_without_midtrain.training/checkpoint.pt", 1),
    "ppo": ("models/.ppo.training/checkpoint.pt", 1), "evaluate": ("checkpoints/evaluate/*.jsonl", 6)}


def arguments(folder, **changed):
    values = {**SMALL, **{name.replace("__", "."): value for name, value in changed.items()}}
    return ["run", *MICRO, "--out", str(folder), "--seed", "3", "--device", "cpu", *(text for name, value in values.items() for text in ("-p", f"{name}={value}"))]


def run(folder, environment=None, **changed):
    "A run that must succeed; returns what it printed."
    done = stepdr(*arguments(folder, **changed), environment=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def complaint(done):
    "The one line of a refused command."
    assert done.returncode == 2, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    assert done.stderr.startswith("stepdr: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.stderr


# In each process of a stage: a line for every module of stepdr that is imported and every file of the project's data that is opened.
TRACE = """
import os, sys
from pathlib import Path
if "STEPDR_RUN_FOLDER" in os.environ and "TRACE_FOLDER" in os.environ:
    stage = next(Path(os.environ["STEPDR_RUN_FOLDER"], "checkpoints").glob("*.json")).stem
    trace = open(Path(os.environ["TRACE_FOLDER"], f"{stage}.{os.getpid()}"), "w", buffering=1)
    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "stepdr": print("module", name, file=trace)
    def opened(event, given):
        if event == "open" and isinstance(given[0], str) and given[0].startswith(os.environ["TRACE_DATA"]): print("data", given[0], file=trace)
    sys.meta_path.insert(0, Watch())
    sys.addaudithook(opened)
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    "An undisturbed run of all stages, and what it printed; what its processes imported and opened lies beside it, in `trace`."
    home = tmp_path_factory.mktemp("chain")
    (home / "trace").mkdir()
    (home / "sitecustomize.py").write_text(TRACE)
    watched = {"PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]), "TRACE_FOLDER": str(home / "trace"), "TRACE_DATA": str(root() / "data")}
    return home / "run", run(home / "run", watched)


def traced(folder, kind):
    "{stage: what its processes imported (\"module\") or opened (\"data\")}."
    seen = {}
    for path in (folder.parent / "trace").iterdir():
        lines = (line.split(" ", 1) for line in path.read_text().splitlines())
        seen.setdefault(path.name.split(".")[0], set()).update(name for what, name in lines if what == kind)
    return seen


def test_every_stage_wrote_what_it_declares(chain):
    folder, printed = chain
    for stage in STAGES:
        for path in stage.writes: assert (folder / path).exists(), path
        for name in stage.metrics: assert read_metrics(folder / f"metrics/{name}.jsonl"), name
        manifest = read_json(folder / f"manifests/{stage.name}.json")
        assert set(manifest["outputs"]) == set(stage.writes) and all(manifest["outputs"][path] == sha256_path(folder / path) for path in stage.writes)
        if stage.notebook: assert (folder / f"notebooks/{stage.name}.ipynb").exists() and (folder / f"notebooks/{stage.name}.html").exists()
        assert not (folder / f"checkpoints/{stage.name}").exists()
    snapshots = sorted((folder / "models/midtrain_curve").iterdir())
    assert len(snapshots) == 6 and all(read_json(path / "point.json")["tokens"] for path in snapshots)
    for model in [*snapshots, *(path for path in (folder / "models").iterdir() if path.name != "midtrain_curve")]:
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {path.name for path in model.iterdir()}, model
    assert all(row["read"] == row["kept"] + row["dropped"] for row in read_json(folder / "data/funnel.json"))
    assert [row["step"] for row in read_metrics(folder / "metrics/ppo.jsonl")] == list(range(1, 8))
    assert "midtrain_gain" in printed and f"report: {folder / 'index.html'}" in printed.splitlines()[-1]


def test_results_have_the_shape_that_is_promised(chain):
    found = results(chain[0])
    assert set(found) >= {"profile", "seed", "wall_seconds", "peak_rss_mb", "stages", "judge", "pairwise", "differences"}
    assert found["profile"] == "micro" and found["seed"] == 3 and found["wall_seconds"] > 0 and 50 < found["peak_rss_mb"] < 4096
    assert set(found["stages"]) == MODELS
    for model, metrics in found["stages"].items():
        assert METRICS | {f"{name}_t1" for name in METRICS} <= set(metrics), model
        for cell in metrics.values(): assert cell["low"] <= cell["mean"] <= cell["high"] and cell["n"] > 0
    assert found["stages"]["ppo"]["rubric_strict"]["n"] == 10 and found["stages"]["ppo"]["simpleqa"]["n"] == 8
    assert 0 <= found["judge"]["macro_f1"] <= 1 and found["judge"]["n"] > 0
    for pair in ("sft_vs_sft_without_midtrain", "ppo_vs_sft"): assert sum(found["pairwise"][pair][name] for name in ("win", "tie", "loss")) == 10
    for gain in ("midtrain_gain", "ppo_gain"):
        assert set(found["differences"][gain]) >= {"metric", "mean", "low", "high"} and found["differences"][gain]["metric"] == "rubric_strict"
    episodes = read_json(chain[0] / "evaluation/samples.json")
    assert episodes and set(episodes[0]) == {"task", "reports", "sources"}


def test_index_asks_no_network(chain):
    page = (chain[0] / "index.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and len(page) > 10_000
    assert not any(text in page for text in ('src="http', "src='http", 'rel="stylesheet" href="http', "@import url(http"))


def test_the_same_command_repeats_nothing(chain):
    folder, _ = chain
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", ".lock")]
    before = {path: path.stat().st_mtime_ns for path in files}
    printed = run(folder)
    assert printed.count("unchanged, kept") == len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_changed_line_in_any_module_that_a_stage_imported_makes_it_stale(chain, tmp_path, monkeypatch):
    imported = traced(chain[0], "module")
    assert set(imported) == {stage.name for stage in STAGES if stage.notebook} and "stepdr.rl.ppo" in imported["ppo"]
    monkeypatch.setenv("STEPDR_HOME", str(root()))
    package = tmp_path / "stepdr"
    shutil.copytree(Path(stepdr_package.__file__).parent, package)
    monkeypatch.setattr(stepdr_package, "__file__", str(package / "__init__.py"))
    opened = open_run(out=tmp_path / "run")
    stages = {stage.name: stage for stage in STAGES}
    before = {name: code_hashes(opened, stage) for name, stage in stages.items()}
    for module in sorted(set().union(*imported.values())):
        stem = package.joinpath(*module.split(".")[1:])
        file = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        text = file.read_text()
        file.write_text(text + "CHANGED = True\n")
        for name in imported:
            if module in imported[name]: assert code_hashes(opened, stages[name]) != before[name], (name, module)
        file.write_text(text)
    assert {name: code_hashes(opened, stage) for name, stage in stages.items()} == before


def test_every_file_of_the_project_that_a_stage_opened_is_declared(chain):
    "The facts excepted: lessons of several notebooks show them."
    declared = {stage.name: [root() / path for path in stage.project] for stage in STAGES}
    opened = traced(chain[0], "data")
    assert any("authority" in path for path in opened["synthesis"])
    for stage, paths in opened.items():
        for path in map(Path, paths):
            assert path.parent in declared[stage] or path.parent == root() / "data/kg", (stage, path)


def run_all(notebook, home=None, **parameters):
    "\"Run all\" on the run cells of a stage's notebook, in a kernel of its own as JupyterLab starts one; returns what they printed."
    book = nbformat.read(root() / "nbs" / notebook, 4)
    book.cells = [cell for cell in book.cells if cell.source.startswith("#| run")]
    given = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    given.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root()), os.environ.get("PYTHONPATH", "")])} | ({"STEPDR_HOME": str(home)} if home else {})
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(root() / "nbs")}}).execute(env=environment)
    return "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))


def test_run_all_in_a_stage_notebook_works_on_small_data_of_its_own(home):
    printed = run_all("50_model/02_base.ipynb", home)
    assert "profile micro" in printed and "million parameters" in printed
    scratch = home / "reports/scratch"
    assert (scratch / "models/base/model.safetensors").exists() and not (scratch / "manifests/base.json").exists()
    assert [path.name for path in (home / "reports").iterdir() if path.name != ".gitkeep"] == ["scratch"]
    assert "unchanged, kept" in run_all("50_model/02_base.ipynb", home)


def test_run_all_pointed_at_a_finished_run_leaves_it_as_it_is(chain, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(chain[0], folder)
    before = {path: sha256_path(folder / path) for path in ("models/ppo", "metrics/ppo.jsonl", "manifests/ppo.json")}
    with pytest.raises(CellExecutionError, match="InputError.*holds .*ppo.* already; overwrite = True replaces it"): run_all("80_rl/06_ppo.ipynb", run_dir=str(folder))
    assert {path: sha256_path(folder / path) for path in before} == before
    given = {name.split(".")[1]: value for name, value in SMALL.items() if name.startswith("ppo.")} | {"iterations": 1, "critic_warmup": 0}
    run_all("80_rl/06_ppo.ipynb", run_dir=str(folder), overwrite=True, **given)
    assert len(read_metrics(folder / "metrics/ppo.jsonl")) == 1 and not (folder / "manifests/ppo.json").exists()


def test_a_stage_notebook_by_itself_has_the_values_of_micro():
    for stage in STAGES:
        if not stage.notebook: continue
        cell = next(cell for cell in nbformat.read(root() / "nbs" / stage.notebook, 4).cells if "parameters" in cell.metadata.get("tags", []))
        values = {}
        exec(cell.source, values)
        for name, value in asdict(PROFILES["micro"][stage.name]).items(): assert values[name] == value, (stage.name, name)
        assert values["run_dir"] == "" and values["overwrite"] is False


def test_killed_in_four_stages_it_ends_with_the_same_results(chain, tmp_path):
    undisturbed, folder = chain[0], tmp_path / "killed"
    for path in ("world", "data", "models/base", *(f"manifests/{name}.json" for name in ("world", "synthesis", "base"))):   # these are quick, and not killed
        copy = shutil.copytree if (undisturbed / path).is_dir() else shutil.copy
        (folder / path).parent.mkdir(parents=True, exist_ok=True); copy(undisturbed / path, folder / path)
    try:
        for stage, (pattern, count) in KILLS.items():
            assert kill_when(arguments(folder), lambda: files(folder, pattern, count)), f"{stage}: the command ended before it could be killed"
            assert not (folder / f"manifests/{stage}.json").exists(), f"{stage}: was finished when it was killed"
        printed = run(folder)
    finally: end_leftover_kernels(folder)
    assert "interrupted" in printed and printed.count("unchanged, kept") == 7       # all before the stage that was killed last
    assert_same_outcome(folder, undisturbed, (*MODELS, "judge"))


# ---- bad input: one line, exit status 2, no traceback, nothing half-written

@pytest.fixture
def home(tmp_path):
    "A project of which the facts can be damaged."
    place = tmp_path / "home"
    place.mkdir()
    (place / "nbs").symlink_to(root() / "nbs"); (place / "settings.ini").symlink_to(root() / "settings.ini")
    for name in ("kg", "authority"): shutil.copytree(root() / "data" / name, place / "data" / name)
    return place


def two_columns(text): return text.replace("\n", "\nQ16\tP30\n", 1)
def unknown_entity(text): return text.replace("\n", "\nQ16\tP30\tQ999999999\n", 1)
def half(text): return text[:len(text) // 2].rpartition("\n")[0] + "\n"
def torn(text): return half(text) + "Q16\tP3"


SEARCH = '{"action": "batch_search", "queries": ["Jack Lemmon school"]}'
DAMAGES = [("triples.txt", two_columns, "triples.txt:2: expected 3 tab-separated columns, got 2"), ("triples.txt", unknown_entity, "triples.txt:2: unknown entity id 'Q999999999'"),
           ("triples.txt", torn, "expected 3 tab-separated columns, got 2"), ("entity.txt", half, "unknown entity id"), ("relation.txt", half, "unknown relation id"), ("entity.txt", lambda text: "", "empty or truncated")]


@pytest.mark.parametrize("name, damage, message", DAMAGES, ids=["two columns", "unknown entity", "torn line", "half the entities", "half the relations", "empty"])
def test_damaged_facts_are_named_with_their_line(home, name, damage, message):
    path = home / "data/kg" / name
    path.write_text(damage(path.read_text()))
    assert message in complaint(stepdr("tool", "batch_web_surfer", SEARCH, home=home))


def test_missing_facts(home):
    (home / "data/kg/relation.txt").unlink()
    assert "relation.txt: no such file" in complaint(stepdr("tool", "batch_web_surfer", SEARCH, home=home))


def test_damaged_facts_stop_a_run_before_it_writes(home, tmp_path):
    path = home / "data/kg/triples.txt"
    path.write_text(two_columns(path.read_text()))
    assert "triples.txt:2: expected 3" in complaint(stepdr(*arguments(tmp_path / "run"), "--until", "world", home=home))
    assert not (tmp_path / "run/world").exists() and not (tmp_path / "run/manifests/world.json").exists()


@pytest.mark.parametrize("given, message", [
    (["-p", "sft.tokenz=3"], "no parameter 'sft.tokenz'; did you mean sft.tokens"), (["-p", "ppo.clip=11"], "ppo.clip: 11.0 is out of range"),
    (["-p", "base.layers=two"], "expected int"), (["-p", "evaluate.split"], "expected NAME=VALUE"), (["--profile", "huge"], "no such profile"),
    (["-p", "base_model=models/of/nobody"], "models/of/nobody: no such folder"), (["-p", "base_model=VIT"], "config.json: model_type is 'vit', which is no causal"),
    (["-p", "base_model=EMPTY"], "no model here"), (["-p", "base.width=100"], "base.width: 100 is no multiple of 8"),
    (["-p", "sft_mixture=reports=1"], "synthesis.sft_mixture: no category 'reports'"), (["--device", "cuda:0"], "torch finds no GPU"), (["--kernel", "none"], "no such Jupyter kernel")])
def test_wrong_parameters_are_refused_before_anything_is_written(tmp_path, given, message):
    for name, config in (("VIT", '{"model_type": "vit"}'), ("EMPTY", None)):
        (tmp_path / name).mkdir()
        if config: (tmp_path / name / "config.json").write_text(config)
    given = [text.replace("=VIT", f"={tmp_path / 'VIT'}").replace("=EMPTY", f"={tmp_path / 'EMPTY'}") for text in given]
    assert message in complaint(stepdr("run", *MICRO, "--out", tmp_path / "run", *given))
    listed = stepdr("run", *MICRO, "--out", tmp_path / "run", *given, "--list")
    assert listed.returncode == 2 and message in listed.stderr and listed.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_base_model_is_looked_at_without_its_weights(chain, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(chain[0] / "models/base", model)
    def listed(): return stepdr("run", *MICRO, "--out", tmp_path / "run", "-p", f"base_model={model}", "--list")
    assert listed().returncode == 0
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:len(weights) // 2])
    assert "not a whole safetensors file" in listed().stderr
    (model / "model.safetensors").unlink()
    assert "no weights" in listed().stderr
    (model / "model.safetensors").write_bytes(weights)
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text().replace("<|im_end|>", "<|end|>"))
    assert "<|im_end|>, which ends a turn" in listed().stderr


def test_checkpoints_that_cannot_be_used(chain, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(chain[0] / "models/sft", model)
    def research(): return complaint(stepdr("research", "Who ?", "--model", model, "--workspace", tmp_path / "work"))
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:len(weights) // 2])
    assert "restore the checkpoint" in research()
    (model / "config.json").unlink()
    assert "config.json is missing" in research()


def test_truncated_results(tmp_path):
    (tmp_path / "run.json").write_text("{}"); (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/results.json").write_text('{"stages": {"ba')
    assert "results.json, line 1" in complaint(stepdr("results", tmp_path, "--json"))


def test_a_broken_row_of_data_is_named(chain, tmp_path):
    "Data damaged behind the runner's back is made again by the runner; read by hand, the line is named."
    path = tmp_path / "tasks_dev.jsonl"
    path.write_text((chain[0] / "data/tasks_dev.jsonl").read_text()[:-20])
    with pytest.raises(ValueError, match=r"tasks_dev\.jsonl, line \d+: not JSON"): read_jsonl(path)
