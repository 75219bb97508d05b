"Turns of several callers by one engine: sampled together, told apart, and none waits for ever."
import random
import threading

import pytest

from stepdr.model.base import make_model
from stepdr.model.engine import engine_for
from stepdr.model.serving import Kept, Request, Turns


class Ask(Request):
    "Ids in, the ids of the turn out."
    def __init__(self, ids, limit=8, temperature=0.0):
        super().__init__()
        self.asked, self.seen, self.begun = {"ids": ids, "limit": limit, "seed": tuple(ids), "temperature": temperature}, [], threading.Event()

    def ask(self):
        return dict(self.asked)

    def wrote(self, ids):
        self.seen.append(list(ids))
        self.begun.set()

    def answer(self, turn):
        return turn.ids


@pytest.fixture(scope="module")
def model():
    return make_model(60, width=32, layers=2, heads=2).eval()


def prompts(count=12):
    rng = random.Random(0)
    common = [rng.randrange(3, 60) for _ in range(20)]
    return [common[:rng.randint(0, 20)] + [rng.randrange(3, 60) for _ in range(rng.randint(1, 30))] for _ in range(count)]


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_what_each_gets_does_not_depend_on_the_others(model, slots):
    "Many at once, from several threads, against one after the other in an engine of their own."
    alone = [Turns(engine_for(model, {2})).submit(Ask(ids, temperature=1.0)).result(60) for ids in prompts()]
    turns, futures = Turns(engine_for(model, {2}, slots=slots)), {}

    def submit(first):
        for number in range(first, 12, 3):
            futures[number] = turns.submit(Ask(prompts()[number], temperature=1.0))
    threads = [threading.Thread(target=submit, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [futures[number].result(60) for number in range(12)] == alone
    again = Ask(prompts()[3], temperature=1.0)
    assert turns.submit(again).result(60) == alone[3] and again.seen[-1] == alone[3] and len(turns.engine.sequences) <= max(slots, 12)


def test_several_are_sampled_in_one_pass(model, monkeypatch):
    turns, widths = Turns(engine_for(model, set())), []
    feed = turns.engine.forward.feed
    monkeypatch.setattr(turns.engine.forward, "feed", lambda rows, *more: (widths.append(len(rows)), feed(rows, *more))[1])
    first = Ask([5, 6], limit=200)
    futures = [turns.submit(first)]
    assert first.begun.wait(60)
    futures += [turns.submit(Ask([7, number], limit=20)) for number in range(8, 12)]
    assert [len(future.result(60)) for future in futures] == [200, 20, 20, 20, 20] and max(widths) == 5


def test_an_error_is_told_to_those_whom_it_concerns(model, monkeypatch):
    turns = Turns(engine_for(model, {2}))
    wrong, right = turns.submit(Ask([5], limit=0)), turns.submit(Ask([5]))
    with pytest.raises(ValueError, match="limit: 0"):
        wrong.result(60)
    wanted = right.result(60)
    feed = turns.engine.forward.feed

    def broken(*arguments):
        raise MemoryError("too little memory")
    monkeypatch.setattr(turns.engine.forward, "feed", broken)
    with pytest.raises(MemoryError):
        turns.submit(Ask([6, 7, 8])).result(60)
    monkeypatch.setattr(turns.engine.forward, "feed", feed)
    assert turns.submit(Ask([5])).result(60) == wanted and not turns.asked


def test_whoever_no_longer_waits_stops_the_model(model):
    turns, long = Turns(engine_for(model, set())), Ask([5, 6], limit=100_000)
    future = turns.submit(long)
    assert long.begun.wait(60) and future.cancel()
    assert len(turns.submit(Ask([7])).result(60)) == 8
    turns.thread.submit(lambda: None).result(60)  # the thread has come to its end
    assert not turns.asked and not turns.running and turns.engine.waiting == 0 and len(long.seen[-1]) < 10_000


def test_conversations_are_kept_and_the_oldest_goes(model):
    engine = engine_for(model, set(), slots=2)
    kept, found = Kept(engine), []
    talks = [[number] * 40 for number in (5, 6, 7)]
    for ids in (talks[0], talks[1], talks[0] + [9], talks[2], talks[0] + [9, 9], talks[1]):
        key, has, computed = kept.begin(ids)
        engine.add(key, ids[has:], 1)
        while engine.waiting:
            engine.step()
        found.append(computed)
        assert len(engine.sequences) <= 2
    assert found == [0, 0, 40, 0, 41, 0]
