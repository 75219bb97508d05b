"""Rubric verdicts a second: the report read once for all of its rubrics, against one prompt a rubric, on the same model.

    python benchmarks/judge.py [--model DIR] [--reports 6] [--rubrics 12] [--sections 54] [--rounds 2] [--batch 2] [--threads 1]

Two pairs, on the same model with the same questions. *Pointing* (what the judge does): both ways use our decoder and the same constrained answers; the
second feeds report and question anew for every rubric, in batches of as many branches as the first has. *Writing*: greedy free answers, by our
decoder in branches and by Hugging Face's `generate`, a prompt a rubric, which is what people run. Reports are joined from pages of the closed web;
without --model a model of the tiny profile with random weights is used, and with a trained judge (models/judge of a run) the verdicts are
real. Seconds are those of the process's CPU time.
"""
import argparse
import os
import random
import time
from collections import Counter

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def load(folder, web):
    "A trained judge, or a fresh model of the tiny profile with a tokenizer of the closed web's sentences."
    from stepdr.model.base import load_model, make_model, train_tokenizer
    if folder: return load_model(folder)
    from stepdr.core.config import PROFILES
    base = PROFILES["tiny"]["base"]
    tokenizer = train_tokenizer([p.text for p in web.world.paragraphs.values()], base.vocabulary)
    return make_model(len(tokenizer), base.width, base.layers, base.heads, base.context, base.induction), tokenizer


def make_items(web, reports, rubrics, count):
    "Long reports of sections on several subjects, and criteria on them: some stated, some not."
    from stepdr.synthesis.tasks import fact_rubric
    from stepdr.tools.closed import paragraph_line
    rng, items = random.Random("judge benchmark"), []
    topics = sorted(e for e, facts in web.graph.facts.items() if len(facts) >= 3 and e in web.by_entity)
    for number in range(reports):
        chosen = rng.sample(topics, max(rubrics, count))
        stated = [web.by_entity[e][0] for e in chosen[:count]]
        report = "\n".join(f"## {p.heading}\n{paragraph_line(p)}" for p in stated)
        task = {"id": f"bench-{number}", "query": f"Write a report on {web.graph.names[chosen[0]]} .", "meta": {"entity": chosen[0]},
                "rubrics": [fact_rubric(web.graph, e, rng.choice(sorted(web.graph.facts[e])), "explicit", 1.0) for e in chosen[:rubrics]]}
        items.append((task, report, {p.id: p for p in stated}))
    return items


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face directory of a trained judge")
    parser.add_argument("--reports", type=int, default=6)
    parser.add_argument("--rubrics", type=int, default=12)
    parser.add_argument("--sections", type=int, default=54, help="sections a report (54 make about 860 tokens of a trained tokenizer)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each, taking turns; the best counts")
    parser.add_argument("--batch", type=int, default=2, help="reports at once")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    given = parser.parse_args()
    import torch
    torch.set_num_threads(given.threads)
    from stepdr.core.artifacts import root
    from stepdr.judge.trained import Judge
    from stepdr.judge.quotes import questions, shown_sections
    from stepdr.world.closed_web import ClosedWeb
    from stepdr.world.facts import load_graph
    web = ClosedWeb(load_graph(root() / "data" / "kg"))
    judge = Judge(*load(given.model, web), most=100_000)
    items = make_items(web, given.reports, given.rubrics, given.sections)
    verdicts = sum(len(task["rubrics"]) for task, _, _ in items)
    prefix = [len(judge.speller.prefix(task["query"], shown_sections(report))) for task, report, _ in items]
    print(f"{given.reports} reports of {sum(prefix) / len(prefix):.0f} tokens, {given.rubrics} rubrics each, {torch.get_num_threads()} thread(s)")

    def generate():
        "One prompt a rubric through Hugging Face's `generate`, one at a time."
        written = []
        for number, (task, report, _) in enumerate(items):
            shown, texts = shown_sections(report), []
            opening = judge.speller.prefix(task["query"], shown)
            for question, _ in questions(task):
                ids = torch.tensor([opening + judge.speller.question(question)])
                found = judge.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=judge.quote_tokens, do_sample=False, eos_token_id=judge.speller.stop, pad_token_id=judge.tokenizer.pad_token_id)
                texts.append(judge.text(found[0, ids.size(1):].tolist()))
            written.append((number, list(range(len(shown))), texts))
        return judge.read_freely(items, written=written)
    ways = {"pointing, shared prefix": lambda: judge.read_many(items, given.batch), "pointing, a prompt a rubric": lambda: judge.read_many(items, given.batch * given.rubrics, shared=False),
            "writing, shared prefix": lambda: judge.read_freely(items, given.batch), "writing, generate": generate}
    best, read = {}, {}
    for number in range(given.rounds):
        for name, way in ways.items():
            began = time.process_time()
            read[name] = way()
            rate = verdicts / (spent := time.process_time() - began)
            best[name] = max(best.get(name, 0), rate)
            print(f"round {number + 1}  {name:<28} {rate:7.0f} verdicts/CPU s   {spent:6.2f} s", flush=True)
    print("verdicts:", dict(Counter(v for reading in read["pointing, shared prefix"] for v in reading.verdicts)))
    for fast, slow in (("pointing, shared prefix", "pointing, a prompt a rubric"), ("writing, shared prefix", "writing, generate"), ("pointing, shared prefix", "writing, generate")):
        same = {what: sum(a == b for x, y in zip(read[fast], read[slow]) for a, b in zip(getattr(x, what), getattr(y, what))) for what in ("verdicts", "quotes")}
        print(f"{fast}: {best[fast] / best[slow]:.2f} x {slow}; {same['verdicts']} of {verdicts} verdicts and {same['quotes']} of {verdicts} quotes are the same")


if __name__ == "__main__": main()
