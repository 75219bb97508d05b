"""What each trick of the tiny profile is worth: quoting from held-out pages after the first part of mid-training.

    python benchmarks/ablations.py [--steps 250] [--seed 0] [--probes 200]

Each variant trains on the same reading rows for the same number of steps and is then asked to quote lines from pages
about *held-out* (development) topics, greedily. Printed: the share of answers that are right word for word, with a 95 %
bootstrap interval. One process, one thread.
"""
import argparse
import random
import time

import torch

from stepdr.core.artifacts import root
from stepdr.core.config import SynthesisSettings
from stepdr.judge.intervals import bootstrap
from stepdr.model.base import SKELETON, make_model, train_tokenizer, training_text
from stepdr.model.decoder import decode
from stepdr.model.encoding import encode_rows, training_namer
from stepdr.synthesis.build import sets_of
from stepdr.synthesis.closed import readable, reading_row
from stepdr.train.loop import train_rows
from stepdr.core.trajectory import render
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph

VARIANTS = {"all": {}, "without induction initialisation": {"induction": False}, "without renaming": {"renamed": 0.0},
            "without the citation and digit tokens": {"skeleton": [piece for piece in SKELETON if "web_00" not in piece and not piece.isdigit()]},
            "three layers": {"layers": 3}}


def quotes(model, tokenizer, web, count, seed):
    "1.0 or 0.0 for each probe: was the quote right, word for word?"
    rng = random.Random(f"probe {seed}")
    topics = [e for e in readable(web, "dev") if web.split.get(e) == "dev"]
    rows = [reading_row(web, rng.choice(topics), n, rng)["messages"] for n in range(count)]
    answers = {}
    prompts = [render(messages[:1], tokenizer, generation_prompt=True)[0] for messages in rows]
    decode(model, prompts, lambda number, ids: answers.setdefault(number, tokenizer.decode(ids)) and None, tokenizer.eos_token_id, 0, 600, 120)
    return [float(answers.get(number, "").removesuffix(tokenizer.eos_token) == messages[1]["content"]) for number, messages in enumerate(rows)]


def run_variant(sets, web, seed, steps, probes, skeleton=SKELETON, induction=True, renamed=0.9, layers=4):
    tokenizer = train_tokenizer((training_text(row) for rows in sets.values() for row in rows[:6000]), 2048, skeleton)
    rows, _ = encode_rows(sets["stage1"], tokenizer, training_namer(web), renamed, seed)
    model = make_model(len(tokenizer), layers=layers, induction=induction, seed=seed)
    train_rows(model, rows, steps, 4096, 3e-3, 0.02, seed, pad=tokenizer.pad_token_id)
    return bootstrap(quotes(model.eval(), tokenizer, web, probes, seed), seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 250), ("seed", 0), ("probes", 200)): parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", help="one variant")
    given = parser.parse_args()
    torch.set_num_threads(1)
    web = ClosedWeb(load_graph(root() / "data" / "kg"), given.seed)
    sets = sets_of(web, SynthesisSettings(), given.seed).rows
    for name, changes in VARIANTS.items():
        if given.only and given.only != name: continue
        clock = time.time()
        score = run_variant(sets, web, given.seed, given.steps, given.probes, **changes)
        print(f"{name:42} {score['mean']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]  n={score['n']}  {time.time() - clock:.0f} s", flush=True)


if __name__ == "__main__":
    main()
