"""What the pool promises, on emulated denoisers: a second batch at most, scores beside the denoiser, no more than there is room for,
states evicted and made again, denoisers that come and go."""

import time

import pytest

from benchmarks.emulated import Emulated
from mcts_ray.search import MCTS, BestOfN, Setting
from mcts_ray.search.branching import Branching
from mcts_ray.service.elastic import Elastic

SHAPE = (1, 16, 16)  # a state of it: 1 KiB
BATCH = 4


def best_of_n(id, budget, levels=4, max_seconds=None):
    return BestOfN(id, Setting("a cat", levels=levels), budget, max_seconds=max_seconds)


def mcts(id, budget, levels=8):
    return MCTS(id, Setting("a cat", levels=levels), budget, Branching(levels, 0.6, 3), seeds=8, share=1.0)


def pool(denoisers, **options):
    return Emulated(denoisers, BATCH, **{"seconds": 0.03, "reward_seconds": 0.0, "shape": SHAPE, **options})


def overlap(spans, others):
    """Seconds in which something of both was going on."""
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b, _ in spans for c, d in others)


def test_every_denoiser_has_two_batches_at_most_and_all_are_at_work(cluster):
    with pool(4) as emulated:
        found = emulated.finish(emulated.submit([best_of_n(f"s{i}", 400, levels=1) for i in range(4)], in_flight=50))
        assert [one.ledger.nfe for one in found] == [400] * 4
        seen, census = emulated.seen(), emulated.census()
    assert BATCH <= max(one["most"] for one in seen) <= 2 * BATCH
    assert sum(census["nfe"]) == 1600 and min(census["nfe"]) >= 0.3 * 400
    assert (census["out"], census["finished"], census["in_flight"]) == (0, 0, 0)


@pytest.mark.parametrize("max_seconds", [None, pytest.param(600.0, marks=pytest.mark.slow)])
def test_scores_come_beside_the_denoiser(cluster, max_seconds):
    """Four denoisers and a reward actor for each, which takes as long for a batch as a step does; also where a search ends in time, but not
    soon."""
    with pool(4, seconds=0.05, reward_seconds=0.05 / BATCH, rewards=4) as emulated:
        clock = emulated.submit([best_of_n("clock", 10**6, levels=1, max_seconds=max_seconds)], in_flight=1)
        emulated.finish(emulated.submit([best_of_n(f"s{i}", 160, levels=1) for i in range(4)], in_flight=40))
        emulated.finish_now(clock)
        spans = [one["spans"] for one in emulated.seen()]
        scoring = emulated.rewards_seen()
    at_work = sum(b - a for one in scoring for a, b in one)
    beside = sum(overlap(*pair) for pair in zip(spans, scoring))
    assert beside >= 0.1 * at_work  # in step it would be none; how much is a matter of the machine


def test_loose_denoisers_end_a_search_in_time(cluster):
    """A score takes a tenth of a second: what is in hand of two batches each would take two seconds more."""
    with pool(2, reward_seconds=0.1) as emulated:
        found = emulated.finish(emulated.submit([best_of_n("s", 10**6, levels=1, max_seconds=5.0)], in_flight=100))[0]
    assert 3.0 < found.ledger.seconds < 6.0 and len(found.finished) > 10 and not found.errors


def test_the_only_denoiser_is_not_kept_waiting_where_its_batch_is_full(cluster):
    """Twenty searches of one unit each in flight: outcomes decide nothing about the next batch, so it begins before they are there."""
    with pool(1, seconds=0.05, reward_seconds=0.05 / BATCH) as emulated:
        emulated.finish(emulated.submit([best_of_n(f"s{i}", 8, levels=1) for i in range(20)], in_flight=1))
        spans, scoring = emulated.seen()[0]["spans"], emulated.rewards_seen()[0]
    assert overlap(spans, scoring) >= 0.1 * sum(b - a for a, b in scoring)


def test_a_slow_reward_holds_the_denoisers_back(cluster):
    """One latent takes a fifth of a second: units wait for their score, but no more than two batches of each denoiser."""
    with pool(2, seconds=0.01, reward_seconds=0.2) as emulated:
        emulated.submit([best_of_n("s", 10_000, levels=1)], in_flight=1000)
        most = 0
        for _ in range(15):
            census = emulated.census()
            most = max(most, census["finished"])
            assert census["in_flight"] <= census["finished"] + census["out"] and census["out"] <= 2 * 2 * BATCH
            time.sleep(0.1)
        emulated.finish_now(["s"])
    assert BATCH <= most <= 2 * (2 * BATCH + 2 * BATCH)


def test_searches_share_the_denoisers_by_nfe(cluster):
    """Walks of 16 calls beside walks of 2; both searches could use all of the room."""
    with pool(2, seconds=0.01) as emulated:
        ids = emulated.submit([best_of_n("long", 10_000, 16), best_of_n("short", 10_000, 2)], in_flight=60)
        time.sleep(5)
        spent = [found.ledger.nfe for found in emulated.finish_now(ids)]
    assert min(spent) >= 100 and min(spent) >= 0.5 * max(spent)


def test_no_search_has_more_out_than_its_cap(cluster):
    with pool(2, seconds=0.01) as emulated:
        ids = emulated.submit([best_of_n("s", 300, 3)], in_flight=3)
        caps = []
        while emulated.census()["in_flight"]:
            caps.append(emulated.census()["in_flight"])
        assert emulated.finish(ids)[0].ledger.nfe == 300
    assert caps and max(caps) == 3


@pytest.mark.parametrize("denoisers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_states_over_the_limit_are_evicted_and_made_again(cluster, denoisers):
    """Room for about sixty states, where the tree branches from some hundred."""
    with pool(denoisers, seconds=0.005, cache=60 * 1024) as emulated:
        found = emulated.finish(emulated.submit([mcts("s", 1200)], in_flight=8))[0]
        census, seen = emulated.census(), emulated.seen()
    assert 1200 - 8 < found.ledger.nfe <= 1200 and not found.errors
    assert census["evicted"] > 20 and any("spent once more" in note for note in found.notes)
    assert not any(one["missing"] for one in seen)  # every child found its parent


def test_denoisers_come_and_go_while_a_search_runs(cluster):
    with pool(1, seconds=0.02) as emulated:
        ids = emulated.submit([best_of_n("s", 3000, 2)], in_flight=100)
        emulated.resize(3)
        census = emulated.until(lambda census: len(census["nfe"]) == 3 and min(census["nfe"]) > 30)
        emulated.resize(1)
        emulated.until(lambda census: len(census["nfe"]) == 1)
        emulated.resize(2)
        emulated.until(lambda census: len(census["nfe"]) == 2 and min(census["nfe"]) > 30)
        found = emulated.finish(ids)[0]
        census = emulated.census()
    assert found.ledger.nfe == 3000 and not found.errors and len(found.finished) == 1500
    assert (census["out"], census["in_flight"], census["deaths"], census["again"]) == (0, 0, 0, 0)
    assert found.notes == ()


@pytest.mark.slow
def test_those_that_have_come_come_again_with_the_manager(cluster):
    with pool(1, seconds=0.02) as emulated:
        ids = emulated.submit([best_of_n("s", 2000, 2)], in_flight=100)
        emulated.resize(3)
        emulated.until(lambda census: len(census["nfe"]) == 3)
        cluster.kill(emulated.manager, no_restart=False)
        emulated.until(lambda census: len(census["nfe"]) == 3)
        found = emulated.finish(ids)[0]
    assert found.ledger.nfe == 2000 and len(found.finished) == 1000 and not found.errors


def test_one_that_finds_no_room_is_waited_for_by_nobody(cluster):
    """A denoiser that the cluster has no room for stays asked for, as an autoscaler wants to see it; work goes on without it."""
    with pool(1, seconds=0.01, cpus=3) as emulated:
        emulated.resize(2)
        found = emulated.finish(emulated.submit([best_of_n("s", 60, 2)], in_flight=8))[0]
        assert found.ledger.nfe == 60 and len(emulated.census()["nfe"]) == 1 and emulated.census()["joining"] == 1
        emulated.resize(1)
        assert emulated.census()["joining"] == 0


@pytest.mark.slow
def test_denoisers_come_while_there_is_enough_to_do_and_go_after_it(cluster, monkeypatch):
    """As a service has it, which looks at its tree managers again and again."""
    monkeypatch.setattr("mcts_ray.service.elastic.IDLE", 0.5)
    with pool(1, seconds=0.02) as emulated:
        elastic, workers, most = Elastic(1, 3), 1, 0
        ids = emulated.submit([best_of_n("s", 4000, 2)], in_flight=100)
        deadline = time.monotonic() + 120
        while workers > 1 or not most:
            assert time.monotonic() < deadline
            census = emulated.census()
            wanted = elastic.wanted(workers, census)
            if wanted != workers:
                emulated.resize(wanted)
            workers, most = wanted, max(most, len(census["nfe"]) if len(census["nfe"]) > 1 else 0)
            time.sleep(0.05)
        found = emulated.finish(ids)[0]
        emulated.until(lambda census: len(census["nfe"]) == 1 and not census["joining"])
    assert most == 3 and found.ledger.nfe == 4000 and not found.errors


def test_each_shape_of_state_goes_in_batches_of_its_own_size(cluster):
    """The second search has larger states and, as if these were of another model of GPU, larger batches too."""
    with pool(2, seconds=0.01) as emulated:
        emulated.submit([best_of_n("small", 10_000, 2)], in_flight=40)
        assert emulated.until(lambda census: census["out"] > 4)["room"] == 2 * BATCH
        emulated.shape, emulated.batch_size = (1, 32, 32), 3 * BATCH
        emulated.submit([best_of_n("large", 10_000, 2)], in_flight=40)
        assert emulated.until(lambda census: census["out"] > 4 * BATCH)["room"] == 2 * 3 * BATCH

        def sizes():
            return [cluster.get(actor.handle.__ray_call__.remote(lambda one: one.engine.sizes)) for actor in emulated.denoisers]

        emulated.until(lambda _: sizes() == [{SHAPE: BATCH, (1, 32, 32): 3 * BATCH}] * 2)
        emulated.finish_now(["large"])
        assert emulated.census()["room"] == 2 * BATCH
        emulated.finish_now(["small"])
