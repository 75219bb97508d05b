"The engine against transformers: the same greedy tokens and log-probabilities for each family, whatever else is under way."
import random
import warnings

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stepdr.model.engine import CHUNK, Engine, engine_for, sample
from stepdr.model.forward import FusedForward, TransformersForward, fused_fault

STOP, LIMIT, VOCABULARY = 2, 12, 40
torch.set_num_threads(1)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": ("llama", {}),
    "llama, scaled RoPE, biases, own head size": ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, every head its own keys": ("qwen2", {"num_key_value_heads": 4}),
    "qwen3, YaRN": ("qwen3", {"rope_parameters": YARN, "head_dim": 16, "tie_word_embeddings": True}),
    "mistral, one key head": ("mistral", {"num_key_value_heads": 1, "sliding_window": None, "head_dim": 16}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
}
OTHERS = {
    "mistral, a sliding window": ("mistral", {"sliding_window": 8, "head_dim": 16}),
    "llama, dynamic RoPE": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gpt_neox": ("gpt_neox", {}),
}


def random_model(kind, **changes):
    "Four layers of large random weights: what it writes is varied and ends now and then with the stop token."
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None, "tie_word_embeddings": False, **changes})
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # fresh biases and norms hide mistakes: they are 0 and 1
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def quiet(model, **settings):
    "An engine, without the warning that it is slow."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return engine_for(model, {STOP}, **settings)


@pytest.fixture(scope="module", params=[*MODELS, *OTHERS])
def model(request):
    kind, changes = (MODELS | OTHERS)[request.param]
    made = random_model(kind, **changes)
    assert bool(fused_fault(made)) == (request.param in OTHERS)
    return made


def prompts(lengths=(3, 5, 5, 8, 11, 12, 17, 30)):
    rng = random.Random(1)
    return [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]


def more(ids):
    "What tools answer to a turn: of a length that depends on it."
    return [3 + (sum(ids) + k) % 30 for k in range(sum(ids) % 9)]


def finish(engine):
    "Step until no turn is under way: {key: Turn}."
    turns = {}
    while engine.waiting:
        turns |= {turn.key: turn for turn in engine.step()}
    return turns


def episodes(engine, starts, turns):
    "Play sequences side by side, each with its own number of turns: {key: (ids, logprobs of what was sampled, None elsewhere)}."
    held = {key: (list(ids), [None] * len(ids)) for key, ids in enumerate(starts)}
    left = dict(enumerate(turns))
    for key, ids in enumerate(starts):
        engine.add(key, ids, LIMIT, seed=f"sequence {key}")
    while engine.waiting:
        for turn in engine.step():
            ids, logs = held[turn.key]
            ids += turn.ids
            logs += turn.logprobs
            assert engine.length(turn.key) == len(ids) and turn.finished == (turn.ids[-1] == STOP) and len(turn.ids) <= LIMIT
            left[turn.key] -= 1
            if left[turn.key]:
                known = more(turn.ids)
                engine.add(turn.key, known, LIMIT)
                ids += known
                logs += [None] * len(known)
            else:
                engine.drop(turn.key)
    return held


def generate(model, ids, limit):
    "The greedy continuation of transformers."
    tokens = torch.tensor([ids])
    out = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=limit, eos_token_id=STOP, pad_token_id=STOP)
    return out[0, len(ids):].tolist()


def spans(logs):
    "The runs of what was sampled: (first, last + 1)."
    own = [False, *(log is not None for log in logs), False]
    edges = [at for at in range(len(own) - 1) if own[at] != own[at + 1]]
    return list(zip(edges[::2], edges[1::2]))


TURNS = (1, 4, 2, 3, 1, 4, 2, 3)


def test_turn_by_turn_the_tokens_of_generate(model):
    for ids, logs in episodes(quiet(model, slots=5), prompts(), TURNS).values():
        for first, last in spans(logs):
            while first < last:  # turns with nothing known between them
                wrote = generate(model, ids[:first], min(LIMIT, last - first))
                assert ids[first:first + len(wrote)] == wrote
                first += len(wrote)


def test_the_sequences_are_worth_comparing(small):
    "Several turns, and turns that end by the stop token and by the limit."
    played = episodes(engine_for(small, {STOP}), prompts(), TURNS).values()
    ends = [ids[last - 1] == STOP for ids, logs in played for _, last in spans(logs)]
    assert any(ends) and not all(ends) and max(len(spans(logs)) for _, logs in played) >= 3
    assert len({tuple(ids[first:last]) for ids, logs in played for first, last in spans(logs)}) > 10


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_log_probabilities_are_those_of_a_full_forward(model, temperature):
    near = 1e-3 if fused_fault(model) else 1e-4
    for ids, logs in episodes(quiet(model, temperature=temperature), prompts(), TURNS).values():
        with torch.no_grad():
            full = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0] / (temperature or 1), -1)
        for at, log in enumerate(logs):
            if log is not None:
                assert log == pytest.approx(float(full[at - 1, ids[at]]), abs=near)


def test_company_and_places_change_nothing(model):
    together = episodes(quiet(model, temperature=1.0), prompts(), TURNS)
    for key, (ids, logs) in episodes(quiet(model, temperature=1.0, slots=2), prompts(), TURNS).items():
        assert ids == together[key][0]
        assert [log or 0 for log in logs] == pytest.approx([log or 0 for log in together[key][1]], abs=1e-3)
    for key in (1, 6):
        engine, prompt = quiet(model, temperature=1.0), prompts()[key]
        engine.add(key, prompt, LIMIT, seed=f"sequence {key}")
        wrote = finish(engine)[key].ids
        assert wrote == together[key][0][len(prompt):len(prompt) + len(wrote)]
        engine.add("again", prompt, LIMIT, seed="another")
        assert finish(engine)["again"].ids != wrote


def test_going_on_equals_one_piece(model):
    "A sequence that grew in pieces, some longer than a chunk, against one that is begun with all of it."
    pieces = prompts((CHUNK + 30, 1, 7, 2 * CHUNK))
    engine = quiet(model)
    for piece in pieces:
        engine.add("grown", piece, 1)
        turn = finish(engine)["grown"]
        if piece is not pieces[-1]:
            engine.rewind("grown", engine.length("grown") - 1)
    engine.add("whole", [token for piece in pieces for token in piece], 1)
    whole = finish(engine)["whole"]
    assert turn.ids == whole.ids and turn.logprobs == pytest.approx(whole.logprobs, abs=1e-4)


OPENING, QUESTIONS = prompts((60, 20, 24))[0], prompts((60, 20, 24))[1:]


def test_what_begins_alike_is_computed_once(small):
    "Two tasks of three episodes each under one opening: the tokens of each alone, for the work of one opening and two questions."
    starts = [OPENING + QUESTIONS[number // 3] for number in range(6)]
    alone = {}
    for key, ids in enumerate(starts):
        engine = engine_for(small, {STOP}, temperature=1.0)
        engine.add(key, ids, LIMIT, seed=f"sequence {key}")
        alone[key] = finish(engine)[key]
    engine, fed = engine_for(small, {STOP}, temperature=1.0, drafts=False), []
    feed = engine.forward.feed
    engine.forward.feed = lambda rows, ids, *more: (fed.append([*map(len, ids)]), feed(rows, ids, *more))[1]
    for key, ids in enumerate(starts):
        engine.add(key, ids, LIMIT, seed=f"sequence {key}")
    together = finish(engine)
    assert {key: turn.ids for key, turn in together.items()} == {key: turn.ids for key, turn in alone.items()}
    for key, turn in together.items():
        assert turn.logprobs == pytest.approx(alone[key].logprobs, abs=1e-4)
    assert fed[0] == [80] and 24 in fed[1] and sum(length for lengths in fed for length in lengths if length > 1) == 80 + 24


def test_who_waits_for_a_beginning_gets_on_when_it_never_comes(small):
    "The one that would have computed it is stopped, dropped, or goes back."
    for end in ("drop", "stop", "rewind"):
        engine = engine_for(small, {STOP})
        engine.add("first", OPENING * 20, LIMIT)  # longer than a chunk
        engine.add("second", OPENING * 20 + [5], LIMIT)
        engine.step()
        assert engine.sequences["second"].fed == 0 < engine.sequences["first"].fed
        if end == "drop":
            engine.drop("first")
        else:
            engine.stop("first")
        if end == "rewind":
            engine.rewind("first", 10)
        assert finish(engine)["second"].ids == generate(small, OPENING * 20 + [5], LIMIT)[:LIMIT]


def test_states_for_training_are_those_of_a_full_forward(small):
    "After the lower blocks for all that was fed, and below the head for what was sampled; taken over, gone back, seated again."
    engine = engine_for(small, {STOP}, slots=2, temperature=1.0, states=True, lower=1)
    for key, question in enumerate([*QUESTIONS, QUESTIONS[0]]):
        engine.add(key, OPENING + question, LIMIT, seed=key)
    turns = finish(engine)
    engine.rewind(2, 50)
    engine.add(2, [7, 8, 9], 1)
    finish(engine)
    ids, lower = engine.sequences[2].ids, engine.lower(2)
    with torch.no_grad():
        whole = small(torch.tensor([ids]), output_hidden_states=True).hidden_states
    assert len(lower) == len(ids) - 1 and torch.allclose(lower, whole[1][0, :-1], atol=1e-4)
    assert sum(engine.lower(key) is None for key in (0, 1)) == 1  # it has given up its place
    ids = OPENING + QUESTIONS[1] + turns[1].ids
    with torch.no_grad():
        last = small(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    assert torch.allclose(torch.stack(turns[1].states), last[-len(turns[1].ids) - 1:-1], atol=1e-4)
    assert engine_for(small, {STOP}).states is False and finish(quiet(small)) == {}


def test_going_back_and_on(model):
    "A sequence cut at a shared beginning goes on as if it had begun so; a cache that cannot go back is computed again."
    first, second = prompts((30, 25))
    engine = quiet(model)
    engine.add(0, first, LIMIT)
    finish(engine)
    kept = engine.rewind(0, 12)
    assert kept in (0, 12) and engine.length(0) == 12 and (kept == 12 or fused_fault(model))
    engine.add(0, second, LIMIT)
    assert finish(engine)[0].ids == generate(model, first[:12] + second, LIMIT)


def test_two_sequences_of_one_beginning(model):
    "A second one that begins as the first, whether or not that goes on meanwhile; what cannot be copied is computed again."
    first, second = prompts((30, 25))
    engine = quiet(model, slots=2)
    engine.add(0, first, 2)
    begun = finish(engine)[0].ids
    copied = engine.fork(0, 1, 12)
    assert copied in (0, 12) and (copied == 12 or fused_fault(model)) and engine.length(1) == 12
    engine.add(0, [5], LIMIT)
    engine.add(1, second, LIMIT)
    assert engine.fork(0, 2, 12) == 0  # no place is free
    engine.add(2, second, LIMIT)
    turns = finish(engine)
    assert turns[0].ids == generate(model, first + begun + [5], LIMIT)
    assert turns[1].ids == turns[2].ids == generate(model, first[:12] + second, LIMIT)


@pytest.fixture(scope="module")
def small():
    return random_model("qwen2")


def echoing(kind, **changes):
    """A random model that likes what it wrote: with so few tokens to choose from much is repeated, and much that is guessed is wrong.
    Its numbers are doubles: in fp32 one of hundreds of draws may lie nearer to the end of a token's share than rounding is exact."""
    return random_model(kind, vocab_size=12, **changes).double()


def echoes(model, drafts, temperature, **more):
    "Episodes of longer turns over a small vocabulary: ({key: (ids, logprobs)}, {key: states}, {key: lower states}, passes)."
    engine = engine_for(model, {STOP}, slots=5, temperature=temperature, drafts=drafts, **more)
    starts = [[token % 9 + 3 for token in ids] for ids in prompts()]
    passes, feed, turns = [], engine.forward.feed, {}
    engine.forward.feed = lambda rows, ids, *rest: (passes.append([*map(len, ids)]), feed(rows, ids, *rest))[1]
    for key, ids in enumerate(starts):
        engine.add(key, ids, 60, seed=f"sequence {key}")
    for key, turn in finish(engine).items():
        turns[key] = [turn]
        engine.add(key, [3 + key % 9, 4, 5], 40)
    for key, turn in finish(engine).items():
        turns[key].append(turn)
    return turns, {key: engine.sequences[key].ids for key in turns}, {key: engine.lower(key) for key in turns}, passes


@pytest.mark.parametrize("name", ["llama, scaled RoPE, biases, own head size", "qwen2, tied", "qwen3, YaRN", "smollm3"])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_guesses_change_nothing_but_the_number_of_passes(name, temperature):
    "Tokens, log-probabilities, states and lower states, at temperature 0 and with the draws of each position above it."
    kind, changes = MODELS[name]
    model = echoing(kind, **changes)
    plain, ids, _, slow = echoes(model, False, temperature, states=True, lower=2)
    guessed, same, lower, fast = echoes(model, True, temperature, states=True, lower=2)
    assert same == ids
    assert sum(map(len, fast)) < sum(map(len, slow)), "some guesses are right"
    assert sum(map(sum, fast)) > sum(map(sum, slow)), "and some are wrong"
    for key, turns in plain.items():
        for one, other in zip(turns, guessed[key]):
            assert (one.ids, one.finished) == (other.ids, other.finished) and len(other.states) == len(other.ids)
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
            assert torch.allclose(torch.stack(one.states), torch.stack(other.states), atol=1e-3)
        if lower[key] is not None:
            with torch.no_grad():
                whole = model(torch.tensor([ids[key]]), output_hidden_states=True)
            logs = torch.log_softmax(whole.logits[0] / (temperature or 1), -1)
            last = guessed[key][-1]
            at = range(len(ids[key]) - len(last.ids), len(ids[key]))
            assert last.logprobs == pytest.approx([float(logs[place - 1, ids[key][place]]) for place in at], abs=1e-4)
            assert torch.allclose(lower[key], whole.hidden_states[2][0, :-1], atol=1e-3)
    assert sum(kept is not None for kept in lower.values()) == 5  # slots


def test_what_is_sampled_by_guesses_is_the_models_distribution():
    """Two tokens after a text of which a token of probability p is the guess each time, by 2,000 sequences, against the exact shares. To
    draw from all probabilities again after a wrong guess would miss the first by 2 p (1 - p), to keep every guess by 2 (1 - p)."""
    model, count = echoing("qwen2"), 2000

    def shares(ids):
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1], -1)

    texts = ([one, two, guess, 9, one, two] for guess in range(3, 12) for one in range(3, 12) for two in range(3, 12))
    prompt = next(text for text in texts if len({*text}) == 4 and 0.4 < shares(text)[text[2]] < 0.6)
    first, guess = shares(prompt), prompt[2]
    engine, pairs = engine_for(model, set(), slots=250, temperature=1.0, drafts=True), torch.zeros(12, 12)
    for key in range(count):
        engine.add(key, list(prompt), 2, seed=f"draw {key}")
    assert engine.sequences[0].draft(set()) == [guess]
    while engine.waiting:
        for turn in engine.step():
            pairs[tuple(turn.ids)] += 1
            engine.drop(turn.key)
    assert (pairs.sum(1) / count - first).abs().sum() < first[guess] * (1 - first[guess]) / 2
    for token in (guess, int((pairs.sum(1) * (torch.arange(12) != guess)).argmax())):  # after a right guess and after a wrong one
        seen = pairs[token] / pairs[token].sum()
        assert pairs[token].sum() > 200 and (seen - shares([*prompt, token])).abs().sum() < 0.2


def test_sequences_that_nobody_asks_to_go_on_give_up_their_places(small):
    "All first turns before any second: with two places the others are computed again."
    wanted = {}
    for slots in (8, 2):
        engine = engine_for(small, {STOP}, slots=slots)
        for key, ids in enumerate(prompts()):
            engine.add(key, ids, LIMIT)
        first = finish(engine)
        for key, turn in first.items():
            engine.add(key, more(turn.ids), LIMIT)
        wanted[slots] = {key: turn.ids for key, turn in finish(engine).items()}
        assert len(engine.forward.blocks[0].cache.keys) <= slots
    assert wanted[2] == wanted[8] and len(wanted[2]) == 8


def test_a_turn_can_be_stopped_and_watched(small):
    engine = engine_for(small, set(), drafts=False)  # a token a step
    engine.add(0, [5, 6], 50)
    for _ in range(4):
        assert engine.step() == []
    assert engine.sampled(0) == generate(small, [5, 6], 4) or STOP in engine.sampled(0)
    turn = engine.stop(0)
    assert len(turn.ids) == len(turn.logprobs) == 4 and not turn.finished and engine.waiting == 0 and engine.length(0) == 6
    engine.add(0, [7], 1)
    assert len(finish(engine)[0].ids) == 1


def test_what_cannot_be_asked(small):
    engine = engine_for(small, {STOP})
    for arguments, words in (((0, [], 5), "nothing to go on from"), ((0, [3], 0), "limit: 0")):
        with pytest.raises(ValueError, match=words):
            engine.add(*arguments)
    assert engine.waiting == 0 and not engine.sequences
    engine.add(0, [3], 5)
    with pytest.raises(ValueError, match="under way"):
        engine.add(0, [3], 5)


def test_the_cache_grows_with_what_is_used(small):
    engine = engine_for(small, {STOP}, slots=32)
    engine.add(0, prompts((40,))[0], 3)
    finish(engine)
    assert engine.forward.blocks[0].cache.keys.shape == (1, 2, 64, 16)
    engine.add(0, prompts((300,))[0], 3)
    finish(engine)
    assert engine.forward.blocks[0].cache.keys.shape[2] < 512 < small.config.max_position_embeddings


def test_sampler_draws_what_the_model_says():
    "Evenly spread draws fall on the tokens in proportion to the tempered distribution; a row at temperature 0 is greedy among others."
    logits_V, count, temperature = torch.tensor([0.0, 1.0, -1.0, 2.5, -30.0]), 10_000, 0.7
    ids, logs = sample(logits_V.expand(count + 1, -1), [temperature] * count + [0], [number / count for number in range(count)] + [0.0])
    wanted = torch.softmax(logits_V / temperature, -1)
    share = torch.bincount(torch.tensor(ids[:count]), minlength=5) / count
    assert torch.allclose(share, wanted, atol=2 / count) and ids[-1] == 3
    assert torch.allclose(torch.tensor(logs[:count]).exp(), wanted[torch.tensor(ids[:count])], atol=1e-6)
    assert logs[-1] == pytest.approx(float(torch.log_softmax(logits_V, -1)[3]))


def test_matrices_apart_or_in_one(small, monkeypatch):
    "A large model's matrices are not copied; what it says is the same."
    from stepdr.model import forward
    fused = FusedForward(small)
    monkeypatch.setattr(forward, "FUSED", 0)
    apart = FusedForward(small)
    assert len(apart.blocks[0].qkv.parts) == 3 and len(fused.blocks[0].qkv.parts) == 1
    assert apart.blocks[0].qkv.parts[0][0] is small.model.layers[0].self_attn.q_proj.weight
    rows = [list(range(5)), prompts()[:5], [0] * 5]
    with torch.inference_mode():
        assert torch.allclose(fused.feed(*rows).logits_MV, apart.feed(*rows).logits_MV, atol=1e-4)


def test_rows_attended_together_or_apart(small):
    "As on a GPU, where rows change places to stand side by side, and as on a CPU."
    apart = episodes(engine_for(small, {STOP}, slots=5, temperature=1.0), prompts(), TURNS)
    engine = engine_for(small, {STOP}, slots=5, temperature=1.0)
    assert engine.forward.together is False
    engine.forward.together = True
    assert {key: ids for key, (ids, _) in episodes(engine, prompts(), TURNS).items()} == {key: ids for key, (ids, _) in apart.items()}


def test_which_models_are_computed_here(small):
    kind, changes = OTHERS["mistral, a sliding window"]
    with pytest.warns(UserWarning, match="sliding window: computed by transformers"):
        assert isinstance(engine_for(random_model(kind, **changes), {STOP}).forward, TransformersForward)
    assert isinstance(engine_for(small, {STOP}).forward, FusedForward) and isinstance(Engine(FusedForward(small), {STOP}), Engine)
    small_copy = random_model("qwen2")
    small_copy.model.layers[1].mlp.up_proj = type("Adapter", (torch.nn.Linear,), {})(64, 96, bias=False)
    assert "adapters" in fused_fault(small_copy)
