"""Rubric verdicts a second of a trained judge: criteria that share a place in the cache, each by itself, and one prompt after another by `generate`.

    python benchmarks/judge.py [--model DIR] [--reports 6] [--rubrics 12] [--sections 20] [--tokens 48] [--slots 6] [--rounds 2] [--threads 1]

All three write greedy answers to the same prompts by the same model. *Shared*: neighbours take turns in a place and keep what their prompts begin
with, which is the report. *Apart*: as many places as prompts, so that each reads its report anew. *generate*: Hugging Face's, a prompt at a time.
Reports are joined from pages of the closed web. Without --model a model of the profile quick with random weights is used, whose answers no one can
read: what is compared is the ids. Seconds are those of the process's CPU time.
"""
import argparse
import os
import random
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def load(folder, labels, protocol):
    "A trained judge, or a fresh model of the profile quick with a tokenizer of the prompts."
    from stepdr.core.config import PROFILES
    from stepdr.judge.answers import LocalJudge, load_judge
    from stepdr.judge.labels import judging_messages
    from stepdr.model.base import make_model, train_tokenizer
    from stepdr.model.renderer import renderer_for
    if folder:
        return load_judge(folder, "cpu")
    base = PROFILES["quick"]["base"]
    tokenizer = train_tokenizer([message["content"] for label in labels for message in judging_messages(label)], base.vocabulary)
    return LocalJudge(make_model(len(tokenizer), base.width, base.layers, base.heads, 4096), renderer_for(tokenizer), protocol)


def make_labels(web, reports, rubrics, count):
    "Long reports of sections on several subjects, and criteria on them: some stated, some not."
    from stepdr.judge.data import oracle_labels
    from stepdr.synthesis.report_writer import citation
    from stepdr.synthesis.tasks import FactBook, fact_rubric
    rng, records, book = random.Random("judge benchmark"), [], FactBook(web.graph)
    topics = sorted(e for e, facts in web.graph.facts.items() if len(facts) >= 3 and e in web.by_entity)
    for number in range(reports):
        chosen = rng.sample(topics, max(rubrics, count))
        stated = [web.by_entity[e][0] for e in chosen[:count]]
        task = {"id": f"bench-{number}", "query": f"Write a report on {web.graph.names[chosen[0]]}.", "meta": {"entity": chosen[0]},
                "rubrics": [fact_rubric(book, e, rng.choice(sorted(web.graph.facts[e])), "explicit", 1.0) for e in chosen[:rubrics]]}
        report = "\n\n".join(f"## {p.title}\n{p.text}{citation([p.id])}" for p in stated)
        records.append({"task": task, "report": report, "paragraphs": {p.id: p for p in stated}, "by": "pages"})
    return oracle_labels(records, web, 0, most=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face directory of a trained judge")
    for name, default, about in (("reports", 6, "reports"), ("rubrics", 12, "criteria a report"), ("sections", 20, "sections a report"), ("tokens", 48, "tokens of an answer"),
                                 ("slots", 6, "places in the cache where they are shared"), ("rounds", 2, "rounds of each, taking turns; the best counts"), ("threads", 1, "torch threads")):
        parser.add_argument(f"--{name}", type=int, default=default, help=about)
    given = parser.parse_args()
    import torch
    torch.set_num_threads(given.threads)
    from stepdr.judge.answers import JudgeProtocol, fitting_row
    from stepdr.model.batched import turn_ends
    from stepdr.world.closed_web import shipped_web
    labels = make_labels(shipped_web(), given.reports, given.rubrics, given.sections)
    judge = load(given.model, labels, JudgeProtocol(answer_tokens=given.tokens))
    fitted = [fitting_row(label, judge.renderer, judge.room, judge.protocol) for label in labels]
    prompts, stops = [one[1] for one in fitted if one], sorted(turn_ends(judge.model, judge.renderer))
    print(f"{given.reports} reports, {len(prompts)} prompts of {sum(map(len, prompts)) / len(prompts):.0f} tokens, {torch.get_num_threads()} thread(s)")

    def generate():
        written = []
        with torch.inference_mode():
            for prompt in prompts:
                ids = torch.tensor([prompt])
                found = judge.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=given.tokens, do_sample=False, eos_token_id=stops, pad_token_id=stops[0])
                written.append(found[0, ids.size(1):].tolist())
        return written
    ways = {"shared": lambda: [turn.ids for turn in judge.write(prompts, slots=given.slots)], "apart": lambda: [turn.ids for turn in judge.write(prompts, slots=len(prompts))],
            "generate": generate}
    best, wrote = {}, {}
    for number in range(given.rounds):
        for name, way in ways.items():
            began = time.process_time()
            wrote[name] = way()
            spent = time.process_time() - began
            best[name] = max(best.get(name, 0), len(prompts) / spent)
            print(f"round {number + 1}  {name:<10} {len(prompts) / spent:7.1f} verdicts/CPU s   {spent:6.2f} s", flush=True)
    for other in ("apart", "generate"):
        same = sum(a == b for a, b in zip(wrote["shared"], wrote[other]))
        print(f"shared: {best['shared'] / best[other]:.2f} x {other}; {same} of {len(prompts)} answers are the same")


if __name__ == "__main__":
    main()
