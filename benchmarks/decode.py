"""The decoder against Hugging Face's `generate` over whole multi-turn episodes: same model, same prompts, same greedy tokens.

    python benchmarks/decode.py [--model DIR] [--episodes 32] [--batch 32] [--threads 1]

An episode is a held-out development task with the tools of the closed web. The decoder runs a batch column by column and keeps its cache over turns.
`generate` is what it is measured against, in the way that agent loops drive it: at each turn the batch of unfinished episodes, padded on the
left, all their tokens anew. Without --model a model of the tiny profile with random weights is used, and the turns are cut off after 40 tokens,
followed by the teacher's tool text; a trained model makes its own calls. Seconds are those of the process's CPU time, which other work on the machine hardly changes.
"""
import argparse
import os
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def load(folder):
    "A trained model, or a fresh one of the tiny profile with a small tokenizer of the training texts."
    from stepdr.model.base import load_model, make_model, train_tokenizer, training_text
    if folder: return load_model(folder)
    from stepdr.core.config import PROFILES, SynthesisSettings
    from stepdr.synthesis.build import sets_of
    base = PROFILES["tiny"]["base"]
    sets = sets_of(WEB, SynthesisSettings(stage1_rows=300, stage2_rows=300, sft_rows=300), 0).rows
    tokenizer = train_tokenizer((training_text(row) for rows in sets.values() for row in rows), base.vocabulary)
    return make_model(len(tokenizer), base.width, base.layers, base.heads, base.context, base.induction), tokenizer


class Script:
    "Episodes for a model that cannot call tools: the teacher's tool text after each turn, whatever was written."
    def __init__(self, tasks, tokenizer):
        from stepdr.synthesis.expert import PERFECT, make_trajectory
        from stepdr.core.trajectory import segments
        rows = [make_trajectory(WEB, "research" if task["kind"] == "research" else "seeking", task, PERFECT, 0) for task in tasks]
        self.prompts, self.texts = [], []
        for row in rows:
            tools = [m for m in row["messages"] if m["role"] == "tool"]
            encode = lambda messages: tokenizer.encode("".join(t for t, _ in segments(messages, generation_prompt=True)), add_special_tokens=False)
            self.prompts.append(encode(row["messages"][:1]))
            self.texts.append([encode([m]) for m in tools])

    def start(self):
        left = [list(texts) for texts in self.texts]
        return lambda number, ids, used: left[number].pop(0) if left[number] else None


class Agents:
    "Episodes of a model that calls the tools of the closed web."
    def __init__(self, tasks, tokenizer, budget):
        self.tasks, self.tokenizer, self.budget = tasks, tokenizer, budget
        self.prompts = [tokenizer.encode(e.prompt(), add_special_tokens=False) for e in self.episodes()]

    def episodes(self):
        from stepdr.model.rollout import AgentEpisode
        from stepdr.tools.closed import Environment
        return [AgentEpisode(task, Environment(WEB, seed=task["id"]), self.budget) for task in self.tasks]

    def start(self):
        episodes = self.episodes()
        def follow(number, ids, used):
            more = episodes[number].after_turn(self.tokenizer.decode(ids), used)
            return None if more is None else self.tokenizer.encode(more, add_special_tokens=False)
        return follow


def with_decoder(model, prompts, follow, stop, most, turn):
    "-> list of ids of the whole episodes."
    from stepdr.model.decoder import decode
    rows = []
    decode(model, prompts, lambda number, ids: follow(number, ids, len(rows[number].ids)), stop, 0, most, turn, rows=rows)
    return [row.ids for row in rows]


def with_generate(model, prompts, follow, stop, most, turn, pad):
    "The same, each turn by `generate` on the batch of unfinished episodes."
    import torch
    done = [list(prompt) for prompt in prompts]
    alive = list(range(len(done)))
    while alive:
        longest = max(len(done[i]) for i in alive)
        ids = torch.tensor([[pad] * (longest - len(done[i])) + done[i] for i in alive])
        mask = torch.tensor([[0] * (longest - len(done[i])) + [1] * len(done[i]) for i in alive])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=turn, eos_token_id=stop, pad_token_id=pad)
        still = []
        for i, row in zip(alive, out[:, longest:].tolist()):
            new = row[:row.index(stop) + 1] if stop in row else row
            room = most - len(done[i])
            done[i] += new[:room]
            more = follow(i, new, len(done[i])) if len(new) <= room else None
            if more is None or len(done[i]) >= most: continue
            done[i] = (done[i] + more)[:most]
            if len(done[i]) < most: still.append(i)
        alive = still
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face directory of a trained model")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="episodes at once")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each, taking turns; the best counts")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    given = parser.parse_args()
    import torch
    torch.set_num_threads(given.threads)
    from stepdr.model.rollout import Budget
    from stepdr.synthesis.tasks import question_tasks, research_tasks
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.core.artifacts import root
    from stepdr.world.facts import load_graph
    global WEB
    WEB = ClosedWeb(load_graph(root() / "data" / "kg"))
    model, tokenizer = load(given.model)
    model.eval()
    half = given.episodes // 2
    tasks = research_tasks(WEB, "dev", 0)[:half] + [t for t in question_tasks(WEB, "dev", 0) if t["kind"] == "frames"][:given.episodes - half]
    budget = Budget() if given.model else Budget(turn_tokens=40)
    world = Agents(tasks, tokenizer, budget) if given.model else Script(tasks, tokenizer)
    stop, pad, best, ids = tokenizer.eos_token_id, tokenizer.pad_token_id, {}, {}

    def batches(run, *more):
        "All episodes, batch by batch."
        follow, out = world.start(), []
        for first in range(0, len(tasks), given.batch):
            part = world.prompts[first:first + given.batch]
            out += run(model, part, lambda n, turn, used: follow(first + n, turn, used), stop, budget.tokens, budget.turn_tokens, *more)
        return out
    for number in range(given.rounds):
        for name, run, more in (("decoder", with_decoder, ()), ("generate", with_generate, (pad,))):
            began = time.process_time()
            ids[name] = batches(run, *more)
            rate = sum(map(len, ids[name])) / (spent := time.process_time() - began)
            best[name] = max(best.get(name, 0), rate)
            print(f"round {number + 1}  {name:<9} {rate:7.0f} tokens/CPU s   {spent:5.1f} s for {len(tasks)} episodes of {sum(map(len, ids[name])) / len(tasks):.0f} tokens", flush=True)
    same = sum(a == b for a, b in zip(ids["decoder"], ids["generate"]))
    print(f"the decoder does {best['decoder'] / best['generate']:.2f} x the tokens a CPU second of generate; {same} of {len(tasks)} episodes are the same, token for token")


if __name__ == "__main__": main()
