"What the printed examples name and the project does not ship: a run with untrained models, files of a user's own, a wiki, papers."
import json
import shutil

from stepdr.core.artifacts import root, write_json, write_jsonl

TOWNS = {"Ashford": "weavers", "Brennock": "tanners", "Coldwell": "millers", "Dunmere": "smiths", "Eastholt": "coopers", "Farlow": "printers"}


def town_page(name):
    "A page that links to two others, long enough for a question."
    names = list(TOWNS)
    place, trade = names.index(name), TOWNS[name]
    other, third = names[(place + 1) % 6], names[(place + 2) % 6]
    return (f"# {name}\n\n{name} is a market town that was known for its {trade}, who sold most of what they made at [{other}]({other}.md) every autumn.\n\n"
            f"The guild of {trade} at {name} built its hall by the river in {1611 + 23 * place}, and the {trade} kept their chest and their seal in it until it burned.\n\n"
            f"The old road from {name} crosses two fords and a moor before it comes down to [{third}]({third}.md) beside the harbour.\n\n"
            f"Lace and copper goods of the {trade} were weighed at {name} under a charter of {1540 + 7 * place} that the crown renewed twice.\n")


def long_report(topic):
    "A report with headings, prose and sources."
    lines = [f"# {topic}", ""]
    for place, heading in enumerate(("Guild halls", "Copper goods", "Harbour roads", "Autumn markets")):
        lines += [f"## {heading}", ""]
        lines += [f"The county archive in volume {n + 2} records that the {heading.lower()} of {1803 + 17 * place + 5 * n} took {120 + 35 * place + 11 * n} pounds from the parish accounts, "
                  "and that work went on while money was short, which made the town known far beyond the county.\n" for n in range(4)]
    return "\n".join([*lines, "## References", "", "[1] https://archive.example/accounts", ""])


def write_results(folder):
    "The files of a finished run that the results come from."
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 200}
    names = ("base", "midtrain", "sft_without_midtrain", "sft", "ppo")
    write_json(folder / "run.json", {"profile": "quick", "seed": 0, "wall_seconds": 100.5, "peak_rss_mb": 900.0, "started": "", "stages": {}, "device": "auto"})
    write_json(folder / "judge.json", {"macro_f1": cell, "by_role": {}, "confusion": [[1, 0, 0]] * 3, "labels": ["satisfied", "partially", "not"], "reward_source": "oracle"})
    write_json(folder / "evaluation" / "results.json", {
        "profile": "quick", "seed": 0, "stages": {name: {"simpleqa": cell, "rubric": cell, "rubric_strict": cell, "rubric_strict_t1": cell} for name in names},
        "judge": {"macro_f1": 0.9, "n": 100}, "pairwise": {"sft_vs_sft_without_midtrain": {"win": 3, "tie": 2, "loss": 1}, "ppo_vs_sft": {"win": 1, "tie": 2, "loss": 3}},
        "elo": {}, "differences": {name: {"metric": "rubric_strict", "mean": 0.2, "low": 0.1, "high": 0.3, "n": 200} for name in ("midtrain_gain", "ppo_gain")}})


def make_run(folder):
    "A run's folder with a closed web, tasks, untrained models and the results of a run that never was."
    from stepdr.agent.protocol import PROTOCOLS, write_protocol
    from stepdr.model.base import make_model, save_model, train_tokenizer
    from stepdr.synthesis.tasks import question_tasks, research_tasks
    from stepdr.world.closed_web import ClosedWeb, save_web
    from stepdr.world.facts import load_graph
    web = ClosedWeb(load_graph(root() / "data" / "kg"))
    save_web(web, root() / "data" / "kg", folder / "world")
    for split in ("train", "dev", "test"):
        questions = question_tasks(web, split, 0)
        kinds = [task for kind in ("frames", "triviaqa", "simpleqa") for task in [row for row in questions if row["kind"] == kind][:3]]
        write_jsonl(folder / "data" / f"tasks_{split}.jsonl", research_tasks(web, split, 0)[:40 if split == "train" else 4] + kinds)
    tasks = research_tasks(web, "train", 0)[:40]
    write_jsonl(folder / "data" / "trajectories_sft.jsonl", [{"id": tasks[0]["id"], "messages": [
        {"role": "user", "content": tasks[0]["query"]}, {"role": "assistant", "content": "<answer>I found nothing.</answer>"}]}])
    tokenizer = train_tokenizer([task["query"] for task in tasks] * 3, 700)
    for seed, name in enumerate(("sft_without_midtrain", "sft", "ppo", "judge", "base")):
        save_model(folder / "models" / name, make_model(len(tokenizer), 32, 2, context=4096, seed=seed), tokenizer)
        if name not in ("judge", "base"): write_protocol(folder / "models" / name, PROTOCOLS["brief"])
    write_results(folder)
    return web


def make_prepared(folder, texts):
    "A random model under the name that `stepdr model smollm2` prepares, in a folder of prepared models (STEPDR_MODELS)."
    from stepdr.model.base import make_model, save_model, train_tokenizer
    tokenizer = train_tokenizer(texts * 3, 2000)
    save_model(folder / "smollm2", make_model(len(tokenizer), 16, 16, context=8192), tokenizer)
    write_json(folder / "smollm2" / "origin.json", {"files": {}})


def make_own_files(folder):
    "The files that examples call a user's own, under the names that the examples give them."
    for name in TOWNS:
        for wiki in ("wiki", "papers"):
            (folder / wiki).mkdir(exist_ok=True)
            (folder / wiki / f"{name}.md").write_text(town_page(name))
    (folder / "papers" / "tides.md").write_text("# Tides\n\nTides come twice a day, drawn by the moon and the sun, says this paper on tides.\n")
    for name in ("wikidata5m", "my/facts"): shutil.copytree(root() / "data" / "kg", folder / name)
    chat = {"messages": [{"role": "user", "content": "Which river flows through Exeter, and where does it reach the sea?"},
                         {"role": "assistant", "content": "<answer>The Exe, at Exmouth, where it has flowed since before there was a town.</answer>"}]}
    (folder / "others").mkdir()
    for name in ("others/chat.jsonl", "rows.jsonl", "webdancer.jsonl"): write_jsonl(folder / name, [chat])
    (folder / "frames.csv").write_text("Prompt,Answer\nWhich river flows through Vienna and where does it end?,the Danube\n")
    write_jsonl(folder / "frames.jsonl", [{"question": "Which river flows through Vienna and where does it end?", "answer": "the Danube"}])
    general = [json.loads(line) for line in (root() / "data" / "adr" / "general.jsonl").read_text().splitlines()]
    rubrics = [json.loads(line) for line in (root() / "data" / "adr" / "professional.jsonl").read_text().splitlines()]
    for name in ("a.jsonl", "b.jsonl"): write_jsonl(folder / name, [{"task": row["id"], "report": f"A report by {name}."} for row in general[:2]])
    write_jsonl(folder / "tasks.jsonl", rubrics[:1])
    write_jsonl(folder / "labels.jsonl", [{"query": f"Report on {name}.", "report": f"{name} was known for its {trade}.", "criterion": f"Says that {name} was known for {word}",
                                           "verdict": "satisfied" if word == trade else "not", "explanation": f"It says {trade}."}
                                          for name, trade in TOWNS.items() for word in (trade, "mills")])
    write_jsonl(folder / "mine.jsonl", rubrics[:1])
    task = json.loads((folder / "reports" / "quick-seed0" / "data" / "tasks_test.jsonl").read_text().splitlines()[0])
    write_jsonl(folder / "reports.jsonl", [{"task": name, "report": "# A report\n\nNothing was found."} for name in (rubrics[0]["id"], task["id"])])
    (folder / "eval" / "ppo").mkdir(parents=True)
    write_jsonl(folder / "eval" / "ppo" / "predictions.jsonl", [{"task": task["id"], "report": "# A report\n\nNothing was found."}])
    write_jsonl(folder / "answers.jsonl", [{"id": "simpleqa-00001", "answer": "Cardiff"}])
    (folder / "simple_qa_test_set.csv").write_text("metadata,problem,answer\n\"{'topic': 'Geography', 'answer_type': 'Place', 'urls': []}\",What is the capital of Wales?,Cardiff\n")
    write_jsonl(folder / "verdicts.jsonl", [{"task": "t1", "criterion": "Says so", "weight": 1, "verdict": "satisfied"}, {"task": "t2", "criterion": "Says so", "weight": 1, "verdict": "not satisfied"}])
    (folder / "report_files").mkdir()
    (folder / "synth.toml").write_text('seed = 0\n[[part]]\nname = "pairs"\nmaker = "query_report"\ninput = "report_files"\nnumber = 1\ninto = "midtrain"\n')
    (folder / "report_files" / "towns.md").write_text(long_report("How the old market towns lived"))


def make_offline(folder, web):
    "A folder with docs/offline.toml and what it says that it reads."
    folder.mkdir()
    shutil.copy(root() / "docs" / "offline.toml", folder)
    shutil.copytree(folder.parent / "wiki", folder / "wiki")
    names = list(TOWNS)
    facts = [fact for place, (name, trade) in enumerate(TOWNS.items()) for fact in ((name, "trade", trade), (name, "market", names[(place + 1) % 6]), (name, "road", names[(place + 2) % 6]))]
    (folder / "facts.tsv").write_text("".join("\t".join(fact) + "\n" for fact in facts))
    (folder / "reports").mkdir()
    (folder / "reports" / "towns.md").write_text(long_report("How the old market towns lived"))
    pages = [page for page in web.world.paragraphs.values() if any(s.relation in ("birthplace", "school", "occupation") for s in page.statements)]
    step = len(pages) // 6
    write_jsonl(folder / "paragraphs.jsonl", [{"id": f"p{n}", "url": "https://a.example/", "text": f"{pages[n].text} {pages[n + 1].text}"} for n in range(0, len(pages) - 1, step)])
