"""Rows of any origin train any causal model: what is learned is what is served, a kill loses nothing, wrong rows are told before training."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepdr.core.artifacts import read_json, write_jsonl
from stepdr.model.renderer import renderer_for
from stepdr.core.config import InputError, TrainSettings
from stepdr.train.loop import keeps_apart, pad_batch, pad_positions, token_loss
from stepdr.train.rows import train_files
from stepdr.train.examples import examples_of, pack_examples

SCHEMA = {"type": "function", "function": {"name": "search", "description": "Search.", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}}


def trajectory(number, turns=2):
    messages = [{"role": "system", "content": "Give sources."}, {"role": "user", "content": f"Which river is number {number}?"}]
    for turn in range(turns - 1):
        messages += [{"role": "assistant", "content": "", "reasoning_content": f"Look {turn}.", "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": {"query": f"river {number} {turn}"}}}]},
                     {"role": "tool", "content": f"Result {turn} of {number}: the Danube."}]
    return {"id": str(number), "tools": [SCHEMA], "protocol": "brief", "messages": [*messages, {"role": "assistant", "content": "<answer>The Danube.</answer>"}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Small models from scratch of three families; one pads with its end token, as SmolLM2's file does."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from tokenizers import Tokenizer, decoders, models as kinds, pre_tokenizers, trainers
    place = tmp_path_factory.mktemp("models")
    for family, special, (config, network) in (("smollm", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), (LlamaConfig, LlamaForCausalLM)),
                                               ("qwen3", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), (Qwen3Config, Qwen3ForCausalLM)),
                                               ("llama3", ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), (LlamaConfig, LlamaForCausalLM))):
        core = Tokenizer(kinds.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        core.train_from_iterator([json.dumps(trajectory(1))] * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[-1], pad_token=special[-1], bos_token=special[0])
        torch.manual_seed(0)
        more = {"head_dim": 16} if family == "qwen3" else {}
        network(config(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                       max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, **more)).save_pretrained(place / family)
        tokenizer.save_pretrained(place / family)
    return place


@pytest.mark.parametrize("family", ["smollm", "qwen3", "llama3"])
def test_any_family_learns_rows_as_they_are_and_is_served_as_it_learned(models, tmp_path, family):
    rows = [trajectory(number, 2 + number % 2) for number in range(6)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    made = train_files(models / family, [tmp_path / "rows.jsonl"], tmp_path / "out", TrainSettings(steps=12, tokens_per_step=1500, lr=1e-2, device="cpu"))
    metrics = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert made["counts"]["examples"] == 6 and metrics[-1]["loss"] < metrics[0]["loss"] and metrics[-1]["step"] == 12
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    renderer = renderer_for(tokenizer)
    examples, _, _ = examples_of([tmp_path / "rows.jsonl"], renderer, TrainSettings(), 1024)
    from stepdr.model.policy import LocalPolicy, LocalSettings
    policy = LocalPolicy(str(tmp_path / "out"), LocalSettings("cpu"))
    for row, example in zip(rows, examples):
        for number in (2, len(row["messages"]) - 1):               # what a server of this folder feeds is the beginning of what was learned
            fed = policy.prompt(row["messages"][:number], row["tools"])
            assert example["input_ids"][:len(fed)] == fed and example["labels"][len(fed)] != -100
        assert [label for label in example["labels"] if label == renderer.end_id] == [renderer.end_id] * sum(m["role"] == "assistant" for m in row["messages"])
    assert renderer.end_id in read_json(tmp_path / "out/generation_config.json")["eos_token_id"]


def test_rows_of_any_length(models, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [trajectory(1, 12), {"text": "The Danube. " * 400, "messages": []}, {"messages": [{"role": "user", "content": "far " * 900}, {"role": "assistant", "content": "x"}]}])
    from transformers import AutoTokenizer
    renderer = renderer_for(AutoTokenizer.from_pretrained(models / "smollm"))
    examples, rejected, counts = examples_of([tmp_path / "rows.jsonl"], renderer, TrainSettings(), 600)
    whole, _, _ = examples_of([tmp_path / "rows.jsonl"], renderer, TrainSettings(), 100_000)
    assert all(len(example["input_ids"]) <= 600 for example in examples)
    assert counts["rows"] == 3 and counts["cut at a turn"] == 1 and counts["texts in several examples"] == 1
    assert [row["reason"] for row in rejected] == ["longer than the context"] and rejected[0]["line"] == 3
    assert examples[0]["input_ids"] == whole[0]["input_ids"][:len(examples[0]["input_ids"])] and examples[0]["labels"][-1] == renderer.end_id
    assert [one for example in examples[1:] for one in example["input_ids"]] == whole[1]["input_ids"]     # no word of a text is lost


def test_what_cannot_be_trained_on_is_told_before(models, tmp_path):
    def told(rows, match, **settings):
        write_jsonl(tmp_path / "rows.jsonl", rows)
        with pytest.raises(InputError, match=match): train_files(models / "smollm", [tmp_path / "rows.jsonl"], tmp_path / "out", TrainSettings(device="cpu", **settings))
        assert not (tmp_path / "out").exists() and not (tmp_path / ".out.training").exists()
    told([{"conversations": []}], "rows.jsonl, line 1: another format .*stepdr import")
    told([{"query": "?", "rubrics": []}], "a task, not a trajectory .*none of 1 rows")
    told([{"messages": [{"role": "user", "content": "?"}]}], "no turn of the agent")
    told([trajectory(1)], "5000 tokens, but .* has 1024 positions", context=5000)
    told([], "no rows")
    with pytest.raises(InputError, match="--rows is missing"): train_files(models / "smollm", [], tmp_path / "out")
    with pytest.raises(InputError, match="no model here"): train_files(tmp_path, [tmp_path / "rows.jsonl"], tmp_path / "out")
    with pytest.raises(InputError, match="train.lr: expected float"): TrainSettings(lr="fast")


@pytest.mark.parametrize("way", [{}, {"processes": 2, "muon_lr": 0.01, "pack": 512, "snapshots": 2},
                                 {"freeze": 1, "share_opening": 8, "weights": "bf16", "precision": "bf16", "heldout": 3, "heldout_every": 20, "threads": 2}], ids=["one process", "two processes", "less work"])
def test_a_killed_training_goes_on_to_the_same_weights(models, tmp_path, way):
    from safetensors.torch import load_file
    write_jsonl(tmp_path / "rows.jsonl", [trajectory(number) for number in range(12)])
    settings = {"steps": 40, "tokens_per_step": 1800, "lr": 1e-3, "device": "cpu", "save_every": 4, **way}
    code = ("import sys; from stepdr.core.config import TrainSettings; from stepdr.train.rows import train_files\n"
            f"train_files(sys.argv[1], [sys.argv[2]], sys.argv[3], TrainSettings(**{settings}))")
    command = [sys.executable, "-c", code, str(models / "qwen3"), str(tmp_path / "rows.jsonl"), str(tmp_path / "out")]
    work = tmp_path / ".out.training"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (work / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < end: time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "out").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    made = train_files(models / "qwen3", [tmp_path / "rows.jsonl"], tmp_path / "whole", TrainSettings(**settings))
    for folder in ("", *(f"snapshots/sft-{step:06d}" for step in ((20, 40) if "snapshots" in way else ()))):
        one, other = (load_file(tmp_path / name / folder / "model.safetensors") for name in ("out", "whole"))
        assert all(one[name].equal(other[name]) for name in other)
    assert not work.exists() and made == read_json(tmp_path / "out/training.json")
    steps = [json.loads(line)["step"] for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30, 40]
    losses = [[{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()][-1] for name in ("out", "whole")]
    assert losses[0].get("heldout_loss") == losses[1].get("heldout_loss") and ("heldout_loss" in losses[0]) == ("heldout" in way)
    with pytest.raises(InputError, match="exists already and was not made of this"): train_files(models / "smollm", [tmp_path / "rows.jsonl"], tmp_path / "out")


def test_both_trainers_come_to_the_same_weights(models, tmp_path):
    "The plain loop and TRL's, packed or not."
    from safetensors.torch import load_file
    write_jsonl(tmp_path / "rows.jsonl", [trajectory(number, 2 + number % 2) for number in range(16)])
    settings = {"steps": 4, "tokens_per_step": 2400, "lr": 1e-3, "muon_lr": 0.01, "device": "cpu", "snapshots": 1}
    def weights(name, **way):
        train_files(models / "qwen3", [tmp_path / "rows.jsonl"], tmp_path / name, TrainSettings(**settings | way))
        found = load_file(tmp_path / name / "model.safetensors")
        assert {"config.json", "agent.json", "point.json", "chat_template.jinja"} <= {path.name for path in (tmp_path / name / "snapshots/sft-000004").iterdir()}
        assert read_json(tmp_path / name / "snapshots/sft-000004/point.json") == {"stage": "sft", "step": 4, "tokens": read_json(tmp_path / name / "training.json")["tokens"]}
        assert read_json(tmp_path / name / "snapshots/sft-000004/config.json") == read_json(tmp_path / name / "config.json")
        return found
    for name, way in (("long", {}), ("packed", {"pack": 600})):
        plain, trl = weights(name, **way), weights(f"{name}-trl", trainer="trl", **way)
        assert all(one.allclose(trl[key], atol=2e-3) for key, one in plain.items())
    with pytest.raises(InputError, match="train.processes: 2 is not possible with trainer=trl"):
        train_files(models / "qwen3", [tmp_path / "rows.jsonl"], tmp_path / "more", TrainSettings(trainer="trl", processes=2, device="cpu"))


def small_network(family):
    import transformers
    config = dict(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
                  pad_token_id=None, bos_token_id=None, eos_token_id=None)
    if family == "mamba": return transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2))
    head = {"Qwen3": {"head_dim": 16}}.get(family, {})
    return getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**config, **head))


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral", "SmolLM3"])
def test_packed_rows_have_the_loss_of_each_row_alone(family):
    import random
    import torch
    torch.manual_seed(0)
    network, rng = small_network(family).eval(), random.Random(0)
    rows = [{"input_ids": ids, "labels": [one if rng.random() < 0.7 else -100 for one in ids]} for size in (37, 120, 5, 61, 88, 2) for ids in [[rng.randrange(300) for _ in range(size)]]]
    packs = pack_examples(rows, 128)
    assert len(packs) == 3
    with torch.no_grad():
        alone = [token_loss(network, *pad_batch([row], 0)) for row in rows]
        together = token_loss(network, *pad_batch(packs, 0), pad_positions(packs))
        unseen = token_loss(network, *pad_batch(packs, 0))
    total, count = sum(float(loss) for loss, _ in alone), sum(int(number) for _, number in alone)
    assert int(together[1]) == count and float(together[0]) / count == pytest.approx(total / count, abs=1e-5)
    assert abs(float(unseen[0]) - total) / count > 1e-4              # without positions rows would see each other
    assert keeps_apart(network)


def test_a_model_whose_rows_would_see_each_other_is_not_packed(tmp_path, models):
    assert not keeps_apart(small_network("mamba"))


def test_packing_holds_every_row_once():
    import random
    rng = random.Random(1)
    rows = [{"input_ids": [number] * size, "labels": [number] * size} for number in range(500) for size in [rng.randint(1, 90)]]
    packs = pack_examples(rows, 100)
    found = sorted(one for pack in packs for one in pack["input_ids"])
    assert found == sorted(one for row in rows for one in row["input_ids"]) and all(len(pack["input_ids"]) <= 100 for pack in packs)
    assert all(pack["labels"][at] == -100 for pack in packs for at, place in enumerate(pack["position_ids"]) if place == 0)
    assert sum(len(pack["input_ids"]) for pack in packs) > 97 * len(packs)      # best fit wastes little


def test_the_model_is_served_in_the_protocol_of_most_rows(models, tmp_path):
    from stepdr.agent.protocol import PROTOCOLS, protocol_of
    quick = TrainSettings(steps=1, tokens_per_step=1500, device="cpu")
    write_jsonl(tmp_path / "rows.jsonl", [trajectory(1), trajectory(2), trajectory(3) | {"protocol": "full"}, trajectory(4) | {"protocol": "of another project"}])
    made = train_files(models / "qwen3", [tmp_path / "rows.jsonl"], tmp_path / "one", quick)
    assert made["protocol"] == "brief" and protocol_of(tmp_path / "one") == PROTOCOLS["brief"]
    write_jsonl(tmp_path / "texts.jsonl", [{"text": "The Danube. " * 20}])
    assert train_files(tmp_path / "one", [tmp_path / "texts.jsonl"], tmp_path / "two", quick)["protocol"] == "brief"       # as it was
    assert read_json(tmp_path / "two/training.json")["trained_tokens"] == sum(read_json(tmp_path / name / "training.json")["tokens"] for name in ("one", "two"))
    assert train_files(models / "qwen3", [tmp_path / "texts.jsonl"], tmp_path / "three", quick)["protocol"] == "" and not (tmp_path / "three/agent.json").exists()


def test_the_command_line(models, tmp_path, capsys):
    from stepdr.run.cli import main
    write_jsonl(tmp_path / "rows.jsonl", [trajectory(1), {"query": "?", "answer": "!"}])
    words = ["sft", "--model", str(models / "smollm"), "--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), "--steps", "2", "--lr", "3e-4", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 rows, 1 examples" in said and "1 rows set aside: a task, not a trajectory" in said and f"next: stepdr research QUESTION --model {tmp_path / 'out'}" in said
    assert main([*words, "--json"]) == 0 and json.loads(capsys.readouterr().out)["identity"]["learn"] == "sft"   # unchanged, kept
    assert main([*words[:-2], "--tokens-per-step", "3"]) == 2 and "train.tokens_per_step: 3 is out of range" in capsys.readouterr().err
