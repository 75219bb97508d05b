"""An episode is a state machine: played by hand and by the driver it says, ends and costs the same."""
import json

import pytest

from stepdr.agent.drivers import ResearchAgent
from stepdr.agent.episode import Episode, ModelTurn, ToolCalls, result_row
from stepdr.agent.protocol import PROTOCOLS, Protocol, opening
from stepdr.agent.budget import ResearchSettings
from stepdr.core.replies import ContextTooLong, EndpointError, Reply
from stepdr.core.limits import Limits
from stepdr.core.usage import Usage
from stepdr.core.trajectory import parse_turn
from stepdr.tools.tool import Toolbox, run_async
from stepdr.tools.workspace import Workspace

QUESTION = "How high is the river?"


def call(number): return f'<tool_call>{{"name": "page", "arguments": {{"number": {number}}}}}</tool_call>'


async def page(number: int) -> str:
    """Read a page.

    number: of the page
    """
    return f"Page {number}: the river rises and falls."


def reply_of(text): return Reply(parse_turn(text), Usage(len(text), len(text) // 4), 0.001, "stop", 0.0)


class Scripted:
    name = "scripted"

    def __init__(self, texts): self.texts = list(texts)

    async def complete(self, messages, tools=None, max_tokens=None, prefix="", **_):
        return reply_of(prefix + self.texts.pop(0))


def by_hand(texts, settings, protocol):
    tools, texts = Toolbox([page]), list(texts)
    episode = Episode(settings, tools.schemas, list(tools.tools), tools.read, protocol=protocol)
    episode.begin(QUESTION)
    episode.room.begin(Limits(), opening(QUESTION, episode.protocol))
    while isinstance(wanted := episode.next(), (ModelTurn, ToolCalls)):
        if isinstance(wanted, ModelTurn):
            episode.took_reply(reply_of(wanted.more.get("prefix", "") + texts.pop(0)))
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
