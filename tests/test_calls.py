"""What models really write: calls in every family's markup, near-JSON, answers, thoughts; and arguments that are only written differently."""
import json
import random
import string

import pytest
from scripted_model import ScriptedModel, turn

from stepdr.core.calls import answer_in, read_arguments, unread_call
from stepdr.core.endpoint import ChatEndpoint
from stepdr.core.connection import EndpointSettings
from stepdr.core.replies import native_call, read_turn
from stepdr.core.streams import Gathered
from stepdr.agent.episode import find_answer
from stepdr.agent.budget import ResearchSettings
from stepdr.agent.drivers import ResearchAgent
from stepdr.synthesis.filters import citation_format
from stepdr.synthesis.trajectories import answer_of as filter_answer, calls_of, citations, failed_responses
from stepdr.synthesis.foreign_rows import trajectory_of
from stepdr.tools.tool import Toolbox, ToolError, check_arguments, run_async
from stepdr.tools.workspace import Workspace
from stepdr.core.trajectory import all_cited, answer_of, assistant_text, cited_ids, neutralize, parse_turn

LIST = {"name": "file", "arguments": {"action": "list"}}
CALL = json.dumps(LIST)
SPACE = "ant" + "ml:"


def read(text): # -> (calls, content)
    message = read_turn(text)
    return [call["function"] for call in message.get("tool_calls", [])], message["content"]


# near-JSON

@pytest.mark.parametrize("body", [
    CALL + "\n", "```json\n" + CALL + "\n```", "```" + "\n" + CALL + "```", '{"name": "file", "arguments": {"action": "list",},}', "{'name': 'file', 'arguments': {'action': 'list'}}",
    '{"name": "file", "parameters": {"action": "list"}}', '{"name": "functions.file", "arguments": {"action": "list"}}', '{"name": " file ", "args": {"action": "list"}}', '{"name": "functions.file:0", "arguments": {"action": "list"}}',
    json.dumps({"name": "file", "arguments": json.dumps({"action": "list"})}), json.dumps({"name": "file", "arguments": json.dumps(json.dumps({"action": "list"}))}), json.dumps(CALL), json.dumps(json.dumps(CALL)),
    '{"name": "file", "arguments": {"action": "list"}', '{"name": "file", "arguments": {"action": "list"}}}', '{"name": "file", "arguments": {"action": "list"}}]',
    '{"name": "file", /* what */ "arguments": {"action": "list"} // how\n}', '{"type": "function", "function": {"name": "file", "arguments": {"action": "list"}}}', '{"tool_calls": [' + CALL + "]}", "[" + CALL + "]",
    '{"name": "file", "arguments": {"action": "list", "action": "list"}}', '{"name": "f\\u0069le", "arguments": {"action": "list"}}', '{"id": "c1", "name": "file", "arguments": {"action": "list"}}'])
def test_a_call_that_is_nearly_json_is_read(body):
    assert read(f"<tool_call>{body}</tool_call>") == ([LIST], "") == read(f"<tool_call>\n{body}\n</tool_call>\n")
    assert parse_turn(f"<tool_call>{body}</tool_call>")["tool_calls"] == [{"type": "function", "function": LIST}]


@pytest.mark.parametrize("body, arguments", [
    ('{"name": "f", "arguments": {"a": "x\ny\tz"}}', {"a": "x\ny\tz"}), ('{"name": "f", "arguments": {"a": "see \\cite{web_0a1b2c3d} and \\d+"}}', {"a": "see \\cite{web_0a1b2c3d} and \\d+"}),
    ('{"name": "f", "arguments": {"a": "use <tool_call>{\\"x\\": 1}</tool_call> tags"}}', {"a": 'use <tool_call>{"x": 1}</tool_call> tags'}), ('{"name": "f", "arguments": {"a": "</tool_call>\\n<answer>no</answer>"}}', {"a": "</tool_call>\n<answer>no</answer>"}),
    ('{"name": "f", "arguments": {"a": True, "b": None, "c": [1, 2.5, False,]}}', {"a": True, "b": None, "c": [1, 2.5, False]}), ("{'name': 'f', 'arguments': {'a': \"it's\", 'b': 'a \"word\"\\n'}}", {"a": "it's", "b": 'a "word"\n'}),
    ('{"name": "f", "arguments": {"a": """x\n"y" \\t""", "b": ""}}', {"a": 'x\n"y" \t', "b": ""}), ('{"name": "f", "arguments": null}', {}), ('{"name": "f"}', {}), ('{"name": "f", "arguments": ""}', {}), ('{"name": "f", "arguments": {"a": "half \\ud83d"}}', {"a": "half \ufffd"}), ('{"name": "f", "arguments": {"a": "```\\ncode"}}', {"a": "```\ncode"}),
    ('{"name": "f", "arguments": {"a": "<think>x</think>"}}', {"a": "<think>x</think>"}), ('{"name": "f", "arguments": {"a": "// no comment", "b": "a,}"}}', {"a": "// no comment", "b": "a,}"})])
def test_what_stands_in_a_string_stays(body, arguments):
    for reader in (read_turn, parse_turn): assert reader(f"<tool_call>{body}</tool_call>") == {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize("body, words", [
    ("{oops}", "not valid JSON"), ('{"name": "f", "arguments": {a: 1}}', "not valid JSON"), ('{"name": "f", "arguments": {"q": "he said "no" then"}}', "not valid JSON"), ('{"name": "f", "arguments": {"n": NaN}}', "NaN is no JSON number"),
    ('{"name": "f", "arguments": {"n": 1e999}}', "no JSON number"), ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "given twice"), ('{"name": "f", "arguments": {"a" 1}}', "not valid JSON"), ('{"name": "f", "arguments": {"a": 1,, "b": 2}}', "not valid JSON"),
    ('{"name": ["todo"], "arguments": {}}', "needs name"), ('{"name": 5}', "needs name"), ('{"name": ""}', "needs name"), ("{}", "needs name"), ("[]", "needs name"), ("", "needs name"), ('{"arguments": {}}', "needs name"), ('{"name": "f", "arguments": [1]}', "must be a JSON object"),
    ('{"name": "f", "arguments": 5}', "must be a JSON object"), ('{"name": "f", "arguments": "{oops"}', "not valid JSON"), ('{"name": "f", "path": "a.md"}', "stands beside the name"), ('{"name": "f", "arguments": {"a": 1}, "parameters": {"a": 2}}', "several kinds"),
    ("[f('a.md')]", "by its name"), ("[f(a=open('x'))]", "plain values"), ("<function=f><path>a</path></function>", "no <parameter"), ("[" * 100_000, "nested too deeply"), ('{"a":' * 100_000, "nested too deeply"), ("1" * 5000, "not valid JSON"), ("words", "not valid JSON")])
def test_what_would_have_to_be_guessed_is_answered_with_a_correction(body, words):
    calls, content = read(f"<tool_call>{body}</tool_call>")
    assert content == "" and len(calls) == 1 and words in calls[0]["error"] and calls[0]["arguments"] == {}
    assert words in parse_turn(f"<tool_call>{body}</tool_call>")["tool_calls"][0]["function"]["error"]


def test_several_calls_and_missing_ends():
    for text in (f"<tool_call>\n{CALL}\n<tool_call>\n{CALL}\n</tool_call>", f"<tool_call>{CALL}\n{CALL}</tool_call>", f"<tool_call>{CALL}, {CALL}</tool_call>", f"<tool_call>[{CALL}, {CALL}]</tool_call>", f"<tool_call>{CALL}</tool_call><tool_call>{CALL}",
                 f"<tool_calls>\n{CALL}\n{CALL}\n</tool_calls>", f"<tool_call>{CALL}<|im_end|>\n<tool_call>{CALL}<|im_end|>"): assert read(text) == ([LIST, LIST], ""), text
    for text in (f"<tool_call>\n{CALL}<|im_end|>", f"<tool_call>\n{CALL}", f"<tool_call>{CALL}</tool_call></tool_call>", f"{CALL}</tool_call>"): assert read(text) == ([LIST], ""), text
    good, bad = read(f'<tool_call>{{"name": "file", "arguments": {{"a": "x"y"}}}}</tool_call><tool_call>{CALL}</tool_call>')[0], read('<tool_call>{"name": "file", "argum')[0]
    assert "error" in good[0] and good[1] == LIST and "not valid JSON" in bad[0]["error"]
    parallel = {"name": "multi_tool_use.parallel", "arguments": {"tool_uses": [{"recipient_name": "functions.file", "parameters": {"action": "list"}}] * 2}}
    assert read(f"<tool_call>{json.dumps(parallel)}</tool_call>")[0] == [LIST, LIST]


def test_native_arguments():
    assert native_call("file", '{"a": "x\ny"}') == {"name": "file", "arguments": {"a": "x\ny"}} and native_call("functions.file", json.dumps(json.dumps({"action": "list"}))) == LIST
    assert native_call("file", None) == native_call("file", "") == native_call("file", {}) == native_call("file", "null") == {"name": "file", "arguments": {}}
    assert [native_call("file", odd)["error"][:9] for odd in ("[1]", 5, '{"a": 1}{"b": 2}', '{"a": ')] == ["not valid"] * 4
    assert read_arguments("{'a': None,}") == {"a": None}


# families

FAMILIES = {
    "Qwen3-Coder": "<tool_call>\n<function=file>\n<parameter=action>\nlist\n</parameter>\n</function>\n</tool_call>", "without the opening": "<function=file>\n<parameter=action>\nlist\n</parameter>\n</function>\n</tool_call>",
    "a parameter not closed": "<function=file>\n<parameter=action>\nlist\n</function>", "Llama 3.1's function": '<function=file>{"action": "list"}</function>', "Mistral": '[TOOL_CALLS][{"name": "file", "arguments": {"action": "list"}, "id": "9Ae3bDc2F"}]</s>',
    "Mistral 11": '[TOOL_CALLS]file{"action": "list"}', "Mistral 13": '[TOOL_CALLS]file[CALL_ID]a1b2c3d4e[ARGS]{"action": "list"}', "Llama 3": '<|python_tag|>{"name": "file", "parameters": {"action": "list"}}<|eom_id|>', "Llama 3, bare": '{"name": "file", "parameters": {"action": "list"}}',
    "bare, in a fence": "```json\n" + CALL + "\n```", "bare list": f"[{CALL}]", "OpenAI's object": '{"type": "function", "function": {"name": "file", "parameters": {"action": "list"}}}',
    "DeepSeek V3": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>file\n```json\n{"action": "list"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>',
    "DeepSeek V3.1": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>file<｜tool▁sep｜>{"action": "list"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "DeepSeek V3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="file">\n<｜DSML｜parameter name="action" string="true">list</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "Kimi K2": '<|tool_calls_section_begin|><|tool_call_begin|>functions.file:0<|tool_call_argument_begin|>{"action":"list"}<|tool_call_end|><|tool_calls_section_end|>', "Kimi K2, no end": '<|tool_calls_section_begin|><|tool_call_begin|>functions.file:0<|tool_call_argument_begin|>{"action":"list"}',
    "GLM 4.5": "<tool_call>file\n<arg_key>action</arg_key>\n<arg_value>list</arg_value>\n</tool_call>", "MiniMax M2": '<minimax:tool_call>\n<invoke name="file">\n<parameter name="action">list</parameter>\n</invoke>\n</minimax:tool_call>',
    "XML": '<function_calls>\n<invoke name="file">\n<parameter name="action">list</parameter>\n</invoke>\n</function_calls>', "XML in a name space": f'<{SPACE}function_calls><{SPACE}invoke name="file"><{SPACE}parameter name="action">list</{SPACE}parameter></{SPACE}invoke></{SPACE}function_calls>',
    "Seed-OSS": "<seed:tool_call><function=file><parameter=action>list</parameter></function></seed:tool_call>", "Granite": f"<|tool_call|>[{CALL}]", "Phi-4 mini": f"<|tool_call|>[{CALL}]<|/tool_call|>", "Phi": f"functools[{CALL}]", "Granite 4": f"<tool_call>[{CALL}]</tool_call>",
    "Command R7B": '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "file", "parameters": {"action": "list"}}]<|END_ACTION|>', "Command R": 'Action: ```json\n[{"tool_name": "file", "parameters": {"action": "list"}}]\n```',
    "Llama 4": '[file(action="list")]', "LFM2": "<|tool_call_start|>[file(action='list')]<|tool_call_end|>", "Gemma": '```tool_code\nfile(action="list")\n```', "Olmo 3": '<function_calls>\nfile(action="list")\n</function_calls>',
    "Gemma's print": "<tool_code>\nprint(default_api.file(action='list'))\n</tool_code>", "a function of an object": '<tool_call>file({"action": "list"})</tool_call>', "LangChain": '{"action": "file", "action_input": {"action": "list"}}',
    "the older field as an object": '{"function_call": {"name": "file", "arguments": "{\\"action\\": \\"list\\"}"}}', "in a fence around the turn": f"```xml\n<tool_call>\n{CALL}\n</tool_call>\n```",
    "InternLM": '<|action_start|><|plugin|>{"name": "file", "parameters": {"action": "list"}}<|action_end|>', "Glaive": f"<functioncall> {CALL} </functioncall>", "Hunyuan": f"<tool_calls>[{CALL}]</tool_calls>",
    "gpt-oss": '<|channel|>commentary to=functions.file <|constrain|>json<|message|>{"action": "list"}<|call|>', "gpt-oss, recipient first": '<|start|>assistant to=functions.file<|channel|>commentary json<|message|>{"action": "list"}<|call|>',
    "Step 3": '<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="file"><steptml:parameter name="action">list</steptml:parameter></steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>'}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_call_is_read(family): assert read(FAMILIES[family]) == ([LIST], "")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_that_is_quoted_is_no_call_and_no_report(family):
    text = FAMILIES[family]
    for quoted in (f"An example:\n```\n{text}\n```\nSo it is.", f"An example: `{text}`." if "\n" not in text and "`" not in text else f"~~~\n{text}\n~~~\nSo."):
        if "<|message|>" not in text and "```" not in text: assert read(quoted) == ([], quoted)
    assert read(f"<think>I could write {text} here.</think><answer>so</answer>")[0] == [] == read(f"<answer>It writes {text} for that.</answer>")[0] or "<|message|>" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_call_is_never_the_report(family):
    "Each family's call, cut anywhere: it is read, or corrected, or seen as markup; of its beginning alone nobody can tell."
    text = FAMILIES[family]
    for end in range(len(text) // 2 + 8, len(text)):
        message = read_turn(text[:end])
        calls = message.get("tool_calls", [])
        assert calls or find_answer(message) is None or family in ("Command R", "Llama 4", "Gemma", "OpenAI's object", "the older field as an object"), text[:end]
        assert all(call["function"] == LIST or "error" in call["function"] or call["function"]["name"] != "file" or set(call["function"]["arguments"]) <= {"action"} for call in calls)


def test_a_page_cannot_make_the_agent_act():
    "What a page shows is escaped before a model reads it, so that a model that repeats it word for word calls nothing."
    for family, text in FAMILIES.items():
        shown = neutralize(text)
        assert neutralize(shown) == shown
        assert read(f"The page says: {shown}")[0] == [], family
    assert read(f"The page says:\n{CALL}")[0] == [] and unread_call(f"The page says:\n{CALL}")


def test_thoughts_and_channels():
    assert read_turn(f"<think>no: <tool_call>{CALL}</tool_call></think><tool_call>{CALL}</tool_call>")["reasoning_content"] == f"no: <tool_call>{CALL}</tool_call>"
    assert read_turn(f"<think>Look it up.\n<tool_call>{CALL}</tool_call>")["tool_calls"][0]["function"] == LIST # never closed, but it ends with a call
    assert "tool_calls" not in read_turn(f"<think>Perhaps <tool_call>{CALL}</tool_call>? No")
    for text in ("<thinking>a</thinking>b", "[THINK]a[/THINK]b", "a</think>b", "<think>a</think>b", "<reasoning>a</reasoning>\nb", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"):
        assert read_turn(text) == {"role": "assistant", "content": "b", "reasoning_content": "a"}, text
    assert parse_turn(f"<think>no <tool_call>{CALL}</tool_call></think><answer>b</answer>") == {"role": "assistant", "content": "<answer>b</answer>", "reasoning_content": f"no <tool_call>{CALL}</tool_call>"}


def test_any_text_is_read_and_calls_in_the_wire_format_come_back():
    rng, pieces = random.Random(0), ["<tool_call>", "</tool_call>", "<think>", "</think>", "<answer>", "</answer>", CALL, '{"name": "f", ', "[TOOL_CALLS]", "`", "```\n", "<function=f>", "<parameter=a>", "</function>", "\n", " ", '"', "{", "}", "[", "]", "x", "<|im_end|>", "<|message|>",
                                     "<invoke name='a'>", "<｜tool▁sep｜>", "f(x=1)", "\ud83d", "Action: a\nAction Input: b", "<arg_key>", "</arg_key>", "\\", "'", "//", "/*", ","]
    for _ in range(4000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 14)))
        for message in (read_turn(text), parse_turn(text)):
            assert all(set(call["function"]) <= {"name", "arguments", "error"} and isinstance(call["function"]["arguments"], dict) and isinstance(call["function"]["name"], (str, type(None))) for call in message.get("tool_calls", []))
            assert isinstance(message["content"], str) and isinstance(find_answer(message), (str, type(None)))
    for _ in range(300):
        words = lambda: "".join(rng.choice(string.printable + "é水</>") for _ in range(rng.randint(0, 30)))
        message = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {words(): rng.choice([words(), 1, 2.5, None, True, [words()], {words(): {}}])}}} for _ in range(rng.randint(1, 3))]}
        assert parse_turn(assistant_text(message)) == message


def test_a_turn_in_the_strict_form_is_read_as_ever():
    for text in ('<think>plan : x</think><tool_call>{"name": "todo", "arguments": {"action": "create", "items": ["a <b>", "北京"]}}</tool_call>', "<answer> London</answer>", "<answer>Lon", "", "words"):
        message = parse_turn(text + "<|im_end|>")
        assert assistant_text(message) == text


# answers

@pytest.mark.parametrize("text, answer", [
    ("I now write the report inside <answer> tags as asked.\n\n<answer># Report\n\nTides.</answer>", "# Report\n\nTides."), ("<answer>DRAFT</answer>\n\nThat is wrong.\n\n<answer>FINAL</answer>", "FINAL"),
    ("<answer>R</answer>\nIt stands between <answer> and </answer>, as you asked.", "R"), ("It comes between <answer> and </answer>:\n<answer>R</answer>", "R"), ("`<answer>x</answer>` is the form.\n<answer>y</answer>", "y"), ("<answer>y</answer>\n\nThe form: `<answer>x</answer>`", "y"),
    ("<answer>y</answer>\n```xml\n<answer>x</answer>\n```", "y"), ("<answer>We use `<answer>` and `</answer>` here.</answer>", "We use `<answer>` and `</answer>` here."), ("<answer>Tags like <answer> and </answer> stay.\nEnd.</answer>", "Tags like <answer> and </answer> stay.\nEnd."),
    ('The tag "<answer>" opens it. <answer>z</answer>', "z"), ("<answer>A</answer> or <answer>B</answer>", "B"), ("<answer>draft, never closed\n\n<answer>final</answer>", "final"), ("<answer>one</answer>\n<answer>cut o", "one"), ("<answer>cut o", "cut o"), ("So: <answer>cut o", "cut o"),
    ("I will use <answer> tags.", None), ("Between <answer> and </answer>.", None), ("`<answer>x</answer>`", None), ("no tag", None), ("", None), ("<answer></answer>", ""), ("```\n<answer>R</answer>\n```", "R"), ("<ANSWER>R</ANSWER>", "R"), ("<answer>\n\nR\n</answer>\n<|im_end|>", "R"),
    ("<answer>a ``` b</answer>", "a ``` b"), ("<answer>see\n```\n</answer> is the end tag\n```\nmore</answer>", "see\n```\n</answer> is the end tag\n```\nmore")])
def test_which_answer_counts_is_one_rule(text, answer):
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}
    assert answer_in(text) == answer == answer_of(row["messages"])
    assert filter_answer(row) == (text.strip() if answer is None else answer)
    assert find_answer(row["messages"][1]) == ((text.strip() or None) if answer is None else answer or None)


def test_calls_around_answers():
    assert read(f"The report comes in <answer> tags later.\n<tool_call>{CALL}</tool_call>") == ([LIST], "The report comes in <answer> tags later.")
    assert read(f"<answer>one uses <tool_call>{CALL}</tool_call></answer>") == ([], f"<answer>one uses <tool_call>{CALL}</tool_call></answer>")
    inside = f'<tool_call>{json.dumps({"name": "file", "arguments": {"content": "<answer>draft</answer>"}})}</tool_call>'
    assert read(inside)[0][0]["arguments"] == {"content": "<answer>draft</answer>"}
    assert find_answer({"content": f"<answer><tool_call>{CALL}</tool_call></answer>"}) is None and find_answer({"content": "<answer>[TOOL_CALLS]file{}</answer>"}) is None
    assert calls_of({"messages": [{"role": "assistant", "content": f"<think>no <tool_call>{CALL}</tool_call></think><function=todo></function>"}]}) == [("todo", {})]


def agent(server, folder):
    async def search(query: str) -> str:
        """Search.

        query: what to look for
        """
        return f"found {query}"
    policy, workspace = ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model)), Workspace(folder)
    async def work():
        try: return await ResearchAgent(policy, Toolbox([search]), workspace, ResearchSettings()).run("What causes tides?")
        finally: await policy.close()
    return run_async(work())


@pytest.mark.parametrize("markup, asked", [
    ('<|tool_call_begin|>functions.search:0<|tool_call_argument_begin|>{"query":"tides"}<|tool_call_end|>', "found tides"), ('[search(query="tides")]', "found tides"), ("<function=search>\n<parameter=query>\ntides\n</parameter>\n</function>", "found tides"),
    ('assistantcommentary to=functions.search json{"query":"tides"}', "could not be read"), ('I search:\n```json\n{"name": "search", "arguments": {"query": "tides"}}\n```', "could not be read"), ("Thought: look\nAction: search\nAction Input: tides", "could not be read"),
    ("<answer>[TOOL_CALLS]search{\"query\": \"tides\"}</answer>", "could not be read"), ("<tool_call>search tides", "could not be read"),
    ('<tool_use><tool_name>search</tool_name><tool_input>tides</tool_input></tool_use>', "could not be read"), ("✿FUNCTION✿: search\n✿ARGS✿: tides", "could not be read")])
def test_markup_is_a_call_or_a_correction_but_never_the_report(tmp_path, markup, asked):
    with ScriptedModel([turn(markup), turn("<answer>The Moon.</answer>")]) as server: result = agent(server, tmp_path)
    assert result.answer == "The Moon." and result.ended == "answered" and len(server.requests) == 2 and asked in json.dumps(server.requests[1]["messages"][-1])


def test_a_model_that_writes_nothing_but_markup_has_no_report(tmp_path):
    with ScriptedModel([turn("to=functions.search json{}")]) as server: result = agent(server, tmp_path)
    assert result.answer == "" and result.ended == "no answer: empty replies"


def test_a_report_that_was_cut_goes_on_although_a_draft_is_closed(tmp_path):
    with ScriptedModel([turn("<answer>draft</answer>\nNo.\n<answer># Repo", finish="length"), turn("rt</answer>")]) as server: assert agent(server, tmp_path).answer == "# Report"


# arguments

def tool(action: str, names: list[str] = None, edits: list[dict] = None, start: int = 1, share: float = 0.5, deep: bool = False, more: dict = None) -> str:
    """A tool.

    action: what
    names: texts
    edits: objects
    start: a number
    share: a share
    deep: whether
    more: an object
    """
    return repr((action, names, edits, start, share, deep, more))


@pytest.mark.parametrize("name, given, value", [
    ("start", "2", 2), ("start", 2.0, 2), ("start", " -3 ", -3), ("start", 2, 2), ("share", "0.25", 0.25), ("share", "1", 1), ("share", 1, 1), ("deep", "true", True), ("deep", "False", False), ("names", '["a", "b"]', ["a", "b"]), ("names", "['a', 'b']", ["a", "b"]), ("names", "a b", ["a b"]),
    ("names", ["a", 1815], ["a", "1815"]), ("edits", '[{"old": "b"}]', [{"old": "b"}]), ("edits", {"old": "b"}, [{"old": "b"}]), ("edits", '{"old": "b"}', [{"old": "b"}]), ("edits", ['{"old": "b"}'], [{"old": "b"}]), ("more", '{"a": 1}', {"a": 1}), ("action", 1815, "1815"), ("names", [], [])])
def test_what_is_only_written_differently_is_accepted(name, given, value):
    found = check_arguments(tool, {"action": "x", name: given})[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("name, given, words", [
    ("start", "2.5", "start must be a whole number"), ("start", 2.5, "start must be"), ("start", True, "start must be"), ("start", "two", "start must be"), ("start", "1e3", "start must be"), ("start", [2], "start must be"), ("start", "1,000", "start must be"), ("start", 1e300 * 1e300, "start must be"),
    ("share", "nan", "share must be a number"), ("deep", 1, "deep must be true or false"), ("deep", "yes", "deep must be"), ("names", "a, b", "names must be a list of texts"), ("names", "a\nb", "names must be"), ("names", "", "names must be"), ("names", 5, "names must be"), ("names", {"a": 1}, "names must be"),
    ("names", "[a", "names must be"), ("names", ["a", ["b"]], "names[1] must be a text"), ("names", [None], "names[0] must be"), ("edits", [1], "edits[0] must be an object"), ("edits", "x", "edits must be a list of objects"), ("more", "[1]", "more must be an object"), ("more", "x", "more must be"),
    ("action", 1.5, "action must be a text"), ("action", ["x"], "action must be"), ("action", True, "action must be")])
def test_what_would_lose_something_is_answered_with_the_field(name, given, words):
    with pytest.raises(ToolError) as error: check_arguments(tool, {"action": "x", name: given})
    assert words in str(error.value)


def kit_tools():
    from stepdr.tools.file import Files
    from stepdr.tools.todo import Todo
    from stepdr.tools.media import Media
    from stepdr.tools.search import WebSurfer
    from stepdr.tools.shell import Shell
    return {tool.__name__: tool for tool in (WebSurfer.batch_web_surfer, Todo.todo, Files.file, Shell.shell, Media.analyze_image)}

KIT = kit_tools()


@pytest.mark.parametrize("name, written, meant, words", [
    ("batch_web_surfer", {"action": "batch_search", "query": "Jack Lemmon, actor"}, {"action": "batch_search", "queries": ["Jack Lemmon, actor"]}, ["query taken as queries"]),
    ("batch_web_surfer", {"action": "search", "q": "Lemmon", "max_results": "3"}, {"action": "batch_search", "queries": ["Lemmon"], "topk": 3}, ["q taken as queries", "max_results taken as topk", "action search taken as batch_search"]),
    ("batch_web_surfer", {"action": "batch_open", "url": ["https://a.example/"]}, {"action": "batch_open", "urls": ["https://a.example/"]}, ["url taken as urls"]),
    ("todo", {"action": "update", "items": [{"id": "2", "status": "completed"}]}, {"action": "update", "items": [{"id": "2", "state": "done"}]}, ["status taken as state", "state completed taken as done"]),
    ("todo", {"action": "create", "todos": [{"content": "read", "status": "in-progress"}]}, {"action": "create", "items": [{"text": "read", "state": "in_progress"}]}, ["todos taken as items", "content taken as text", "status taken as state", "state in-progress taken as in_progress"]),
    ("todo", {"action": "create", "items": ["read", "write"]}, {"action": "create", "texts": ["read", "write"]}, ["items taken as texts"]),
    ("file", {"action": "read", "file_path": "a.md", "start_line": 3}, {"action": "read", "path": "a.md", "start": 3}, ["file_path taken as path", "start_line taken as start"]),
    ("file", {"action": "patch", "path": "a.md", "edits": [{"old_string": "x", "new_string": "y"}]}, {"action": "patch", "path": "a.md", "edits": [{"old": "x", "new": "y"}]}, ["old_string taken as old", "new_string taken as new"]),
    ("shell", {"cmd": "ls"}, {"command": "ls"}, ["cmd taken as command"]), ("analyze_image", {"image_path": "a.png", "prompt": "What?"}, {"path": "a.png", "question": "What?"}, ["image_path taken as path", "prompt taken as question"])])
def test_names_that_models_write_are_taken(name, written, meant, words):
    found = check_arguments(KIT[name], written, taken := [])
    assert found == meant and sorted(taken) == sorted(words)


@pytest.mark.parametrize("name, written, words", [
    ("batch_web_surfer", {"action": "batch_search", "query": "x", "q": "y"}, "no argument 'q'"), ("batch_web_surfer", {"action": "batch_search", "queries": ["x"], "query": "y"}, "no argument 'query'"),
    ("todo", {"action": "create", "todos": []}, "it could be items or texts"), ("todo", {"action": "update", "items": [{"id": "1", "progress": "half"}]}, "no argument 'progress'; there is id, text, after, state"),
    ("batch_web_surfer", {"action": "batch_search", "keywords": "tides, moon"}, "no argument 'keywords'"), ("batch_web_surfer", {"action": "batch", "queries": ["x"]}, "action must be one of"), ("shell", {"code": "print(1)"}, "no argument 'code'")])
def test_what_could_mean_two_things_is_refused(name, written, words):
    with pytest.raises(ToolError) as error: check_arguments(KIT[name], written)
    assert words in str(error.value)


def test_what_was_taken_is_in_the_trace(tmp_path):
    "The call as it was written, what it was taken for, and its result; the model is answered as if it had written that."
    from stepdr.tools.todo import Todo
    workspace = Workspace(tmp_path)
    turns = [turn("", [("todo", {"action": "create", "todos": [{"content": "read"}]})]), turn("", [("todo", {"action": "update", "items": [{"id": 1, "status": "completed"}]})]), turn("<answer>done</answer>")]
    with ScriptedModel(turns) as server:
        policy = ChatEndpoint(EndpointSettings(base_url=server.url, model=server.model))
        result = run_async(ResearchAgent(policy, Toolbox([Todo(workspace).todo], workspace), workspace, ResearchSettings()).run("q"))
    events = [json.loads(line) for line in (workspace.state / "trace.jsonl").read_text().splitlines()]
    assert [event.get("taken") for event in events if event["event"] == "result"] == [["todos taken as items", "content taken as text"], ["status taken as state", "state completed taken as done"]]
    assert "1 of 1 done" in [message for message in result.messages if message["role"] == "tool"][-1]["content"]

def test_a_tool_is_found_by_its_name_in_any_case():
    box = Toolbox([tool])
    for name in ("tool", "functions.tool", "Tool", " tool "): assert not box.call({"name": name, "arguments": {"action": "x"}}).failed, name
    for odd in ({"name": ["tool"], "arguments": {}}, {"name": "tool", "arguments": 5}, {"name": "tool", "arguments": "[" * 50_000}, {"name": None}, {}, 7, None, {"name": {"a": 1}}): assert box.call(odd).failed


def values(rng, depth=0): return rng.choice([None, 0, 5, 1.5, -1, 10**30, True, "", "x", "\ud800", "[", [], ["todo"], [None], [[1]], {}, {"a": 1}, {"action": "create"}, "create", "batch_search", "batch_open", "update", [5], "['a']", float("nan")] + ([values(rng, depth + 1)] if depth < 2 else []))


def test_a_call_of_wrong_types_ends_no_training_and_no_evaluation():
    from stepdr.agent.drivers import run_call
    from stepdr.core.artifacts import root
    from stepdr.tools.toolset import episode_toolbox
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    rng, web = random.Random(0), ClosedWeb(load_graph(root() / "data" / "kg"))
    box = episode_toolbox(web, failure_rate=0.2)
    for body in ('{"name": "todo", "arguments": {"action": "create", "items": 5}}', '{"name": ["todo"], "arguments": {}}', '{"name": "todo", "arguments": [1]}', '{"name": "batch_web_surfer", "arguments": {"action": ["batch_search"], "queries": "x"}}',
                 '{"name": "batch_web_surfer", "arguments": {"action": "batch_search", "queries": ["\\ud800"]}}', '{"name": {"a": 1}}', "7", "null", '"x"', '{"name": "todo", "arguments": {"action": "create", "items": {"a": 1}}}'):
        call, = read_turn(f"<tool_call>{body}</tool_call>")["tool_calls"]
        row, _, broke = run_async(run_call(box, call))
        row["content"].encode()
        assert not broke and ("error: " in row["content"] or "\ufffd" in row["content"]), body
    for _ in range(3000):
        call = rng.choice([{"name": rng.choice(["todo", "batch_web_surfer", values(rng)]), "arguments": rng.choice([values(rng), {rng.choice(["action", "items", "queries", "urls", "topk", "x"]): values(rng) for _ in range(3)}])}, values(rng)])
        box.call(call).text.encode()
    whole = episode_toolbox(web).call({"name": "todo", "arguments": {"action": "create", "texts": "buy milk"}}).text
    assert whole.count("[ ]") == 1 and "buy milk" in whole  # and not one item a letter


# streams

def gathered(*deltas, whole=False):
    found = Gathered()
    for delta in deltas: found.add({"choices": [{"index": 0, "message" if whole else "delta": delta, "finish_reason": None}]})
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in found.message().get("tool_calls", [])]


def piece(name=None, arguments=None, index=0, number=None):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{**({} if index is None else {"index": index}), **({"id": number} if number else {}), "function": function}]}


def test_streams_of_odd_servers():
    file, todo = ("file", {"action": "list"}), ("todo", {"action": "clear"})
    both = [("call_0", *file), ("call_1", *todo)]
    assert gathered(piece("file", '{"action":"list"}'), piece("todo", '{"action":"clear"}')) == both # one index, no ids
    assert gathered(piece("file", '{"action":'), piece(None, '"list"}'), piece("todo", '{"action"'), piece(None, ':"clear"}')) == both
    assert gathered(piece("file", '{"action":"list"}'), piece("file", '{"action":"list"}')) == [("call_0", *file), ("call_1", *file)]
    assert gathered(piece("file", '{"action":'), piece("file", '"list"}'), piece("file", "")) == [("call_0", *file)] # the name in every piece
    assert gathered(piece("file", ""), piece(None, '{"action":"list"}', number="c9")) == [("c9", *file)] # a late id
    assert gathered(piece("file", "", number="a"), piece("todo", "", 1, "b"), piece(None, '{"action":"clear"}', 1), piece(None, '{"action":"list"}', 0)) == [("a", *file), ("b", *todo)] # in turns
    assert gathered(piece("file", "", 0, "a"), piece(None, '{"action":"list"}', 0, "a"), piece("todo", '{"action":"clear"}', 0, "b")) == [("a", *file), ("b", *todo)]
    assert gathered(piece("file", {"action": "list"}, None)) == gathered(piece("file", ""), piece(None, {"action": "list"})) == [("call_0", *file)] # arguments as an object
    assert gathered({"tool_calls": [{"index": 0, "function": {}}]}, piece("file", '{"action":"list"}'), {"tool_calls": [{"index": 1, "function": {"name": "", "arguments": ""}}]}, {}) == [("call_0", *file)] # empty pieces
    assert gathered({"function_call": {"name": "file", "arguments": ""}}, {"function_call": {"arguments": '{"action":'}}, {"function_call": {"arguments": '"list"}'}}) == [("call_0", *file)] # the older field
    two = {"tool_calls": [{"function": {"name": "file", "arguments": '{"action": "list"}'}}, {"function": {"name": "todo", "arguments": {"action": "clear"}}}]}
    assert gathered(two, whole=True) == both and gathered({"function_call": {"name": "file", "arguments": '{"action":"list"}'}}, whole=True) == [("call_0", *file)]


# citations and failed calls

def test_a_citation_of_several_is_read_everywhere():
    from stepdr.core.reply_checks import cites
    from stepdr.evaluate.cited_statements import extract_citations
    from stepdr.evaluate.closed_web import citation_support
    from stepdr.synthesis.truth import reading
    from stepdr.run.sections import markdown
    from stepdr.synthesis.writing import report_measures
    report = r"It is so \cite{web_0a1b2c3d,web_99ffee01} and so \cite{web_0a1b2c3d, web_4e5f6a7b}."
    ids = ["web_0a1b2c3d", "web_99ffee01", "web_4e5f6a7b"]
    assert cited_ids(report) == ids and all_cited(report) == [*ids[:2], ids[0], ids[2]] and citations(report) == (all_cited(report), 0)
    assert [c.source for c in extract_citations(report)[0].cited] == ids and len(citation_support(reading([], "## x\n" + report, {}))[0][1]) == 4
    assert report_measures(report)["citations"] == 3 and not list(cites({"report": report}, {})) and markdown(report, ids).count('class="cite"') == 4
    row = {"id": 1, "kind": "research", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "s", "arguments": {}}}]},
                                                     {"role": "tool", "content": "\n".join(f"x \\cite{{{one}}}" for one in ids)}, {"role": "assistant", "content": f"<answer>{report}</answer>"}]}
    assert citation_format([row], min_citations=3)[0] == [row]
    row["messages"][3]["content"] = r"<answer>x \cite{web_0a1b2c3d,web_deadbeef}</answer>"
    assert citation_format([row])[1][0]["measure"] == "web_deadbeef"
    assert cited_ids(r"\cite {a; b} \citep[p. 2]{c} \cite{web_0a1b2c3d web_99ffee01} \cite{}") == ["a", "b", "c", "web_0a1b2c3d", "web_99ffee01"]


@pytest.mark.parametrize("text, failed", [
    ("Error analysis of models is important.", False), ("Failed states are countries whose government broke down.", False), ("Timeout is a song by X.", False), ("No results section was published.\nThe authors regret it.", False), ("Not found in nature, the element was made in 1940.", False),
    ("Unavailable Light is a book.", False), ("HTTP 404 is the status of a page that is not there.\nIt was set in 1992.", False), ("Failed Bank of X \\cite{web_0a1b2c3d}", False), ("Error: The Movie was shown in 1999. \\cite{web_0a1b2c3d}", False), ("No page of it is blank.\n\nIt has 300.", False),
    ("error : timed out", True), ("error: no such file", True), ("no results", True), ("No results found.", True), ("Error: connection refused", True), ("Tool error: x", True), ("HTTP 503 Service Unavailable", True), ("Timed out after 30 seconds", True), ("Failed to fetch https://a.example/x", True),
    ("## a\nerror : web_0a1b2c3d timed out\n## b\nError analysis \\cite{web_0a1b2c3d}", True)])
def test_a_failed_call_is_known_by_its_mark(text, failed):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": text}]}
    assert bool(failed_responses(row)) == failed
    row["messages"][1]["failed"] = True
    assert failed_responses(row) == [text]


def test_the_agent_and_the_importers_mark_failed_calls(tmp_path):
    with ScriptedModel([turn("", [("search", {"q": 1})]), turn("", [("search", {"query": "x"})]), turn("<answer>x</answer>")]) as server: result = agent(server, tmp_path)
    assert [m.get("failed", False) for m in result.messages if m["role"] == "tool"] == [True, False]
    asked = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "s", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "overloaded", "is_error": True}]}, {"role": "assistant", "content": "x"}]}
    assert trajectory_of(asked)["messages"][2]["failed"] is True


# importers

def imported(*messages, **row): return trajectory_of({"messages": [{"role": "user", "content": "q"}, *messages, {"role": "assistant", "content": "a"}], **row})["messages"]


def test_several_responses_in_one_message_go_to_their_calls():
    calls = {"role": "assistant", "content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'}
    def told(*parts): return "\n".join(f"<tool_response>\n{part}\n</tool_response>" for part in parts)
    def pairs(message): return [(m["name"], m["content"]) for m in imported(calls, message) if m["role"] == "tool"]
    for role in ("tool", "user", "function_response", "Observation"): assert pairs({"role": role, "content": told(1, 2)}) == [("f", "1"), ("g", "2")], role
    named = [json.dumps({"name": name, "content": name * 2}) for name in ("g", "f")]
    assert [name for name, _ in pairs({"role": "tool", "content": told(*named)})] == ["g", "f"]
    one = {"role": "assistant", "content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'}
    assert [m["content"] for m in imported(one, {"role": "tool", "content": told("a", "b")}) if m["role"] == "tool"] == ["a\nb"]
    named = imported({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g", "arguments": None}}], "content": None}, {"role": "function", "name": "g", "content": "2"}, {"role": "function", "name": "f", "content": "1"})
    assert [(m["name"], m["content"]) for m in named if m["role"] == "tool"] == [("g", "2"), ("f", "1")]


def said(row): return [(m["role"], m["content"]) for m in trajectory_of(row)["messages"]]


def test_roles_and_conversations_as_text():
    plain = [("user", "q"), ("assistant", "<answer>a</answer>")]
    for user, own in (("human", "gpt"), ("Human", "Assistant"), ("USER", "ASSISTANT"), ("user", "model"), ("prompter", "assistant"), ("User ", "bot")): assert said({"conversations": [{"from": user, "value": "q"}, {"from": own, "value": "a"}]}) == plain
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for text in (json.dumps(messages), repr(messages), "<|im_start|>user\r\nq<|im_end|>\r\n<|im_start|>assistant\r\na<|im_end|>\r\n", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"):
        for field in ("messages", "conversations", "text"): assert said({field: text}) == plain, text
    assert said({"messages": [json.dumps(m) for m in messages]}) == said({"messages": [{"role": "user", "content": ["q"]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}) == said({"messages": [{"role": "user", "text": "q"}, {"role": "assistant", "content": [{"text": "a"}]}]}) == plain
    for role in ("function_response", "function_result", "tool_result", "tool", "observation", "ipython", "Tool-Output", "tool response"):
        rows = imported({"role": "function_call", "content": "{'name': 'f', 'arguments': {}}"}, {"role": role, "content": {"found": 1}})
        assert [(m["role"], m["content"]) for m in rows[1:3]] == [("assistant", ""), ("tool", '{"found": 1}')], role


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("Llama 3, bare", "bare, in a fence", "bare list", "OpenAI's object", "Phi", "Command R", "Llama 4", "Gemma", "gpt-oss", "gpt-oss, recipient first", "LangChain", "the older field as an object", "in a fence around the turn")])
def test_other_families_conversations_are_imported_in_our_form(family):
    rows = imported({"role": "assistant", "content": FAMILIES[family]}, {"role": "tool", "content": "r"})
    assert rows[1]["tool_calls"][0]["function"] == LIST and rows[2]["name"] == "file"
