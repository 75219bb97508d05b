"""The engine against transformers' `generate` over episodes of two turns: same model, same prompts, same greedy tokens.

    python benchmarks/decode.py [--model DIR] [--episodes 32] [--slots 32] [--turn 64] [--threads 1] [--opening 220 --per-task 4]

An episode is a prompt, a turn, a tool's answer and a second turn; lengths of prompts and answers differ, as they do for agents.
With --opening all prompts begin with as many tokens, with --per-task so many episodes have the same prompt, as in reinforcement.
The engine keeps its cache from turn to turn, and computes what prompts have in common once. `generate` is what it is measured against, in the way that agent loops drive it: at
each turn a batch of episodes, padded on the left, all their tokens anew. Without --model a small Qwen2 with random weights is used.
Seconds are those of the process's CPU time on a CPU, which other work on the machine hardly changes, and wall time on a GPU.
"""
import argparse
import os
import random
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def load(folder, device):
    "-> (model, ids that end a turn); without a folder random weights, which end no turn."
    from stepdr.model.base import load_causal, make_model
    if not folder:
        return make_model(2048, width=256, layers=6, heads=4, context=8192).to(device).eval(), set()
    model, tokenizer = load_causal(folder, device)
    return model.eval(), {tokenizer.eos_token_id}


def with_engine(model, prompts, answers, stops, turn, slots):
    "-> list of ids of the whole episodes."
    from stepdr.model.engine import engine_for
    engine, done, second = engine_for(model, stops, slots=slots), [list(prompt) for prompt in prompts], set()
    for number, prompt in enumerate(prompts):
        engine.add(number, prompt, turn)
    while engine.waiting:
        for ended in engine.step():
            number = ended.key
            done[number] += ended.ids
            if number in second:
                engine.drop(number)
                continue
            second.add(number)
            engine.add(number, answers[number], turn)
            done[number] += answers[number]
    return done


def with_generate(model, prompts, answers, stops, turn, slots):
    "The same, each turn of a batch by `generate`."
    done = []
    for first in range(0, len(prompts), slots):
        batch = [list(prompt) for prompt in prompts[first:first + slots]]
        for known in (answers[first:first + slots], [[]] * slots):
            wrote = generate(model, batch, stops, turn)
            batch = [ids + new + more for ids, new, more in zip(batch, wrote, known)]
        done += batch
    return done


def generate(model, batch, stops, turn):
    "-> list of the new ids of each row."
    import torch
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in batch], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=turn, eos_token_id=sorted(stops) or None, pad_token_id=0)
    rows = out[:, longest:].tolist()
    ends = [next((at + 1 for at, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face directory of a causal language model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--slots", type=int, default=32, help="episodes at once")
    parser.add_argument("--turn", type=int, default=64, help="tokens of a turn")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the longest prompt and of the longest answer of a tool")
    parser.add_argument("--opening", type=int, default=0, help="tokens with which all prompts begin")
    parser.add_argument("--per-task", type=int, default=1, help="episodes that have the same prompt")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each, taking turns; the best counts")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    given = parser.parse_args()
    import torch
    torch.set_num_threads(given.threads)
    model, stops = load(given.model, given.device)
    clock = time.process_time if given.device == "cpu" else time.perf_counter
    rng, vocabulary = random.Random(0), model.config.vocab_size
    prompts, answers = ([[rng.randrange(3, vocabulary) for _ in range(rng.randint(given.prompt // 8, given.prompt))]
                         for _ in range(given.episodes)] for _ in range(2))
    opening = [rng.randrange(3, vocabulary) for _ in range(given.opening)]
    prompts = [opening + prompts[number - number % given.per_task] for number in range(given.episodes)]
    best, ids = {}, {}
    for number in range(given.rounds):
        for name, play in (("engine", with_engine), ("generate", with_generate)):
            began = clock()
            ids[name] = play(model, prompts, answers, stops, given.turn, given.slots)
            spent = clock() - began
            best[name] = min(best.get(name, spent), spent)
            mean = sum(map(len, ids[name])) / given.episodes
            print(f"round {number + 1}  {name:<9}{spent:7.1f} s for {given.episodes} episodes of {mean:.0f} tokens", flush=True)
    same = sum(a == b for a, b in zip(ids["engine"], ids["generate"]))
    ratio = best["generate"] / best["engine"]
    print(f"generate takes {ratio:.2f} x the engine's time; {same} of {given.episodes} episodes are the same, token for token")


if __name__ == "__main__":
    main()
