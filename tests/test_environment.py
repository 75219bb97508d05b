"The tools as TRL's environment: schemas, a real GRPO run over the closed web, episodes that are given back."
import inspect
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from stepdr.core.artifacts import root
from stepdr.rl.environment import RESPONSE_TEMPLATE, environment_class, kit_environment, trl_tokenizer
from stepdr.model.base import make_model, train_tokenizer, training_text
from stepdr.tools.tool import Toolbox, ToolError, tool_schema
from stepdr.tools.closed import ClosedToolbox, Environment
from stepdr.tools.toolset import TOOL_NAMES, KitSettings, open_kit
from stepdr.tools.sandbox import probe
from stepdr.tools.workspace import Workspace
from stepdr.core.trajectory import END, assistant_text, parse_turn, render, segments
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph

NAMES = ("Jack Lemmon", "Yoko Ono")  # both are in the closed web
BATCH, STEPS = 32, 10


@pytest.fixture(scope="module")
def web(): return ClosedWeb(load_graph(root() / "data" / "kg"))


def question(name): return {"role": "user", "content": f"What is known of {name} ?"}


def tool_turn(name, **arguments):
    return {"role": "assistant", "reasoning_content": "plan", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


# 1. schemas

@pytest.fixture(scope="module")
def whole_kit(web):
    "An environment class of all tools, over the closed web."
    made = kit_environment(KitSettings(tools="all"), web=web)
    yield made
    made.close_all()


def methods_of(made):
    "The public functions of a class, which is how TRL finds tools."
    return {name for name, _ in inspect.getmembers(made, predicate=inspect.isfunction) if not name.startswith("_")}


def test_methods_are_the_tools_and_nothing_else(whole_kit):
    assert methods_of(whole_kit) == {*TOOL_NAMES, "reset"}
    rewarded = environment_class(None, [Environment.todo], reward=lambda row, toolbox: 0.0)
    assert methods_of(rewarded) == {"todo", "reset", "get_reward"}


def the_tools(web):
    with tempfile.TemporaryDirectory() as folder, open_kit(Workspace(folder), KitSettings(tools="all"), web) as kit: return {**kit.tools, "todo, closed": Environment.todo, "batch_web_surfer, closed": Environment.batch_web_surfer}


def test_schemas_agree_with_transformers(web, whole_kit):
    from transformers.utils import get_json_schema
    closed = environment_class(None, [Environment.batch_web_surfer, Environment.todo])
    tools, enums = the_tools(web), 0
    assert len(tools) == len(TOOL_NAMES) + 2
    for name, tool in tools.items():
        method = getattr((closed if name.endswith(", closed") else whole_kit)(), tool.__name__)  # bound to an instance, as TRL passes it
        theirs, ours = get_json_schema(method)["function"], tool_schema(tool)["function"]
        theirs.pop("return", None)
        theirs["parameters"].setdefault("required", [])
        assert theirs == ours
        enums += sum("enum" in p for p in ours["parameters"]["properties"].values())
    assert enums >= 4


# 2. the wire format as TRL reads it

TURNS = (assistant_text(tool_turn("todo", action="create", items=["a <b>", "北京"])) + END, "<think>a\nb</think><answer> London</answer>" + END, "<answer>Lon", END,
         '<tool_call>{"name": "x", "arguments": {}}</tool_call><tool_call>{"name": "y", "arguments": {"z": [1, null]}}</tool_call>' + END,
         'so<tool_call>{"name": "x", "arguments": {"q": "</think>"}}</tool_call>' + END)


def test_turns_are_read_as_by_our_parser():
    from trl.chat_template_utils import is_chat_template_prefix_preserving, parse_response, supports_tool_calling
    tokenizer = train_tokenizer(map(str, TURNS), 700)
    with pytest.raises((AttributeError, ValueError)): tokenizer.parse_response("x", prefix="")  # without the template TRL cannot
    tokenizer = trl_tokenizer(tokenizer)
    assert supports_tool_calling(tokenizer) and is_chat_template_prefix_preserving(tokenizer)
    prefix, _ = render([question("Ada")], tokenizer, generation_prompt=True)
    for text in TURNS: assert parse_response(tokenizer, tokenizer.encode(text), prefix=prefix) == parse_turn(text)


def test_a_saved_tokenizer_keeps_the_template(tmp_path):
    from transformers import AutoTokenizer
    trl_tokenizer(train_tokenizer(["a b"], 600)).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).response_template == RESPONSE_TEMPLATE


def test_another_format_is_left_alone():
    tokenizer = train_tokenizer(["a b"], 600)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert getattr(trl_tokenizer(tokenizer), "response_template", None) is None


# 3. a real GRPO run

def first_turns(name): # five habits; one of them is rewarded, two are mistakes
    return {"search": tool_turn("batch_web_surfer", action="batch_search", queries=[name], topk=2), "todo": tool_turn("todo", action="create", items=[name]),
            "wrong action": tool_turn("batch_web_surfer", action="batch_find", queries=[name]), "no such tool": tool_turn("calculator", x=1), "answer": None}


def example_episodes(web):
    "Each habit once for each name, with what the tools really answer."
    for name in NAMES:
        end = {"role": "assistant", "content": f"<answer> {name}</answer>"}
        for habit, first in first_turns(name).items():
            if first is None: yield [question(name), end]; continue
            call = first["tool_calls"][0]["function"]
            text = str({"error": "Tool calculator not found."}) if habit == "no such tool" else Environment(web, failure_rate=0.0).call(call)
            yield [question(name), first, {"role": "tool", "content": text}, end]


@pytest.fixture(scope="module")
def policy(web):
    "A tokenizer and a model that has learned the five habits, in a few seconds."
    import torch
    from stepdr.train.loop import train_rows
    torch.set_num_threads(1)
    episodes = list(example_episodes(web))
    tokenizer = trl_tokenizer(train_tokenizer((training_text({"messages": m}) for m in episodes), 800))
    rows = [{"input_ids": ids, "labels": [i if own else -100 for i, own in zip(ids, mask)]} for ids, mask in (render(m, tokenizer) for m in episodes)]
    return train_rows(make_model(len(tokenizer), width=64, layers=2, heads=4, seed=1), rows * 40, 120, 600, 3e-3, 0.02, 0), tokenizer


def watched_trainer():
    "GRPOTrainer that keeps what it sampled, its batches, and the log-probabilities with their gradients."
    from trl import GRPOTrainer

    class Watched(GRPOTrainer):
        sampled, batches, logps = set(), [], []

        def _generate_single_turn(self, *args, **kwargs):
            ids, *rest = super()._generate_single_turn(*args, **kwargs)
            self.sampled.update(map(tuple, ids))
            return ids, *rest

        def _compute_loss(self, model, inputs):
            self.batches.append(inputs)
            return super()._compute_loss(model, inputs)

        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            logps, *rest = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            if logps.requires_grad: logps.retain_grad(); self.logps.append(logps)
            return logps, *rest
    return Watched


@pytest.fixture(scope="module")
def run(web, policy, tmp_path_factory):
    "Some steps of GRPO with the closed web as the environment; paragraphs read are the reward."
    import copy

    from datasets import Dataset
    from trl import GRPOConfig
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    opened, closed, scored, read = [], [], [], []

    class Watched(ClosedToolbox):
        def close(self): closed.append(self); super().close()

    def open_toolbox(row):
        opened.append(Watched(Environment(web, seed=row["id"], failure_rate=0.0)))
        return opened[-1]

    def reward(row, toolbox):
        scored.append(len(toolbox.read))
        read.append((row["id"], row["query"]))
        return len(toolbox.read)

    made = environment_class(open_toolbox, [Environment.batch_web_surfer, Environment.todo], reward)
    rows = [{"prompt": [question(name)], "id": f"t{at}", "query": name} for at, name in enumerate(NAMES)]
    settings = GRPOConfig(output_dir=str(tmp_path_factory.mktemp("grpo")), per_device_train_batch_size=BATCH, num_generations=BATCH // 2, max_completion_length=200, max_steps=STEPS,
                          learning_rate=1e-3, lr_scheduler_type="constant", max_tool_calling_iterations=3, temperature=1.0, logging_steps=1, save_strategy="no",
                          report_to="none", bf16=False, use_cpu=True, gradient_checkpointing=False, disable_tqdm=True, seed=0)
    trainer = watched_trainer()(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, environment_factory=made)
    trainer.train()
    still_open = len(opened) - len(closed)
    made.close_all()
    return {"trainer": trainer, "opened": opened, "closed": closed, "still_open": still_open, "scored": scored, "read": read, "tokenizer": tokenizer, "start": policy[0]}


def completions(run): # of all batches: (ids, tool mask or 0 where there is no token, text)
    for batch in run["trainer"].batches:
        for ids, there, own in zip(batch["completion_ids"], batch["completion_mask"], batch["tool_mask"]):
            ids, own = ids[there.bool()].tolist(), own[there.bool()].tolist()
            yield ids, own, run["tokenizer"].decode(ids)


def test_the_environments_received_the_calls(run):
    assert len(run["opened"]) == BATCH * STEPS  # each rollout with a fresh episode
    searched = [toolbox for toolbox in run["opened"] if toolbox.read]
    assert sum(toolbox.calls for toolbox in run["opened"]) > BATCH and BATCH // 4 < len(searched) < len(run["opened"])
    assert any(toolbox.environment.todos for toolbox in run["opened"])
    shown = [ids for ids, own, _ in completions(run) if "\\cite{web_" in run["tokenizer"].decode([i for i, mine in zip(ids, own) if not mine])]
    assert len(shown) == len(searched)  # what was read stands in the conversation that was trained on


def test_rows_reach_the_episodes(run):
    assert set(run["read"]) == {("t0", NAMES[0]), ("t1", NAMES[1])}
    assert {toolbox.environment.seed for toolbox in run["opened"]} == {"t0", "t1"}


def test_wrong_calls_come_back_as_corrections(run):
    texts = [text for _, _, text in completions(run)]
    assert any("error : unknown action batch_find" in text for text in texts) and any("Tool calculator not found" in text for text in texts)
    assert sum(row.get("tools/failure_frequency", 0) for row in run["trainer"].state.log_history) > 0


def pieces(ids, own): # -> runs of ids with the same mask
    return [(mask, [i for i, _ in group]) for mask, group in itertools.groupby(zip(ids, own), key=lambda pair: pair[1])]


def test_only_the_agents_tokens_are_trained_on(run):
    "Each run of trained tokens is a turn as it was sampled, each masked one is exactly what this project's renderer puts between two turns."
    tokenizer, seen = run["tokenizer"], 0
    for ids, own, _ in completions(run):
        for mask, part in pieces(ids, own):
            if mask: assert tuple(part) in run["trainer"].sampled; continue
            content = tokenizer.decode(part).split("<tool_response>\n", 1)[1].rsplit("\n</tool_response>", 1)[0]
            between = [("\n", False), *segments([{"role": "tool", "content": content}], generation_prompt=True)]
            assert part == [i for piece, _ in between for i in tokenizer.encode(piece, add_special_tokens=False)]
            seen += 1
    assert seen > BATCH


def test_masked_tokens_have_no_gradient(run):
    for batch, logps in zip(run["trainer"].batches, run["trainer"].logps, strict=True):
        own = (batch["completion_mask"] * batch["tool_mask"]).bool()
        tools = batch["completion_mask"].bool() & ~own
        assert tools.sum() > 100 and not logps.grad[tools].any() and not logps.grad[~batch["completion_mask"].bool()].any()
        assert logps.grad[own][(batch["advantages"][:, None] * own)[own] != 0].all()


def test_the_reward_is_the_environments(run):
    logged = [row["rewards/ToolEnvironment/mean"] for row in run["trainer"].state.log_history if "rewards/ToolEnvironment/mean" in row]
    assert logged == pytest.approx([sum(run["scored"][at * BATCH:(at + 1) * BATCH]) / BATCH for at in range(STEPS)]) and min(logged) > 0
    assert run["scored"] == [len(toolbox.read) for toolbox in run["opened"]]


def test_it_learns_to_search(run):
    third, searched = len(run["scored"]) // 3, [value > 0 for value in run["scored"]]
    print("searched:", sum(searched[:third]) / third, "in the first third of the rollouts,", sum(searched[-third:]) / third, "in the last")
    assert sum(searched[-third:]) > 1.5 * sum(searched[:third])


def test_weights_changed(run):
    before = dict(run["start"].named_parameters())
    moved = [float((after.detach() - before[name].detach()).abs().max()) for name, after in run["trainer"].model.named_parameters()]
    assert max(moved) > 1e-4 and all(value == value for value in moved)


def test_episodes_are_closed(run):
    assert run["still_open"] == BATCH  # TRL says no end; the last batch's are open until we close them
    assert len(run["closed"]) == len(run["opened"]) and set(map(id, run["closed"])) == set(map(id, run["opened"]))


# 4. episodes

def test_reset_closes_and_wrong_calls_do_not_raise():
    events = []

    def add(first: int, second: int = 1) -> str:
        """Add two numbers.

        first: a number
        second: another
        """
        if second == 13: raise ToolError("13 is not added here")
        return str(first + second)

    made = environment_class(lambda row: Toolbox([add], on_close=[lambda: events.append(row["id"])]), [add])
    one, two = made(), made()
    one.reset(id=1); two.reset(id=2)
    assert one.add(first=2) == "3" and not hasattr(one, "get_reward")
    assert one.add(first="2") == one.add(first=2.0) == "3" # only written differently
    for wrong in ({}, {"first": "2.5"}, {"first": 1, "third": 2}, {"first": 1, "second": 13}, {"first": [1]}, {"first": True}): assert one.add(**wrong).startswith("error: ")
    assert one.add(first=2, second=3) == "5" and events == []
    one.reset(id=3)
    assert events == [1] and two.add(first=1) == "2"
    made.close_all(); made.close_all()
    assert sorted(events) == [1, 2, 3]
    one.reset(id=4)
    assert one.add(first=4) == "5"
    made.close_all()


def test_one_that_cannot_be_closed_does_not_keep_the_others_open():
    closed = []

    def close(row):
        if row["id"] == 1: raise OSError("gone")
        closed.append(row["id"])

    made = environment_class(lambda row: Toolbox([], on_close=[lambda: close(row)]), [])
    for number in range(3): made().reset(id=number)
    with pytest.raises(OSError, match="gone"): made.close_all()
    assert sorted(closed) == [0, 2]
    made.close_all()


def running(mark): # -> processes whose command line holds the text
    def words(place):
        try: return (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError: return ""
    return [place.name for place in Path("/proc").iterdir() if place.name.isdigit() and place.name != str(os.getpid()) and mark in words(place)]


needs_sandbox = pytest.mark.skipif(not (shutil.which("bwrap") and shutil.which("tmux") and probe()[0]), reason="no bubblewrap or tmux that works here")


def gone(mark, seconds=20):
    "Whether processes end that have a text in their command line."
    deadline = time.monotonic() + seconds
    while running(mark) and time.monotonic() < deadline: time.sleep(0.1)
    return not running(mark)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    "A folder of its own for all that is temporary."
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@needs_sandbox
def test_the_whole_kit_is_given_back(whole_kit, temporary):
    environment = whole_kit()
    environment.reset(id="a")
    workspace = environment._toolbox.workspace.folder
    environment.file(action="write", path="a.txt", content="in the sandbox")
    assert "in the sandbox" in environment.shell(command="cat a.txt; sleep 98765.25 & sleep 0.2") and running("98765.25")
    assert "\\cite{web_" in environment.batch_web_surfer(action="batch_search", queries=["Jack Lemmon school"])
    assert environment.browser(action="teleport").startswith("error: ") and environment.shell(kommand="ls").startswith("error: ")
    assert environment.file_parser(path="no.pdf").startswith("error: ") and environment.asr(path="no.wav").startswith("error: ")
    if shutil.which("chromium"): assert "archive.example" in environment.browser(action="open", url="https://archive.example/") and running(f"{temporary}/playwright")
    environment.reset(id="b")
    assert gone("98765.25") and gone(f"{temporary}/playwright") and not workspace.exists()
    second = environment._toolbox.workspace.folder
    assert not (second / "a.txt").exists() and environment.file(action="write", path="b.txt", content="again") and (second / "b.txt").exists()
    whole_kit.close_all()
    assert not list(temporary.iterdir())


FORGETFUL = """
    from stepdr.rl.environment import kit_environment
    from stepdr.tools.toolset import KitSettings
    environment = kit_environment(KitSettings(tools="batch_web_surfer,browser,file,shell"))()
    environment.reset(id="a")
    assert "cite" in environment.batch_web_surfer(action="batch_search", queries=["Jack Lemmon school"])
    print(environment._toolbox.workspace.folder)
    environment.browser(action="open", url="https://archive.example/")
    print(environment.shell(command="echo started; sleep 98765.75 & sleep 0.2"))
"""


@needs_sandbox
def test_a_process_that_forgets_to_close_ends_all_the_same(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(FORGETFUL)], env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=root(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith(str(tmp_path)) and "started" in done.stdout
    assert gone("98765.75") and not list(tmp_path.iterdir())
