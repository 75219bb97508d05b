"""What each choice of the profile quick's training is worth: the loss on held-out pages after the first part of mid-training.

    python benchmarks/ablations.py [--steps 250] [--seed 0] [--probes 200]

Each variant trains on the same reading rows for the same number of steps. Printed: the mean loss a learned token on reading rows about *held-out*
(development) topics, with a 95 % bootstrap interval over the rows. One process, one thread.
"""
import argparse
import random
import time

import torch

from stepdr.core.artifacts import root
from stepdr.core.config import PROFILES, SynthesisSettings
from stepdr.judge.intervals import bootstrap
from stepdr.model.base import make_model, train_tokenizer, training_text
from stepdr.model.renderer import renderer_for
from stepdr.synthesis.build import sets_of
from stepdr.synthesis.closed_questions import readable
from stepdr.synthesis.readings import reading_row
from stepdr.train.examples import pack_examples, row_ids
from stepdr.train.loop import pad_batch, token_loss, train_rows
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph

VARIANTS = {"all": {}, "AdamW on all": {"muon_rate": 0.0}, "rows packed": {"pack": 2048}, "three layers": {"layers": 3}}


def examples(rows, renderer):
    return [dict(zip(("input_ids", "labels"), row_ids(row, renderer))) for row in rows]


def losses(model, tests):
    "The mean loss of a learned token, for each row."
    with torch.no_grad():
        found = [token_loss(model.eval(), *pad_batch([row], 0)) for row in tests]
    return [float(loss / count) for loss, count in found]


def run_variant(sets, probes, seed, steps, muon_rate=None, pack=0, layers=None):
    base, midtrain = PROFILES["quick"]["base"], PROFILES["quick"]["midtrain"]
    texts = (training_text(row) for rows in sets.values() for row in rows[:6000])
    tokenizer = train_tokenizer(texts, base.vocabulary)
    renderer = renderer_for(tokenizer)
    rows = examples(sets["stage1"], renderer)
    model = make_model(len(tokenizer), base.width, layers or base.layers, base.heads, base.context, seed)
    train_rows(model, pack_examples(rows, pack) if pack else rows, steps, midtrain.tokens_per_step, midtrain.stage1_learning_rate,
               midtrain.stage1_muon_learning_rate if muon_rate is None else muon_rate, seed, pad=tokenizer.pad_token_id)
    return bootstrap(losses(model, examples(probes, renderer)), seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 250), ("seed", 0), ("probes", 200), ("rows", 1500)): parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", help="one variant")
    given = parser.parse_args()
    torch.set_num_threads(1)
    web = ClosedWeb(load_graph(root() / "data" / "kg"), given.seed)
    sets = sets_of(web, SynthesisSettings(stage1_rows=given.rows), given.seed).rows
    rng = random.Random(f"probe {given.seed}")
    topics = [e for e in readable(web, "dev") if web.split.get(e) == "dev"]
    probes = [row for number in range(given.probes) if (row := reading_row(web, rng.choice(topics), number, rng))]
    for name, changes in VARIANTS.items():
        if given.only and given.only != name: continue
        clock = time.time()
        score = run_variant(sets, probes, given.seed, given.steps, **changes)
        print(f"{name:22} {score['mean']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]  n={score['n']}  {time.time() - clock:.0f} s", flush=True)


if __name__ == "__main__":
    main()
