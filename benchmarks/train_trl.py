"""What TRL costs at the profile quick's size: the plain loop and `SFTTrainer` on the same rows, in turns, in one process.

    python benchmarks/train_trl.py [--steps 30] [--rounds 2] [--threads 1]

Both train a fresh model of the profile quick on the profile's own rows (a small sample of them, made here). The two take turns, so that
whatever else the machine does hits both; the best round of each counts. What TRL needs once (its import, the trainer, the data set) is left out of the
tokens a second and printed by itself. Tokens are those of the rows, without padding. Seconds are those of the process's CPU time: with one thread they
are what the wall clock shows on an idle machine, and other work on the machine hardly changes them.
"""
import argparse
import os
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def make_rows(count, vocabulary):
    "Rendered trajectories of the profile quick."
    from stepdr.core.artifacts import root
    from stepdr.core.config import SynthesisSettings
    from stepdr.model.base import train_tokenizer, training_text
    from stepdr.model.renderer import renderer_for
    from stepdr.synthesis.build import sets_of
    from stepdr.train.examples import row_ids
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    web = ClosedWeb(load_graph(root() / "data" / "kg"))
    sets = sets_of(web, SynthesisSettings(stage1_rows=count, stage2_rows=count, sft_rows=count), 0).rows
    rows = [row for stage in sets.values() for row in stage]
    tokenizer = train_tokenizer(map(training_text, rows), vocabulary)
    renderer = renderer_for(tokenizer)
    return [dict(zip(("input_ids", "labels"), row_ids(row, renderer))) for row in rows], tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps of a round; the first ten are not counted")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each trainer")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--rows", type=int, default=600, help="rows of each stage to make")
    given = parser.parse_args()
    import torch
    torch.set_num_threads(given.threads)
    from stepdr.core.config import PROFILES
    from stepdr.model.base import make_model
    from stepdr.train.loop import train_rows
    began = time.time()
    import trl
    from trl import SFTTrainer
    from stepdr.train.trl import train_rows_trl
    imported = time.time() - began
    base, sft = PROFILES["quick"]["base"], PROFILES["quick"]["sft"]
    rows, tokenizer = make_rows(given.rows, base.vocabulary)
    print(f"{len(rows)} rows of {sum(len(r['input_ids']) for r in rows) / len(rows):.0f} tokens; {sft.tokens_per_step} padded tokens a step, {given.steps} steps a round, "
          f"{given.threads} thread(s); torch {torch.__version__}, TRL {trl.__version__}", flush=True)

    def once(train):
        "Tokens a second after the first ten steps, the seconds until then, and the losses, ten steps a row."
        model, seen, started = make_model(len(tokenizer), base.width, base.layers, base.heads, base.context), [], time.process_time()
        train(model, lambda **row: seen.append((time.process_time(), row)))
        (first, _), (last, _) = seen[0], seen[-1]
        return sum(row["tokens"] for _, row in seen[1:]) / (last - first), first - started, [row["loss"] for _, row in seen]

    def plain(model, log): train_rows(model, rows, given.steps, sft.tokens_per_step, sft.learning_rate, sft.muon_learning_rate, 0, tokenizer.pad_token_id, log=log)
    def through_trl(model, log): train_rows_trl(model, rows, given.steps, sft.tokens_per_step, sft.learning_rate, sft.muon_learning_rate, 0, tokenizer.pad_token_id, log=log)
    best = {}
    for number in range(given.rounds):
        for name, train in (("plain loop", plain), ("TRL SFTTrainer", through_trl)):
            rate, before, losses = once(train)
            best[name] = max(best.get(name, 0), rate)
            print(f"round {number + 1}  {name:<15} {rate:8.0f} tokens/CPU s   {before:5.1f} s until step 10   last loss {losses[-1]:.4f}", flush=True)
    ratio = best["plain loop"] / best["TRL SFTTrainer"]
    print(f"TRL: import {imported:.1f} s by the clock; a token takes {ratio:.2f} x the plain loop's CPU time")


if __name__ == "__main__": main()
