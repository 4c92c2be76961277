"""The tree manager dies and comes back; stopped runs go on by actors; units that are lost again and again go alone."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mcts_ray import Searcher
from mcts_ray.actors.archive import Archive, Order
from mcts_ray.actors.pool import Worker
from mcts_ray.executor.backend import ActorsLost, Task
from mcts_ray.search import BestOfN, Edge, Setting, Work
from tests.executor.test_faults import CONFIGS, stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local(tiny_folder):
    return Searcher.from_pretrained(str(tiny_folder), device="cpu")


@pytest.fixture(scope="module")
def one(cluster, tiny_folder):
    with Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray", workers=1) as searcher:
        yield searcher


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("written", [False, True])
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


def work(id, epoch=0):
    return Work(id, "s", Setting("a cat", levels=4), None, "seed", (Edge(id, 4), Edge(id + "0", 0)), epoch=epoch)


def test_a_unit_that_was_lost_twice_goes_alone():
    worker = Worker(None, None, size=8)
    for id, epoch in [("a", 0), ("b", 2), ("c", 2)]:
        worker.give(work(id, epoch))
    assert [unit.work.id for unit in worker.ready] == ["b"]
    worker.pending = [unit for unit in worker.pending if unit.work.id != "b"]  # it is under way
    assert worker.ready == []
    lost, _ = worker.fall()
    assert {unit.id for unit in lost} == {"a", "b", "c"} and not worker.free and not worker.up


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


def test_five_random_kills(tmp_path):
    """A cluster of three nodes in a process of its own; see the module for what it checks."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MCTS_RAY_"))}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kinds = "denoiser,reward,fusion,manager,node"
    command = [sys.executable, "-m", "benchmarks.chaos", "--kinds", kinds, "--kills", "5", "--least", "1", "--name", "-"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '"passed": true' in done.stdout
    assert '"kills": 5' in done.stdout and '"failed_units": 0' in done.stdout
