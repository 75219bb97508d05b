"A local checkpoint behind the same `complete` as an endpoint's."
import asyncio
import shutil
import threading

import pytest

from stepdr.agent.budget import ResearchSettings
from stepdr.agent.drivers import ResearchAgent
from stepdr.agent.protocol import PROTOCOLS
from stepdr.core.artifacts import root
from stepdr.core.config import InputError
from stepdr.core.usage import Usage
from stepdr.core.replies import ContextTooLong
from stepdr.model.base import load_causal, make_model, save_model, train_tokenizer
from stepdr.model.batched import run_episodes
from stepdr.model.engine import Engine
from stepdr.model.forward import FusedForward, TransformersForward
from stepdr.model.policy import LocalPolicy, LocalSettings, policy_from, template_form
from stepdr.model.renderer import CHATML, Renderer
from stepdr.model.serving import Turns
from stepdr.tools.toolset import episode_toolbox
from stepdr.tools.workspace import Workspace
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph

QUESTION = [{"role": "user", "content": "What is the birthplace of Jack Lemmon ?"}]
TOOLS = [{"type": "function", "function": {"name": "todo", "description": "A list.", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def web(): return ClosedWeb(load_graph(root() / "data" / "kg"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    "A small model that has learnt nothing but to write a call, to read what comes back, and to answer."
    import torch
    folder = tmp_path_factory.mktemp("model") / "m"
    call = {"type": "function", "function": {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": [" Jack Lemmon birthplace"]}}}
    rows = [*QUESTION, {"role": "assistant", "reasoning_content": "plan : birthplace", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "nothing found"},
            {"role": "assistant", "reasoning_content": "not found", "content": "<answer> unknown 水</answer>"}]
    tokenizer = train_tokenizer([m["content"] for m in rows] * 3, 700)
    tokenizer.chat_template = CHATML
    model = make_model(len(tokenizer), width=64, layers=2, context=1024)
    ids, mask = (torch.tensor(part)[None] for part in Renderer(tokenizer, "<|im_end|>").render(rows, TOOLS))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
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
    assert "".join(pieces).startswith("<think>\nplan : birthplace\n</think>\n\n<tool_call>\n{") and first.cost == 0
    assert "".join(pieces).endswith("}\n</tool_call>")
    talk = [*QUESTION, first.message, {"role": "tool", "content": "nothing found"}]
    second = run(policy, talk, TOOLS)
    pieces.clear()
    assert run(policy_of(checkpoint), talk, TOOLS, on_text=pieces.append).message == second.message
    assert "".join(pieces) == "<think>\nnot found\n</think>\n\n<answer> unknown 水</answer>" and "\ufffd" not in "".join(pieces)
    assert second.text == "<answer> unknown 水</answer>" and second.finish_reason == "stop"
    assert second.usage.cached == first.usage.prompt + first.usage.completion - 1 and policy.usage == first.usage + second.usage
    assert run(policy, [*talk, second.message, QUESTION[0]], TOOLS).usage.cached == second.usage.prompt + second.usage.completion - 1
    other = run(policy, [{"role": "user", "content": "Who ?"}])
    assert other.usage.cached < 8 and run(policy, QUESTION, TOOLS).message == first.message       # another conversation between does no harm


def test_a_turn_without_tools_is_the_report(checkpoint):
    "What an endpoint is told by `tool_choice` a local model is shown: its turn begins with the answer."
    policy = policy_of(checkpoint, max_tokens=6)
    reply = run(policy, QUESTION, TOOLS, tool_choice="none")
    assert reply.text.startswith("<answer>") and reply.message == run(policy, QUESTION, TOOLS, prefix="<answer>").message
    assert reply.usage.prompt == len(policy.prompt(QUESTION, TOOLS)) + len(policy.renderer.encode("<answer>"))


def test_what_it_wrote_stays_as_it_was_sampled(checkpoint):
    "Nonsense at a high temperature, also where no text would be encoded like that, and a turn that was cut off."
    policy = policy_of(checkpoint, max_tokens=30, temperature=5.0)
    first = run(policy, QUESTION, TOOLS)
    assert first.finish_reason == "length"
    sequence, = policy.turns.engine.sequences.values()
    wrote = sequence.ids[first.usage.prompt:]
    ids = policy.prompt([*QUESTION, first.message, {"role": "user", "content": "And ?"}], TOOLS)
    assert ids[first.usage.prompt:][:31] == wrote + [policy.renderer.end_id]
    assert run(policy, QUESTION, TOOLS).message != first.message    # draws of its own each time, the same in another run
    assert run(policy_of(checkpoint, max_tokens=30, temperature=5.0), QUESTION, TOOLS).message == first.message


def unnumbered(messages):
    "Without the numbers of calls, which an endpoint gives and a batch needs not."
    return [{**{key: value for key, value in m.items() if key != "tool_call_id"},
             "tool_calls": [call["function"] for call in m.get("tool_calls") or []]} for m in messages]


@pytest.mark.parametrize("kind", [FusedForward, TransformersForward])
def test_it_writes_what_a_batch_writes(agent, web, kind, tmp_path):
    "Greedy episodes by `run_episodes`, which training uses, and by the agent over `complete` are the same, message by message."
    import torch
    model, tokenizer = load_causal(agent, "cpu")
    brief = PROTOCOLS["brief"]
    settings = ResearchSettings(turns=4, reply_tokens=60, seconds=1e6)
    tasks = [{"id": str(number), "query": query} for number, query in enumerate([QUESTION[0]["content"], "Who is Jack Lemmon ?", "Where ?"])]
    def toolbox(*_): return episode_toolbox(web, brief.results, brief.topk, brief.tools)
    expected = run_episodes(model.eval(), Renderer(tokenizer, "<|im_end|>"), tasks, toolbox, settings)
    policy = policy_of(agent)
    assert isinstance(policy.turns.engine.forward, FusedForward)
    if kind is TransformersForward: policy.turns = Turns(Engine(TransformersForward(model), policy.stops, 2))
    for task, played in zip(tasks, expected):
        research = ResearchAgent(policy, toolbox(), Workspace(tmp_path / task["id"]), settings, protocol=brief)
        assert unnumbered(asyncio.run(research.run(task["query"])).messages) == unnumbered(played.messages)
    assert any(m["role"] == "tool" for played in expected for m in played.messages) and torch.is_inference_mode_enabled() is False


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


@pytest.mark.parametrize("kind, forward", [("llama", FusedForward), ("gpt_neox", TransformersForward)])
@pytest.mark.filterwarnings("ignore:model_type")
def test_any_architecture(tmp_path, checkpoint, kind, forward):
    from transformers import AutoConfig, AutoModelForCausalLM
    tokenizer = load_causal(checkpoint, "cpu")[1]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256))
    save_model(tmp_path / kind, model, tokenizer)
    policy = policy_of(tmp_path / kind, max_tokens=8)
    first = run(policy, QUESTION)
    again = policy_of(tmp_path / kind, max_tokens=8)
    assert isinstance(policy.turns.engine.forward, forward) and run(again, QUESTION).message == first.message
    ids = policy.prompt(QUESTION)
    longer = run(policy, [*QUESTION, {"role": "user", "content": "And ?"}])
    fresh = run(policy_of(tmp_path / kind, max_tokens=8), [*QUESTION, {"role": "user", "content": "And ?"}])
    assert longer.message == fresh.message and 0 < longer.usage.cached <= len(ids) and fresh.usage.cached == 0   # a cache set back is as good as a new one


def test_a_turn_that_may_call_no_tool_begins_as_a_report(checkpoint):
    policy, messages = policy_of(checkpoint, max_tokens=4), [{"role": "user", "content": "Which river?"}]
    reply = run(policy, messages, tool_choice="none")
    assert reply.text.startswith("<answer>") and reply.usage.prompt == len(policy.prompt(messages)) + len(policy.tokenizer.encode("<answer>", add_special_tokens=False))


def test_a_prompt_that_does_not_fit_and_the_next_that_does(checkpoint):
    policy = policy_of(checkpoint, context=640)
    with pytest.raises(ContextTooLong, match="640 positions"): run(policy, [{"role": "user", "content": "水" * 700}])
    reply = run(policy, QUESTION, TOOLS, max_tokens=1000)
    assert reply.usage.total <= 640 and reply.calls
    with pytest.raises(InputError, match="local.context: 5000 positions, but the model has 1024"): policy_of(checkpoint, context=5000)


def test_a_cancelled_caller_stops_the_model(checkpoint):
    policy, seen = policy_of(checkpoint, max_tokens=900, temperature=10.0), threading.Event()
    policy.turns.engine.stop_ids = frozenset()                      # it would write to the end
    async def work():
        task = asyncio.create_task(policy.complete(QUESTION, on_text=lambda piece: seen.set()))
        while not seen.is_set(): await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError): await task
    asyncio.run(work())
    assert run(policy, QUESTION, max_tokens=3, temperature=0.0).usage.completion == 3
    assert 3 < policy.usage.completion < 899                        # it ended early


def test_many_callers_take_turns(checkpoint):
    policy = policy_of(checkpoint)
    async def work(): return await asyncio.gather(*(policy.complete(QUESTION) for _ in range(6)))
    replies = asyncio.run(work())
    with pytest.raises(ContextTooLong): run(policy, [{"role": "user", "content": "水" * 2000}])
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


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    "A small model that has learnt one episode of the brief protocol by heart, saved as training saves it."
    import torch
    from stepdr.agent.protocol import opening
    from stepdr.model.renderer import renderer_for
    from stepdr.train.rows import save_trained
    brief, folder = PROTOCOLS["brief"], tmp_path_factory.mktemp("agent") / "m"
    call = {"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": ["Jack Lemmon birthplace"]}}
    toolbox = episode_toolbox(ClosedWeb(load_graph(root() / "data" / "kg")), brief.results, brief.topk, brief.tools)
    rows = [*opening(QUESTION[0]["content"], brief),
            {"role": "assistant", "reasoning_content": "Look it up.", "content": "", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": toolbox.call(call).text}, {"role": "assistant", "content": "<answer>unknown 水</answer>"}]
    tokenizer = train_tokenizer([m["content"] for m in rows] + [str(toolbox.schemas)] * 3, 900)
    renderer, model = renderer_for(tokenizer, "chatml"), make_model(len(tokenizer), width=64, layers=2, context=4096)
    ids, mask = (torch.tensor(part)[None] for part in renderer.render(rows, toolbox.schemas))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(140):
        loss = model(input_ids=ids, labels=torch.where(mask == 1, ids, -100)).loss
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert loss < 0.05
    save_trained(folder, model.eval(), renderer, brief)
    return folder


def test_the_research_command_drives_a_local_model(agent, tmp_path):
    "The same loop as for an endpoint, in the protocol of the checkpoint: the model searches the closed web and answers."
    import json, subprocess, sys
    from pathlib import Path
    done = subprocess.run([str(Path(sys.executable).with_name("stepdr")), "research", QUESTION[0]["content"], "--model", str(agent), "--workspace", "w", "--device", "cpu"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "protocol: brief, as the model was trained" in done.stderr, done.stderr
    events = [json.loads(line) for line in (tmp_path / "w" / ".stepdr" / "trace.jsonl").read_text().splitlines()]
    assert done.returncode == 0 and "unknown 水" in done.stdout, done.stderr
    kinds = [e["event"] for e in events]
    assert [kind for kind in kinds if kind not in ("context", "tools", "note")] == ["start", "model", "call", "result", "model", "end"]
    assert "## Jack Lemmon birthplace" in events[kinds.index("result")]["text"]
    assert "search Jack Lemmon birthplace" in done.stderr and events[-1]["spent"]["money"] == 0 and events[-1]["spent"]["tokens"] > 50


# ---------------------------------------------------------------- chat templates that do not know tools

START = "{% for m in messages %}"
PLAIN = START + "<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"                             # drops tools and calls without a word, as SmolLM2's
STRICT = (START + "{% if m.role not in ('user', 'assistant') %}{{ raise_exception('System role not supported') }}{% endif %}"
          "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>")
TEXT_ARGUMENTS = ("{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}" + START + "<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
                  "{{ '```json\\n' + c.function.arguments + '\\n```' }}{% endfor %}\n{% endfor %}<assistant>")   # wants arguments as text, as DeepSeek's
NUMBERED = ("{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% set ns = namespace(last='') %}" + START + "{% if m.role == 'user' and ns.last == 'tool' %}{{ raise_exception('unexpected user') }}{% endif %}"
            "{% set ns.last = m.role %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}{% if c.id is not defined or c.id | length != 9 %}{{ raise_exception('Tool call IDs should be "
            "alphanumeric strings with length 9!') }}{% endif %}{{ c.function | tojson }}{% endfor %}\n{% endfor %}<assistant>")                # as Mistral's
NO_RESULTS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}" + START + "{% if m.role != 'tool' %}<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}<assistant>"
PARTS = START + "<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}<assistant>"          # as those of models that see
LAST_ONLY = "{{ messages[-1].content }}<assistant>"                                                              # shows nothing of what was before
ALL_RAISE = "{{ raise_exception('no chat for you') }}"

RESEARCH = [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": "Which river?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "todo", "arguments": {"action": "clear"}}},
                                                                       {"id": "b", "type": "function", "function": {"name": "todo", "arguments": {"action": "list"}}}]},
            {"role": "tool", "content": "cleared", "tool_call_id": "a"}, {"role": "tool", "content": "empty list", "tool_call_id": "b"},
            {"role": "user", "content": "Your budget is used up."}]


def with_template(checkpoint, tmp_path, template, **changes):
    shutil.copytree(checkpoint, tmp_path / "other", dirs_exist_ok=True)
    (tmp_path / "other" / "chat_template.jinja").write_text(template)
    return policy_of(tmp_path / "other", max_tokens=5, **changes)


@pytest.mark.parametrize("template, own_tools", [(PLAIN, False), (STRICT, False), (TEXT_ARGUMENTS, True), (NUMBERED, True), (NO_RESULTS, False), (PARTS, False)],
                         ids=["plain", "strict", "text arguments", "numbered", "no results", "parts"])
def test_whatever_the_template_the_model_is_told_of_its_tools(checkpoint, tmp_path, template, own_tools):
    "Tools, calls, results and the user's words after them all stand in the prompt, once, in their order."
    policy = with_template(checkpoint, tmp_path, template)
    note = policy.tell_tools(TOOLS)
    assert ("put into the text" in note) is not own_tools
    text = policy.tokenizer.decode(policy.prompt(RESEARCH, TOOLS))
    places = [text.index(mark) for mark in ("You are an agent.", "Which river?", "I look.", "empty list", "Your budget is used up.")]
    assert places == sorted(places) and '"todo"' in text and '"A list."' in text and all(text.count(mark) == 1 for mark in ("cleared", "empty list", "Your budget is used up.", "Which river?"))
    assert "'action'" not in text and '"action": "clear"' in text.replace('\\"', '"') and text.endswith("<assistant>")
    assert ("<tool_call>" in text) is not own_tools and ("<tool_response>" in text) is not own_tools
    assert run(policy, RESEARCH, TOOLS).usage.prompt == len(policy.prompt(RESEARCH, TOOLS))
    assert "cleared" in policy.tokenizer.decode(policy.prompt(RESEARCH)) and "A list." not in policy.tokenizer.decode(policy.prompt(RESEARCH))   # the forced report: results, no tools


@pytest.mark.parametrize("template, words", [(LAST_ONLY, "it leaves out 'probe system'"), (ALL_RAISE, "no chat for you"), ("{{ messages | nonsense }}", "nonsense")])
def test_a_template_that_cannot_show_tools_is_refused_before_the_run(checkpoint, tmp_path, template, words):
    policy = with_template(checkpoint, tmp_path, template)
    with pytest.raises(InputError, match="cannot be used as an agent") as caught: policy.tell_tools(TOOLS)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "other" in str(caught.value)


def test_a_template_without_a_system_turn_serves_a_judge(checkpoint, tmp_path):
    policy = with_template(checkpoint, tmp_path, STRICT)
    text = policy.tokenizer.decode(policy.prompt(RESEARCH[:2]))
    assert text == "<user>You are an agent.\n\nWhich river?\n<assistant>"


def test_the_templates_that_trl_ships():
    "Of every family there is a form that shows the whole conversation; those that know tools keep their own."
    from importlib.resources import files
    folder = files("trl") / "chat_templates"
    if not folder.is_dir(): pytest.skip("this TRL ships no templates")
    tokenizer = train_tokenizer(["hello world"] * 3, 700)
    tokenizer.bos_token = "<s>"
    found = {}
    for path in folder.iterdir():
        if path.name.endswith(".jinja") and "training" not in path.name:
            tokenizer.chat_template = path.read_text()
            found[path.name.removesuffix(".jinja")] = template_form(tokenizer, True)
    assert len(found) > 10 and all(found[name].tools for name in ("qwen2_5", "qwen3", "llama3_1") if name in found)
    assert not any(found[name].tools for name in ("gemma", "llama3", "phi3") if name in found)



def test_a_context_that_was_asked_for_is_told_so(checkpoint):
    limits = run_limits(policy_of(checkpoint, context=128))
    assert (limits.context, limits.source) == (128, "as asked") and run_limits(policy_of(checkpoint)).context == 1024


def run_limits(policy): return asyncio.run(policy.limits())


def test_research_with_a_chat_model_that_knows_no_tools(checkpoint, tmp_path):
    "The command says that the tools go into the text, fits the context, and ends with a report or an honest message; one that is too small is told in a line."
    import subprocess, sys
    from pathlib import Path
    from transformers import LlamaConfig, LlamaForCausalLM
    tokenizer = load_causal(checkpoint, "cpu")[1]
    tokenizer.chat_template = PLAIN
    for name, positions in (("small", 2048), ("large", 12288)):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=positions))
        save_model(tmp_path / name, model, tokenizer)
    def research(name, *arguments):
        command = [str(Path(sys.executable).with_name("stepdr")), "research", "Which river?", "--model", name, "--workspace", f"w-{name}", "--device", "cpu", "--reply-tokens", "16", "--budget", "turns=3", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    done = research("small")
    assert done.returncode == 2 and "a context of 2048 tokens (the checkpoint's positions) is too small" in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = research("large", "--tools", "batch_web_surfer,todo")
    assert done.returncode in (0, 1) and "does not show tools and their results; they are put into the text" in done.stderr and "context 12288 tokens (the checkpoint's positions)" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and ("# Which river?" in done.stdout)
