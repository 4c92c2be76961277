"""Units that make whoever carries them out raise, hang, or run out of memory: they fail alone, and everything else goes on."""

import asyncio
import os
import pickle
import signal

import pytest
import torch

from benchmarks import emulated
from benchmarks.emulated import Emulated, EmulatedDenoiser
from mcts_ray.actors import pool
from mcts_ray.actors.denoiser import DenoiserWorker
from mcts_ray.actors.fusing import Fusing
from mcts_ray.actors.pool import Finished, Worker
from mcts_ray.actors.reward import RewardWorker, UnknownReward
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.executor.session import Walk
from mcts_ray.reward.base import Scored
from mcts_ray.search import BestOfN, Edge, Setting, Work
from mcts_ray.search.base import Cost
from mcts_ray.search.lineage import Again
from mcts_ray.tree.weights import Fused

SHAPE = (1, 16, 16)
BATCH = 4
POISON = "poison"  # a prompt, or the id of a search, of which nothing can be carried out


def best_of_n(id, budget, levels=2, prompt="a cat"):
    return BestOfN(id, Setting(prompt, levels=levels), budget)


def run_of(denoisers, **options):
    return Emulated(denoisers, BATCH, **{"seconds": 0.03, "reward_seconds": 0.0, "shape": SHAPE, **options})


class Raising(EmulatedDenoiser):
    """One whose calls raise while they hold the third unit of search "s", or any of search POISON."""

    def begin(self, generation, batch_size):
        super().begin(generation, batch_size)
        step, engine = self.engine.step, self.engine

        def raising():
            if any(work.id == "s/2" or work.search == POISON for work, _, _ in engine.units[:batch_size]):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return step()

        engine.step = raising


class Judge:
    """A decoder and a reward; the decoder raises for one prompt."""

    def answer(self, latents, prompts):
        from mcts_ray.executor.scoring import Answer

        if POISON in prompts:
            raise RuntimeError("the decoder is broken")
        return [Answer(Scored(1.0, None, 1), emulated.IMAGE) for _ in prompts]


class Judging(RewardWorker):
    """The real calls around it."""

    def __init__(self, seconds):
        self._scoring = {}

    def __repr__(self):
        return "Reward(judging)"

    def load(self, key, reward):
        self._scoring[key] = Judge()
        return 0


@pytest.mark.slow
def test_a_unit_that_makes_its_denoiser_raise_fails_alone(cluster, monkeypatch):
    monkeypatch.setattr(emulated, "EmulatedDenoiser", Raising)
    with run_of(1) as run:
        bad, good = run.finish(run.submit([best_of_n("s", 20), best_of_n("t", 20)], in_flight=2))
        census = run.census()
    assert bad.errors == ("its denoiser died 3 times; its log says of what",) and len(bad.finished) == 10
    assert not good.errors and len(good.finished) == 10
    assert census["deaths"] == 3 and census["in_flight"] == 0


@pytest.mark.slow
def test_a_search_of_which_no_unit_can_be_carried_out_is_ended(cluster, monkeypatch):
    """Its units cost nothing of its budget, so that it would go on for ever."""
    monkeypatch.setattr(emulated, "EmulatedDenoiser", Raising)
    with run_of(2) as run:
        ids = run.submit([best_of_n(POISON, 200), best_of_n("t", 200)], in_flight=1)
        bad, good = run.finish(ids)
        census = run.census()
    assert len(bad.errors) == 3 and not bad.finished and "ended early, since 3 of its units" in bad.notes[0]
    assert not good.errors and len(good.finished) == 100 and census["in_flight"] == 0


@pytest.mark.slow
def test_a_unit_that_makes_its_reward_actor_raise_fails_alone(cluster, monkeypatch):
    monkeypatch.setattr(emulated, "EmulatedReward", Judging)
    with run_of(1) as run:
        bad, good = run.finish(run.submit([best_of_n("s", 2, prompt=POISON), best_of_n("t", 20)], in_flight=2))
    assert bad.errors == ("its reward actor died 3 times; its log says of what",) and bad.ledger.nfe == 2
    assert not good.errors and len(good.finished) == 10


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "deaths"), [("reward", 0), ("denoiser", 1)])
def test_an_actor_that_hangs_is_killed(cluster, kind, deaths):
    """`deaths` are those of denoisers."""

    def impatient(_):
        pool.HANGS = 1.0

    with run_of(2) as run:
        cluster.get(run.manager.__ray_call__.remote(impatient))
        hanging = {"reward": run.rewards, "denoiser": run.denoisers}[kind][0]
        pid = cluster.get(hanging.handle.__ray_call__.remote(lambda _: os.getpid()))
        ids = run.submit([best_of_n("s", 2000)], in_flight=100)
        run.until(lambda census: min(census["nfe"]) > 30)
        os.kill(pid, signal.SIGSTOP)
        found, census = run.finish(ids)[0], run.census()
    assert census["died"][kind] >= 1 and census["deaths"] == deaths
    assert found.ledger.nfe == 2000 and len(found.finished) == 1000 and not found.errors


def test_what_does_not_fit_into_the_memory_alone_fails_its_unit(tiny_folder, monkeypatch):
    """The denoiser actor without Ray. The memory holds one sample without guidance; a unit that leaves at once is not forgotten over that."""
    worker = DenoiserWorker(resolve_model(str(tiny_folder)), "cpu", "fp32")
    worker.begin(1, 4)
    forward = worker.denoiser.adapter.forward

    def small(x, t, condition):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x, t, condition)

    monkeypatch.setattr(worker.denoiser.adapter, "forward", small)
    for guidance in (2.0, 1.0):
        setting = Setting("a cat", levels=4, guidance=guidance)
        walk = Work("walk", "s", setting, None, "seed", (Edge("a", 4), Edge("b", 0)))
        wrong = Work("wrong", "s", setting, None, "seed", (Edge("c", 3), Edge("d", 0)))
        report, states, latents = worker.advance(1, pickle.dumps(([Again(walk), Again(wrong)], {})), [], [], 0.5)
        errors = {left.work: left.error for left in report.left}
        assert report.nfe["s"] == sum(left.cost.nfe for left in report.left) == 1 and worker.engine.idle
        assert "a seed starts at level 4, not 3" in errors["wrong"] and len(latents) == (guidance == 1)
        assert errors["walk"] is None if guidance == 1 else "out of memory with a single image; use a" in errors["walk"]


def test_a_reward_that_cannot_be_loaded_again_fails_units(monkeypatch):
    class Actor:
        async def call(self, *_):
            raise RuntimeError("no weights\nany more")

    worker = Worker(None, Actor())
    walks = [Walk(Work(id, "s", Setting("a cat", levels=4), None, "seed", (Edge(id, 0),)), Cost()) for id in "ab"]

    async def unknown(units, key):
        raise UnknownReward(key)

    monkeypatch.setattr(worker, "_score", unknown)
    verdicts = asyncio.run(worker.score([Finished(walk, None, range(1)) for walk in walks], "s", "jpeg"))
    assert [verdict.error for verdict in verdicts] == ["its reward cannot be loaded again: no weights"] * 2


def test_a_batch_that_cannot_be_fused_is_fused_unit_by_unit():
    class Fuses(Fusing):
        async def _fused(self, works, shape):
            if any(work.id == "b" for work in works):
                raise RuntimeError("their states are lost again and again")
            return {work.id: Fused() for work in works}, "ref"

    works = [Work(id, "s", Setting("a cat", levels=4), None, "fuse", (Edge(id, 0),)) for id in "abc"]
    made = asyncio.run(Fuses()._made(works, SHAPE))
    assert [made[id].starts for id in "abc"] == ["ref", None, "ref"] and made["a"].error is None
    assert made["b"].error == "its particles could not be fused: their states are lost again and again"
