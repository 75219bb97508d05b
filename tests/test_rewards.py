"""One reward interface: what PPO takes is what the judge and the metrics say, and a user's own function is looked at."""
import random

import pytest

from stepdr.core.artifacts import root
from stepdr.core.config import InputError
from stepdr.judge.judges import MajorityJudge, OracleJudge, WordsJudge
from stepdr.judge.metrics import exact_match, rubric_score
from stepdr.rl.rewards import ByTask, ExactReward, FunctionReward, Outcome, RubricReward, Scored, mean_parts, reward_from, rewardable
from stepdr.synthesis.tasks import question_tasks, research_tasks
from stepdr.synthesis.truth import oracle
from stepdr.world.closed_web import ClosedWeb
from stepdr.world.facts import load_graph


@pytest.fixture(scope="module")
def web(): return ClosedWeb(load_graph(root() / "data" / "kg"), seed=0)


def reports(web, tasks):
    "Reports of any quality: right lines, lines of other topics, no answer."
    rng = random.Random(0)
    paragraphs = list(web.world.paragraphs.values())
    for number, task in enumerate(tasks):
        about = [p for p in paragraphs if p.title == task["query"].split(" report on ")[-1].split(" . ")[0]] or paragraphs
        chosen = rng.sample(about, min(len(about), 3)) + rng.sample(paragraphs, 1)
        text = "\n".join(f"## {p.heading}\n{p.text} \\cite{{{p.id}}}" for p in chosen)
        yield Outcome(task, None if number % 7 == 0 else text, {p.id: p for p in chosen})


def test_the_reward_is_the_metric_of_the_judge(web):
    tasks = research_tasks(web, "train", seed=0)[:60]
    outcomes = list(reports(web, tasks))
    scored = ByTask(RubricReward(OracleJudge(web)))(outcomes)
    expected = [max(-1.0, rubric_score(oracle(one.task, one.answer, one.read), [rubric["weight"] for rubric in one.task["rubrics"]], "strict")) for one in outcomes]
    assert [one.total for one in scored] == pytest.approx(expected) and len(set(expected)) > 3
    assert all(one.total == pytest.approx(max(-1.0, one.parts["merits"] + one.parts["flaws"])) for one in scored)


def test_questions_and_reports_in_one_training(web):
    questions = question_tasks(web, "train", seed=0)[:20]
    research = list(reports(web, research_tasks(web, "train", seed=0)[:5]))
    outcomes = [Outcome(task, task["aliases"][-1] if number % 2 else "nobody knows") for number, task in enumerate(questions)] + research
    reward = ByTask(RubricReward(OracleJudge(web)))
    kept, rejected = rewardable([one.task for one in outcomes] + [{"id": "bad"}], reward)
    scored = reward(outcomes)
    assert len(kept) == 25 and [row["id"] for row in rejected] == ["bad"]
    assert [one.total for one in scored[:20]] == [float(bool(exact_match(one.answer, one.task["aliases"]))) for one in outcomes[:20]]
    assert {"reward_exact", "reward_rubrics", "reward_merits", "reward_flaws"} <= set(mean_parts(scored))


def test_any_judge_is_a_reward(web):
    outcomes = list(reports(web, research_tasks(web, "train", seed=0)[:10]))
    for judge in (WordsJudge(), MajorityJudge([OracleJudge(web), WordsJudge(), OracleJudge(web)])):
        assert all(isinstance(one, Scored) and -1 <= one.total <= 1 for one in RubricReward(judge)(outcomes))
    unknown = RubricReward(OracleJudge(web))([Outcome({"id": "own", "rubrics": [{"criterion": "States it.", "weight": 1.0}]}, "It.", {})])[0]
    assert unknown.missing == 1 and unknown.total == 0.0           # the closed web knows no truth of it: said, and not taken for a flaw


def test_a_reward_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text("def length(outcome): return {'total': min(len(outcome.answer or ''), 10) / 10, 'letters': len(outcome.answer or '')}\nbroken = 3\n")
    reward = reward_from(f"{tmp_path}/mine.py:length")
    assert [one.total for one in reward([Outcome({"id": 1}, "12345"), Outcome({"id": 2}, None)])] == [0.5, 0.0]
    for text, match in ((f"{tmp_path}/mine.py:nothing", "no function nothing"), (f"{tmp_path}/mine.py:broken", "no function broken"), (f"{tmp_path}/no.py:x", "no such file"), ("neither", "neither oracle, words")):
        with pytest.raises(InputError, match=match): reward_from(text)
    (tmp_path / "bad.py").write_text("def f(:")
    with pytest.raises(InputError, match="does not load .SyntaxError"): reward_from(f"{tmp_path}/bad.py:f")
    with pytest.raises(InputError, match="returned 'much' for task 7; expected a number"): FunctionReward(lambda outcome: "much")([Outcome({"id": 7}, "x")])
    with pytest.raises(InputError, match="none of 1 can be rewarded by exact; the first has no answer"): rewardable([{"id": 1, "query": "?"}], ExactReward())
