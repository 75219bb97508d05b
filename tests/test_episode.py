"""An episode is a state machine: played by hand, with an endpoint or in a batch on one device it says, ends and costs the same."""
import asyncio
import copy
import dataclasses
import json

import pytest

from stepdr.agent.drivers import ResearchAgent
from stepdr.agent.episode import Episode, ModelTurn, ToolCalls, result_row, without_forced
from stepdr.agent.protocol import PROTOCOLS, Protocol, opening
from stepdr.agent.budget import ResearchSettings
from stepdr.core.config import InputError
from stepdr.core.replies import ContextTooLong, EndpointError, Reply, read_turn
from stepdr.core.limits import Limits
from stepdr.core.usage import Usage
from stepdr.core.trajectory import parse_turn
from stepdr.model.base import train_tokenizer
from stepdr.model.batched import play_episodes, run_episodes, turn_ends
from stepdr.model.engine import Turn
from stepdr.model.renderer import renderer_for
from stepdr.rl.environment import environment_class
from stepdr.tools.tool import Toolbox, ToolError, run_async
from stepdr.tools.workspace import Workspace

QUESTION = "How high is the river?"


def call(number): return f'<tool_call>{{"name": "page", "arguments": {{"number": {number}}}}}</tool_call>'


async def page(number: int) -> str:
    """Read a page.

    number: of the page
    """
    if number == 13:
        raise ToolError("page 13 is missing")
    if number > 100:
        raise RuntimeError(number)
    return f"Page {number}: the river rises and falls."


def reply_of(text): return Reply(parse_turn(text), Usage(len(text), len(text) // 4), 0.001, "stop", 0.0)


class Scripted:
    name = "scripted"

    def __init__(self, texts): self.texts = list(texts)

    async def complete(self, messages, tools=None, max_tokens=None, **_):
        return reply_of(self.texts.pop(0))


def by_hand(texts, settings, protocol):
    tools, texts = Toolbox([page]), list(texts)
    episode = Episode(settings, tools.schemas, list(tools.tools), tools.read, protocol=protocol)
    episode.begin(QUESTION)
    episode.room.begin(Limits(), opening(QUESTION, episode.protocol))
    while isinstance(wanted := episode.next(), (ModelTurn, ToolCalls)):
        if isinstance(wanted, ModelTurn):
            episode.took_reply(reply_of(texts.pop(0)))
        else:
            episode.took_results([(result_row(call, tools.call(call["function"], wanted.tokens).text), ())
                                  for call in wanted.calls])
    return wanted, texts


CASES = {
    "three calls in a turn": (["<think>all</think>" + call(1) + call(2) + call(3), "<answer>It rises.</answer>"], {}, "answered", 3),
    "two and two of three calls": ([call(1) + call(2), call(3) + call(4), "<answer>It falls.</answer>"], {"tool_calls": 3}, "forced: tool calls", 3),
    "a report without its tags": ([call(1), "It rises and falls."], {}, "answered", 1),
    "an empty turn": ([call(1), "", "<answer>It rises.</answer>"], {}, "answered", 1),
    "a thought left open before a call": (["<think>I look" + call(1), "<answer>It rises.</answer>"], {}, None, None),
}


@pytest.mark.parametrize("protocol", [*PROTOCOLS.values(), Protocol("none", False)], ids=[*PROTOCOLS, "none"])
@pytest.mark.parametrize("case", CASES)
def test_driver_and_hand_play_the_same_episode(tmp_path, case, protocol):
    texts, settings, ended, calls = CASES[case]
    settings, policy = ResearchSettings(seconds=1e6, **settings), Scripted(texts)
    driven = run_async(ResearchAgent(policy, Toolbox([page]), Workspace(tmp_path), settings, protocol=protocol).run(QUESTION))
    played, left = by_hand(texts, settings, protocol)
    assert driven.messages[0]["role"] == ("user" if protocol.instructions == "none" else "system")
    assert any("[left: " in row["content"] for row in driven.messages if row["role"] == "tool") == (protocol.notes and bool(driven.spent.tool_calls))
    assert played.messages == driven.messages and played.answer == driven.answer and left == policy.texts
    assert played.ended == driven.ended and (ended is None or (ended, calls) == (played.ended, played.spent.tool_calls))
    assert [getattr(played.spent, name) for name in ("turns", "tool_calls", "tokens", "money")] == \
        [getattr(driven.spent, name) for name in ("turns", "tool_calls", "tokens", "money")]


def test_state_is_plain_data_to_go_on_from():
    tools = Toolbox([page])

    def fresh(): return Episode(ResearchSettings(), tools.schemas, list(tools.tools), {})
    episode = fresh()
    episode.begin(QUESTION)
    episode.next()
    episode.took_reply(reply_of(call(1)))
    episode.took_results([(result_row(one, "It rises."), ()) for one in episode.next().calls])
    state = json.loads(json.dumps(episode.state()))
    other = fresh()
    assert other.begin(QUESTION, state) and other.next().messages == episode.next().messages
    assert other.spent == episode.spent and not fresh().begin("another question", state)
    other.took_reply(reply_of("<answer>It rises.</answer>"))
    assert other.next().ended == "answered" and not fresh().begin(QUESTION, other.state())


def test_a_refused_summary_leaves_the_conversation_as_it_was():
    tools = Toolbox([page])
    episode = Episode(ResearchSettings(context_tokens=1500, keep_turns=1), tools.schemas, list(tools.tools), {})
    episode.begin(QUESTION)
    while not episode.folded:
        wanted = episode.next()
        if isinstance(wanted, ModelTurn):
            episode.took_reply(reply_of("<think>" + "thinking " * 150 + "</think>" + call(1)))
        else:
            episode.took_results([(result_row(one, "It rises. " * 20), ()) for one in wanted.calls])
    before = len(episode.messages)
    assert before == 1
    with pytest.raises(EndpointError):
        episode.took_error(EndpointError("gone"))
    assert len(episode.messages) > before and not isinstance(EndpointError("gone"), ContextTooLong)


# An endpoint and a batch: the same texts, the same tokens

@pytest.fixture(scope="module")
def renderer():
    words = [LONG, json.dumps(Toolbox([page]).schemas), *(opening(QUESTION, protocol)[0]["content"] for protocol in PROTOCOLS.values())]
    tokenizer = train_tokenizer(words * 20, 1000)
    tokenizer.chat_template = None
    return renderer_for(tokenizer)


def written(renderer, text):
    "A turn as the template writes it, so that a prompt has the same tokens whether it is rendered anew or was sampled."
    rows = [{"role": "user", "content": "?"}, read_turn(text)]
    return renderer.pieces(rows)[1][0].removesuffix(renderer.end)


class Script:
    "What a model writes; a summary where one is asked for."
    def __init__(self, renderer, texts):
        self.renderer, self.texts = renderer, list(texts)

    def turn(self, prompt, limit):
        "(ids, whether it ended) of the next turn."
        summary = "Below is the first part of your own work" in self.renderer.tokenizer.decode(prompt)
        ids = [*self.renderer.encode("Established: it rises." if summary else self.texts.pop(0)), self.renderer.end_id]
        return ids[:limit], len(ids) <= limit


class Endpoint(Script):
    name = "scripted"

    def __init__(self, renderer, texts, context=0):
        super().__init__(renderer, texts)
        self.context = context

    async def limits(self):
        return Limits(self.context)

    async def complete(self, messages, tools=None, max_tokens=None, tool_choice="", **_):
        opened = self.renderer.encode("<answer>") if tool_choice == "none" else []
        prompt = self.renderer.prompt(messages, tools) + opened
        if self.context and len(prompt) >= self.context:
            raise ContextTooLong("too long", limits=Limits(self.context, len(prompt)))
        ids, finished = self.turn(prompt, min(max_tokens or 10**6, (self.context or 10**6) - len(prompt)))
        message = self.renderer.parse(opened + (ids[:-1] if finished else ids))
        return Reply(message, Usage(len(prompt), len(ids)), 0.0, "stop" if finished else "length", 0.0)


class Engine:
    "Many scripts; the turn that was asked for last comes first."
    def __init__(self, renderer, scripts):
        self.scripts = [Script(renderer, texts) for texts in scripts]
        self.held, self.asked = {}, {}

    @property
    def waiting(self):
        return len(self.asked)

    def add(self, key, ids, limit, seed=None):
        assert key not in self.asked and ids and limit > 0
        self.held.setdefault(key, []).extend(ids)
        self.asked[key] = limit

    def step(self):
        key, limit = self.asked.popitem()
        ids, finished = self.scripts[key[0]].turn(self.held[key], limit)
        self.held[key] += ids
        return [Turn(key, ids, [-1.0 / (1 + at) for at in range(len(ids))], finished)]

    def lower(self, key):
        return None  # no states of lower blocks are kept

    def drop(self, key):
        del self.held[key]


LONG = "<think>" + "thinking " * 150 + "</think>"
SHARED = {**{name: (texts, settings) for name, (texts, settings, _, _) in CASES.items() if name != "a thought left open before a call"},
          "a context that is summarised": ([LONG + call(number) for number in range(1, 12)] + ["<answer>It rises.</answer>"], {"context_tokens": 2000, "keep_turns": 1}),
          "a forced report": ([call(1) + call(2), call(3), "It falls.</answer>"], {"tool_calls": 2}),
          "tools that fail": ([call(13), call(1313) + call('"first"'), "<answer>Nothing.</answer>"], {}),
          "a report in two replies": ([call(1), "<answer>It " + "rises and falls, " * 120, "and rises.</answer>"], {"reply_tokens": 300})}


def play(renderer, scripts, settings, protocol=PROTOCOLS["brief"], **options):
    engine, closed = Engine(renderer, scripts), []

    def open_toolbox(task, number):
        return Toolbox([page], on_close=[lambda: closed.append(number)])
    played = play_episodes(engine, renderer, [{"query": QUESTION, "id": number} for number in range(len(scripts))], open_toolbox,
                           ResearchSettings(seconds=1e6, **settings), protocol, **options)
    assert not engine.held and not engine.waiting and sorted(closed) == [one.task["id"] for one in played] == list(range(len(scripts)))
    assert not any(script.texts for script in engine.scripts)
    return played


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", SHARED)
def test_an_endpoint_and_a_batch_play_the_same_episode(tmp_path, renderer, case, protocol):
    texts, settings = SHARED[case]
    texts = [written(renderer, text) if text.endswith("</tool_call>") else text for text in texts]
    played, = play(renderer, [texts], settings, PROTOCOLS[protocol])
    agent = ResearchAgent(Endpoint(renderer, texts), Toolbox([page]), Workspace(tmp_path), ResearchSettings(seconds=1e6, **settings), protocol=PROTOCOLS[protocol])
    driven = run_async(agent.run(QUESTION))
    assert played.messages == driven.messages and played.result.ended == driven.ended and (played.answer or "") == driven.answer
    for name in ("turns", "tool_calls", "tokens"):
        assert getattr(played.result.spent, name) == getattr(driven.spent, name)
    assert played.result.internal_errors == driven.internal_errors == (case == "tools that fail")
    assert (len(played.contexts) > 1) == (case == "a context that is summarised")


@pytest.mark.parametrize("case", [case for case in SHARED if case != "a context that is summarised"])
def test_trl_s_environment_answers_as_the_drivers_do(renderer, case):
    "TRL's loop calls one method for each call of a turn."
    texts, settings = SHARED[case]
    played, = play(renderer, [texts], settings)
    environment = environment_class(lambda row: Toolbox([page]), [page], settings=ResearchSettings(seconds=1e6, **settings))()
    environment.reset(prompt=opening(QUESTION, PROTOCOLS["brief"]), query=QUESTION)
    calls = [call["function"] for message in played.messages for call in message.get("tool_calls") or []]
    rows = [row for row in played.messages if row["role"] == "tool"]
    assert [getattr(environment, call["name"])(**call["arguments"]) for call in calls] == [without_forced(row["content"]) for row in rows]
    assert environment._agent.spent.tool_calls == played.tool_calls and environment._toolbox.read == played.read
    assert environment._agent.internal_errors == played.result.internal_errors
    environment.close_all()


@pytest.mark.parametrize("case", SHARED)
def test_contexts_hold_what_was_fed_and_sampled(renderer, case):
    texts, settings = SHARED[case]
    texts = [written(renderer, text) if text.endswith("</tool_call>") else text for text in texts]
    played, = play(renderer, [texts], settings)
    tools, decode = Toolbox([page]).schemas, renderer.tokenizer.decode
    wrote = []
    for context in played.contexts:
        assert len(context.ids) == len(context.mask) == len(context.logprobs) and context.mask[-1]
        assert all((logprob < 0) == bool(own) for logprob, own in zip(context.logprobs, context.mask))
        begins = [at for at in range(1, len(context.ids)) if context.mask[at] and not context.mask[at - 1]]
        for at in begins:
            end = next((i for i in range(at, len(context.ids)) if not context.mask[i]), len(context.ids))
            wrote.append(decode(context.ids[at:end]).removesuffix(renderer.end))
    wrote = [text for text in wrote if text != "Established: it rises."]
    assert len(wrote) == len(texts) and all(text.startswith(part) and len(part) > 10 for part, text in zip(wrote, texts) if text)
    assert (wrote == texts) == (case != "a report in two replies")
    last = played.contexts[-1]
    if not case.startswith(("a forced", "two and two", "a context")):
        whole = renderer.render(played.messages, tools)[0]
        assert last.ids == whole[:len(last.ids)]                  # what is trained is what a server would have fed
    if case == "a report in two replies":
        cut = next(at for at in range(len(last.ids)) if decode(last.ids[at:at + 2]).startswith(renderer.end + "\n") and not last.mask[at] and last.mask[at - 1])
        assert last.ids[cut] == renderer.end_id                   # the end of a turn that was cut off was not sampled
    if case == "a forced report":
        start = len(last.ids) - len(renderer.encode(texts[-1])) - 1
        assert decode(last.ids[:start]).endswith("<answer>") and not last.mask[start - 1] and all(last.mask[start:])


def test_places_and_threads_change_nothing(renderer):
    scripts = [[written(renderer, text) if text.endswith("</tool_call>") else text for text in texts] for texts, settings in SHARED.values() if not settings]
    runs = [play(renderer, scripts, {}, slots=slots, workers=workers) for slots, workers in ((32, 0), (1, 0), (2, 3), (32, 8))]
    for run in runs[1:]:
        assert [one.contexts for one in run] == [one.contexts for one in runs[0]] and [one.messages for one in run] == [one.messages for one in runs[0]]


def test_tools_work_while_others_write(renderer):
    events = []

    async def wait(number: int) -> str:
        """Wait.

        number: of the episode
        """
        while number == 0 and events.count("wrote") < 2:
            await asyncio.sleep(0.01)
        return "done"

    class Watched(Engine):
        def step(self):
            turns = super().step()
            events.append("asked" if turns[0].key[0] == 0 else "wrote")
            return turns
    waits = [f'<tool_call>{{"name": "wait", "arguments": {{"number": {number}}}}}</tool_call>' for number in range(2)]
    engine = Watched(renderer, [[waits[0], "<answer>a</answer>"], [waits[1], "<answer>b</answer>"]])
    tasks, done = [{"query": "a"}, {"query": "b"}], []
    played = play_episodes(engine, renderer, tasks, lambda task, number: Toolbox([wait]), workers=2, progress=done.append)
    assert [one.answer for one in played] == ["a", "b"] and done == [1, 2]


def test_a_question_that_does_not_fit_ends_its_episode_alone(renderer):
    tasks = [{"query": "How high? " * 900}, {"query": QUESTION}]
    engine = Engine(renderer, [[], ["<answer>It rises.</answer>"]])
    long, short = play_episodes(engine, renderer, tasks, lambda task, number: Toolbox([page]), positions=1500)
    assert long.result.ended == "no answer: context" and long.answer is None and not long.contexts
    assert short.answer == "It rises." and short.result.ended == "answered"
    with pytest.raises(InputError, match="too small"):
        play_episodes(engine, renderer, tasks, lambda task, number: Toolbox([page]), positions=600)


def test_toolboxes_are_closed_when_something_breaks(renderer):
    closed = []

    class Broken(Engine):
        def step(self):
            raise RuntimeError("out of memory")
    tasks = [{"query": str(number)} for number in range(5)]
    with pytest.raises(RuntimeError, match="memory"):
        play_episodes(Broken(renderer, [[]] * 5), renderer, tasks, lambda task, number: Toolbox([page], on_close=[lambda: closed.append(number)]), slots=3)
    assert closed == [0, 1, 2]


# With a model

@pytest.fixture(scope="module")
def talkative(renderer):
    "A renderer with whole tool calls as one token each, and a random model that likes them: real episodes from random weights."
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    tokenizer, tokens = copy.deepcopy(renderer.tokenizer), [call(1), call(13), "<answer>It rises.</answer>"]
    tokenizer.add_tokens(tokens)
    torch.manual_seed(0)                                            # large weights: what it writes is varied; double: a rounding decides no draw
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=3000, initializer_range=0.3, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)).double().eval()
    with torch.no_grad():                                           # these, and the end of a turn, win often
        for token, factor in zip([*tokenizer.convert_tokens_to_ids(tokens), renderer.end_id], (8.0, 8.0, 3.0, 6.0)):
            model.lm_head.weight[token] *= factor
    return dataclasses.replace(renderer, tokenizer=tokenizer), model


def spans(context):
    "(begin, end) of the turns in a context."
    own = [0, *context.mask, 0]
    return list(zip([at for at in range(len(own) - 1) if own[at + 1] > own[at]], [at for at in range(len(own) - 1) if own[at + 1] < own[at]]))


TASKS = [{"query": "How high is the river? " * (1 + number % 3) + str(number * 37)} for number in range(5)]


def test_greedy_turns_are_those_of_transformers(talkative):
    "Each turn again by Hugging Face, from the ids that stand before it."
    import torch
    renderer, model = talkative
    settings, ended = ResearchSettings(reply_tokens=24, turns=5, tool_calls=3, context_tokens=1500), []
    for one in run_episodes(model, renderer, TASKS, lambda task, number: Toolbox([page]), settings, slots=3):
        turns = [(context, *span) for context in one.contexts for span in spans(context)]
        assert len(turns) == one.result.spent.turns > 1 and one.result.spent.tokens == sum(end for _, _, end in turns)
        for context, begin, end in turns:
            ids = torch.tensor([context.ids[:begin]])
            more = model.generate(ids, do_sample=False, max_new_tokens=end - begin, eos_token_id=sorted(turn_ends(model, renderer)), pad_token_id=0)
            assert more[0, begin:].tolist() == context.ids[begin:end]
        ended.append((one.tool_calls, one.result.ended.split(":")[0]))
    assert sum(calls for calls, _ in ended) >= 5 and {how for _, how in ended} & {"forced", "no answer"}


def test_sampled_turns_depend_on_the_seed_alone(talkative):
    import torch
    renderer, model = talkative
    settings = ResearchSettings(reply_tokens=16, turns=4)

    def run(**options):
        return run_episodes(model, renderer, TASKS, lambda task, number: Toolbox([page]), settings, temperature=0.7, **options)
    one, few, other = run(seed="a"), run(seed="a", slots=2, workers=2), run(seed="b")
    assert [played.contexts[0].ids for played in one] == [played.contexts[0].ids for played in few]
    assert any(a.contexts[0].ids != b.contexts[0].ids for a, b in zip(one, other)) and sum(played.tool_calls for played in one) > 3
    for played in one:
        for context in played.contexts:
            ids = torch.tensor([context.ids])
            logs = torch.log_softmax(model(ids).logits[0].detach().float() / 0.7, -1)[:-1].gather(1, ids[0, 1:, None]).squeeze(1)
            for at, own in enumerate(context.mask):
                assert not own or abs(context.logprobs[at] - float(logs[at - 1])) < 1e-3
