"""Less work, the same training: blocks that stay, activations computed twice, openings computed once, weights in bf16, budgets of tokens."""
import random

import pytest
import torch
import transformers

from stepdr.core.artifacts import read_json, read_metrics, write_jsonl
from stepdr.core.config import InputError, TrainSettings
from stepdr.model.base import load_causal, make_model, save_model, train_tokenizer, weight_kind, write_weights
from stepdr.train.examples import pack_examples
from stepdr.train.loop import make_optimizer, row_loss, save_state
from stepdr.train.rows import train_files, work_text
from stepdr.train.savings import blocks_of, common_opening, freeze_lower, in_one_sequence, loss_in, recompute_blocks, sharing_loss, together

FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral", "SmolLM3"]


def network(family, tied=True, **more):
    torch.manual_seed(0)
    if family == "GPT2": return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=3, n_head=2, n_positions=512, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    if family == "Mamba": return transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=3))
    more |= {"head_dim": 16} if family == "Qwen3" else {}
    config = getattr(transformers, f"{family}Config")(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, pad_token_id=None, bos_token_id=None, eos_token_id=None, tie_word_embeddings=tied, **more)
    return getattr(transformers, f"{family}ForCausalLM")(config).train()


def alike(count=5, opening=40, seed=0):
    "Rows that begin alike."
    rng, rows = random.Random(seed), []
    first = [rng.randrange(300) for _ in range(opening)]
    for number in range(count):
        own = [number] + [rng.randrange(300) for _ in range(rng.randint(8, 60))]
        rows.append({"input_ids": first + own, "labels": [-100] * (opening + 4) + [one if rng.random() < 0.6 else -100 for one in own[4:]]})
    return rows


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("family", [*FAMILIES, "GPT2", "Mamba"])
@pytest.mark.parametrize("tied", [True, False])
def test_lower_blocks_and_embeddings_stay(family, tied, tmp_path):
    if family in ("GPT2", "Mamba") and not tied: pytest.skip("made with tied heads")
    model, rows = network(family, tied), alike()
    freeze_lower(model, 2)
    before = {name: one.clone() for name, one in model.named_parameters()}
    optimizer = make_optimizer(model, 1e-2, 0.0)
    gradients(model, row_loss(model, rows)[0])
    optimizer.step()
    lower = {id(one) for block in blocks_of(model)[:2] for one in block.parameters()} | {id(model.get_input_embeddings().weight)}
    moved = {name for name, one in model.named_parameters() if not one.equal(before[name])}
    assert moved and moved == {name for name, one in model.named_parameters() if one.requires_grad}
    assert not moved & {name for name, one in model.named_parameters() if id(one) in lower}
    head = model.get_output_embeddings().weight
    assert head.requires_grad is not (head is model.get_input_embeddings().weight)
    assert {id(one) for one in optimizer.state} == {id(one) for one in model.parameters() if one.requires_grad}
    save_state(tmp_path / "state.pt", model, optimizer, 1)
    assert set(torch.load(tmp_path / "state.pt")["model"]) == moved


def test_what_cannot_stay_is_told():
    with pytest.raises(InputError, match="train.freeze: 3 blocks, but the model has 3"): freeze_lower(network("Llama"), 3)
    model = network("Llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(InputError, match="train.freeze: the blocks of a llama model cannot be told"): freeze_lower(model, 1)


@pytest.mark.parametrize("family", [*FAMILIES, "GPT2"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_activations_computed_twice_give_the_same_gradients(family, frozen):
    model, rows = network(family).train(), alike()
    freeze_lower(model, frozen)
    loss, _ = row_loss(model, rows)
    kept = gradients(model, loss)
    recompute_blocks(model)
    below = []
    blocks_of(model)[1].register_forward_pre_hook(lambda block, given: below.append(given[0].requires_grad))
    again, _ = row_loss(model, rows)
    assert below[0] is (frozen == 0)                                # nothing is kept of what lies below
    other = gradients(model, again)
    assert again.equal(loss) and kept.keys() == other.keys() and all(kept[name].allclose(other[name], atol=1e-5) for name in kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frozen", [0, 1])
def test_an_opening_computed_once_gives_the_same_loss_and_gradients(family, frozen):
    model, rows = network(family), alike()
    freeze_lower(model, frozen)
    assert all(common_opening(rows[0], row) == 40 for row in rows[1:])
    loss, count = row_loss(model, rows)
    alone = gradients(model, loss)
    shared, same = sharing_loss(16)(model, rows, 0, "cpu")
    once = gradients(model, shared)
    assert int(count) == int(same) and shared.allclose(loss, rtol=1e-5)
    assert alone.keys() == once.keys() and all(alone[name].allclose(once[name], rtol=1e-3, atol=1e-4) for name in alone)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_step_is_what_transformers_computes_a_row_at_a_time(family, frozen):
    model, rows = network(family), [*alike(3), *alike(2, 30, seed=7), *alike(1, 20, seed=8)]
    freeze_lower(model, frozen)
    counts = [sum(label != -100 for label in row["labels"][1:]) for row in rows]
    loss = sum(model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss * count
               for row, count in zip(rows, counts))
    exact = gradients(model, loss)
    for loss_of, given in ((row_loss, rows), (sharing_loss(16), rows), (row_loss, pack_examples(rows, 200))):
        same, count = loss_of(model, given, 0, "cpu")
        found = gradients(model, same)
        assert int(count) == sum(counts) and same.allclose(loss, rtol=1e-5) and found.keys() == exact.keys()
        assert all(one.allclose(exact[name], rtol=1e-3, atol=1e-4) for name, one in found.items())


def test_a_window_that_is_shorter_than_the_rows_is_kept_to():
    model, rows = network("Mistral", sliding_window=24), alike()
    loss, _ = row_loss(model, rows)
    shared, _ = sharing_loss(16)(model, rows, 0, "cpu")
    assert shared.allclose(loss, rtol=1e-5)


def branching(reports=3, questions=4, system=20, seed=0):
    "Rows of groups that begin alike, all of them with the same first words."
    rng = random.Random(seed)
    first = [rng.randrange(300) for _ in range(system)]
    return [row | {"input_ids": first + row["input_ids"], "labels": [-100] * system + row["labels"], "group": f"report {number}"}
            for number in range(reports) for row in alike(questions, 30, seed=f"{seed} {number}")]


def length(rows):
    return sum(len(row["input_ids"]) for row in rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frozen", [0, 1])
def test_openings_of_openings_are_computed_once_and_give_the_same_loss_and_gradients(family, frozen, monkeypatch):
    model, rows = network(family).double(), [*branching(), *alike(1, 20, seed=8)]
    freeze_lower(model, frozen)
    rows.append(rows[3])                                            # one row twice
    random.Random(1).shuffle(rows)
    loss, count = row_loss(model, rows)
    alone = gradients(model, loss)
    ids, labels, places, seen = in_one_sequence(rows, 16)
    own = len(rows[0]["input_ids"]) - common_opening(rows[0], rows[0])
    assert len(ids) == len(labels) == len(places) == sum(new for _, new in seen) < length(rows) - 9 * 30 - 10 * 20 - own
    shared, same = sharing_loss(16)(model, rows, 0, "cpu")
    once = gradients(model, shared)
    assert int(count) == int(same) and shared.allclose(loss, rtol=1e-9)
    assert alone.keys() == once.keys() and all(alone[name].allclose(once[name], atol=1e-6) for name in alone)
    monkeypatch.setattr("stepdr.train.savings.common_opening", lambda one, other: 51)
    with torch.no_grad(): assert not sharing_loss(16)(model, rows, 0, "cpu")[0].allclose(loss, rtol=1e-8)      # the test has teeth


@pytest.mark.parametrize("least, openings", [(16, 2 * 20 + 9 * 50), (40, 9 * 50), (51, 0)])
def test_openings_that_are_too_short_are_computed_for_each_row(least, openings):
    model, rows = network("Qwen3"), branching()
    assert len(in_one_sequence(rows, least)[0]) == length(rows) - openings
    assert sharing_loss(least)(model, rows, 0, "cpu")[0].allclose(row_loss(model, rows)[0], rtol=1e-5)


def test_texts_are_learned_from_their_beginning():
    model, text = network("Llama"), [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 2
    assert len(in_one_sequence(text, 1)[0]) == 6
    (shared, same), (loss, count) = sharing_loss(1)(model, text, 0, "cpu"), row_loss(model, text)
    assert same == count == 4 and shared.allclose(loss, rtol=1e-5)


def test_a_group_stands_in_as_few_sequences_as_steps_allow():
    model, rows = network("Llama"), branching()
    plain = [{name: one for name, one in row.items() if name != "group"} for row in rows]
    assert together(plain, 16, 500) == [{"input_ids": row["input_ids"], "rows": [row]} for row in plain]
    shuffled = random.Random(1).sample(rows, len(rows))
    for most, sequences in ((1000, 3), (150, 6), (10, 12)):
        made = together(shuffled, 16, most)
        assert len(made) >= sequences and all(len(one["input_ids"]) <= most or len(one["rows"]) == 1 for one in made)
        assert all(len(one["input_ids"]) == len(in_one_sequence(one["rows"], 16)[0]) for one in made)
        key = lambda row: row["input_ids"]
        assert sorted((row for one in made for row in one["rows"]), key=key) == sorted(plain, key=key)
        assert sharing_loss(16)(model, made, 0, "cpu")[0].allclose(row_loss(model, rows)[0], rtol=1e-5)
    assert len(together(shuffled, 16, 1000)) == 3


@pytest.fixture
def start(tmp_path):
    "A model from scratch and rows for it."
    tokenizer = train_tokenizer(["Which river flows through Vienna? The Danube. " * 20], vocabulary=700)
    save_model(tmp_path / "base", make_model(len(tokenizer), width=32, layers=3, heads=2, context=512), tokenizer)
    rows = [{"messages": [{"role": "system", "content": "Give the river, and its source. " * 3}, {"role": "user", "content": f"Which river is number {number}?"}, {"role": "assistant", "content": "The Danube " * (number % 5 + 1)}]} for number in range(24)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return tmp_path


def test_all_ways_come_to_the_same_weights(start):
    way = {"steps": 5, "tokens_per_step": 700, "lr": 1e-3, "device": "cpu", "freeze": 1}
    made = {}
    for name, more in (("plain", {}), ("shared", {"share_opening": 8}), ("twice", {"recompute": True}), ("parts", {"tokens_at_once": 200}), ("trl", {"trainer": "trl", "recompute": True})):
        train_files(start / "base", [start / "rows.jsonl"], start / name, TrainSettings(**way, **more))
        made[name] = load_causal(start / name, "cpu")[0].state_dict()
    base = load_causal(start / "base", "cpu")[0].state_dict()
    assert made["plain"]["model.layers.0.mlp.up_proj.weight"].equal(base["model.layers.0.mlp.up_proj.weight"]) and made["plain"]["model.embed_tokens.weight"].equal(base["model.embed_tokens.weight"])
    assert not made["plain"]["model.layers.1.mlp.up_proj.weight"].equal(base["model.layers.1.mlp.up_proj.weight"])
    for name in ("shared", "twice", "parts", "trl"):
        assert all(one.allclose(made[name][key], atol=2e-3 if name == "trl" else 1e-4) for key, one in made["plain"].items()), name


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("least", [0, 16])
def test_matrices_multiplied_in_bf16_give_nearly_the_same_gradients(frozen, least):
    model, rows = network("Llama"), alike()
    freeze_lower(model, frozen)
    loss_of = sharing_loss(least) if least else row_loss
    loss, count = loss_of(model, rows, 0, "cpu")
    exact = gradients(model, loss)
    rounded, same = loss_in("bf16", loss_of)(model, rows, 0, "cpu")
    near = gradients(model, rounded)
    assert rounded.dtype == torch.float32 and int(count) == int(same) and rounded != loss and rounded.allclose(loss, rtol=1e-3)
    assert exact.keys() == near.keys() and all(one.dtype == torch.float32 for one in near.values())
    assert all(torch.cosine_similarity(one.flatten(), near[name].flatten(), 0) > 0.995 for name, one in exact.items())


@pytest.mark.parametrize("trainer", ["plain", "trl"])
def test_what_is_learned_in_bf16_is_what_is_learned_in_fp32(start, trainer):
    way = {"steps": 30, "tokens_per_step": 700, "lr": 3e-3, "device": "cpu", "freeze": 1, "trainer": trainer}
    for kind in ("fp32", "bf16"): train_files(start / "base", [start / "rows.jsonl"], start / kind, TrainSettings(**way, precision=kind))
    exact, near = ([row["loss"] for row in read_metrics(start / kind / "metrics.jsonl")] for kind in ("fp32", "bf16"))
    assert exact[-1] < 0.7 * exact[0] and near != exact and near == pytest.approx(exact, rel=0.02)
    assert weight_kind(start / "bf16") == "float32"


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_halved_on_disk_and_only_there(tied, tmp_path):
    model = network("Llama", tied)
    for kind in ("", "bfloat16"): write_weights(tmp_path / f"k{kind}", model, kind)
    size = {kind: (tmp_path / f"k{kind}/model.safetensors").stat().st_size for kind in ("", "bfloat16")}
    assert size["bfloat16"] < 0.6 * size[""] and weight_kind(tmp_path / "kbfloat16") == "bfloat16" and weight_kind(tmp_path / "k") == "float32"
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "kbfloat16", dtype=torch.float32)
    assert all(one.bfloat16().float().equal(other) for one, other in zip(model.parameters(), again.parameters()))
    assert next(model.parameters()).dtype == torch.float32 and (again.lm_head.weight is again.model.embed_tokens.weight) is tied


def test_a_stage_goes_on_from_what_another_wrote_in_bf16(start):
    way = {"tokens_per_step": 700, "device": "cpu", "lr": 1e-3}
    train_files(start / "base", [start / "rows.jsonl"], start / "one", TrainSettings(**way, weights="bf16"))
    train_files(start / "one", [start / "rows.jsonl"], start / "two", TrainSettings(**way))           # "own": as it was read
    train_files(start / "one", [start / "rows.jsonl"], start / "three", TrainSettings(**way, weights="fp32"))
    assert [weight_kind(start / name) for name in ("base", "one", "two", "three")] == ["float32", "bfloat16", "bfloat16", "float32"]
    assert not list(start.glob(".*.training")) and not list(start.rglob("*.pt"))


def test_a_budget_of_tokens_decides_the_steps(start):
    way = {"tokens_per_step": 700, "device": "cpu"}
    whole = train_files(start / "base", [start / "rows.jsonl"], start / "whole", TrainSettings(**way))
    assert whole["epochs"] == 1.0 and whole["tokens"] == whole["counts"]["tokens"] and "budget" not in work_text(whole)
    part = train_files(start / "base", [start / "rows.jsonl"], start / "part", TrainSettings(**way, token_budget=whole["tokens"] // 2))
    assert whole["tokens"] // 2 <= part["tokens"] < whole["tokens"] // 2 + 700 and part["trained_tokens"] == part["tokens"]
    more = train_files(start / "base", [start / "rows.jsonl"], start / "more", TrainSettings(**way, token_budget=10**6, epochs=2.0))
    assert more["epochs"] == 2.0 and f"the token budget of 1,000,000 is more than the epochs of these rows allow" in work_text(more)
    fixed = train_files(start / "base", [start / "rows.jsonl"], start / "fixed", TrainSettings(**way, steps=3, token_budget=10**6))
    assert fixed["steps"] == 3 and "budget" not in work_text(fixed)


def test_a_budget_pays_for_the_opening_of_a_group_once(start):
    rows = [{"group": f"{number // 6}", "messages": [{"role": "system", "content": f"Here is report {number // 6}. " * 6}, {"role": "user", "content": f"Which river is number {number}?"}, {"role": "assistant", "content": "The Danube"}]} for number in range(24)]
    write_jsonl(start / "rows.jsonl", rows)
    way, made = {"tokens_per_step": 700, "device": "cpu", "lr": 1e-3}, {}
    for name, more in (("plain", {}), ("shared", {"share_opening": 8})):
        made[name] = train_files(start / "base", [start / "rows.jsonl"], start / name, TrainSettings(**way, **more))
    assert made["plain"]["tokens"] == made["plain"]["counts"]["tokens"] == made["shared"]["counts"]["tokens"]
    assert made["shared"]["counts"]["sequences"] == 4 and made["shared"]["epochs"] == 1.0 and made["shared"]["tokens"] < made["plain"]["tokens"] / 2
    labels = [sum(row["labels"] for row in read_metrics(start / name / "metrics.jsonl")) for name in made]
    assert labels[0] == labels[1]                                   # the same is learned


def test_held_out_rows_are_measured_and_not_trained_on(start):
    made = train_files(start / "base", [start / "rows.jsonl"], start / "out", TrainSettings(tokens_per_step=700, device="cpu", lr=1e-2, steps=45, heldout=4, heldout_every=20))
    rows = read_metrics(start / "out/metrics.jsonl")
    assert [row["step"] for row in rows if "heldout_loss" in row] == [20, 40, 45]
    assert made["counts"]["sequences"] == 20 and made["heldout"]["rows"] == 4 and made["heldout"]["after"] == rows[-1]["heldout_loss"] < made["heldout"]["before"]
    assert "4 held-out rows" in work_text(made) and read_json(start / "out/training.json") == made
    with pytest.raises(InputError, match="train.heldout: 24 rows are to be set aside, but there are only 24"):
        train_files(start / "base", [start / "rows.jsonl"], start / "none", TrainSettings(device="cpu", heldout=24))


@pytest.mark.parametrize("more, match", [({"pack": 512}, "not together with pack"), ({"recompute": True}, "not together with recompute; .*recompute=False"), ({"trainer": "trl"}, "not with trainer=trl")])
def test_what_does_not_go_together_is_told(start, more, match):
    with pytest.raises(InputError, match=f"train.share_opening: {match}"): train_files(start / "base", [start / "rows.jsonl"], start / "out", TrainSettings(device="cpu", share_opening=8, **more))
    assert not (start / "out").exists()


def test_another_kind_of_model_shares_no_opening(start):
    from transformers import AutoTokenizer
    save_model(start / "gpt2", network("GPT2"), AutoTokenizer.from_pretrained(start / "base"))
    with pytest.raises(InputError, match="train.share_opening: not for gpt2 models"): train_files(start / "gpt2", [start / "rows.jsonl"], start / "out", TrainSettings(device="cpu", share_opening=8))
