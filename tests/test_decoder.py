"The decoder against Hugging Face: the same greedy tokens over whole multi-turn episodes, the same log-probabilities, reproducible draws."
import random

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from stepdr.model import rollout as agent
from stepdr.model.rollout import AgentEpisode, Budget, run_episodes
from stepdr.model.base import make_model, train_tokenizer
from stepdr.model.decoder import Decoder, decode, sample

STOP, MOST, TURN = 2, 90, 14
torch.set_num_threads(1)


def random_model(kv_heads=4, vocabulary=40, tied=True):
    "Four layers of large random weights: what it writes is varied and ends now and then with the stop token."
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=kv_heads, tie_word_embeddings=tied, max_position_embeddings=512, initializer_range=0.3,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e4}, bos_token_id=None, eos_token_id=None)
    model = Qwen2ForCausalLM(config).float().eval()
    with torch.no_grad():
        for layer in model.model.layers:                            # fresh biases and norms hide mistakes: they are 0 and 1
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj): part.bias.normal_(std=0.5)
            for norm in (layer.input_layernorm, layer.post_attention_layernorm): norm.weight.uniform_(0.5, 1.5)
        model.model.norm.weight.uniform_(0.5, 1.5)
    return model


def prompts(vocabulary=40):
    "Eight rows of different lengths."
    rng = random.Random(1)
    return [[rng.randrange(3, vocabulary) for _ in range(length)] for length in (3, 5, 5, 8, 11, 12, 17, 30)]


class Tools:
    "Answers a turn with text of a length that depends on it; each row has its own number of turns."
    def __init__(self, turns): self.turns, self.seen = dict(enumerate(turns)), []

    def __call__(self, number, ids):
        self.seen.append((number, tuple(ids)))
        self.turns[number] -= 1
        return None if self.turns[number] == 0 else [3 + (sum(ids) + k) % 30 for k in range(1 + sum(ids) % 9)]


def spans(mask):
    "The runs of the agent's own tokens: (first, last + 1)."
    edges = [at for at in range(len(mask) + 1) if (mask[at - 1] if at else 0) != (mask[at] if at < len(mask) else 0)]
    return list(zip(edges[::2], edges[1::2]))


def generate(model, ids, limit, stop=STOP):
    "Hugging Face's greedy continuation."
    tokens = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=limit, eos_token_id=stop, pad_token_id=stop)
    return out[0, len(ids):].tolist()


@pytest.fixture(scope="module", params=[4, 2, 1], ids=["heads", "grouped", "one-kv-head"])
def episodes(request):
    "A model with as many, half as many, or one key-value head, and what the decoder wrote greedily."
    model, tools, kept = random_model(request.param), Tools([1, 4, 2, 3, 1, 5, 2, 6]), []
    keep = Decoder.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "keep", lambda self, rows: (kept.append(len(rows)), keep(self, rows))[1])
        rows = decode(model, prompts(), tools, STOP, temperature=0, most=MOST, turn_limit=TURN)
    return model, rows, tools, kept


def test_episodes_are_worth_comparing(episodes):
    "Several turns, turns that end by the stop token and by the limit, rows that leave early, a row that hits the end."
    model, rows, tools, kept = episodes
    turns = [turn for _, turn in tools.seen]
    assert any(turn[-1] == STOP for turn in turns) and any(len(turn) == TURN and turn[-1] != STOP for turn in turns)
    assert len(set(turns)) > 12 and max(len(spans(row.mask)) for row in rows) >= 4
    assert kept and kept == sorted(kept, reverse=True) and kept[-1] < len(rows) / 2
    assert [len(row.ids) for row in rows].count(MOST) >= 1


def test_prompts_and_tool_text_are_where_they_belong(episodes):
    model, rows, tools, kept = episodes
    for row, prompt in zip(rows, prompts()):
        assert row.ids[:len(prompt)] == prompt and not any(row.mask[:len(prompt)])
        assert len(row.ids) == len(row.mask) == len(row.logs)
        assert all(log == 0 for log, own in zip(row.logs, row.mask) if not own)
        for first, last in spans(row.mask): assert TURN >= last - first and (row.ids[last - 1] == STOP or last - first == TURN or last == MOST)


def test_greedy_tokens_equal_generate_turn_by_turn(episodes):
    model, rows, tools, kept = episodes
    for row in rows:
        for first, last in spans(row.mask):
            assert row.ids[first:last] == generate(model, row.ids[:first], min(TURN, MOST - first)), f"row {row.number} at {first}"


@pytest.mark.parametrize("temperature", [0, 1.0, 0.6])
def test_log_probabilities_equal_the_forward_pass(episodes, temperature):
    model = episodes[0]
    rows = decode(model, prompts(), Tools([1, 4, 2, 3, 1, 5, 2, 6]), STOP, temperature, MOST, TURN, torch.Generator().manual_seed(5))
    for row in rows:
        with torch.no_grad(): logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        logs = torch.log_softmax(logits / (temperature or 1), -1)
        for at, own in enumerate(row.mask):
            if own: assert row.logs[at] == pytest.approx(float(logs[at - 1, row.ids[at]]), abs=1e-4)


def test_draws_come_from_the_generator():
    model = random_model(2)
    def run(seed): return [row.ids for row in decode(model, prompts(), Tools([2] * 8), STOP, 1.0, MOST, TURN, torch.Generator().manual_seed(seed))]
    first = run(7)
    torch.manual_seed(123)                                          # the global generator has no say
    assert run(7) == first
    assert run(8) != first


def test_sampler_draws_what_the_model_says():
    "Frequencies of 20,000 draws against the tempered distribution (five standard deviations)."
    logits_V, count, temperature = torch.tensor([0.0, 1.0, -1.0, 2.5, -30.0]), 20_000, 0.7
    ids, logs = sample(logits_V.expand(count, -1), temperature, torch.Generator().manual_seed(0))
    wanted = torch.softmax(logits_V / temperature, -1)
    share = torch.bincount(ids, minlength=5) / count
    assert ((share - wanted).abs() <= 5 * (wanted * (1 - wanted) / count).sqrt() + 1e-9).all()
    assert torch.allclose(logs.exp(), wanted[ids], atol=1e-6)


CALL = '<tool_call>{"name": "todo", "arguments": {"action": "create", "items": [" a"]}}</tool_call>'


@pytest.fixture(scope="module")
def talkative():
    "A tokenizer with a whole tool call as one token, and a random model that likes it: real episodes from random weights."
    tokenizer = train_tokenizer(["Say something about it ."], vocabulary=700)
    tokenizer.add_tokens([CALL])
    model = random_model(2, len(tokenizer), tied=False)
    with torch.no_grad():                                           # the call and the end of a turn win often
        for token, factor in ((tokenizer.convert_tokens_to_ids(CALL), 8.0), (tokenizer.eos_token_id, 1.5)): model.lm_head.weight[token] *= factor
    return tokenizer, model


def test_run_episodes_equals_generate(talkative):
    "The agent's loop, with the real todo tool: each turn again by Hugging Face, its tool text by hand."
    tokenizer, model = talkative
    tasks = [{"id": f"t{n}", "query": "Say something about it . " * (1 + n % 3) + f"{n * 37}"} for n in range(10)]
    budget = Budget(tool_calls=3, tokens=400, turn_tokens=24)
    done = run_episodes(model, tokenizer, tasks, None, 0, 0, budget, batch=4)
    assert sum(episode.environment.calls for episode, _ in done) >= 5 and any(episode.forced for episode, _ in done)
    for (episode, row), task in zip(done, tasks):
        again = AgentEpisode(task, agent.Environment(None), budget)
        ids = tokenizer.encode(again.prompt(), add_special_tokens=False)
        while len(ids) < budget.tokens:
            turn = generate(model, ids, min(budget.turn_tokens, budget.tokens - len(ids)), tokenizer.eos_token_id)
            assert row.ids[len(ids):len(ids) + len(turn)] == turn and all(row.mask[len(ids):len(ids) + len(turn)])
            ids = ids + turn
            if len(ids) >= budget.tokens and turn[-1] != tokenizer.eos_token_id: break
            more = again.after_turn(tokenizer.decode(turn), used=len(ids))
            if more is None: break
            more = tokenizer.encode(more, add_special_tokens=False)
            assert not any(row.mask[len(ids):len(ids) + len(more)])
            ids = (ids + more)[:budget.tokens]
        assert row.ids == ids
        assert episode.messages == again.messages


def test_prepared_circuits_and_many_heads():
    "The from-scratch model of this project, with its hand-set circuits."
    model = make_model(64, width=64, layers=3, heads=4, context=256).eval()
    for row in decode(model, prompts(), Tools([2] * 8), STOP, 0, MOST, TURN):
        for first, last in spans(row.mask): assert row.ids[first:last] == generate(model, row.ids[:first], min(TURN, MOST - first))
