"""The tree manager without Ray, its actors made up: those that do not come back or never answer, searches ended at awkward moments."""

import asyncio
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from mcts_ray.actors import patience, pool
from mcts_ray.actors.archive import Archive, Order
from mcts_ray.actors.entering import Unread
from mcts_ray.executor.backend import ActorsLost, Task
from mcts_ray.executor.session import Verdict
from mcts_ray.search import BestOfN, Setting
from tests.ray.made_up import NEVER, SHAPE, Made, manager, submitted, task, until, work

pytestmark = pytest.mark.usefixtures("quick")


# denoisers that do not come back -----------------------------------------------------------------------------------


def test_a_denoiser_that_comes_back_in_vain_is_tried_again():
    async def run():
        one = manager(Made(begin=[OSError("no such model"), RayActorError(), 0]))
        await submitted(one, "a")
        (worker,) = one.workers
        await until(lambda: worker.up)
        return one, worker

    one, worker = asyncio.run(run())
    assert (worker.failures, worker.error, one._failure) == (0, None, None)
    assert worker.denoiser.ended == 1  # what has raised goes with its process; the other had died


def test_where_none_comes_back_the_searches_end_and_others_may_come():
    async def run():
        one = manager(*(Made(begin=OSError("no such model")) for _ in range(2)))
        await submitted(one, "a")
        with pytest.raises(ActorsLost, match="no denoiser comes back: no such model"):
            await one.wait(["a"])
        await one.halt(["a"])
        await one.forget(["a"])
        one.workers[1].denoiser.gives = {}
        await submitted(one, "b")
        await until(lambda: one.workers[1].up)
        return one

    assert asyncio.run(run())._failure is None


def test_one_without_a_place_keeps_nobody_waiting(monkeypatch):
    """Neither plans, nor rewards, nor searches; it is no room, and has gone at once when there are to be fewer."""

    async def run():
        away, here = Made(place=False), Made(plan="the plan")
        one = manager(here, away, reward=[Made(load=7), Made(place=False)])
        one.workers.reverse()
        assert await one.plan(["a cat"], None, "jpeg") == "the plan"
        await one.load("jpeg")
        await submitted(one, "a")
        await until(lambda: one.workers[1].up)
        assert one.running["a"].forwards == 7 and (await one.census())["room"] == 2 * 4
        monkeypatch.setattr(pool.spec, "PATIENCE", 0.0)
        assert (await one.census())["room"] == 4
        one.workers.reverse()
        await one.resize(1)
        await until(lambda: len(one.workers) == 1)
        return one.workers[0]

    assert asyncio.run(run()).up


def test_a_search_ends_in_time_while_no_denoiser_is_there():
    async def run():
        one = manager(Made(place=False))
        await one.submit([Task(BestOfN("a", Setting("a cat", levels=4), 8, max_seconds=0.1), 2, 1)], "jpeg", SHAPE, 4)
        assert one.session.take(1)
        await asyncio.wait_for(one.wait(["a"]), 10)

    asyncio.run(run())


def test_nothing_is_sent_to_one_that_has_died_meanwhile():
    async def run():
        one = manager(Made())
        await submitted(one, "a")
        (worker,) = one.workers
        worker.give(work("a", "1"))
        worker.up = False
        return await one._send(worker), [unit.work.id for unit in worker.pending]

    assert asyncio.run(run()) == (None, ["1"])


def test_units_that_a_dead_denoiser_was_given_go_to_the_first_that_lives():
    async def run():
        one = manager(Made(), Made())
        await submitted(one, "a", "b")
        first, second = one.workers
        await until(lambda: first.up and second.up)
        second.up = False
        for id in "ab":
            second.give(work(id, "1"))
        one.running["b"].job.stopping = True  # the first may have dropped it
        one._move_on(second)
        return list(first.out), second.out

    assert asyncio.run(run()) == ([("a", "1")], {})


def test_lost_units_of_a_search_that_is_being_ended_stay_lost():
    async def run():
        one = manager(Made())
        await submitted(one, "a")
        units = one.running["a"].job.ask() + one.running["a"].job.ask()
        one.running["a"].job.stopping = True
        return units, one.session.reissue(units)

    units, again = asyncio.run(run())
    assert len(units) == 2 and again == []


# awkward moments ---------------------------------------------------------------------------------------------------


def test_a_search_ended_while_it_is_submitted_does_not_begin(monkeypatch):
    async def run():
        one = manager(Made(), reward=Made(load=NEVER))
        coming = asyncio.create_task(submitted(one, "a"))
        await until(lambda: "load" in one.workers[0].reward.asked)
        await asyncio.wait_for(one.halt(["a"]), 5)
        coming.cancel()
        one.workers[0].reward.gives = {}
        await asyncio.wait([coming])
        coming = asyncio.create_task(submitted(one, "b"))
        await asyncio.sleep(0)
        await one.halt(["b"])
        with pytest.raises(RuntimeError, match="before they had begun"):
            await coming
        await submitted(one, "c")
        return one

    one = asyncio.run(run())
    assert set(one.running) == {"c"} and not one._expected


def test_searches_that_run_already_are_left_out_where_they_are_submitted_once_more():
    async def run():
        one = manager(Made())
        await submitted(one, "a")
        before = one.running["a"]
        await submitted(one, "a", "b")
        await submitted(one, "a", "b")
        return one, before

    one, before = asyncio.run(run())
    assert set(one.running) == {"a", "b"} and one.running["a"] is before


def test_nobody_waits_for_storage_to_end_a_search_that_has_ended():
    async def run():
        one = manager(Made())
        await submitted(one, "a")
        running = one.running["a"]
        running.job.observer = Unread("the disk is full")  # it says so, and writes nothing
        running.job.observer.flush = lambda: None
        await one.halt(["a"])
        assert running.job.search.done and not running.ended.is_set()
        await asyncio.wait_for(one.halt(["a"]), 5)
        return await one.found(["a"])

    assert asyncio.run(run())[0].finished == ()


def test_a_search_may_be_forgotten_while_units_of_another_reward_are_scored():
    async def run():
        one = manager(Made())
        await submitted(one, "a")
        await one.submit([task("b")], "clip", SHAPE, 4)
        keys, settled = [], []

        async def score(group, key, reward):
            keys.append(key)
            one.running.pop("a" if key == "clip" else None, None)  # it has been told, and whoever waited for it has all
            return [Verdict()] * len(group)

        units = [SimpleNamespace(work=work(search, f"{search}1"), walk=search) for search in "ab"]
        one.session = SimpleNamespace(portion=lambda finished, rows: list(finished), settle=lambda walk, *_: settled.append(walk))
        await one._score(SimpleNamespace(finished=units, score=score))
        return keys, settled

    keys, settled = asyncio.run(run())
    assert keys == ["jpeg", "clip"] and settled == ["a", "b"]  # and searches that name the same reward are scored together


# a restart ---------------------------------------------------------------------------------------------------------


def refuse(key, reward):
    return ValueError("no such reward") if reward == "gone" else 0


def test_a_bad_order_does_not_keep_the_others_from_going_on(tmp_path):
    archive = Archive(str(tmp_path))
    archive.keep([Order(task(id), id, reward, SHAPE, 4) for id, reward in [("a", "gone"), ("b", "jpeg")]])
    (tmp_path / "c.order").write_bytes(b"what a class has left that is no more")

    async def run():
        one = manager(Made(), reward=Made(load=refuse), folder=str(tmp_path))
        await one.wait(["a"])
        return one

    one = asyncio.run(run())
    assert one.running["a"].job.cut.endswith("since its reward cannot be loaded again: no such reward")
    assert set(one.running) == {"a", "b"} and not one.running["b"].job.search.done and one._failure is None


# patience ----------------------------------------------------------------------------------------------------------


async def after(seconds, gives):
    await asyncio.sleep(seconds)
    if isinstance(gives, Exception):
        raise gives
    return gives


def test_answers_are_those_that_come_in_time():
    def answers(*calls):
        return asyncio.run(patience.answers([after(*call) for call in calls]))

    assert sorted(answers((0, 1), (0.05, 2), (60, 3))) == [1, 2]
    assert answers((0, RayActorError()), (0.3, 2)) == [2] and answers() == []
    with pytest.raises(ValueError, match="a mistake"):
        answers((0, 1), (0.05, ValueError("a mistake")))
    with pytest.raises(RayActorError):
        answers((0, RayActorError()), (0.05, RayActorError()))


def test_the_next_is_asked_where_the_first_does_not_answer():
    def first(*calls):
        return asyncio.run(patience.first([after(*call) for call in calls]))

    assert first((0.02, 1), (0, 2)) == 1 and first((60, 1), (0, 2)) == 2 and first((0, RayActorError()), (0, 2)) == 2
    assert first((0.3, 1), (60, 2)) == 1
    with pytest.raises(ValueError, match="a mistake"):
        first((0, ValueError("a mistake")), (0, 2))
    with pytest.raises(RayActorError):
        first((0, RayActorError()), (0, RayActorError()))
