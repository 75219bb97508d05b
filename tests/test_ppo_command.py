"""PPO of any model on tasks of one's own: over documents and over the closed web, killed and gone on, parts of the reward apart, wrong input told first."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from stepdr.agent.protocol import PROTOCOLS, protocol_from
from stepdr.core.artifacts import read_json, read_jsonl, read_metrics, sha256_path, write_jsonl
from stepdr.core.config import InputError, PpoSettings
from stepdr.rl.episodes import EpisodeTools, read_tasks
from stepdr.rl.ppo import train_policy

FEW = PpoSettings(iterations=2, episodes=4, episodes_per_task=2, minibatch=2, critic_warmup=1, learning_rate=1e-3, turns=2, tool_calls=2,
                  reply_tokens=12, context_tokens=4096, question_share=0.5, processes=1)
STEPDR = [sys.executable, "-c", "import sys; from stepdr.run.cli import main; sys.exit(main())"]
TASKS = [{"id": "danube", "query": "Which river flows through Vienna?", "rubrics": [
             {"criterion": "States that the Danube flows through Vienna.", "weight": 3.0},
             {"criterion": "Names a river of another city.", "weight": -1.0, "role": "negative"}]},
         {"id": "seine", "query": "Which river flows through Paris?", "answer": "Seine"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A small random model of a family with plain heads and of another, a folder of documents, and tasks."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("ppo")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = [json.dumps(TASKS), json.dumps(EpisodeTools("closed", PROTOCOLS["brief"]).open("0").schemas)] * 3
    core.train_from_iterator(words, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|endoftext|>")
    torch.manual_seed(0)
    size = len(tokenizer)
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                                         num_key_value_heads=1, max_position_embeddings=4096, bos_token_id=None, eos_token_id=None))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=4096))
    for name, model in (("llama", llama), ("gpt2", gpt2)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "pages").mkdir()
    (folder / "pages/vienna.md").write_text("# Vienna\n\nThe Danube flows through Vienna, the capital of Austria.\n")
    (folder / "pages/paris.md").write_text("# Paris\n\nThe Seine flows through Paris, the capital of France.\n")
    write_jsonl(folder / "tasks.jsonl", [*TASKS, {"query": "Who pays for this?"}])
    (folder / "mine.py").write_text("def short(outcome):\n    letters = len(outcome.answer or '')\n"
                                    "    return {'total': letters % 7 / 7, 'letters': letters}\n")
    return folder


def run(place, out, model="llama", web=None, reward="words", settings=FEW, **more):
    more = {"protocol": "brief", "device": "cpu", **more}
    return train_policy(place / model, [place / "tasks.jsonl"], str(web or place / "pages"), reward, out, settings, **more)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_any_model_is_trained_over_a_folder_of_documents(place, tmp_path, model):
    made = run(place, tmp_path / "out", model)
    assert made["tasks"] == 2 and made["rejected"] == {"has neither rubrics nor an answer": 1} and made["protocol"] == "brief"
    rows = read_metrics(tmp_path / "out/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all({"reward_rubrics", "reward_merits", "reward_flaws", "reward_exact", "kl", "answered"} <= set(row) for row in rows)
    assert all(0 <= row["kl"] < 1 and -1 <= row["reward"] <= 1 for row in rows) and made["guard"] is made["best"] is None
    assert protocol_from(tmp_path / "out") == PROTOCOLS["brief"] and not list(tmp_path.glob(".*"))
    assert [row["reason"] for row in read_jsonl(tmp_path / "out/rejected.jsonl")] == ["has neither rubrics nor an answer"]
    assert run(place, tmp_path / "out", model) == made                   # nothing is done twice
    with pytest.raises(InputError, match="exists already and was not made of this"):
        run(place, tmp_path / "out", model, seed=1)


def test_several_processes_train_on_the_closed_web_and_the_checkpoint_is_served(place, tmp_path):
    from stepdr.synthesis.tasks import question_tasks, research_tasks
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    from stepdr.core.artifacts import root
    web = ClosedWeb(load_graph(root() / "data/kg"))
    write_jsonl(tmp_path / "tasks.jsonl", research_tasks(web, "train", 0)[:3] + question_tasks(web, "train", 0)[:3])
    settings = replace(FEW, processes=2, iterations=1, critic_warmup=0, dev_tasks=1)
    made = train_policy(place / "llama", [tmp_path / "tasks.jsonl"], "closed", "oracle", tmp_path / "out", settings, protocol="brief", device="cpu")
    assert made["tasks"] == 6 and made["last"]["tool_calls"] >= 0 and made["last"]["reward_rubrics"] <= 0
    from stepdr.model.base import load_causal
    model, tokenizer = load_causal(tmp_path / "out", "cpu")
    assert tokenizer.chat_template and model.generation_config.eos_token_id


def test_a_function_of_ones_own_pays_and_is_logged_by_its_parts(place, tmp_path):
    made = run(place, tmp_path / "out", reward=f"{place}/mine.py:short")
    assert made["tasks"] == 3 and made["last"]["reward_letters"] > 0 and 0 <= made["last"]["reward"] < 1
    assert sha256_path(tmp_path / "out/model.safetensors") != sha256_path(place / "llama/model.safetensors")
    with pytest.raises(InputError, match="reward two: 2.0 for task .*; the critic expects -1 to 1"):
        (place / "two.py").write_text("def two(outcome): return 2.0\n")
        run(place, tmp_path / "two", reward=f"{place}/two.py:two")


def test_grpo_by_trl_trains_on_the_same_tasks_and_reward(place, tmp_path):
    settings = replace(FEW, critic="none", trainer="trl", freeze=1)
    made = run(place, tmp_path / "out", reward=f"{place}/mine.py:short", settings=settings)
    rows = read_metrics(tmp_path / "out/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2] and made["iterations"] == 2 and 0 <= made["last"]["answered"] <= 1
    assert all(0 <= row["reward"] < 1 and row["reward_letters"] >= 0 for row in rows)
    start, end = weights_of(place / "llama"), weights_of(tmp_path / "out")
    assert all(start[name].equal(end[name]) for name in start if name.startswith(("model.layers.0.", "model.embed")))
    with pytest.raises(InputError, match="ppo.trainer: trl has no critic"):
        replace(FEW, trainer="trl")


def weights_of(folder):
    from safetensors.torch import load_file
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("critic", ["separate", "trunk", "none"])
def test_blocks_that_stay_are_as_they_were_with_any_critic(place, tmp_path, critic, monkeypatch):
    "And the updates that begin above them are those of the whole model: the same weights, but for rounding."
    from stepdr.rl import ppo
    more = {"trunk_gradient": 0.5, "critic_learning_rate": 1e-2} if critic == "trunk" else {}
    settings = replace(FEW, critic=critic, freeze=1, epochs=2, critic_warmup=0, minibatch=4, **more)
    made = run(place, tmp_path / "out", reward=f"{place}/mine.py:short", settings=settings)
    monkeypatch.setattr(ppo, "begins_higher", lambda model: False)
    run(place, tmp_path / "whole", reward=f"{place}/mine.py:short", settings=settings)
    monkeypatch.undo()
    for name, way in (("again", {"recompute": True}), ("shared", {"share_opening": 8, "tokens_at_once": 4096})):
        run(place, tmp_path / name, reward=f"{place}/mine.py:short", settings=replace(settings, **way))
    start, end, *others = map(weights_of, (place / "llama", *(tmp_path / name for name in ("out", "whole", "again", "shared"))))
    for name, weight in start.items():
        stays = name.startswith(("model.layers.0.", "model.embed_tokens"))
        assert weight.equal(end[name]) == stays, name
        assert all(end[name].allclose(other[name], atol=1e-4) for other in others), name
    assert ("explained_variance" in made["last"]) == (critic != "none")


def test_openings_are_not_shared_where_they_cannot_be(place, tmp_path):
    for model, way, match in (("gpt2", {}, "not for gpt2 models"), ("llama", {"recompute": True}, "not together with recompute")):
        with pytest.raises(InputError, match=f"ppo.share_opening: {match}"):
            run(place, tmp_path / "out", model, settings=replace(FEW, share_opening=8, **way))
    assert not (tmp_path / "out").exists()


def test_the_best_weights_by_development_tasks_are_kept(place, tmp_path):
    "A reward for short answers, a rate that ruins the policy: what is kept is never worse than the start on the tasks set aside."
    settings = replace(FEW, iterations=3, dev_tasks=1, dev_every=1, learning_rate=0.3, critic_warmup=0, critic="none")
    made = run(place, tmp_path / "out", reward=f"{place}/mine.py:short", settings=settings)
    rows = read_metrics(tmp_path / "out/metrics.jsonl")
    measured = {0: rows[0]["dev_start"]} | {row["step"]: row["dev_reward"] for row in rows}
    assert made["best"] == {"step": max(measured, key=lambda step: (measured[step], -step)), "dev_reward": max(measured.values())}
    same = all(weight.equal(weights_of(place / "llama")[name]) for name, weight in weights_of(tmp_path / "out").items())
    assert same == (made["best"]["step"] == 0)
    with pytest.raises(InputError, match="ppo.dev_tasks: 9 of 3 tasks, which leaves none to train on"):
        run(place, tmp_path / "none", reward=f"{place}/mine.py:short", settings=replace(settings, dev_tasks=9))


def closed_tasks(folder):
    from stepdr.core.artifacts import root
    from stepdr.synthesis.tasks import question_tasks
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    write_jsonl(folder / "closed.jsonl", question_tasks(ClosedWeb(load_graph(root() / "data/kg")), "train", 0)[:3])
    return [folder / "closed.jsonl"]


def test_the_guard_stops_where_the_pay_rises_and_the_truth_falls(place, tmp_path, monkeypatch):
    "A judge that pays a little more each time; the closed web's truth, here made to fall. It stops, says so, and goes on to the same end."
    from stepdr.rl import rewards
    (place / "vain.py").write_text("calls = []\ndef more(outcome):\n    calls.append(1)\n    return len(calls) / 1000\n")
    told = iter(range(1000))
    monkeypatch.setattr(rewards.Truth, "of", lambda self, outcomes: [rewards.Scored(-next(told) / 100) for _ in outcomes])
    settings = replace(FEW, iterations=9, guard_window=4, guard_bound=0.01, critic="none", reply_tokens=8)
    tasks, reward = closed_tasks(tmp_path), f"{place}/vain.py:more"
    made = train_policy(place / "llama", tasks, "closed", reward, tmp_path / "out", settings, protocol="brief", device="cpu")
    assert made["iterations"] == 4 and made["guard"]["step"] == 4 and made["guard"]["paid"] > 0 > made["guard"]["true"]
    from stepdr.run.ppo_command import reinforced_text
    assert "guard: at iteration 4 the reward had risen by" in reinforced_text(made, "out")
    settings = replace(settings, guard="tell", iterations=5)
    made = train_policy(place / "llama", tasks, "closed", reward, tmp_path / "told", settings, protocol="brief", device="cpu")
    assert made["iterations"] == 5 and made["guard"]["step"] == 4


def test_the_truth_stands_beside_another_pay_where_the_web_is_closed(place, tmp_path):
    tasks, settings = closed_tasks(tmp_path), replace(FEW, iterations=1, critic="none", reply_tokens=8)
    made = train_policy(place / "llama", tasks, "closed", f"{place}/mine.py:short", tmp_path / "out", settings, protocol="brief", device="cpu")
    assert made["last"]["true_reward"] == 0 < made["last"]["reward"] or made["last"]["reward"] == 0
    kept = read_jsonl(tmp_path / "out" / "episodes.jsonl")
    assert len(kept) == FEW.episodes and {row["step"] for row in kept} == {1} and all(row["true_reward"] == 0 for row in kept)
    context = kept[0]["contexts"][0]
    assert len(context["ids"]) == len(context["mask"]) and len(context["logprobs"]) == len(context["advantages"]) == sum(context["mask"]) and "values" not in context
    assert "true_reward" not in run(place, tmp_path / "open", reward=f"{place}/mine.py:short", settings=settings)["last"]


def test_killed_it_goes_on_and_ends_the_same(place, tmp_path):
    "To the last digit: the command has as many threads as this process, for sums of other parts are rounded otherwise."
    import torch
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    settings = replace(FEW, iterations=6, critic="trunk", freeze=1, dev_tasks=1, dev_every=2)
    settings = replace(settings, reward=f"{place}/mine.py:short")
    expected = run(place, tmp_path / "whole", reward=settings.reward, settings=settings, save_every=1)
    changed = {"iterations": 6, "episodes": 4, "episodes-per-task": 2, "minibatch": 2, "critic-warmup": 1, "learning-rate": 1e-3, "turns": 2,
               "tool-calls": 2, "reply-tokens": 12, "question-share": 0.5, "processes": 1, "critic": "trunk", "freeze": 1, "dev-tasks": 1, "dev-every": 2,
               "reward": f"{place}/mine.py:short", "save-every": 1}
    command = [*STEPDR, "ppo", "--model", place / "llama", "--tasks", place / "tasks.jsonl", "--web", place / "pages", "--out", tmp_path / "out",
               "--protocol", "brief", "--device", "cpu", *(text for name, value in changed.items() for text in (f"--{name}", value))]
    command, work = [str(part) for part in command], tmp_path / ".out.training"
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (work / "checkpoint.pt").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert (work / "checkpoint.pt").exists() and not (tmp_path / "out").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "6 iterations" in done.stdout and "next: stepdr research" in done.stdout, done.stderr[-2000:]
    assert sha256_path(tmp_path / "out/model.safetensors") == sha256_path(tmp_path / "whole/model.safetensors")
    assert read_json(tmp_path / "out/ppo.json")["last"] == expected["last"]
    assert [row["step"] for row in read_metrics(tmp_path / "out/metrics.jsonl")] == list(range(1, 7))


@pytest.mark.parametrize("rows, reward, match", [
    ([{"messages": [{"role": "user", "content": "?"}]}], "words", "line 1: a trajectory, not a task .*stepdr sft"),
    ([{"text": "a book"}], "words", "line 1: another format .text.; none of 1 rows is a task; a task has query"),
    ([{"query": "?", "rubrics": ["clear"]}], "words", "rubrics that are no list of criteria with weights"),
    ([], "words", "no rows"),
    ([{"query": "Who?"}], "exact", "none of 1 can be rewarded by exact; the first has no answer"),
    ([{"query": "Who?", "rubrics": [{"criterion": "States it.", "weight": 1.0}]}], "oracle", "none of 1 can be rewarded .*closed web knows"),
    ([{"query": "Who? " * 3000, "answer": "She"}], "words", "ppo.context_tokens: .* leaves no room"),
    (TASKS, "nobody", "neither oracle, words")])
def test_wrong_input_is_told_before_anything_is_sampled(place, tmp_path, rows, reward, match):
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    with pytest.raises(InputError, match=match):
        train_policy(place / "llama", [tmp_path / "tasks.jsonl"], str(place / "pages"), reward, tmp_path / "out", FEW, protocol="brief", device="cpu")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_wrong_webs_and_protocols_are_told(place, tmp_path):
    with pytest.raises(InputError, match="--web .*nowhere: neither closed, live, a run's folder nor a folder of documents"):
        run(place, tmp_path / "out", web=tmp_path / "nowhere")
    with pytest.raises(InputError, match="protocol: loud is no file"):
        run(place, tmp_path / "out", protocol="loud")


def test_tasks_of_several_names_are_read(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "Who?", "answer": "She"}, {"id": 7, "prompt": "Where?", "rubrics": []}, {"id": 7, "query": "When?"}])
    tasks, rejected = read_tasks([tmp_path / "a.jsonl"])
    assert [(task["id"], task["query"], task["kind"]) for task in tasks] == [("a.jsonl:1", "Who?", "question"), ("7", "Where?", "question")]
    assert [(row["line"], row["reason"]) for row in rejected] == [(3, "an id that occurred before")]
