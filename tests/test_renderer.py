"""What is trained is what a server would feed: the renderer beside each chat template that TRL ships for these families, id by id."""
import copy
import json
from pathlib import Path

import pytest
import trl

from stepdr.core.config import InputError
from stepdr.core.messages import native_messages
from stepdr.core.streams import Gathered
from stepdr.model.renderer import CHATML, CHATML_SHORT, LLAMA3, renderer_for, template_fault, template_messages

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SPECIAL = {"chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
           "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")}
SCHEMA = [{"type": "function", "function": {"name": name, "description": f"{name} something, 查一下.", "parameters": {
    "type": "object", "properties": {"q": {"type": "string", "description": "what"}}, "required": ["q"]}}} for name in ("search", "open")]


def call(q, name="search"):
    return {"type": "function", "function": {"name": name, "arguments": {"q": q}}}


EPISODES = {
    "one call": [{"role": "user", "content": "Which river?"}, {"role": "assistant", "content": "", "tool_calls": [call("river")]},
                 {"role": "tool", "content": "The Danube."}, {"role": "assistant", "content": "<answer>The Danube \\cite{web_00000001}.</answer>"}],
    "thoughts, two calls, words": [
        {"role": "system", "content": "Give sources."}, {"role": "user", "content": "多瑙河有多长？\n\nAnd the Rhine?"},
        {"role": "assistant", "content": "", "reasoning_content": "Both.\nOne call each.", "tool_calls": [call("多瑙河 长度"), call('a "quoted" < name')]},
        {"role": "tool", "content": "2,850 km"}, {"role": "tool", "content": "{\"km\": 1233}\n"},
        {"role": "assistant", "content": "One more look.", "reasoning_content": "Sure?", "tool_calls": [call("https://a.example/x?y=1&z=2", "open")]},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "<answer>2,850 km; 1,233 km.</answer>", "reasoning_content": "Found."},
        {"role": "user", "content": "Shorter."}, {"role": "assistant", "content": "2,850; 1,233.", "reasoning_content": "Figures only."}],
    "no tools": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]}


@pytest.fixture(scope="module")
def tokenizers():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    made = {}
    for family, special in SPECIAL.items():
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        texts = [json.dumps(EPISODES, ensure_ascii=False), CHATML, LLAMA3, *(path.read_text() for path in TEMPLATES.glob("qwen*.jinja"))]
        core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1200, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        # pad = eos, as in SmolLM2's file of the package registry: an end that is taken for padding is lost to training
        made[family] = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[-1], pad_token=special[-1], bos_token=special[0])
    return made


def with_template(tokenizer, text):
    made = copy.deepcopy(tokenizer)
    made.chat_template = text
    return made


FAMILY = {path.stem: "llama3" if path.stem.startswith("llama3") else "chatml"
          for path in sorted(TEMPLATES.glob("*.jinja")) if path.stem.startswith(("qwen2_5", "qwen3", "llama3")) and "vl" not in path.stem}


@pytest.mark.parametrize("episode", EPISODES)
@pytest.mark.parametrize("name", [*FAMILY, "short"])
def test_what_is_trained_is_what_the_template_feeds(tokenizers, name, episode):
    text = CHATML_SHORT if name == "short" else (TEMPLATES / f"{name}.jinja").read_text()
    renderer = renderer_for(with_template(tokenizers[FAMILY.get(name, "chatml")], text))
    rows, tools = EPISODES[episode], None if episode == "no tools" else SCHEMA
    ids, mask = renderer.render(rows, tools)
    kept = renderer.tokenizer                                      # as a server finds it in the checkpoint's folder
    assert ids == kept.apply_chat_template(template_messages(rows), tools=tools, return_dict=False)
    ends = [number for number, message in enumerate(rows) if message["role"] == "assistant"]
    assert sum(one == renderer.end_id and own for one, own in zip(ids, mask)) == len(ends)
    at = 0
    for turn, number in enumerate(ends):
        fed = kept.apply_chat_template(template_messages(rows[:number]), tools=tools, add_generation_prompt=True, return_dict=False)
        assert renderer.prompt(rows[:number], tools) == fed == ids[:len(fed)]
        assert not any(mask[at:len(fed)]) and mask[len(fed)]
        at = next(i for i in range(len(fed), len(ids)) if ids[i] == renderer.end_id) + 1
        assert all(mask[len(fed):at])
        sampled = ids[len(fed):at]
        if turn + 1 < len(ends):
            after, fed_next = rows[number + 1:ends[turn + 1]], renderer.prompt(rows[:ends[turn + 1]], tools)
            assert fed + sampled + renderer.bridge(after, sampled, tools) == fed_next
            assert fed + sampled[:-1] + renderer.bridge(after, sampled[:-1], tools) == fed_next
        said = renderer.parse(sampled)
        thought = said.pop("reasoning_content", None)
        assert said == {key: value for key, value in rows[number].items() if key != "reasoning_content"}
        assert (thought or "").strip() == rows[number].get("reasoning_content", "")


@pytest.mark.parametrize("name", ["qwen2_5_training", "qwen3_training", "qwen3_instruct_2507_training", "llama3_training"])
def test_the_mask_is_trl_s(tokenizers, name):
    "TRL marks the turns in its training templates."
    plain = [{"role": "system", "content": "Give sources."}, *EPISODES["no tools" if "llama" in name else "one call"]]
    theirs, tools = with_template(tokenizers[FAMILY[name]], (TEMPLATES / f"{name}.jinja").read_text()), None if "llama" in name else SCHEMA
    renderer = renderer_for(theirs)
    ids, mask = renderer.render(plain, tools)
    found = theirs.apply_chat_template(template_messages(plain), tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == ids                               # Qwen2.5's and Llama 3's own words, where no thought is in the way
    apart = [token for token, one, own in zip(ids, found["assistant_masks"], mask) if one != own]
    assert set(apart) <= set(renderer.encode("\n"))                # the line's end that stands before a turn (in the prompt) or after its end token
    assert [token for token, one in zip(ids, found["assistant_masks"]) if one and token not in apart] == [token for token, own in zip(ids, mask) if own and token not in apart]


def test_which_template_is_taken(tokenizers):
    def source(name, family="chatml"):
        return renderer_for(with_template(tokenizers[family], (TEMPLATES / f"{name}.jinja").read_text())).source
    assert source("qwen3_training") == "own"                       # keeps thoughts
    assert source("qwen2_5") == source("qwen3") == "chatml"        # the one leaves thoughts out, the other drops those of earlier turns
    assert source("llama3", "llama3") == source("llama3_2", "llama3") == "llama3"
    smollm = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    assert renderer_for(with_template(tokenizers["chatml"], smollm)).source == "chatml"
    bare = CHATML.replace("{{ '\\n' + tool | tojson }}", "")          # shows calls and thoughts, and leaves the tools' schemas out
    assert bare != CHATML and renderer_for(with_template(tokenizers["chatml"], bare)).source == "chatml"
    with pytest.raises(InputError, match="leaves out 'probe description'"): renderer_for(with_template(tokenizers["chatml"], bare), "own")


def test_a_template_that_will_not_do_is_named(tokenizers):
    with pytest.raises(InputError, match="changes what it wrote before"): renderer_for(with_template(tokenizers["chatml"], (TEMPLATES / "qwen3.jinja").read_text()), "own")
    with pytest.raises(InputError, match="leaves out 'probe first thought'"): renderer_for(with_template(tokenizers["chatml"], (TEMPLATES / "qwen2_5.jinja").read_text()), "own")
    with pytest.raises(InputError, match="puts no end token"): renderer_for(with_template(tokenizers["chatml"], "{% for m in messages %}{{ m.content }}\n{% endfor %}"), "own")
    with pytest.raises(InputError, match="are no tokens of it"): renderer_for(tokenizers["chatml"], "llama3")
    with pytest.raises(InputError, match="is none; give own, chatml or llama3"): renderer_for(tokenizers["chatml"], "mistral")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(InputError, match="has no chat template, and the tokenizer has the tokens of neither"): renderer_for(bare)


def test_a_saved_checkpoint_renders_alike(tokenizers, tmp_path):
    from transformers import AutoTokenizer
    renderer = renderer_for(with_template(tokenizers["chatml"], (TEMPLATES / "qwen2_5.jinja").read_text()))
    renderer.tokenizer.save_pretrained(tmp_path)
    again = renderer_for(AutoTokenizer.from_pretrained(tmp_path))
    rows = EPISODES["thoughts, two calls, words"]
    assert again.source == "own" and not template_fault(again) and again.render(rows, SCHEMA) == renderer.render(rows, SCHEMA)


def test_sampled_ids_are_never_encoded_again(tokenizers):
    "A name in another cutting than the tokenizer's stays in it."
    renderer = renderer_for(tokenizers["chatml"])
    prompt = renderer.prompt(EPISODES["one call"][:1], SCHEMA)
    odd = [one for letter in "<answer>Danube</answer>" for one in renderer.encode(letter)]
    assert odd != renderer.encode("<answer>Danube</answer>")
    going_on = prompt + odd + renderer.bridge([{"role": "user", "content": "Sure?"}], odd, SCHEMA)
    assert going_on[:len(prompt) + len(odd)] == prompt + odd and renderer.parse(odd)["content"] == "<answer>Danube</answer>"


def served(text) -> dict:
    "A turn's own text as a server without a parser of thoughts answers it: calls apart (Hermes), all else as content."
    words, *calls = text.split("<tool_call>\n")
    functions = [json.loads(call.partition("\n</tool_call>")[0]) for call in calls]
    return {"content": words or None, "tool_calls": [
        {"id": f"call-{number}", "type": "function", "function": {**function, "arguments": json.dumps(function["arguments"])}}
        for number, function in enumerate(functions)]}


def as_server_reads(rows) -> list[dict]:
    "The API's messages as a server hands them to the template: arguments as objects."
    return [{**row, "tool_calls": [{**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
                                   for call in row["tool_calls"]]} if row.get("tool_calls") else row for row in rows]


@pytest.mark.parametrize("template", [CHATML, CHATML_SHORT, LLAMA3], ids=["chatml", "short", "llama3"])
@pytest.mark.parametrize("episode", list(EPISODES))
def test_a_server_feeds_what_the_model_wrote(tokenizers, template, episode):
    "Turns that went through a server and back are the same text in its next prompt, whatever it does with thoughts."
    renderer = renderer_for(with_template(tokenizers["llama3" if template == LLAMA3 else "chatml"], template))
    rows, own = EPISODES[episode], [text for text, mine in renderer.pieces(EPISODES[episode], SCHEMA) if mine]
    back = []
    for row in rows:
        if row["role"] != "assistant":
            back.append(row)
            continue
        gathered = Gathered()
        gathered.add({"choices": [{"message": served(own.pop(0).removesuffix(renderer.end)), "finish_reason": "stop"}]})
        back.append(gathered.message(sum(len(one.get("tool_calls") or []) for one in back)))
        assert back[-1].get("reasoning_content") == row.get("reasoning_content") and back[-1]["content"] == row["content"]
    assert renderer.text(as_server_reads(native_messages(back, "content")), SCHEMA) == renderer.text(rows, SCHEMA)
