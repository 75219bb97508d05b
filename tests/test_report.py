"The report of a run, from a folder of plausible files; looked at in a browser where there is one."
import json, math, random, re, shutil, subprocess
from html.parser import HTMLParser
import pytest
from stepdr.run import report
from stepdr.run.results import load_results, results_table
from stepdr.core.artifacts import write_json, write_jsonl
from stepdr.core.config import InputError

STAGES = ["base", "midtrain", "sft_without_midtrain", "sft", "ppo"]
LEVEL = {"base": 0.02, "midtrain": 0.25, "sft_without_midtrain": 0.41, "sft": 0.6, "ppo": 0.68}


def cell(mean, n=200, half=0.05): return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def measures(stage):
    level = LEVEL[stage]
    found = {name: cell(level * factor) for name, factor in [("simpleqa", 1.1), ("triviaqa", 1.05), ("frames", 0.8), ("rubric", 1.0), ("rubric_strict", 0.9),
             ("report_success", 0.6), ("citation_precision", 1.2), ("citation_recall", 1.1), ("wrong_value_rate", 0.2)]}
    found |= {"tool_calls": cell(5 * level + 1, half=0.2), "tokens": cell(900 * level + 200, half=20)}
    return found | {name + "_t1": cell(value["mean"] * 0.93, half=value["high"] - value["mean"]) for name, value in found.items()}


def sample(i):
    sources = {f"web_{i:04x}{j:04x}": {"site": ["encyclopaedia.example", "blog-9.example", "stats.example"][j % 3], "url": f"https://site{j}.example/page-{j}", "title": f"River town {j}",
               "text": "The town of Avel lies on the river Sarn. It has been the seat of the district since 1871, and about 41,000 people live there.", "authority": [0.9, 0.2, 0.7][j % 3]} for j in range(4)}
    ids = list(sources)
    text = (f"# Report on Avel\n## Summary\nAvel is a town on the Sarn \\cite{{{ids[0]}}} and **seat of its district** since 1871 \\cite{{{ids[0]}, {ids[2]}}}.\n\n"
            f"## Facts\n- River: Sarn \\cite{{{ids[0]}}}\n- Population: 41,000 \\cite{{{ids[3]}}}\n\nA weblog gives another year \\cite{{{ids[1]}}}, which the statistics contradict.")
    evil = "# Avel\n<script>document.title='broken'</script><img src=https://evil.example/x.png onerror=alert(1)> \\cite{web_deadbeef} \\cite{\"><script>x</script>}\n\x00\x1b[31m- [link](javascript:alert(1))"
    rubrics = [{"criterion": "States the river on which the town lies", "weight": 3, "axis": "facts", "role": "explicit"}, {"criterion": "States since when it is the seat of the district", "weight": 4, "axis": "facts", "role": "explicit"},
               {"criterion": "Says how sources differ", "weight": 2, "axis": "synthesis", "role": "implicit"}, {"criterion": "Repeats the outdated population of the weblog", "weight": -3, "axis": "facts", "role": "negative"}]
    return {"task": {"id": f"r{i}", "query": f"Write a report on the town of Avel ({i}): river, seat, population, and how the sources differ.", "rubrics": rubrics}, "sources": sources,
            "reports": {"ppo": {"text": text, "verdicts": ["satisfied", "satisfied", "partially", "not"], "rubric_strict": 0.78}, "sft": {"text": text, "verdicts": ["satisfied", "partially", "not", "not"], "rubric_strict": 0.33},
                        "sft_without_midtrain": {"text": evil, "verdicts": ["not", "partially", "not", "satisfied"], "rubric_strict": -0.33}}}


def fill(run):
    "Write a whole run into a folder."
    noise = random.Random(0)
    write_json(run / "run.json", {"profile": "quick", "seed": 0, "wall_seconds": 1183.2, "peak_rss_mb": 2871.0, "started": "2026-11-22T10:00:00", "device": "cpu", "stages": {"world": 9.1, "ppo": 402.0}})
    write_json(run / "evaluation" / "results.json", {"profile": "quick", "seed": 0, "stages": {stage: measures(stage) for stage in STAGES},
        "judge": {"macro_f1": 0.874, "low": 0.85, "high": 0.9, "n": 300}, "pairwise": {"sft_vs_sft_without_midtrain": {"win": 121, "tie": 43, "loss": 36}, "ppo_vs_sft": {"win": 88, "tie": 71, "loss": 41}},
        "elo": {stage: cell(850 + 400 * LEVEL[stage], half=30) for stage in STAGES},
        "curve": [{"model": name, "stage": name, "step": step, "tokens": step * 4096, **{kind: cell(0.1 + step / 1000) for kind in ("simpleqa", "triviaqa", "frames")}} for name, step in (("base", 0), ("midtrain1", 300), ("midtrain2", 700))],
        "axes": {stage: {axis: cell(LEVEL[stage]) for axis in ("explicit criteria", "references")} for stage in STAGES},
        "cost": {stage: {name: cell(100 * (1 + LEVEL[stage]), half=4) for name in ("tokens", "action_tokens", "tool_calls")} | {"quality": cell(LEVEL[stage])} for stage in STAGES},
        "general": {stage: [{"prompt": "What is <i>2</i>?", "answer": "two", "sensible": stage == "base"}] for stage in ("base", "sft")},
        "by_part": {stage: {"kinds": {"fact": cell(0.4), "wrong": cell(0.9)}, "roles": {}} for stage in STAGES},
        "gains_by_part": {"ppo_gain": {"kinds": {"fact": cell(0.17)}, "roles": {}}},
        "card": {"bench": "closed web", "variant": "ternary", "judge": {"judge": "oracle"}, "seed": 0, "n": 840, "decontamination": {"leaked": 0}},
        "differences": {"midtrain_gain": {"metric": "rubric_strict", **cell(0.18)}, "ppo_gain": {"metric": "rubric_strict", **cell(0.07)}, "ppo_gain_greedy": {"metric": "rubric_strict", **cell(0.03)}, "midtrain_gain_temperature_1": {"metric": "rubric_strict", **cell(-0.07)}}})
    write_json(run / "judge.json", {"macro_f1": {"mean": 0.874, "low": 0.85, "high": 0.9, "n": 300}, "by_role": {"explicit": 0.91, "negative": 0.82}, "confusion": [[410, 22, 9], [31, 120, 28], [4, 19, 377]], "labels": ["satisfied", "partially", "not"], "reward_source": "oracle"})
    write_json(run / "data" / "funnel.json", [{"filter": name, "set": kind, "read": 800, "dropped": dropped, "kept": 800 - dropped, "examples": [{"id": "x1", "reason": "6-gram <b>repeats</b>", "measure": 5}]}
               for kind, dropped in (("seeking", 130), ("research", 44)) for name in ("correct and shortest", "repetition", "citation format", "decontamination")])
    for name in ("midtrain1", "midtrain2", "sft", "sft_without_midtrain", "judge"):
        write_jsonl(run / "metrics" / f"{name}.jsonl", [{"step": i, "tokens": i * 8192, "loss": 0.4 + 4 * math.exp(-i / 60) + noise.gauss(0, 0.05), "learning_rate": 1e-3, "seconds": i * 0.3} | ({"probe": i / 300} if i % 50 == 0 else {}) for i in range(300)])
    write_jsonl(run / "metrics" / "ppo.jsonl", [{"step": i, "reward": 0.4 + 0.003 * i + noise.gauss(0, 0.1), "reward_strict": 0.3 + 0.003 * i + noise.gauss(0, 0.1), "kl": 0.0004 * i, "entropy": 0.9 - 0.003 * i, "clip_fraction": 0.05,
                "explained_variance": 0.4 - 0.5 * math.exp(-i / 20), "length": 340 - i + noise.gauss(0, 9), "tool_calls": 4.1, "seconds": i * 4.0} for i in range(100)])
    write_json(run / "evaluation" / "samples.json", [sample(i) for i in range(5)])
    write_json(run / "manifests" / "ppo.json", {"stage": "ppo", "inputs": {"models/sft": "a" * 64}, "outputs": {"models/ppo": "b" * 64}, "parameters": {"steps": 100, "clip": 0.2}, "seed": 0, "versions": {"python": "3.11.7", "torch": "2.13.0"}, "code": "c" * 64, "seconds": 402.0, "peak_rss_mb": 2871.0})
    write_json(run / "benchmarks" / "adr" / "results.json", {"bench": "adr-professional", "variant": "binary", "judge": "oracle <b>", "score": cell(0.31), "card": {"seed": 4}})
    (run / "notebooks").mkdir()
    for suffix in ("ipynb", "html"): (run / "notebooks" / f"ppo.{suffix}").write_text("{}")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory): return fill(tmp_path_factory.mktemp("reports") / "quick-seed0")


class Page(HTMLParser):
    "Collects ids, links and everything that a browser would load, and checks that tags are balanced."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.open, self.scripts, self.text = [], [], [], [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"
    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert not any(name.startswith("on") for name in attributes), attributes
        if "id" in attributes: self.ids.append(attributes["id"])
        if tag == "a": self.links.append(attributes["href"])
        elif {"src", "href"} & set(attributes): self.loads.append(attributes.get("src") or attributes.get("href"))
        if tag not in ("meta", "link", "br", "rect", "path", "polyline"): self.open.append(tag)
    def handle_startendtag(self, tag, attributes): pass
    def handle_endtag(self, tag): assert self.open.pop() == tag, tag
    def handle_data(self, data): (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


def test_index_loads_nothing(run):
    text = report.write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == ["data:,"] and len(page.scripts) == 2 and "@import" not in text.split("<script>")[0] and "url(" not in text.split("<script>")[0]
    assert text.count("plotly.js v") == 1
    assert all(link.startswith("#") or link in ("notebooks/ppo.html", "benchmarks/adr/index.html") for link in page.links)
    assert len(page.ids) == len(set(page.ids)) and {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_model_text_is_escaped(run):
    before, *_ = report.write_index(run).read_text(encoding="utf-8").split("<script>")
    assert "&lt;script&gt;document.title" in before and "<img" not in before and "\x00" not in before and "<b>repeats" not in before
    assert "javascript:" in "".join(Page(before + "</body></html>" if "</body>" not in before else before).text)


def test_citations_are_linked_and_invented_ones_marked(run):
    text = report.write_index(run).read_text(encoding="utf-8").split("<script>")[0]
    assert 'href="#s0-web_00000000"' in text and '<li id="s0-web_00000000">' in text
    assert '<span class="invented" title="no tool returned this paragraph">web_deadbeef – invented</span>' in text
    assert "2 invented" in text


def test_everything_is_shown(run):
    text = report.write_index(run).read_text(encoding="utf-8").split("<script>")[0]
    for wanted in ("19.7 min", "2.80 GB", "the oracle&#x27;s verdicts", "torch 2.13.0", "+0.180", "0.874", "correct and shortest", "Ratings", "flaw present", "temperature 1",
                   "What mid-training teaches", "Scores by axis", "Quality against cost", "What was forgotten", "By kind of rubric", "repeats no wrong value", "+0.170", "What is &lt;i&gt;2&lt;/i&gt;?", "0 of 1", "closed web", "leaked 0", "adr-professional", "oracle &lt;b&gt;"): assert wanted in text, wanted
    assert "not run yet" not in text
    charts = json.loads(re.search(r"const CHARTS = (\[.*?\]);\n", report.write_index(run).read_text(encoding="utf-8"))[1])
    titles = [chart["layout"]["title"]["text"] for chart in charts]
    for wanted in ("All stages, greedy", "Mid-training: loss", "Supervised fine-tuning: loss", "reward an episode", "critic's explained variance"): assert wanted in titles


def test_results_object_and_table(run):
    results = load_results(run)
    assert list(results) == ["profile", "seed", "wall_seconds", "peak_rss_mb", "left_out", "stages", "judge", "pairwise", "elo", "differences", "curve", "axes", "cost", "general", "by_part", "gains_by_part", "card"]
    assert results["wall_seconds"] == 1183.2 and results["judge"]["macro_f1"] == 0.874 and set(results["stages"]) == set(STAGES)
    table = results_table(results)
    assert max(map(len, table.splitlines())) < 90 and table.count("sft_without_midtrain") == 5  # four blocks and a pair
    assert "temperature 1" in table and "0.66" in table and "[.61,.71]" in table and "+0.180 [+0.130, +0.230]" in table


def test_judge_is_joined_from_its_own_file(tmp_path):
    write_json(tmp_path / "run.json", {"profile": "quick", "seed": 2})
    write_json(tmp_path / "judge.json", {"macro_f1": cell(0.9), "reward_source": "judge"})
    results = load_results(tmp_path)
    assert results["judge"]["macro_f1"] == 0.9 and results["judge"]["n"] == 200 and results["stages"] == {} and results["seed"] == 2
    assert "not run yet" in results_table(results)


def test_a_run_that_has_only_begun(tmp_path):
    write_json(tmp_path / "run.json", {"profile": "quick", "seed": 0})
    text = report.write_index(tmp_path).read_text(encoding="utf-8")
    assert text.count("not run yet") == 16
    Page(text)
    with pytest.raises(InputError, match="run.json is missing"): load_results(tmp_path / "nowhere")


def browser():
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.mark.skipif(not browser(), reason="no Chromium here (Debian package: chromium)")
def test_small_version(run, tmp_path):
    path = report.write_sample_report(run, tmp_path / "sample.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.stat().st_size < 300_000 and "<script" not in text and text.count("<svg") > 8
    assert page.loads == ["data:,"] and all(link.startswith("#") for link in page.links)


@pytest.mark.skipif(not browser(), reason="no Chromium here (Debian package: chromium)")
@pytest.mark.parametrize("dark", [False, True])
def test_page_in_a_browser(run, tmp_path, dark):
    index, picture = report.write_index(run), tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--hide-scrollbars", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=6000", "--window-size=1280,2400"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([browser(), *flags, f"--screenshot={picture}", "--enable-logging=stderr", index.as_uri()], capture_output=True, text=True, timeout=120)
    assert picture.stat().st_size > 50_000, done.stderr[-500:]
    dom = subprocess.run([browser(), *flags, "--dump-dom", index.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert dom.count('class="main-svg"') > 10  # plotly drew
    assert "<title>stepdr · quick-seed0</title>" in dom and "CONSOLE" not in done.stderr
