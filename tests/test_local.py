"A local checkpoint behind the same `complete` as an endpoint's."
import asyncio
import shutil
import threading

import pytest

from stepdr.agent import FORCED, AgentEpisode, Budget, run_episodes
from stepdr.artifacts import root
from stepdr.config import InputError
from stepdr.llm import ContextTooLong, Usage
from stepdr.model.base import load_model, make_model, save_model, train_tokenizer
from stepdr.model.local import LocalPolicy, LocalSettings, TransformersSteps, policy_from
from stepdr.synthesis.tasks import question_tasks
from stepdr.tools.closed import Environment
from stepdr.world.closed import ClosedWeb
from stepdr.world.graph import load_graph

QUESTION = [{"role": "user", "content": "What is the birthplace of Jack Lemmon ?"}]
TOOLS = [{"type": "function", "function": {"name": "todo", "description": "A list.", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def web(): return ClosedWeb(load_graph(root() / "data" / "kg"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, web):
    "A small model that has learnt nothing but to write a call, to read what comes back, and to answer."
    import torch
    from stepdr.trajectory import render
    folder = tmp_path_factory.mktemp("model") / "m"
    call = {"type": "function", "function": {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": [" Jack Lemmon birthplace"]}}}
    rows = [*QUESTION, {"role": "assistant", "reasoning_content": "plan : birthplace", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "nothing found"},
            {"role": "assistant", "reasoning_content": "not found", "content": "<answer> unknown 水</answer>"}]
    tokenizer = train_tokenizer([m["content"] for m in rows] * 3, 700)
    model = make_model(len(tokenizer), width=64, layers=2)
    ids, mask = (torch.tensor(part)[None] for part in render(rows, tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        loss = model(input_ids=ids, labels=torch.where(mask == 1, ids, -100)).loss
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert loss < 0.05
    save_model(folder, model.eval(), tokenizer)
    return folder


def policy_of(folder, **changes): return LocalPolicy(folder, LocalSettings("cpu", **{"max_tokens": 160, **changes}))


def run(policy, *arguments, **named): return asyncio.run(policy.complete(*arguments, **named))


def test_a_conversation_is_computed_once_and_counted(checkpoint):
    policy, pieces = policy_of(checkpoint), []
    first = run(policy, QUESTION, TOOLS, on_text=pieces.append)
    assert first.calls == [{"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": [" Jack Lemmon birthplace"]}}]
    assert first.finish_reason == "tool_calls" and first.message["tool_calls"][0]["id"] == "call_0" and first.message["reasoning_content"] == "plan : birthplace"
    assert "".join(pieces).startswith("<think>plan : birthplace</think><tool_call>{") and "".join(pieces).endswith("}</tool_call>") and first.cost == 0
    second = run(policy, [*QUESTION, first.message, {"role": "tool", "content": "nothing found"}])
    pieces.clear()
    assert run(policy_of(checkpoint), [*QUESTION, first.message, {"role": "tool", "content": "nothing found"}], on_text=pieces.append).message == second.message
    assert "".join(pieces) == "<think>not found</think><answer> unknown 水</answer>" and "\ufffd" not in "".join(pieces)
    assert second.text == "<answer> unknown 水</answer>" and second.finish_reason == "stop"
    assert second.usage.cached == first.usage.prompt + first.usage.completion - 1 and policy.usage == first.usage + second.usage
    other = run(policy, [{"role": "user", "content": "Who ?"}])
    assert other.usage.cached < 8 and run(policy, QUESTION).message == first.message       # another conversation between does no harm


def play(policy, task, environment, budget):
    "An episode as `run_episodes` plays it, with the policy behind `complete`."
    episode, forced = AgentEpisode(task, environment, budget), False
    while True:
        room = budget.tokens - len(policy.prompt(episode.messages))
        reply = run(policy, episode.messages, max_tokens=min(budget.turn_tokens, room), prefix=FORCED if episode.forced else "")
        text = policy.tokenizer.decode(policy.sampled_last)
        if reply.usage.total >= budget.tokens: return episode
        if episode.after_turn(text, used=reply.usage.total) is None: return episode


@pytest.mark.parametrize("kind", ["decoder", "transformers"])
def test_it_writes_what_the_training_loop_writes(checkpoint, web, kind, monkeypatch):
    "Greedy episodes by `run_episodes` and by `complete` are the same, message by message."
    import torch
    model, tokenizer = load_model(checkpoint, "cpu")
    tasks, budget = question_tasks(web, "train", 0)[:4], Budget(tool_calls=2, tokens=300, turn_tokens=60)
    expected = [episode.messages for episode, _ in run_episodes(model.eval(), tokenizer, tasks, web, 0.0, 5, budget)]
    policy = policy_of(checkpoint)
    if kind == "transformers": policy.steps = TransformersSteps(model)
    write = policy.write
    def remember(*arguments):
        policy.sampled_last, shared = write(*arguments)
        return policy.sampled_last, shared
    policy.write = remember
    played = [play(policy, task, Environment(web, seed=f"5 {i} {task['id']}", failure_rate=0.07), budget).messages for i, task in enumerate(tasks)]
    assert played == expected and any(m["role"] == "tool" for messages in played for m in messages)
    assert torch.is_inference_mode_enabled() is False


def test_another_models_own_template_tells_it_about_the_tools(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "other")
    (tmp_path / "other" / "chat_template.jinja").write_text("{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}\n{% endfor %}assistant:")
    policy = policy_of(tmp_path / "other", max_tokens=5)
    rows = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": {"name": None, "arguments": {}, "error": "not valid JSON"}}]},
            {"role": "tool", "content": [{"type": "text", "text": "seen"}, {"type": "image_url", "image_url": {"url": "data:"}}]}]
    text = policy.tokenizer.decode(policy.prompt(rows, TOOLS))
    assert text.startswith('TOOLS [{"') and '"todo"' in text and "seen\n(a picture that this model cannot see)" in text and text.endswith("assistant:")
    reply = run(policy, rows, TOOLS)
    assert reply.usage.prompt == len(policy.prompt(rows, TOOLS)) and 1 <= reply.usage.completion <= 5


def test_an_architecture_that_the_decoder_does_not_know(tmp_path, checkpoint):
    from transformers import LlamaConfig, LlamaForCausalLM
    tokenizer = load_model(checkpoint)[1]
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256))
    save_model(tmp_path / "llama", model, tokenizer)
    policy = policy_of(tmp_path / "llama", max_tokens=8)
    first = run(policy, QUESTION)
    again = policy_of(tmp_path / "llama", max_tokens=8)
    assert isinstance(policy.steps, TransformersSteps) and run(again, QUESTION).message == first.message
    ids = policy.prompt(QUESTION)
    longer = run(policy, [*QUESTION, {"role": "user", "content": "And ?"}])
    fresh = run(policy_of(tmp_path / "llama", max_tokens=8), [*QUESTION, {"role": "user", "content": "And ?"}])
    assert longer.message == fresh.message and 0 < longer.usage.cached <= len(ids) and fresh.usage.cached == 0   # a cache set back is as good as a new one


def test_a_prompt_that_does_not_fit_and_the_next_that_does(checkpoint):
    policy = policy_of(checkpoint, context=128)
    with pytest.raises(ContextTooLong, match="128 positions"): run(policy, [{"role": "user", "content": "水" * 200}])
    reply = run(policy, QUESTION, max_tokens=1000)
    assert reply.usage.total <= 128 and reply.calls
    with pytest.raises(InputError, match="local.context: 5000 positions, but the model has 1024"): policy_of(checkpoint, context=5000)


def test_a_cancelled_caller_stops_the_model(checkpoint):
    policy, seen = policy_of(checkpoint, max_tokens=900, temperature=10.0), threading.Event()
    policy.stops = set()                                            # it would write to the end
    async def work():
        task = asyncio.create_task(policy.complete(QUESTION, on_text=lambda piece: seen.set()))
        while not seen.is_set(): await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError): await task
    asyncio.run(work())
    with policy.lock: assert policy.usage.completion < 899          # it ended early
    assert run(policy, QUESTION, max_tokens=3, temperature=0.0).usage.completion == 3


def test_many_callers_take_turns(checkpoint):
    policy = policy_of(checkpoint)
    async def work(): return await asyncio.gather(*(policy.complete(QUESTION) for _ in range(6)))
    replies = asyncio.run(work())
    assert len({str(r.message) for r in replies}) == 1 and policy.requests == 6 and policy.usage == sum((r.usage for r in replies), Usage())


@pytest.mark.parametrize("text,words", [("", "is empty"), ("/nowhere/at/all", "no model here"), ("ftp://x/v1", "no http or https URL")])
def test_a_policy_that_is_not_there(text, words):
    with pytest.raises(InputError, match=words): policy_from(text)


def test_a_broken_checkpoint_is_named(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="broken: cannot be read"): policy_of(tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(InputError, match="broken"): policy_of(tmp_path / "broken")


def test_the_research_command_drives_a_local_model(checkpoint, tmp_path):
    "The same loop as for an endpoint: the model searches the closed web and answers; short tools, no instructions."
    import json, subprocess, sys
    from pathlib import Path
    done = subprocess.run([str(Path(sys.executable).with_name("stepdr")), "research", QUESTION[0]["content"], "--model", str(checkpoint), "--workspace", "w", "--device", "cpu"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120)
    events = [json.loads(line) for line in (tmp_path / "w" / ".stepdr" / "trace.jsonl").read_text().splitlines()]
    assert done.returncode == 0 and "unknown 水" in done.stdout, done.stderr
    assert [e["event"] for e in events] == ["start", "model", "call", "result", "model", "end"] and "## Jack Lemmon birthplace" in events[3]["text"]
    assert "search Jack Lemmon birthplace" in done.stderr and events[-1]["spent"]["money"] == 0 and events[-1]["spent"]["tokens"] > 50
