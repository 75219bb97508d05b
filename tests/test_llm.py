"Endpoints against a real HTTP server on loopback that plays a scripted model, with everything that goes wrong on the way."
import asyncio
import copy
import json
import random
import threading

import pytest
from scripted_model import FAULTS, ScriptedModel, turn

from stepdr.core.config import InputError
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.streams import GarbledReply
from stepdr.core.connection import EndpointSettings, endpoint_settings
from stepdr.core.usage import Usage, price_of
from stepdr.core.replies import ContextTooLong, EndpointError, read_turn
from stepdr.core.streams import Gathered

QUESTION = [{"role": "user", "content": "What is the birthplace of Ada Lovelace?"}]
TOOLS = [{"type": "function", "function": {"name": "file", "description": "Files.", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}]


def settings(server, **changes):
    return EndpointSettings(**{"base_url": server.url, "model": server.model, "backoff": 0.01, "price_in": 2.0, "price_out": 8.0, "price_cached": 0.5, "timeout": 5.0, **changes})


def run(coroutine): return asyncio.run(coroutine)


def ask(server, messages=QUESTION, tools=None, endpoint=None, on_text=None, **changes):
    endpoint = endpoint or ChatEndpoint(settings(server, **changes))
    async def work():
        try: return await endpoint.complete(messages, tools, on_text=on_text)
        finally: await endpoint.close()
    return run(work())


def bill(server): return Usage(server.billed.prompt, server.billed.completion, server.billed.cached)


@pytest.mark.parametrize("stream", [True, False])
def test_a_turn_with_reasoning_and_calls(stream):
    played = turn("I look it up. 水", [("file", {"path": "a.md"}), ("file", {"path": "水.md"})], reasoning="plan: look")
    with ScriptedModel([played]) as server: reply = ask(server, tools=TOOLS, stream=stream)
    assert reply.message == {"role": "assistant", "content": "I look it up. 水", "reasoning_content": "plan: look", "tool_calls": [
        {"id": "call_0_0", "type": "function", "function": {"name": "file", "arguments": {"path": "a.md"}}},
        {"id": "call_0_1", "type": "function", "function": {"name": "file", "arguments": {"path": "水.md"}}}]}
    assert reply.finish_reason == "tool_calls" and reply.attempts == 1 and reply.model == "scripted"
    assert reply.usage == bill(server) and reply.cost == price_of(bill(server), settings(server)) > 0
    assert server.requests[0]["tools"] == TOOLS


@pytest.mark.parametrize("stream", [True, False])
def test_the_wire_format_in_content(stream):
    text = '<think>first</think>\n<tool_call>{"name": "file", "arguments": {"path": "a.md"}}</tool_call><tool_call>{oops</tool_call>'
    with ScriptedModel([turn(text)]) as server: reply = ask(server, tools=TOOLS, stream=stream)
    assert reply.message["reasoning_content"] == "first" and reply.message["content"] == "" and reply.finish_reason == "tool_calls"
    assert reply.calls[0] == {"name": "file", "arguments": {"path": "a.md"}} and reply.calls[1]["error"].startswith("not valid JSON")
    assert [call["id"] for call in reply.message["tool_calls"]] == ["call_0", "call_1"]


def test_malformed_native_arguments_come_back_as_an_error_to_correct():
    with ScriptedModel([turn("", [("file", '{"path": ')])]) as server: reply = ask(server)
    assert reply.calls[0]["name"] == "file" and reply.calls[0]["error"].startswith("not valid JSON")


RECOVERABLE = ["429", "429:0.05", "500", "502", "503", "408", "cut", "cut_clean", "cut_usage", "garbage", "html", "error_event", "empty", "wrong_types", "drop"]


@pytest.mark.parametrize("fault,stream", [(fault, stream) for fault in RECOVERABLE for stream in (True, False) if stream or fault not in ("cut_clean", "cut_usage", "error_event")])
def test_each_fault_is_healed_and_the_bill_is_right(fault, stream):
    shown = []
    with ScriptedModel([turn("<answer>London</answer>", reasoning="so it is")], faults={0: fault}) as server:
        endpoint = ChatEndpoint(settings(server, stream=stream))
        reply = ask(server, endpoint=endpoint, on_text=shown.append)
    assert reply.text == "<answer>London</answer>" and reply.attempts == 2 and len(reply.troubles) == 1 and len(server.requests) == 2
    assert reply.usage == bill(server) == endpoint.usage and not reply.usage.estimated
    assert reply.cost == endpoint.cost == pytest.approx((2 * (reply.usage.prompt - reply.usage.cached) + 0.5 * reply.usage.cached + 8 * reply.usage.completion) / 1e6, rel=1e-12)
    last = len(shown) - 1 - shown[::-1].index(None)
    assert "".join(shown[last + 1:]) == reply.text                  # what was shown of the failed attempt is taken back


def test_every_fault_of_the_server_is_tested():
    assert {name for name in FAULTS} - {fault[:3] if fault[:3].isdigit() else fault for fault in RECOVERABLE} == {"slow", "hang", "no_usage", "endless"}


@pytest.mark.parametrize("stream", [True, False])
def test_slow_bytes_are_waited_for(stream):
    with ScriptedModel([turn("London " * 20)], faults={0: "slow"}) as server: reply = ask(server, stream=stream, timeout=2.0)
    assert reply.text == ("London " * 20).strip() and reply.attempts == 1 and reply.usage == bill(server)


@pytest.mark.parametrize("stream", [True, False])
def test_silence_is_a_failed_attempt(stream):
    with ScriptedModel([turn("London")], faults={0: "hang"}) as server: reply = ask(server, stream=stream, timeout=0.3)
    assert reply.text == "London" and reply.attempts == 2 and "silent" in reply.troubles[0]


def test_a_stream_that_drips_for_ever_is_ended():
    with ScriptedModel([turn("London " * 2000)], faults={0: "slow"}, piece=100000) as server:
        with pytest.raises(EndpointError, match="busy for 0.5 s"): ask(server, timeout=5.0, total_timeout=0.5, retries=0)
        assert ask(server).text.startswith("London")


def test_an_endless_line_is_ended(monkeypatch):
    import stepdr.core.streams
    monkeypatch.setattr(stepdr.core.streams.read_events, "__defaults__", (3_000_000,))
    with ScriptedModel([turn("London")], faults={0: "endless"}) as server: reply = ask(server)
    assert reply.text == "London" and "more than 3000000 bytes" in reply.troubles[0]


def test_a_failing_server_ends_in_one_clear_error_with_its_bill():
    with ScriptedModel([turn("London")], faults=lambda number: "empty") as server:
        endpoint = ChatEndpoint(settings(server, retries=2))
        with pytest.raises(EndpointError, match="no usable reply in 3 attempts; the last: the answer has no choices") as caught: ask(server, endpoint=endpoint)
    assert caught.value.usage == bill(server) == endpoint.usage and caught.value.usage.prompt > 0 and caught.value.cost == endpoint.cost > 0


def test_retry_after_is_honoured_and_bounded():
    with ScriptedModel([turn("London")], faults={0: "429:0.4", 1: "429:3600"}) as server:
        with pytest.raises(EndpointError, match="wait 3600 s, more than endpoint.patience=1"): ask(server, patience=1.0)
        assert len(server.requests) == 2
        assert ask(server).text == "London"                         # and the next request is answered


def test_missing_usage_is_estimated_and_says_so():
    with ScriptedModel([turn("London " * 50)], faults={0: "no_usage"}) as server: reply = ask(server)
    assert reply.usage.estimated and reply.usage.prompt > 0 and 0 < reply.usage.completion < 350 and reply.cost > 0


@pytest.mark.parametrize("fault,kind,words", [("401", InputError, "wants a key .401.; set the environment variable STEPDR_API_KEY"), ("403", InputError, "STEPDR_API_KEY"),
                                               ("404", InputError, "no such model or path"), ("400", InputError, "refuses the request"), ("402", EndpointError, "no money left")])
def test_what_no_repetition_heals_is_said_at_once(fault, kind, words, monkeypatch):
    monkeypatch.delenv("STEPDR_API_KEY", raising=False)
    with ScriptedModel([turn("London")], faults={0: fault}) as server:
        with pytest.raises(kind, match=words): ask(server)
        assert len(server.requests) == 1
        assert ask(server).text == "London"


def test_a_wrong_key_is_never_shown(monkeypatch):
    with ScriptedModel([turn("London")], key="sk-right-0123456789") as server:
        monkeypatch.setenv("MY_ENDPOINT", "sk-wrong-987654321")      # a name that does not look like a key's
        with pytest.raises(InputError) as caught: ask(server, key_variable="MY_ENDPOINT")
        assert "sk-wrong" not in str(caught.value) and "MY_ENDPOINT" in str(caught.value) and "sk-wrong-987654321" in server.problems[0]
        monkeypatch.setenv("MY_ENDPOINT", " sk-right-0123456789\n")
        assert ask(server, key_variable="MY_ENDPOINT").text == "London"


def test_a_vendors_key_is_not_sent_to_another_host(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-0123456789"); monkeypatch.setenv("OPENAI_ORG_ID", "org-1"); monkeypatch.setenv("OPENAI_PROJECT_ID", "project-1")
    monkeypatch.delenv("STEPDR_API_KEY", raising=False)
    with ScriptedModel([turn("London")]) as server: ask(server)
    assert "sk-openai" not in json.dumps(server.headers) and "org-1" not in json.dumps(server.headers) and "project-1" not in json.dumps(server.headers)


def test_a_prompt_that_is_too_long_has_an_error_of_its_own():
    with ScriptedModel([turn("London")], strict={"tools": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens"}) as server:
        with pytest.raises(ContextTooLong): ask(server, tools=TOOLS)
        assert ask(server).text == "London"


def test_fields_that_a_server_does_not_take_are_left_out():
    strict = {"stream_options": "unknown field stream_options", "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
              "temperature": "'temperature' does not support 0.2 with this model. Only the default (1) value is supported."}
    with ScriptedModel([turn("London")], strict=strict) as server:
        endpoint = ChatEndpoint(settings(server, max_tokens=50, temperature=0.2))
        reply = ask(server, endpoint=endpoint)
        assert reply.text == "London" and reply.attempts == 1 and reply.usage.estimated and len(server.requests) == 4
        assert server.requests[-1]["max_completion_tokens"] == 50 and "temperature" not in server.requests[-1]
        ask(server, endpoint=endpoint)
        assert len(server.requests) == 5                            # it remembers


def test_a_field_that_is_refused_to_many_at_once():
    with ScriptedModel([turn("London")], strict={"stream_options": "unknown field stream_options"}) as server:
        endpoint = ChatEndpoint(settings(server))
        async def work():
            replies = await asyncio.gather(*(endpoint.complete(QUESTION) for _ in range(8)))
            await endpoint.close()
            return replies
        assert {r.text for r in run(work())} == {"London"}


def test_a_server_without_tools_is_told_about_them_in_text():
    strict = {"tools": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'}
    with ScriptedModel([turn('<tool_call>{"name": "file", "arguments": {"path": "a.md"}}</tool_call>')], strict=strict) as server:
        reply = ask(server, tools=TOOLS)
        assert reply.calls == [{"name": "file", "arguments": {"path": "a.md"}}]
        assert '"name": "file"' in server.requests[-1]["messages"][0]["content"] and "tools" not in server.requests[-1]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_goes_back_in_the_field_it_came_in(field):
    turns = [turn("", [("file", {"path": "a.md"})], reasoning="look"), turn("", [("file", {"path": "b.md"})]), turn("<answer>x</answer>")]
    with ScriptedModel(turns, reasoning_field=field) as server:
        endpoint, messages = ChatEndpoint(settings(server)), list(QUESTION)
        for _ in turns:
            reply = ask(server, messages, TOOLS, endpoint)
            messages.append(reply.message)
            if reply.calls: messages.append({"role": "tool", "content": "words"})
    last = server.requests[-1]["messages"]
    assert [m["role"] for m in last] == ["user", "assistant", "tool", "assistant", "tool"]
    assert last[1][field] == "look" and last[3][field] == ""       # every turn has the field: DeepSeek's thinking models ask for it
    assert last[2]["tool_call_id"] == last[1]["tool_calls"][0]["id"] != last[4]["tool_call_id"] == last[3]["tool_calls"][0]["id"]


def test_a_conversation_with_holes_is_sent_whole():
    "Calls without an id, without an answer, with pictures; an answer whose call was summarised away: the strict server takes them all."
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"type": "function", "function": {"name": None, "arguments": {}, "error": "not valid JSON"}}
    messages = [{"role": "tool", "content": "an old result"}, *QUESTION, {"role": "assistant", "content": "", "tool_calls": [call, call, call]},
                {"role": "tool", "content": [{"type": "text", "text": "seen"}, picture]}, {"role": "tool", "content": "two"}, {"role": "user", "content": "Answer now."}]
    with ScriptedModel([turn("London")]) as server: assert ask(server, messages).text == "London"
    assert not server.problems and server.requests[0]["messages"][-2]["content"][1] == picture


def test_many_faults_in_an_episode_and_the_bill_is_right_to_the_token():
    "Twelve turns; two of three requests fail in some way; every token that the server reports is counted, and no other."
    kinds = ["429", "500", "cut", "garbage", "empty", "cut_usage", "wrong_types", "drop", "cut_clean"]
    turns = [turn("", [("file", {"path": f"{i}.md"})], reasoning=f"step {i}") for i in range(11)] + [turn("<answer>done</answer>")]
    with ScriptedModel(turns, faults=lambda number: kinds[number // 3 * 2 % len(kinds) + number % 3 - 1] if number % 3 and number // 3 * 2 % len(kinds) + number % 3 - 1 < len(kinds) else None) as server:
        endpoint, messages, total, money = ChatEndpoint(settings(server, retries=8)), list(QUESTION), Usage(), 0.0
        async def episode():
            nonlocal total, money
            for _ in turns:
                reply = await endpoint.complete(messages, TOOLS)
                total, money = total + reply.usage, money + reply.cost
                messages.append(reply.message)
                if reply.calls: messages.append({"role": "tool", "content": f"result {len(messages)}"})
            await endpoint.close()
        run(episode())
    assert messages[-1]["content"] == "<answer>done</answer>" and server.played == 12 and len(server.requests) > 25
    assert total == endpoint.usage == bill(server) and total.cached > 0 and server.spent.prompt > server.billed.prompt
    assert money == pytest.approx(price_of(bill(server), endpoint.settings), rel=1e-9)


def test_many_conversations_at_once():
    with ScriptedModel(lambda messages: turn(messages[-1]["content"].upper()), faults=lambda number: "500" if number % 5 == 0 else None) as server:
        endpoint = ChatEndpoint(settings(server))
        async def work():
            replies = await asyncio.gather(*(endpoint.complete([{"role": "user", "content": f"question {i}"}]) for i in range(40)))
            await endpoint.close()
            return replies
        replies = run(work())
    assert [r.text for r in replies] == [f"QUESTION {i}" for i in range(40)] and endpoint.usage == bill(server)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_than_asked_for_are_under_way(limit):
    "The others wait outside the time that an attempt has; a repeated one takes its place again."
    under_way, most, lock = set(), [0], threading.Lock()
    def model(messages):
        with lock:
            under_way.add(messages[-1]["content"])
            most[0] = max(most[0], len(under_way))
        met.wait(0.05) if limit == 1 else met.wait(10)
        with lock: under_way.discard(messages[-1]["content"])
        return turn("yes")
    met = threading.Barrier(limit) if limit > 1 else threading.Event()
    with ScriptedModel(model, faults={1: "500"}) as server:
        endpoint = ChatEndpoint(settings(server, concurrency=limit, total_timeout=20.0))
        async def work():
            await asyncio.gather(*(endpoint.complete([{"role": "user", "content": f"question {i}"}]) for i in range(9)))
            await endpoint.close()
        run(work())
    assert most[0] == limit and len(server.requests) == 10


def test_a_choice_of_tools_is_sent_until_it_is_refused():
    with ScriptedModel([turn("A"), turn("B")], strict={"tool_choice": "tool_choice is not supported"}) as server:
        endpoint = ChatEndpoint(settings(server))
        for tools in (TOOLS, None):
            assert run(endpoint.complete(QUESTION, tools, tool_choice="none")).text in "AB"
    assert [request.get("tool_choice") for request in server.requests] == ["none", None, None] and server.requests[1]["tools"] == TOOLS


def test_a_cancelled_request_ends_at_once_and_the_endpoint_goes_on():
    with ScriptedModel([turn("London")], faults={0: "hang"}) as server:
        endpoint = ChatEndpoint(settings(server, timeout=60.0))
        async def work():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3): await endpoint.complete(QUESTION)
            reply = await endpoint.complete(QUESTION)
            await endpoint.close()
            return reply
        assert run(work()).text == "London" and endpoint.requests == 2


def test_a_bug_in_the_callers_function_raises():
    def broken(piece): raise KeyError("mine")
    with ScriptedModel([turn("London")]) as server:
        with pytest.raises(KeyError, match="mine"): ask(server, on_text=broken)
        assert len(server.requests) == 1


def test_the_only_model_is_found_and_several_are_named():
    with ScriptedModel([turn("London")], model="alone") as server:
        assert ask(server, endpoint=ChatEndpoint(endpoint_settings(f"http://127.0.0.1:{server.port}"))).model == "alone"
    with ScriptedModel([turn("London")], models=["a", "b"]) as server:
        with pytest.raises(InputError, match="name one, as URL#MODEL; .* has a, b"): ask(server, model="")


def test_pictures_and_speech(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50); (tmp_path / "talk.wav").write_bytes(b"RIFF0000WAVE")
    with ScriptedModel([turn("a dot")], transcript="hello 水") as server:
        endpoint = ChatEndpoint(settings(server))
        async def work():
            seen, heard = await endpoint.ask_image("What is it?", tmp_path / "dot.png"), await endpoint.transcribe(tmp_path / "talk.wav", "zh")
            with pytest.raises(InputError, match="talk.wav: no PNG"): await endpoint.ask_image("?", tmp_path / "talk.wav")
            with pytest.raises(InputError, match="none.wav: cannot be read"): await endpoint.transcribe(tmp_path / "none.wav")
            await endpoint.close()
            return seen, heard
        seen, heard = run(work())
    assert seen.text == "a dot" and server.requests[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert heard.text == "hello 水" and heard.usage == Usage(20, 4) and server.audio == [{"model": "scripted", "name": "talk.wav", "bytes": b"RIFF0000WAVE", "language": "zh"}]
    assert endpoint.usage == bill(server)


def test_further_fields_and_limits_are_sent():
    with ScriptedModel([turn("London")]) as server:
        ask(server, extra='{"chat_template_kwargs": {"enable_thinking": false}}', max_tokens=7, temperature=0.0)
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False} and server.requests[0]["max_tokens"] == 7 and server.requests[0]["temperature"] == 0.0


def test_halves_of_characters_and_bottomless_json():
    with ScriptedModel([turn("a \ud83d b", [("file", '{"path": "\\ud83d.md"}'), ("file", "[" * 100_000)])], piece=1000) as server:
        reply = ask(server, [{"role": "user", "content": "half \ude00"}])
    json.dumps(reply.message, ensure_ascii=False).encode()
    assert reply.text == "a \ufffd b" and reply.calls[0]["arguments"] == {"path": "\ufffd.md"} and reply.calls[1]["error"] == "not valid JSON (nested too deeply)"
    assert read_turn("<tool_call>" + "[" * 100_000 + "</tool_call>")["tool_calls"][0]["function"]["error"] == "not valid JSON (nested too deeply)"


def junk(rng): return rng.choice([None, 0, -1, 1e308, True, "", "x", [], {}, [None], [[]], {"x": 1}, {"message": 3}, "\ud800", [{}], 10**30])


def spoil(value, rng):
    "Replace one random node of a JSON value."
    path, node = [], value
    while isinstance(node, (dict, list)) and node and rng.random() < 0.85:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key)); node = node[key]
    if not path: return junk(rng)
    path[-1][0][path[-1][1]] = junk(rng)
    return value


def test_whatever_json_a_server_sends_is_a_reply_or_a_failed_attempt():
    whole = [{"model": "m", "choices": [{"delta": {"role": "assistant", "content": "<think>a</think>b", "reasoning_content": "c"}, "finish_reason": None}]},
             {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "file", "arguments": "{\"path\""}}]}}]},
             {"choices": [{"delta": {"content": [{"type": "text", "text": "d"}], "tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}, "finish_reason": "stop"}]},
             {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}]
    rng, kinds = random.Random(0), {"reply": 0, "garbage": 0}
    for _ in range(4000):
        events = copy.deepcopy(whole)
        for _ in range(rng.choice((1, 1, 2, 4))): i = rng.randrange(len(events)); events[i] = spoil(events[i], rng)
        gathered = Gathered()
        try:
            for event in events:
                if isinstance(event, dict): gathered.add(event)
            message = gathered.message()
            json.dumps(message, ensure_ascii=False).encode()
            assert message["role"] == "assistant" and isinstance(message["content"], str) and all(isinstance(c["function"], dict) and c["id"] for c in message.get("tool_calls", []))
            kinds["reply"] += 1
        except GarbledReply: kinds["garbage"] += 1
    assert min(kinds.values()) > 300


# ---------------------------------------------------------------- what fits

LONG = [{"role": "user", "content": "The tides rise and fall twice a day. " * 80}]     # about 740 tokens of the server's counting


@pytest.mark.parametrize("kind", ["vllm", "old vllm"])
def test_a_reply_that_does_not_fit_is_asked_for_smaller(kind):
    with ScriptedModel([turn("London")], limit=4096, kind=kind) as server: reply = ask(server, LONG, max_tokens=8192)
    assert reply.text == "London" and reply.attempts == 2 and "8192" in reply.troubles[0] and reply.usage == bill(server)
    first, second = [request["max_tokens"] for request in server.requests]
    assert first == 8192 and 2500 < second <= 4096 - 740
    assert len(server.problems) == 1 and "4096" in server.problems[0]


def test_a_limit_that_is_known_is_kept_to_at_once():
    with ScriptedModel([turn("London")], limit=4096, kind="old vllm") as server:
        endpoint = ChatEndpoint(settings(server, max_tokens=8192))
        async def work():
            limits = await endpoint.limits()
            replies = [await endpoint.complete(LONG), await endpoint.complete(QUESTION)]
            await endpoint.close()
            return limits, replies
        limits, replies = run(work())
    assert (limits.context, limits.source, limits.firm) == (4096, "the server's max_model_len", True) and not server.problems
    assert [reply.attempts for reply in replies] == [1, 1] and server.requests[0]["max_tokens"] < server.requests[1]["max_tokens"] < 4096


def test_a_prompt_that_does_not_fit_is_not_asked_twice():
    with ScriptedModel([turn("London")], limit=512) as server:
        with pytest.raises(ContextTooLong, match="at least 513 input tokens") as caught: ask(server, LONG, max_tokens=100)
        assert len(server.requests) == 1 and (caught.value.limits.context, caught.value.limits.prompt) == (512, 513)
    with ScriptedModel([turn("London")], limit=512, kind="llama.cpp") as server:
        with pytest.raises(ContextTooLong, match="available context size") as caught: ask(server, LONG)
        assert len(server.requests) == 1 and caught.value.limits.context == 512 < caught.value.limits.prompt


@pytest.mark.parametrize("words, expected", [
    ("max_tokens is too large: 9000. This model supports at most 4000 completion tokens, whereas you provided 9000.", 4000),
    ("Invalid max_tokens value, the valid range of max_tokens is [1, 8000]", 8000), ("`max_tokens` must be less than or equal to `7000`", 7000),
    ("max_tokens: 9000 > 6000, which is the maximum allowed number of output tokens", 6000),
    ("input length and `max_tokens` exceed context limit: 196000 + 9000 > 200000, decrease input length or `max_tokens` and try again", 4000)])
def test_a_vendors_limit_of_replies_is_read_from_its_words(words, expected):
    "The server refuses 9000 reply tokens, whatever else it would take."
    class Picky(ScriptedModel):
        def _too_much(self, body): return self._refuse(400, words) if body.get("max_tokens", 0) > expected else None
    with Picky([turn("London")]) as server: assert ask(server, max_tokens=9000).text == "London"
    assert [request["max_tokens"] for request in server.requests] == [9000, expected]


def test_words_without_a_number_halve_the_reply_and_then_give_up():
    class Mute(ScriptedModel):
        def _too_much(self, body): return self._refuse(400, "Please reduce the length of the messages or completion.") if body.get("max_tokens", 0) > self.limit else None
    with Mute([turn("London")], limit=5000) as server: assert ask(server, max_tokens=9000).text == "London" and [r["max_tokens"] for r in server.requests] == [9000, 4500]
    with Mute([turn("London")], limit=100) as server:
        with pytest.raises(ContextTooLong): ask(server, max_tokens=9000)
        assert len(server.requests) == 3


SHOWN = {"model_info": {"general.architecture": "qwen2", "qwen2.context_length": 32768}, "parameters": "stop \"<|im_end|>\""}

@pytest.mark.parametrize("own, expected", [
    ({"/props": {"default_generation_settings": {"n_ctx": 8192, "n_predict": -1}, "total_slots": 4}}, 8192),                       # llama.cpp
    ({"/api/show": SHOWN, "/api/ps": {"models": [{"name": "scripted:latest", "context_length": 16384}, {"name": "other", "context_length": 2048}]}}, 16384),   # Ollama, loaded
    ({"/api/show": SHOWN | {"parameters": "num_ctx                        6000\nstop \"x\""}, "/api/ps": {"models": []}}, 6000),
    ({"/api/show": SHOWN, "/api/ps": {"models": []}}, 4096),
    ({"/api/v0/models/scripted": {"id": "scripted", "state": "loaded", "max_context_length": 131072, "loaded_context_length": 4096}}, 4096),                  # LM Studio
    ({"/info": {"model_id": "x", "max_input_tokens": 3000, "max_total_tokens": 4000}}, 4000),                                      # TGI
    ({"/get_server_info": {"context_length": 12000}}, 12000), ({"/props": ["odd"], "/info": "odd"}, 0), ({}, 0)])
def test_limits_that_servers_tell_in_their_own_places(own, expected):
    async def work(endpoint):
        limits = await endpoint.limits()
        await endpoint.close()
        return limits
    with ScriptedModel([turn("London")], own=own) as server:
        assert run(work(ChatEndpoint(settings(server)))).context == expected
        asked = run(work(ChatEndpoint(settings(server, context=9000))))
    firm = expected and expected != 4096 or "/api/v0/models/scripted" in own
    assert asked.context == (min(expected, 9000) if firm else 9000)         # a default gives way to what a person says, a server's own word does not


def test_a_server_whose_list_is_broken_is_looked_at_once():
    "A model list that fails (as that of `transformers serve` for a folder) holds nothing up: the request itself is what counts."
    class Broken(ScriptedModel):
        lists = 0
        async def _models(self, request):
            self.lists += 1
            return self._refuse(500, "Internal Server Error")
    async def work(endpoint):
        limits, reply = await endpoint.limits(), await endpoint.complete(QUESTION)
        await endpoint.close()
        return limits, reply
    with Broken([turn("London")]) as server: limits, reply = run(work(ChatEndpoint(settings(server, backoff=30.0))))
    assert server.lists == 1 and limits.context == 0 and reply.text == "London"


def test_a_server_that_is_away_has_no_limits():
    async def work():
        endpoint = ChatEndpoint(endpoint_settings("http://127.0.0.1:9/v1#x", retries=0))
        limits = await endpoint.limits()
        await endpoint.close()
        return limits
    assert run(work()).context == 0


def test_a_server_whose_template_drops_the_tools_is_told_in_text():
    "It takes the tools and never shows them: the prompt that it counts is as short as without them, and the model answers from memory."
    about = [{"type": "function", "function": {**TOOLS[0]["function"], "description": "Reads files. " * 40}}]
    class Forgetful(ScriptedModel):
        def _usage(self, body, played): return super()._usage({**body, "tools": None}, played)
    def model(messages): return turn('<tool_call>{"name": "file", "arguments": {"path": "a.md"}}</tool_call>') if "<tools>" in messages[0]["content"] else turn("from memory")
    with Forgetful(model) as server: reply = ask(server, tools=about)
    assert reply.calls[0]["name"] == "file" and "does not show the tools" in reply.troubles[0] and reply.attempts == 2
    assert "tools" in server.requests[0] and "tools" not in server.requests[1] and reply.usage == bill(server)
    with ScriptedModel(model) as server: assert ask(server, tools=about).text == "from memory" and len(server.requests) == 1     # it was shown them, and would not
