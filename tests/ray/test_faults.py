"""The tree manager dies and comes back; stopped runs go on by actors; storage cannot be written; units that are lost, or fail, again and
again."""

import asyncio
import errno
import json
import os
import pickle
import signal
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mcts_ray import Searcher, cli
from mcts_ray.actors.archive import Archive, Order
from mcts_ray.actors.backend import RayBackend
from mcts_ray.actors.pool import Worker
from mcts_ray.actors.tree_manager import TreeManager
from mcts_ray.actors.working import Working
from mcts_ray.executor import record
from mcts_ray.executor.backend import ActorsLost, Plan, Task
from mcts_ray.search import BestOfN, Edge, Setting, Work
from tests.executor.test_faults import CONFIGS, stopped

BEST_OF_TEN = CONFIGS["mcts"].model_copy(update={"algorithm": "best-of-n", "seeds": None})


@pytest.fixture(scope="module")
def local(tiny_folder):
    return Searcher.from_pretrained(str(tiny_folder), device="cpu")


@pytest.fixture(scope="module")
def one(cluster, tiny_folder):
    with Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray", workers=1) as searcher:
        yield searcher


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("written", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_manager_comes_back_and_gives_the_tree_of_an_unbroken_run(one, local, cluster, tmp_path, for_good, written):
    """Killed twice while the search runs; Ray restarts it, or the driver makes a new one; with and without a run directory."""
    config = CONFIGS["fusing-states"].model_copy(update={"budget": 320})
    whole = local("a red circle", config)
    marks = [60, 150]

    def kill(progress):
        if marks and progress.nfe > marks[0]:
            marks.pop(0)
            manager = one.backend._manager
            if for_good:
                cluster.kill(manager, no_restart=True)
            else:
                os.kill(cluster.get(manager.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)

    result = one("a red circle", config, kill, out=tmp_path / "run" if written else None)
    assert not marks and not result.errors and result.tree == whole.tree
    assert [c.node for c in result.candidates] == [c.node for c in whole.candidates] and len(result.images) == 3
    assert result.ledger.nfe == whole.ledger.nfe and "spent once more" in result.notes[-1]
    census = one.backend.census()
    assert (census["searches"], census["in_flight"], census["out"], census["finished"]) == (0, 0, 0, 0)


@pytest.mark.slow
def test_a_run_that_has_lost_its_actors_can_go_on(one, local, cluster, tiny_folder, tmp_path):
    """As where another search of the same searcher has found them dead, and let go of them all."""
    whole = local("a red circle", CONFIGS["mcts"])
    with Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray", workers=1) as searcher:
        with pytest.raises(ActorsLost, match="let go"):
            searcher("a red circle", CONFIGS["mcts"], lambda progress: progress.nfe > 20 and searcher.close(), out=tmp_path / "run")
        with pytest.raises(ActorsLost, match="let go"):
            searcher("a red circle", CONFIGS["mcts"])
    assert json.loads((tmp_path / "run" / "job.json").read_text())["status"] == "interrupted"
    assert one.resume(tmp_path / "run").tree == whole.tree


def test_a_stopped_run_goes_on_by_actors(one, local, tmp_path):
    for name in ("mcts", "fusing-states"):
        whole = local("a red circle", CONFIGS[name], out=tmp_path / name / "whole")
        result = one.resume(stopped(tmp_path / name / "whole", tmp_path / name / "run", 6))
        assert result.tree == whole.tree and [c.reward for c in result.finished] == [c.reward for c in whole.finished]
        assert result.ledger.nfe == whole.ledger.nfe and len(result.images) == 3


def test_a_run_that_was_stopped_with_a_full_batch_goes_on_by_actors(one, tiny_folder, tmp_path):
    """Two units of a full batch of five had been told when it was stopped: the others have to be scored before anything can come in."""
    local = Searcher.from_pretrained(str(tiny_folder), device="cpu", batch_size=5)
    whole = local("a red circle", BEST_OF_TEN.model_copy(update={"in_flight": 12, "budget": 160}), out=tmp_path / "whole")
    result = one.resume(stopped(tmp_path / "whole", tmp_path / "run", 2))
    assert result.tree == whole.tree and [c.reward for c in result.finished] == [c.reward for c in whole.finished]


@pytest.mark.slow
def test_resume_on_the_command_line_goes_on_by_actors(cluster, local, tmp_path, capsys):
    whole = local("a red circle", CONFIGS["mcts"], out=tmp_path / "whole")
    run = stopped(tmp_path / "whole", tmp_path / "run", 6)
    assert cli.run(["resume", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ledger"]["nfe"] == whole.ledger.nfe
    assert json.loads((run / "job.json").read_text())["status"] == "done"
    assert json.loads((run / "tree.json").read_text())["nodes"] == json.loads((tmp_path / "whole" / "tree.json").read_text())["nodes"]


# storage -----------------------------------------------------------------------------------------------------------


def fill(_):
    """In the tree manager: the disk is full."""

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    record.write, record.os.write = os.write, full


def empty(_):
    record.os.write = record.write


def test_full_storage_pauses_the_search_of_a_manager(one, cluster, tmp_path):
    manager, paused = one.backend._manager, []

    def watch(progress):
        if progress.paused and not paused:
            cluster.get(manager.__ray_call__.remote(empty))
            paused.append(progress.paused)
        elif progress.nfe > 60 and not paused:
            cluster.get(manager.__ray_call__.remote(fill))

    config = CONFIGS["mcts"].model_copy(update={"budget": 320})
    result = one("a red circle", config, watch, out=tmp_path / "run")
    assert "cannot be written (No space left on device); the search goes on when it can" in paused[0]
    assert not result.errors and 320 - 8 < result.ledger.nfe <= 320
    tells = [line["work"] for line in record.read_journal(tmp_path / "run")[1] if line["type"] == "tell"]
    assert len(tells) == len(set(tells)) == len(result.finished)


def test_a_manager_that_comes_back_waits_for_its_storage(one, local, cluster, tmp_path):
    """The run directory is gone when the manager is restarted, as an unmounted one is, and comes back."""
    config = CONFIGS["fusing-states"].model_copy(update={"budget": 320})
    whole = local("a red circle", config)
    run, away, paused = tmp_path / "run", tmp_path / "away", []

    def watch(progress):
        if progress.paused and not paused:
            paused.append(progress.paused)
            away.rename(run)
        elif progress.nfe > 60 and not paused and not away.exists():
            manager = one.backend._manager
            run.rename(away)
            os.kill(cluster.get(manager.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)

    result = one("a red circle", config, watch, out=run)
    assert f"run directory {run} cannot be read or written (No such file or directory)" in paused[0]
    assert not result.errors and result.tree == whole.tree and result.ledger.nfe == whole.ledger.nfe
    assert one("a red circle", BEST_OF_TEN).images


def test_a_full_folder_for_temporary_files_is_no_exception_of_run(tmp_path):
    backend = RayBackend.__new__(RayBackend)
    backend.batch_size, backend._folder, backend._manager = 4, tmp_path / "gone", None
    search = BestOfN("a", Setting("a cat", levels=4), 8)
    found, error = backend.run([Task(search, 2, 1)], Plan(BEST_OF_TEN, (search,), (4, 8, 8), "cpu", "fp32", 4), "jpeg")
    assert isinstance(error, OSError) and "for temporary files cannot be written (No such file" in str(error)
    assert len(found) == 1 and not found[0].finished


# poison ------------------------------------------------------------------------------------------------------------


def poison(worker):
    """In a denoiser: the first seed's own state gives what is not a number."""
    from mcts_ray.diffusion.noise import draw
    from mcts_ray.search.ids import seed_id

    adapter = worker.denoiser.adapter
    forward, seed = adapter.forward, draw([seed_id(0, 0)], adapter.latent_shape(32, 32))[0]

    def broken(x, t, condition):
        output = forward(x, t, condition)
        output[[bool((row == seed).all()) for row in x]] = float("nan")
        return output

    adapter.forward = broken


def cure(worker):
    del worker.denoiser.adapter.forward


def test_latents_that_are_not_finite_fail_their_unit_after_two_tries(one, cluster):
    denoiser = cluster.get(one.backend._manager.actors.remote())["denoiser"][0]
    cluster.get(denoiser.__ray_call__.remote(poison))
    try:
        result = one("a red circle", BEST_OF_TEN)
    finally:
        cluster.get(denoiser.__ray_call__.remote(cure))
    assert len(result.errors) == 1 and "non-finite" in result.errors[0] and len(result.finished) == 9
    assert result.ledger.nfe == 9 * 8 + 1 and result.notes[-1].startswith("1 NFE were spent once more")


@dataclass
class Refuses:
    """A reward that raises for batches with one image."""

    image: np.ndarray
    __name__ = "refuses"

    def __call__(self, images, prompts):
        if any(np.abs(image.astype(int) - self.image).max() <= 1 for image in images):
            raise RuntimeError("not this one")
        return images.reshape(len(images), -1).mean(1)


def test_a_reward_that_raises_fails_its_unit_after_two_tries(one):
    image = np.asarray(one("a red circle", BEST_OF_TEN).images[0]).astype(int)
    one.reward, reward = Refuses(image), one.reward
    try:
        bad, good = one.many(["a red circle", "a blue square"], BEST_OF_TEN.model_copy(update={"reward": None}))
    finally:
        one.reward = reward
    assert bad.errors == ("reward 'refuses' raised RuntimeError: not this one",) and len(bad.finished) == 9
    assert not good.errors and len(good.finished) == 10


def test_a_call_that_could_not_be_sent_is_tried_again_at_once():
    class Fails(Working):
        async def _send(self, worker):
            return None

    worker = Worker(None, None, size=8, loose=True)
    worker.give(work("a"))
    assert asyncio.run(Fails()._loosely(worker))


class Quiet:
    """An actor that has nothing to say."""

    async def call(self, *_):
        await asyncio.sleep(0)
        return 0


class Recovering(TreeManager):
    """Every search that comes has a unit in flight, for which a state has to be made again."""

    async def _recover(self, running):
        id = running.job.search.id
        self.workers[0].give(replace(work("a"), search=id))
        await asyncio.sleep(0.05)

    async def _loop(self, worker):
        await asyncio.Event().wait()


def test_searches_that_come_at_once_do_not_lose_what_was_recovered(monkeypatch):
    monkeypatch.setattr("mcts_ray.actors.tree_manager.logs.set_up", lambda: None)
    tasks = [Task(BestOfN(id, Setting("a cat", levels=4), 8), 2, 1) for id in "ab"]

    async def both():
        manager = Recovering(pickle.dumps(([(Quiet(), Quiet())], Quiet(), [])))
        await asyncio.gather(*(manager.submit([task], "jpeg", (4, 8, 8), 4) for task in tasks))
        return {search for search, _ in manager.workers[0].out}

    assert asyncio.run(both()) == {"a", "b"}


def work(id, epoch=0):
    return Work(id, "s", Setting("a cat", levels=4), None, "seed", (Edge(id, 4), Edge(id + "0", 0)), epoch=epoch)


def test_a_unit_that_was_lost_twice_goes_alone():
    worker = Worker(None, None, size=8)
    for id, epoch in [("a", 0), ("b", 2), ("c", 2)]:
        worker.give(work(id, epoch))
    assert [unit.work.id for unit in worker.ready] == ["b"]
    worker.pending = [unit for unit in worker.pending if unit.work.id != "b"]  # it is under way
    assert worker.ready == []
    suspect = worker.out["s", "c"]
    lost, _ = worker.fall()
    assert [unit.id for unit in lost] == ["b"] and not worker.free and not worker.up
    assert [unit.work.id for unit in worker.pending] == ["a", "c"]  # those that wait have nothing to do with it
    lost, _ = worker.fall([suspect])
    assert [unit.id for unit in lost] == ["c"] and list(worker.out) == [("s", "a")]


def test_orders_outlive_the_process(tmp_path):
    archive = Archive(str(tmp_path))
    orders = [Order(Task(BestOfN(id, Setting("a cat", levels=4), 8), 2, 1), "a", "jpeg", (4, 8, 8), 16) for id in "ba"]
    archive.keep(orders)
    again = Archive(str(tmp_path)).orders()
    assert [order.task.search.id for order in again] == ["b", "a"]
    assert [replace(order, task=None) for order in again] == [replace(order, task=None) for order in orders]
    archive.forget("b")
    archive.forget("b")
    assert [order.task.search.id for order in archive.orders()] == ["a"] and Archive(None).orders() == []
