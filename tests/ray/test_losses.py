"""What the tree manager, without Ray, does about denoisers that do not come back: nothing waits for them, and they go before others."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from mcts_ray.actors import beside, pool
from mcts_ray.actors.beside import Beside, Displaced
from mcts_ray.actors.pool import Finished, Sent, Worker
from mcts_ray.actors.reward import RewardWorker
from mcts_ray.actors.spec import TRIES
from mcts_ray.executor.backend import ActorsLost
from mcts_ray.executor.session import Verdict, Walk
from mcts_ray.search.base import Cost
from tests.ray.made_up import NEVER, Made, manager, submitted, until, work

pytestmark = pytest.mark.usefixtures("quick")


def finished(search, id):
    return Finished(Walk(work(search, id), Cost()), None, range(1))


def sharing(denoiser, **more):
    """An actor on the GPUs of a denoiser."""
    one = object.__new__(Beside)
    one.denoiser, one.handle, one._place = denoiser, None, ("node", ["0"])
    vars(one).update(more)
    return one


async def died():
    raise ActorDiedError()


async def two():
    """A manager with a search in hand and two denoisers, of which the first has then lost its place."""
    one = manager(Made(), Made())
    for place, worker in enumerate(one.workers):
        worker.denoiser.gives["place"] = "node", [str(place)], 1
    await submitted(one, "a")
    await until(lambda: all(worker.up for worker in one.workers))
    return one, *one.workers


@pytest.mark.parametrize("leaving", [False, True])
def test_what_waits_for_its_score_does_not_wait_for_a_denoiser_that_is_down(leaving):
    async def run():
        one, away, here = await two()
        scored = []

        async def score(worker):
            scored.append((worker, [unit.work.id for unit in worker.finished]))
            worker.finished = []

        one._score = score
        away.finished = [finished("a", "1"), finished("a", "2")]
        away.denoiser.place, away.up, away.leaving = False, False, leaving
        away.news.set()
        await until(lambda: scored)
        return scored == [(here, ["1", "2"])]

    assert asyncio.run(run())


def test_what_is_being_scored_stays_where_it_is():
    async def run():
        one, away, here = await two()
        away.up, away.scoring, away.finished = False, True, [finished("a", "1")]
        one._hand_over(away)
        return here.finished, len(away.finished)

    assert asyncio.run(run()) == ([], 1)


def test_units_wait_where_their_reward_actor_has_no_place():
    async def run():
        one, worker, _ = await two()

        async def score(*_):
            raise Displaced("away")

        worker.finished, worker.score = [finished("a", "1")], score
        await one._score(worker)
        return [unit.work.id for unit in worker.finished], one.running["a"].fatal

    assert asyncio.run(run()) == (["1"], 0)


def test_a_reward_actor_is_waited_for_unless_its_denoiser_has_no_place(monkeypatch):
    """Not where that only takes long to say where it is."""
    monkeypatch.setattr(beside, "LOOK", 0.01)
    denoiser = Made(place=False)

    async def run():
        worker = Worker(denoiser, sharing(denoiser))
        worker._score = lambda *_: died()
        waits = asyncio.create_task(worker.score([finished("a", "1")], "jpeg", "jpeg"))
        await asyncio.sleep(0.1)
        still = not waits.done()
        worker.up, worker.away = False, time.monotonic() - pool.PLACE - 1
        with pytest.raises(Displaced, match="has no place for now"):
            await waits
        return still

    assert asyncio.run(run())


def test_the_fusion_actor_moves_to_a_denoiser_that_is_up():
    async def run():
        one, first, second = await two()
        one.fusion = old = sharing(first.denoiser, beside=lambda *place: place)
        await one._place_fusion()
        first.up, first.away = False, time.monotonic()  # it may come back where it was
        await one._place_fusion()
        stays = one.fusion is old
        first.away -= pool.PLACE + 1
        await one._place_fusion()
        return stays, one.fusion == (second.denoiser, "node", ["1"])

    assert asyncio.run(run()) == (True, True)


def test_those_that_are_down_go_first_also_after_a_restart(tmp_path):
    async def run():
        denoisers = Made(), Made()
        one = manager(*denoisers, folder=tmp_path)
        await submitted(one, "a")
        await until(lambda: all(worker.up for worker in one.workers))
        one.workers[0].up, one.workers[0].denoiser.place = False, False
        await one.resize(1)
        await until(lambda: len(one.workers) == 1)
        again = manager(*denoisers, folder=tmp_path)
        return one.workers[0].up, one.archive.gone, len(again.workers)

    assert asyncio.run(run()) == (True, {0}, 1)


def test_those_that_were_about_to_leave_do_so_when_the_manager_comes_back(tmp_path):
    async def run():
        manager(Made(), folder=tmp_path).archive.keep_denoisers(1)
        one = manager(Made(), Made(), Made(), folder=tmp_path)
        await one._opening
        return len(one.workers), one.archive.gone

    assert asyncio.run(run()) == (1, {1, 2})


def test_one_that_does_not_begin_is_lost(monkeypatch):
    monkeypatch.setattr("mcts_ray.actors.pool.spec.PATIENCE", 0.05)

    async def run():
        worker = Worker(Made(begin=NEVER), Made())
        worker.up = False
        worker.revive()
        await until(lambda: worker.lost)
        worker.coming.cancel()

    asyncio.run(run())


def test_a_full_denoiser_that_takes_in_what_another_manager_has_left_is_not_waited_for():
    """Two of its units are to be scored, and no other can come in before that."""

    async def run():
        one, worker, _ = await two()
        scored = []

        async def score(worker):
            scored.append(len(worker.finished))
            worker.finished = []

        for loop in one._loops.values():
            loop.cancel()
        one._score, worker.loose, worker.catching_up = score, False, True
        worker.out = {("a", str(place)): work("a", str(place)) for place in range(worker.size)}
        worker.finished = [finished("a", "x"), finished("a", "y")]
        worker.send = lambda *_: None
        await one._in_step(worker)
        await worker.quiet()
        return scored, worker.catching_up

    assert asyncio.run(run()) == ([2], False)


def test_a_call_of_an_earlier_life_does_not_count_in_this_one():
    async def run():
        worker = Worker(Made(), Made())
        await worker.begin(4)
        worker.calls, worker.scoring, sent = 2, True, Sent([], None, None, None, worker.generation)
        worker.clear()
        assert (worker.calls, worker.scoring) == (0, False)
        await worker.begin(4)
        worker.calls = 1

        async def died(*_):
            raise Displaced("it has died")

        worker.denoiser.answer = died
        with pytest.raises(Displaced):
            await worker.receive(sent)
        return worker.calls

    assert asyncio.run(run()) == 1


def test_who_is_given_what_another_cannot_do_is_woken():
    async def run():
        one, away, here = await two()
        for loop in one._loops.values():
            loop.cancel()
        away.give(work("a", "1"))
        away.up = False
        here.news.clear()
        one._move_on(away)
        return list(here.out), here.news.is_set()

    assert asyncio.run(run()) == ([("a", "1")], True)


def test_a_search_whose_reward_actor_is_lost_again_and_again_is_ended():
    async def run():
        one, worker, _ = await two()

        async def score(units, *_):
            return [Verdict(error="its reward actor died")] * len(units)

        one.session.settle = lambda *_: None
        worker.finished, worker.score = [finished("a", str(place)) for place in range(TRIES)], score
        await one._score(worker)
        await one.running["a"].ending
        return one.running["a"].job.cut

    assert "units had failed with the actors that had them" in asyncio.run(run())


def test_a_search_that_has_gone_is_not_counted_by_its_name():
    worker = Worker(None, None)
    worker.nfe.update({"a": 3, "b": 4})
    worker.inside.update({"a": 0})
    worker.forget("a")
    assert dict(worker.nfe) == {"": 3, "b": 4} and not worker.inside


def test_rewards_that_nobody_needs_stay_loaded_as_long_as_they_are_few(monkeypatch):
    monkeypatch.setattr("mcts_ray.actors.reward.logs.set_up", lambda: None)
    monkeypatch.setattr("mcts_ray.reward.resolve_reward", lambda reward, device: SimpleNamespace(forwards=0))
    worker = RewardWorker(None, "cpu", "fp32")
    monkeypatch.setattr(RewardWorker, "_decoder", None)
    for text in "abcd":
        worker.load(text, text)
    for text in "abc":
        worker.forget(text)
    assert list(worker._named) == ["b", "c", "d"] and list(worker._scoring) == ["d"]


@pytest.mark.parametrize("call", ["wait", "progress", "found"])
def test_a_search_of_which_nothing_could_be_kept_is_lost_in_a_sentence(call):
    async def run():
        await getattr(manager(Made()), call)(["a"])

    with pytest.raises(ActorsLost, match="could not keep search a in memory alone"):
        asyncio.run(run())
