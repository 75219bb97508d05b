"Models by their names: a tiny GGUF file in a wheel goes the whole way, and what can go wrong on it; no network, no hub."

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stepdr.core.artifacts import root, sha256_path
from stepdr.core.config import BaseSettings, InputError
from stepdr.judge.judges import judge_from
from stepdr.model import packaged
from stepdr.model.abilities import abilities
from stepdr.model.base import check_base, load_causal, make_model, read_config, save_model, train_tokenizer
from stepdr.model.packaged import PACKAGES, Package, fault_of, folder_of, model_at, prepare, prepared
from stepdr.model.renderer import CHATML_SHORT, renderer_for
from stepdr.run import cli

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
OWN = (  # tells no tools
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
ROWS = [{"role": "user", "content": "Which river?"}, {"role": "assistant", "content": "The Exe."}]


def tiny_gguf(path):
    "A Llama of two layers as llama.cpp would write it, with SmolLM2's faults: padding that ends turns, no tools told."
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    width, heads, groups, inner, layers, rng = 32, 4, 2, 64, 2, np.random.default_rng(0)
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "er"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(["Ġ Ġ", "e r"])
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(OWN)

    def tensor(name, *shape):
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.2, shape).astype(np.float32))

    tensor("token_embd", len(tokens), width)
    tensor("output_norm", width)
    for layer in range(layers):
        for name, rows in (
            ("attn_q", width),
            ("attn_k", width // heads * groups),
            ("attn_v", width // heads * groups),
            ("attn_output", width),
            ("ffn_gate", inner),
            ("ffn_up", inner),
        ):
            tensor(f"blk.{layer}.{name}", rows, width)
        tensor(f"blk.{layer}.ffn_down", width, inner)
        tensor(f"blk.{layer}.attn_norm", width)
        tensor(f"blk.{layer}.ffn_norm", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tiny_gguf(folder / "tiny.gguf")
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as file:
        file.write(folder / "tiny.gguf", "tiny/tiny.gguf")
        file.writestr("tiny-1.0.dist-info/licenses/LICENSE", "free")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(
            "tiny-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n",
        )
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    return folder / "tiny-1.0-py3-none-any.whl"


@pytest.fixture()
def tiny(wheel, tmp_path, monkeypatch):
    "The wheel as a package called `tiny`; models go to a folder of the test's own."
    monkeypatch.setenv("STEPDR_MODELS", str(tmp_path / "models"))
    monkeypatch.setitem(
        PACKAGES, "tiny", Package("tiny", "1.0", sha256_path(wheel), wheel.stat().st_size, "Tiny", "none")
    )
    return str(wheel)


def test_the_whole_way(tiny, capsys):
    with pytest.raises(InputError, match="model tiny: is not prepared on this machine; `stepdr model tiny`"):
        model_at("tiny")
    assert cli.main(["model", "tiny", "--wheel", tiny]) == 0
    said = capsys.readouterr()
    assert "ready" in said.out and "making full weights of tiny.gguf" in said.err
    folder = Path(model_at("tiny"))
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "LICENSE",
        "origin.json",
    }
    assert not list(folder.parent.glob(".*.partial")) and fault_of(folder) == ""
    config = json.loads((folder / "config.json").read_text())
    assert (
        "quantization_config" not in config
        and config["dtype"] == "bfloat16"
        and (config["eos_token_id"], config["pad_token_id"]) == (2, 0)
    )
    assert set(json.loads((folder / "generation_config.json").read_text())) == {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
    }
    origin = json.loads((folder / "origin.json").read_text())
    assert (
        origin["from"] == "tiny==1.0, tiny.gguf"
        and origin["licence"] == "none"
        and origin["sha256"] == PACKAGES["tiny"].sha256
    )
    model, tokenizer = load_causal("tiny", "cpu")
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.chat_template, tokenizer.model_max_length) == (
        "<|endoftext|>",
        "<|im_end|>",
        CHATML_SHORT,
        256,
    )
    assert (
        tokenizer.tokenize("  7er") == ["ĠĠ", "7", "er"] and tokenizer.decode(tokenizer.encode("  7er Ä")) == "  7er Ä"
    )
    ids, mask = renderer_for(tokenizer).render(ROWS)
    assert [one for one, own in zip(ids, mask) if own][-1] == 2 and str(model.dtype) == "torch.float32"
    assert model(input_ids=__import__("torch").tensor([ids])).logits.isfinite().all()


def test_weights_are_those_of_the_file(tiny, wheel):
    import gguf
    import torch

    prepare("tiny", tiny)
    model, _ = load_causal("tiny", "cpu")
    there = {one.name: one for one in gguf.GGUFReader(wheel.parent / "tiny.gguf").tensors}
    embedding = torch.tensor(there["token_embd.weight"].data)
    assert torch.equal(model.get_input_embeddings().weight, embedding.bfloat16().float())
    assert torch.equal(
        model.model.layers[1].mlp.down_proj.weight, torch.tensor(there["blk.1.ffn_down.weight"].data).bfloat16().float()
    )


def test_a_device_that_is_no_cpu_keeps_bf16_except_to_train(tiny):
    prepare("tiny", tiny)
    kinds = [str(load_causal("tiny", "meta", exact)[0].dtype) for exact in (False, True)]
    assert kinds == ["torch.bfloat16", "torch.float32"]


def test_a_second_time_nothing_is_made(tiny, capsys, monkeypatch):
    folder = prepare("tiny", tiny)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(packaged, "fetch_wheel", lambda *_: pytest.fail("asked the network"))
    assert cli.main(["model", "tiny"]) == 0 and f"is there already, {folder}" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert cli.main(["model"]) == 0
    said = capsys.readouterr().out
    assert str(folder) in said and "smollm2" in said and "not prepared: `stepdr model smollm2` fetches 93 MB" in said


def test_a_folder_that_lost_something_is_said_and_made_anew(tiny, capsys):
    folder = prepare("tiny", tiny)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    for where in (
        lambda: model_at("tiny"),
        lambda: load_causal("tiny"),
        lambda: read_config("tiny"),
        lambda: check_base(BaseSettings(base_model="tiny")),
    ):
        with pytest.raises(InputError, match="model.safetensors has 1,000 of .* `stepdr model tiny` prepares it anew"):
            where()
    assert (
        prepared()[0]["fault"]
        and cli.main(["doctor"]) == 0
        and "not whole (model.safetensors" in capsys.readouterr().out
    )
    told = []
    assert prepare("tiny", tiny, told.append) == folder and "is not whole" in told[0]
    assert (folder / "model.safetensors").read_bytes() == weights and check_base(
        BaseSettings(base_model="tiny")
    ) is None


def refused(capsys, *words):
    "The one line that a command ends with."
    assert cli.main(["model", *map(str, words)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    return said[-1]


def test_what_is_not_the_wheel_is_refused(tiny, tmp_path, capsys, monkeypatch):
    other = tmp_path / "other.whl"
    data = bytearray(Path(tiny).read_bytes())
    data[50] ^= 1
    other.write_bytes(data)
    assert "is not the wheel of tiny==1.0" in refused(capsys, "tiny", "--wheel", other)
    other.write_bytes(data[:500])
    assert "500 bytes" in refused(capsys, "tiny", "--wheel", other)
    assert "no such file" in refused(capsys, "tiny", "--wheel", tmp_path / "none.whl")
    monkeypatch.setitem(PACKAGES, "tiny", Package("tiny", "1.0", sha256_path(other), 500, "Tiny", "none"))
    assert "is no whole wheel" in refused(capsys, "tiny", "--wheel", other)
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("tiny/a.txt", "no model")
    monkeypatch.setitem(
        PACKAGES, "tiny", Package("tiny", "1.0", sha256_path(other), other.stat().st_size, "Tiny", "none")
    )
    assert "holds 0 GGUF files" in refused(capsys, "tiny", "--wheel", other)
    assert not folder_of("tiny").exists() and not list(packaged.models_folder().glob(".*.partial"))


def test_other_mistakes_are_one_line(tiny, tmp_path, capsys, monkeypatch):
    assert "there is no such packaged model" in refused(capsys, "smolm2") and "OWNER/MODEL" in refused(
        capsys, "no/such/folder"
    )
    assert "HF_HUB_OFFLINE=0 stepdr model of/nobody" in refused(
        capsys, "of/nobody"
    ) and "is for packaged models" in refused(capsys, "of/nobody", "--wheel", tiny)
    assert "say which model" in refused(capsys, "--wheel", tiny)
    monkeypatch.setattr(packaged.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "MB are free" in refused(capsys, "tiny", "--wheel", tiny)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEPDR_MODELS", str(tmp_path / "file" / "models"))
    assert "set STEPDR_MODELS to another folder" in refused(capsys, "tiny", "--wheel", tiny)


def test_no_registry_is_one_line_and_the_wheel_by_hand_still_works(tiny, capsys, monkeypatch, tmp_path):
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "registry").as_uri())
    said = refused(capsys, "tiny")
    assert "tiny==1.0: could not be downloaded" in said and "--wheel FILE" in said
    assert prepare("tiny", tiny).is_dir()


def test_the_registry_s_wheel_is_taken(tiny, capsys, monkeypatch):
    "From a folder that pip is told to look in, as from a registry."
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(Path(tiny).parent))
    told = []
    assert prepare("tiny", told=told.append) == folder_of("tiny") and "downloading tiny==1.0" in told[0]


def test_a_killed_preparation_leaves_nothing_that_counts(tiny, tmp_path):
    program = (
        "import os, signal, sys; from stepdr.model import packaged\npackaged.PACKAGES['tiny'] ="
        f" packaged.Package('tiny', '1.0', {PACKAGES['tiny'].sha256!r}, {PACKAGES['tiny'].size}, 'Tiny',"
        " 'none')\npackaged.save_fitted = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\npackaged.prepare('tiny',"
        f" {tiny!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(root())}, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    place = packaged.models_folder()
    assert list(place.glob(".tiny.*.partial")) and not folder_of("tiny").exists() and prepared() == []
    assert (
        prepare("tiny", tiny) == folder_of("tiny")
        and not list(place.glob(".tiny.*.partial"))
        and [row["name"] for row in prepared()] == ["tiny"]
    )


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    "A Hugging Face directory with a template that tells no tools."
    folder, tokenizer = tmp_path_factory.mktemp("hub") / "m", train_tokenizer(["Which river?"], 600)
    tokenizer.chat_template, tokenizer.pad_token = OWN, "<|im_end|>"
    save_model(folder, make_model(len(tokenizer), width=16, layers=1, heads=2, context=128), tokenizer)
    return folder


def test_a_model_of_the_hub_is_fetched_and_fitted(ordinary, tiny, capsys, monkeypatch):
    import huggingface_hub
    import shutil

    asked = []

    def snapshot(name, local_dir, allow_patterns):
        asked.append(name)
        if name == "of/nobody":
            raise RuntimeError("404: no such repository\nmore")
        shutil.copytree(ordinary, local_dir, dirs_exist_ok=True)
        Path(local_dir, ".cache").mkdir()
        if name == "of/pickles":
            Path(local_dir, "model.safetensors").unlink()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert cli.main(["model", "of/somebody"]) == 0
    folder = Path(model_at("of/somebody"))
    said = capsys.readouterr().out
    assert (
        folder.name == "of--somebody"
        and "trains, and decodes many sequences at once" in said
        and not (folder / ".cache").exists()
    )
    _, tokenizer = load_causal("of/somebody", "cpu")
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.chat_template == CHATML_SHORT
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["model", "of/somebody"]) == 0 and asked == ["of/somebody"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "could not be fetched from the hub (404: no such repository)" in refused(capsys, "of/nobody")
    assert "no safetensors" in refused(capsys, "of/pickles") and [row["name"] for row in prepared()] == ["of/somebody"]


def test_a_folder_of_one_s_own_is_looked_at(ordinary, tmp_path, capsys):
    import shutil

    assert cli.main(["model", str(ordinary)]) == 0
    said = capsys.readouterr().out
    assert (
        "stepdr's for chatml (its own leaves out 'probe description'" in said
        and "loses the ends of turns" in said
        and "128" in said
    )
    broken = shutil.copytree(ordinary, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"xx")
    assert cli.main(["model", str(broken)]) == 1 and "not a whole safetensors file" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert "no model here" in refused(capsys, tmp_path / "empty")


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_how_a_family_is_computed_is_said(family, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = train_tokenizer(["a"], 600)
    sizes = (
        {"n_embd": 16, "n_layer": 1, "n_head": 2}
        if family == "gpt2"
        else {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        }
    )
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes)
    save_model(tmp_path / "m", AutoModelForCausalLM.from_config(config), tokenizer)
    ok, _, words = {what: row for row in abilities(tmp_path / "m") for what in [row[1]]}["computation"]
    assert (
        ok == (family == "qwen3")
        and words.startswith(family)
        and ("which is slower (model_type 'gpt2')" in words) == (not ok)
    )


def test_a_name_is_taken_wherever_a_model_is(tiny, tmp_path, capsys):
    "Not prepared: every command says the same line; prepared: it trains, and the checkpoint keeps the template."
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": ROWS}) + "\n")
    (tmp_path / "tasks.jsonl").write_text('{"query": "Which river?", "answer": "Exe"}\n')
    (tmp_path / "qa.csv").write_text("metadata,problem,answer\n\"{'topic': 'rivers'}\",Which river?,Exe\n")
    rows, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    commands = (
        ["sft", "--model", "tiny", "--rows", rows, "--out", out, "--steps", "1"],
        ["research", "Which?", "--model", "tiny", "--workspace", out],
        ["ppo", "--model", "tiny", "--tasks", str(tmp_path / "tasks.jsonl"), "--reward", "exact", "--out", out],
        ["eval", "simpleqa", "--data", str(tmp_path / "qa.csv"), "--model", "tiny", "--out", out],
        ["judge", "train", "--model", "tiny", "--rows", rows, "--out", out],
        ["run", "--list", "--out", out, "-p", "base_model=tiny"],
    )
    for words in commands:
        assert cli.main(words) == 2
        assert "model tiny: is not prepared on this machine; `stepdr model tiny`" in capsys.readouterr().err, words
    with pytest.raises(InputError, match="model tiny: is not prepared"):
        judge_from("chat:tiny")
    prepare("tiny", tiny)
    assert (
        cli.main([*commands[0], "--out", f"{out}-sft"]) == 0
        and (tmp_path / "out-sft" / "chat_template.jinja").read_text() == CHATML_SHORT
    )
    (tmp_path / "rows.jsonl").unlink()
