"Metrics against examples worked out by hand."
import numpy as np
import pytest
from stepdr.core.config import InputError
from stepdr.judge.intervals import bootstrap, confusion_matrix, macro_f1, macro_f1_interval, paired_difference
from stepdr.judge.metrics import (
    citation_scores, exact_match, frames_decision, normalise, report_success, rubric_score,
    simpleqa_grade, simpleqa_scores, token_f1)
from stepdr.judge.ratings import (
    bradley_terry, elo, outcome, points_matrix, rating_intervals, score_outcome, win_tie_loss)


@pytest.mark.parametrize("raw, wanted", [
    ("The_Eiffel  Tower!", "eiffel tower"), ("an apple, a day", "apple day"), ("O’Neill", "o neill"),
    ("Łódź", "łódź"), ("  ", ""), ("theatre", "theatre"), ("1,000.5", "1 000 5")])
def test_normalise(raw, wanted):
    assert normalise(raw) == wanted


def test_exact_match_and_f1():
    assert exact_match("the Beatles", ["Fab Four", "Beatles"])
    assert not exact_match("Beatles band", ["Beatles"])
    # words: {new, york, city} against {new, york}: precision 2/3, recall 1, F1 = 0.8
    assert token_f1("New York City", ["Paris", "New York"]) == pytest.approx(0.8)
    # a repeated word counts as often as both have it: precision 1/2, recall 1
    assert token_f1("york york", ["York"]) == pytest.approx(2 / 3)
    assert token_f1("", ["York"]) == 0


@pytest.mark.parametrize("aliases", [[], "Paris"])
def test_aliases_must_be_a_list(aliases):
    with pytest.raises(InputError, match="^aliases:"): exact_match("Paris", aliases)


def test_simpleqa():
    assert [simpleqa_grade(answer, ["Oslo"]) for answer in ("Oslo", "oslo.", "Bergen", "", "  ", "I don't know.")] == list("AABCCC")
    scores = simpleqa_scores("AABCC")
    # 2/5 correct, 2/3 given attempted, F = 2·(2/5)(2/3)/(16/15) = 1/2
    assert scores["correct"] == 0.4 and scores["accuracy_given_attempted"] == pytest.approx(2 / 3) and scores["f"] == pytest.approx(0.5)
    assert (scores["incorrect"], scores["not_attempted"], scores["n"]) == (0.2, 0.4, 5)
    assert simpleqa_scores("CC")["accuracy_given_attempted"] == 0 and simpleqa_scores("BB")["f"] == 0
    for bad in ("", "AX"):
        with pytest.raises(InputError, match="^grades:"): simpleqa_scores(bad)


def test_frames():
    assert [frames_decision(answer, ["42"]) for answer in ("42", " 42.", "43", "")] == [True, True, False, False]


def test_rubric_variants_by_hand():
    verdicts, weights = ["satisfied", "partially", "not", "partially", "satisfied"], [4, 2, 2, -2, -1]
    # ternary: 4 + 1 + 0 − 1 − 1 = 3 of 8; binary: 4 − 1 = 3 of 8; strict: 4 − 2 − 1 = 1 of 8
    assert [rubric_score(verdicts, weights, variant) for variant in ("ternary", "binary", "strict")] == [3 / 8, 3 / 8, 1 / 8]
    assert rubric_score(["not", "satisfied", "partially"], [1, -2, -3], "strict") == -5  # not clipped
    assert rubric_score(["satisfied", "not"], [3, -5], "strict") == 1


def test_rubric_errors():
    with pytest.raises(ValueError, match="^weights: no positive"): rubric_score(["not"], [-1])
    with pytest.raises(InputError, match="^weights: no positive"): rubric_score([], [])
    with pytest.raises(InputError, match="^verdicts: 1 verdicts for 2"): rubric_score(["not"], [1, 2])
    with pytest.raises(InputError, match="'maybe'"): rubric_score(["maybe"], [1])
    with pytest.raises(InputError, match="^variant:"): rubric_score(["not"], [1], "loose")


def test_report_success():
    assert report_success(["satisfied", "not"], [2, -1])
    assert not report_success(["partially", "not"], [2, -1])
    assert not report_success(["satisfied", "partially"], [2, -1])


def test_citations():
    # citations that help: 2 of 4; statements supported: 2 of 4
    scores = citation_scores([(True, [True]), (True, [True, False]), (False, [False]), (False, [])])
    assert scores == {"precision": 0.5, "recall": 0.5}
    assert citation_scores([(False, [])]) == {"precision": 0.0, "recall": 0.0}
    with pytest.raises(InputError, match="^statements:"): citation_scores([(True, [False])])


def test_confusion_and_macro_f1():
    counts = confusion_matrix(["not", "not", "satisfied", "partially"], ["not", "satisfied", "satisfied", "not"])
    assert counts.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 1]]
    # satisfied 2·1/(1+2) = 2/3, partially 0, not 2·1/(2+2) = 1/2: mean 7/18
    assert macro_f1(counts) == pytest.approx(7 / 18)
    assert macro_f1([[3, 0, 0], [0, 0, 0], [0, 0, 2]]) == 1  # a label that never occurs does not count
    assert macro_f1(np.zeros((3, 3))) == 0
    with pytest.raises(InputError, match="^predicted: 'good'"): confusion_matrix(["not"], ["good"])
    with pytest.raises(InputError, match="^predicted: 0 labels"): confusion_matrix(["not"], [])


def test_bootstrap():
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    found = bootstrap(values, seed=3)
    error = values.std() / 20
    assert found["mean"] == pytest.approx(values.mean()) and found["n"] == 400
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found == bootstrap(list(values), seed=3) != bootstrap(values, seed=4)
    for bad in ([], [1, float("nan")]):
        with pytest.raises(InputError, match="^values:"): bootstrap(bad)
    with pytest.raises(InputError, match="^samples:"): bootstrap([1], samples=0)


def test_bootstrap_draws_tasks_not_episodes():
    # 20 tasks, each repeated 10 times with the same value: n is 20, and the interval is not narrower for the repeats
    values = np.arange(20) % 2
    alone, repeated = bootstrap(values), bootstrap(np.repeat(values, 10), tasks=np.repeat(np.arange(20), 10))
    assert repeated == alone and repeated["n"] == 20
    with pytest.raises(InputError, match="^tasks: 1 ids"): bootstrap([1, 2], tasks=["a"])


def test_paired_difference():
    noise = np.random.default_rng(0).normal(size=100)
    found = paired_difference(noise + 0.1, noise)
    assert all(found[name] == pytest.approx(0.1) for name in ("mean", "low", "high"))
    with pytest.raises(InputError, match="^second: 1 values for 2"): paired_difference([1, 2], [1])
    with pytest.raises(InputError, match="^second: value 0"): paired_difference([1], [float("inf")])


def test_macro_f1_interval():
    right, wrong = np.diag([2, 1, 2]), np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    found = macro_f1_interval([right] * 30 + [wrong] * 10)
    assert found["low"] < found["mean"] < found["high"] and found["n"] == 40
    assert found["mean"] == pytest.approx(macro_f1(30 * right + 10 * wrong))
    with pytest.raises(InputError, match="^confusions:"): macro_f1_interval([[1, 2]])


def test_pairs():
    assert [outcome("left"), outcome("right"), outcome("right", swapped=True), outcome("both fair")] == ["win", "loss", "win", "tie"]
    assert [score_outcome(0.1 + 0.2, 0.3), score_outcome(1, 0), score_outcome(0, 0.1, margin=0.1)] == ["tie", "win", "tie"]
    assert win_tie_loss(["win"] * 30 + ["tie"] * 17 + ["loss"] * 23)["non_inferior"] == pytest.approx(47 / 70)
    with pytest.raises(InputError, match="^verdict:"): outcome("middle")
    with pytest.raises(InputError, match="^outcomes:"): win_tie_loss([])


def test_elo_by_hand():
    # 1000 each, a wins: 1016, 984. Then a tie: expected 1/(1+10^(−32/400)) = 0.5459, a loses 32·0.0459 = 1.469
    found = elo([(1, "a", "b", "win"), (2, "a", "b", "tie")])
    assert found["a"] == pytest.approx(1014.531, abs=1e-3) and found["a"] + found["b"] == pytest.approx(2000)


def test_bradley_terry():
    games = [(i, "a", "b", result) for i, result in enumerate(["win", "win", "tie", "tie"])]
    fitted = bradley_terry(points_matrix(games, ["a", "b"]), prior=0)
    assert fitted[0] - fitted[1] == pytest.approx(400 * np.log10(3), abs=1e-3)
    # three models, consistent odds 2:1 and 2:1 make 4:1
    fitted = bradley_terry([[0, 2, 4], [1, 0, 2], [1, 1, 0]], prior=0)
    assert np.diff(fitted) == pytest.approx([-400 * np.log10(2)] * 2, abs=1e-3)
    never_lost = bradley_terry([[0, 10], [0, 0]])  # finite thanks to the drawn game: odds 10.5 to 0.5
    assert never_lost[0] - never_lost[1] == pytest.approx(400 * np.log10(21), abs=1e-3)


def test_rating_intervals():
    generator = np.random.default_rng(0)
    games = [(task, "ppo", "sft", generator.choice(["win", "tie", "loss"], p=[0.5, 0.3, 0.2])) for task in range(200)]
    games += [(task, "sft", "base", "win") for task in range(200)]
    found = rating_intervals(games, samples=100)
    assert found["ppo"]["mean"] > found["sft"]["mean"] > found["base"]["mean"]
    assert all(cell["low"] <= cell["mean"] <= cell["high"] and cell["n"] == 200 for cell in found.values())
    assert found == rating_intervals(games, samples=100)
    with pytest.raises(InputError, match="^games: outcome"): rating_intervals([(1, "a", "b", "draw")])
    with pytest.raises(InputError, match="against itself"): rating_intervals([(1, "a", "a", "win")])
    with pytest.raises(InputError): rating_intervals([])
