"TRL's trainer and the plain loop are the same training."
import random

import pytest
import torch

from stepdr.core.config import InputError
from stepdr.model.base import make_model
from stepdr.train import loop as lm

STEPS, TOKENS, RATE, MATRIX_RATE, SEED = 6, 160, 3e-3, 0.02, 3


def make_rows(count=60, vocabulary=300):
    "Rows of different lengths; some are labelled from their first token, some only in the middle, one nowhere."
    rng, rows = random.Random(0), []
    for number in range(count):
        ids = [rng.randrange(3, vocabulary) for _ in range(rng.randint(4, 40))]
        labels = list(ids) if number % 3 == 0 else [i if 1 < at < len(ids) - 1 else -100 for at, i in enumerate(ids)]
        rows.append({"input_ids": ids, "labels": labels})
    rows[7]["labels"] = [-100] * len(rows[7]["input_ids"])
    return rows


def small_model(): return make_model(600, width=48, layers=3, heads=4, seed=1)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "Losses, last weights and metrics of both trainings."
    torch.set_num_threads(1)
    from stepdr.train.trl import train_rows_trl
    rows, losses, metrics, plain_metrics = make_rows(), [], [], []
    token_loss = lm.token_loss

    def watched(*given):
        loss, count = token_loss(*given)
        losses.append(float(loss.detach() / count))
        return loss, count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "token_loss", watched)
        plain = lm.train_rows(small_model(), rows, STEPS, TOKENS, RATE, MATRIX_RATE, SEED, log=lambda **row: plain_metrics.append(row))
    folder = tmp_path_factory.mktemp("trl")
    trl = train_rows_trl(small_model(), rows, STEPS, TOKENS, RATE, MATRIX_RATE, SEED, log_every=1, log=lambda **row: metrics.append(row), output_dir=folder / "trainer")
    return {"plain": plain, "trl": trl, "losses": losses, "metrics": metrics, "plain_metrics": plain_metrics, "folder": folder}


def test_losses_agree_step_for_step(both):
    assert [row["step"] for row in both["metrics"]] == list(range(1, STEPS + 1))
    assert len(set(both["losses"])) == STEPS
    assert [row["loss"] for row in both["metrics"]] == pytest.approx(both["losses"], rel=1e-3)


def test_rates_and_counts_agree(both):
    (whole,), rows = both["plain_metrics"], both["metrics"]
    assert sum(row["tokens"] for row in rows) == whole["tokens"] and sum(row["labels"] for row in rows) == whole["labels"]
    factors = [row["learning_rate"] / rows[0]["learning_rate"] for row in rows]
    assert factors == pytest.approx([lm.rate_at(step, STEPS) / lm.rate_at(0, STEPS) for step in range(STEPS)])
    assert rows[-1]["learning_rate"] == pytest.approx(whole["learning_rate"])
    weighted = sum(row["loss"] * row["labels"] for row in rows) / whole["labels"]
    assert weighted == pytest.approx(whole["loss"], rel=1e-3)


def test_weights_agree(both):
    start = dict(small_model().named_parameters())
    for (name, plain), trl in zip(both["plain"].named_parameters(), both["trl"].parameters()):
        moved = (plain - start[name]).norm()
        assert (plain - trl).norm() <= 1e-2 * moved + 1e-6, name


def test_the_model_comes_back_as_it_was(both):
    fresh = small_model()
    assert both["trl"].config.to_dict() == fresh.config.to_dict()
    assert "forward" not in vars(both["trl"]) and not list((both["folder"] / "trainer").glob("*"))


def test_several_processes_are_refused():
    from stepdr.train.trl import train_rows_trl
    with pytest.raises(InputError, match="processes: 2"): train_rows_trl(small_model(), make_rows(), 1, TOKENS, RATE, MATRIX_RATE, SEED, ranks=2)


def test_a_wrong_order_of_batches_would_be_seen(both):
    "The test above has teeth: another order gives other losses."
    from stepdr.train.trl import train_rows_trl
    other = []
    train_rows_trl(small_model(), make_rows(), 3, TOKENS, RATE, MATRIX_RATE, SEED + 1, log_every=1,
                   log=lambda **row: other.append(row["loss"]))
    assert other != pytest.approx(both["losses"][:3], rel=1e-3)
