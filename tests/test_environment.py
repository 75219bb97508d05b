"The tools as TRL's environment: schemas, a real GRPO run over the closed web, episodes that are given back."
import copy
import inspect
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from stepdr.agent.budget import ResearchSettings
from stepdr.agent.protocol import PROTOCOLS, opening
from stepdr.core.artifacts import root
from stepdr.core.trajectory import assistant_text
from stepdr.model.base import make_model, train_tokenizer
from stepdr.model.renderer import CHATML, CHATML_SHORT, LLAMA3, renderer_for
from stepdr.rl.environment import environment_class, kit_environment, reward_function, trl_tokenizer
from stepdr.rl.rewards import FunctionReward
from stepdr.tools.sandbox import probe
from stepdr.tools.tool import Toolbox, ToolError, tool_schema
from stepdr.tools.toolset import TOOL_NAMES, KitSettings, episode_toolbox, open_kit
from stepdr.tools.workspace import Workspace
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph

NAMES = ("Jack Lemmon", "Yoko Ono")  # both are in the closed web
BATCH, STEPS = 32, 10
BRIEF = PROTOCOLS["brief"]


@pytest.fixture(scope="module")
def web(): return ClosedWeb(load_graph(root() / "data" / "kg"))


def asked(name): return opening(f"What is known of {name}?", BRIEF)


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


def test_methods_are_the_tools_and_nothing_else(web, whole_kit):
    assert methods_of(whole_kit) == {*TOOL_NAMES, "reset"}
    rewarded = environment_class(None, [episode_toolbox(web).tools["todo"]], reward=lambda row, toolbox: 0.0)
    assert methods_of(rewarded) == {"todo", "reset", "get_reward"}


def the_tools(web):
    with tempfile.TemporaryDirectory() as folder, open_kit(Workspace(folder), KitSettings(tools="all"), web) as kit:
        return dict(kit.tools)


def test_schemas_are_written_as_transformers_writes_them(web, whole_kit):
    "To the letter: a template writes them into the prompt."
    from transformers.utils import get_json_schema
    tools, enums = the_tools(web), 0
    assert len(tools) == len(TOOL_NAMES)
    for name, tool in tools.items():
        theirs, ours = get_json_schema(getattr(whole_kit(), name)), tool_schema(tool)  # bound to an instance, as TRL passes it
        theirs["function"]["parameters"].setdefault("required", [])
        assert json.dumps(theirs) == json.dumps(ours)
        enums += sum("enum" in p for p in ours["function"]["parameters"]["properties"].values())
    assert enums >= 4


# 2. a turn as TRL reads it

TURNS = (assistant_text(tool_turn("todo", action="create", items=["a <b>", "北京"])), "<think>\na\nb\n</think>\n\n<answer> London</answer>", "<answer>Lon", "",
         '<tool_call>\n{"name": "x", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "y", "arguments": {"z": [1, null]}}\n</tool_call>',
         'so\n<tool_call>\n{"name": "x", "arguments": {"q": "</think>"}}\n</tool_call>')


@pytest.mark.parametrize("template", ["chatml", "short", "llama3"])
def test_turns_are_read_as_by_our_parser(template):
    from trl.chat_template_utils import is_chat_template_prefix_preserving, parse_response, supports_tool_calling
    tokenizer = train_tokenizer(map(str, TURNS), 700)
    tokenizer.chat_template = CHATML_SHORT if template == "short" else None
    if template == "llama3":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "bos_token": "<|begin_of_text|>"})
    renderer = renderer_for(tokenizer, "own" if template == "short" else template)
    assert renderer.tokenizer.chat_template == {"chatml": CHATML, "short": CHATML_SHORT, "llama3": LLAMA3}[template]
    with pytest.raises((AttributeError, ValueError)):
        renderer.tokenizer.parse_response("x", prefix="")  # without the template TRL cannot
    tokenizer = trl_tokenizer(renderer)
    assert supports_tool_calling(tokenizer) and is_chat_template_prefix_preserving(tokenizer)
    prefix = renderer.prompt(asked("Ada"))
    for text in TURNS:
        for end in ([], [renderer.end_id]):
            ids = tokenizer.encode(text, add_special_tokens=False) + end
            if ids:
                assert parse_response(tokenizer, ids, prefix=prefix) == renderer.parse(ids)


def test_a_saved_tokenizer_keeps_the_template(tmp_path):
    from transformers import AutoTokenizer
    tokenizer = train_tokenizer(["a b"], 600)
    tokenizer.chat_template = None
    made = trl_tokenizer(renderer_for(tokenizer))
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.response_template == made.response_template
    assert trl_tokenizer(renderer_for(again)).response_template == made.response_template  # the checkpoint's own template is this project's


def test_another_template_is_left_alone():
    from trl.chat_template_utils import qwen3_training_chat_template
    tokenizer = train_tokenizer(["a b"], 600)
    tokenizer.chat_template = qwen3_training_chat_template
    assert getattr(trl_tokenizer(renderer_for(tokenizer)), "response_template", None) is None


# 3. a real GRPO run

def first_turns(name): # five habits; one of them is rewarded, two are mistakes
    return {"search": tool_turn("batch_web_surfer", action="batch_search", queries=[name], topk=2), "todo": tool_turn("todo", action="create", texts=[name]),
            "wrong action": tool_turn("batch_web_surfer", action="batch_find", queries=[name]), "no such tool": tool_turn("calculator", x=1), "answer": None}


def example_episodes(web):
    "Each habit once for each name, with what the tools really answer."
    for name in NAMES:
        end = {"role": "assistant", "content": f"<answer>{name}</answer>"}
        for habit, first in first_turns(name).items():
            if first is None:
                yield [*asked(name), end]
                continue
            call = first["tool_calls"][0]["function"]
            text = str({"error": "Tool calculator not found."}) if habit == "no such tool" else episode_toolbox(web).call(call).text
            yield [*asked(name), first, {"role": "tool", "content": text}, end]


@pytest.fixture(scope="module")
def policy(web):
    "A renderer and a model that has learned the five habits, in a few seconds."
    import torch
    from stepdr.train.loop import train_rows
    torch.set_num_threads(1)
    schemas, episodes = episode_toolbox(web).schemas, list(example_episodes(web))
    tokenizer = train_tokenizer([json.dumps([schemas, episodes], ensure_ascii=False), CHATML] * 3, 2000)
    tokenizer.chat_template = None
    renderer = renderer_for(tokenizer)
    rows = [{"input_ids": ids, "labels": [i if own else -100 for i, own in zip(ids, mask)]} for ids, mask in (renderer.render(m, schemas) for m in episodes)]
    model = make_model(len(renderer.tokenizer), width=64, layers=2, heads=4, context=2048, seed=1)
    return train_rows(model, rows * 40, 400, 1700, 3e-3, 0.02, 0), renderer


def watched_trainer():
    "GRPOTrainer that keeps what it was asked and what it sampled, its batches, and the log-probabilities with their gradients."
    from trl import GRPOTrainer

    class Watched(GRPOTrainer):
        sampled, prompted, batches, logps = set(), set(), [], []

        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            ids, *rest = super()._generate_single_turn(prompt_ids, *args, **kwargs)
            self.prompted.update(map(tuple, prompt_ids))
            self.sampled.update(map(tuple, ids))
            return ids, *rest

        def _compute_loss(self, model, inputs):
            self.batches.append(inputs)
            return super()._compute_loss(model, inputs)

        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            logps, *rest = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            if logps.requires_grad:
                logps.retain_grad()
                self.logps.append(logps)
            return logps, *rest
    return Watched


@pytest.fixture(scope="module")
def run(web, policy, tmp_path_factory):
    "Some steps of GRPO with the closed web as the environment; paragraphs read are the reward, by the tools and by a `Reward`."
    from datasets import Dataset
    from trl import GRPOConfig
    model, renderer = copy.deepcopy(policy[0]), policy[1]
    opened, closed, scored, outcomes = [], [], [], []

    def open_toolbox(row):
        toolbox = episode_toolbox(web, seed=row["id"])
        toolbox.toolbox.on_close.append(lambda: closed.append(toolbox))
        opened.append(toolbox)
        return toolbox

    def reward(row, toolbox):
        scored.append(len(toolbox.read))
        return len(toolbox.read)

    def judged(outcome):
        outcomes.append(outcome)
        return len(outcome.read)

    made = environment_class(open_toolbox, list(episode_toolbox(web).tools.values()), reward, ResearchSettings(tool_calls=2), brief=True)
    rows = [{"prompt": asked(name), "id": f"t{at}", "query": name} for at, name in enumerate(NAMES)]
    settings = GRPOConfig(output_dir=str(tmp_path_factory.mktemp("grpo")), per_device_train_batch_size=BATCH, num_generations=BATCH // 2, max_completion_length=400, max_steps=STEPS,
                          learning_rate=1e-3, lr_scheduler_type="constant", max_tool_calling_iterations=3, temperature=1.0, logging_steps=1, save_strategy="no",
                          report_to="none", bf16=False, use_cpu=True, gradient_checkpointing=False, disable_tqdm=True, seed=0)
    trainer = watched_trainer()(model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=trl_tokenizer(renderer),
                                reward_funcs=[reward_function(FunctionReward(judged, "paragraphs"))], environment_factory=made)
    trainer.train()
    still_open = len(opened) - len(closed)
    made.close_all()
    return {"trainer": trainer, "opened": opened, "closed": closed, "still_open": still_open, "scored": scored, "outcomes": outcomes, "renderer": renderer, "start": policy[0]}


def completions(run): # of all batches: (ids, tool mask or 0 where there is no token, text)
    for batch in run["trainer"].batches:
        for ids, there, own in zip(batch["completion_ids"], batch["completion_mask"], batch["tool_mask"]):
            ids, own = ids[there.bool()].tolist(), own[there.bool()].tolist()
            yield ids, own, run["renderer"].tokenizer.decode(ids)


def test_the_environments_received_the_calls(run):
    assert len(run["opened"]) == BATCH * STEPS  # each rollout with a fresh episode
    searched = [toolbox for toolbox in run["opened"] if toolbox.read]
    assert sum(toolbox.calls for toolbox in run["opened"]) > BATCH and BATCH // 4 < len(searched) < len(run["opened"])
    shown = [ids for ids, own, _ in completions(run)
             if "\\cite{web_" in run["renderer"].tokenizer.decode([i for i, mine in zip(ids, own) if not mine])]
    assert len(shown) == len(searched)  # what was read stands in the conversation that was trained on


def test_wrong_calls_come_back_as_corrections(run):
    texts = [text for _, _, text in completions(run)]
    assert any("error: action must be one of batch_search, batch_open" in text for text in texts)
    assert any("Tool calculator not found" in text for text in texts)
    assert sum(row.get("tools/failure_frequency", 0) for row in run["trainer"].state.log_history) > 0


def test_a_rollout_begins_with_the_driver_s_prompt(web, run):
    "The schemas that TRL takes from the methods, and the instructions, are fed token for token as `play_episodes` feeds them."
    schemas = episode_toolbox(web).schemas
    prompts = {tuple(run["renderer"].prompt(asked(name), schemas)) for name in NAMES}
    assert prompts == {ids for ids in run["trainer"].prompted if len(ids) <= max(map(len, prompts))}


def pieces(ids, own): # -> runs of ids with the same mask
    return [(mask, [i for i, _ in group]) for mask, group in itertools.groupby(zip(ids, own), key=lambda pair: pair[1])]


def test_only_the_agents_tokens_are_trained_on(run):
    "Each run of trained tokens is a turn as it was sampled, each masked one is exactly what the renderer puts between two turns."
    renderer, seen = run["renderer"], 0
    for ids, own, _ in completions(run):
        for mask, part in pieces(ids, own):
            if mask:
                assert tuple(part) in run["trainer"].sampled
                continue
            content = renderer.tokenizer.decode(part).split("<tool_response>\n", 1)[1].rsplit("\n</tool_response>", 1)[0]
            rows = [{"role": "tool", "content": one} for one in content.split("\n</tool_response>\n<tool_response>\n")]
            assert part == renderer.bridge(rows, [renderer.end_id])
            seen += 1
    assert seen > BATCH


def test_masked_tokens_have_no_gradient(run):
    masked = 0
    for batch, logps in zip(run["trainer"].batches, run["trainer"].logps, strict=True):
        own = (batch["completion_mask"] * batch["tool_mask"]).bool()
        tools = batch["completion_mask"].bool() & ~own
        masked += int(tools.sum())  # a batch may have none: how soon the model searches differs between processors
        assert not logps.grad[tools].any() and not logps.grad[~batch["completion_mask"].bool()].any()
        assert logps.grad[own][(batch["advantages"][:, None] * own)[own] != 0].all()
    assert masked > 100


def test_rewards_come_from_the_environment_and_from_a_reward(run):
    history = run["trainer"].state.log_history
    for name in ("ToolEnvironment", "paragraphs"):
        logged = [row[f"rewards/{name}/mean"] for row in history if f"rewards/{name}/mean" in row]
        assert logged == pytest.approx([sum(run["scored"][at * BATCH:(at + 1) * BATCH]) / BATCH for at in range(STEPS)]) and max(logged) > 0
    assert run["scored"] == [len(toolbox.read) for toolbox in run["opened"]] == [len(outcome.read) for outcome in run["outcomes"]]
    assert {(outcome.task["id"], outcome.task["query"]) for outcome in run["outcomes"]} == {("t0", NAMES[0]), ("t1", NAMES[1])}
    answers = [outcome.answer for outcome in run["outcomes"]]
    assert sum(any(name in (answer or "") for name in NAMES) for answer in answers) > len(answers) // 2
    assert sum(row.get("reward_paragraphs", 0) for row in history) > 0  # the reward's parts are among the metrics


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


def test_calls_beyond_the_budget_are_refused():
    def add(first: int) -> str:
        """Add one.

        first: a number
        """
        return str(first + 1)

    made = environment_class(lambda row: Toolbox([add]), [add], settings=ResearchSettings(tool_calls=2))
    one = made()
    for number in range(2):
        one.reset(id=number)
        assert [one.add(first=1), one.add(first="x")[:6], one.add(first=1)] == ["2", "error:", "error: no tool calls left"]
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
