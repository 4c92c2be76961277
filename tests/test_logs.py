"""Structured logs: what a line holds, and what is said of units."""

import json
import logging

import pytest

from mcts_ray import logs
from mcts_ray.actors.archive import Order
from mcts_ray.actors.denoiser import DenoiserWorker
from mcts_ray.actors.entering import Entering
from mcts_ray.actors.fusion import FusionWorker
from mcts_ray.actors.reward import RewardWorker
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.executor.backend import Task
from mcts_ray.executor.session import Session
from mcts_ray.fusion.fuser import start_of
from mcts_ray.search import BestOfN, Cost, Outcome, Setting
from mcts_ray.search.base import Edge, Fuse, Work


@pytest.fixture
def lines(capsys):
    """After `logs.set_up`: the lines that have been logged, as objects."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_an_object_with_the_ids(lines):
    logs.set_up()
    logging.getLogger("mcts_ray.executor.base").info("unit sent again", extra={"search": "1-0", "work": "1-0/3", "epoch": 1})
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("mcts_ray.service.jobs").exception("a search has failed", extra={"job": "a"})
    first, second = lines()
    assert (first["message"], first["search"], first["work"], first["epoch"]) == ("unit sent again", "1-0", "1-0/3", 1)
    assert second["level"] == "error" and second["job"] == "a" and "ValueError: x" in second["traceback"]


def test_units_that_fail_or_go_out_again_are_named(lines, tmp_path):
    logs.set_up()
    setting = Setting("a red circle", levels=4, height=32, width=32)
    (tmp_path / "journal.jsonl").write_text('{"type": "header", "search": "7-0"}\n')
    (tmp_path / "metrics.jsonl").touch()
    job = Task(BestOfN("7-0", setting, 8), 1, 1, tmp_path).job()
    (work,) = job.ask()
    again = job.reissue(work)
    job.tell(Outcome(work.id, "7-0", again.epoch, Cost(), error="the reward is NaN"), work.edges[-1].node)
    begun, sent, failed = lines()
    assert (begun["message"], begun["search"], begun["run"]) == ("search begun", "7-0", str(tmp_path))
    assert (sent["message"], sent["work"], sent["epoch"]) == ("unit sent again", work.id, 1)
    assert (failed["message"], failed["search"], failed["work"], failed["error"]) == ("unit failed", "7-0", work.id, "the reward is NaN")


@pytest.mark.parametrize("worker", [DenoiserWorker, RewardWorker, FusionWorker])
def test_workers_log_what_they_do_once(worker, lines):
    about = () if worker is FusionWorker else (resolve_model("scenes"), "cpu", "fp32")
    for _ in range(2):
        worker(*about)
    setting = Setting("a red circle", levels=4)
    for weights in ((0.7, 0.3), (0.0, 0.0)):
        fuse = Fuse("innovation", ("a", "b"), weights)
        start_of(Work("7-0/3", "7-0", setting, None, "seed", (Edge("c", 4), Edge("d", 0)), fuse=fuse), (4, 8, 8))
    logging.getLogger("mcts_ray.diffusion.sizing").info("batches of %d samples", 8)
    fused, refused, batches = lines()
    assert [(line["message"], line["search"], line["work"]) for line in (fused, refused)] == [
        ("fused", "7-0", "7-0/3"), ("fusion refused", "7-0", "7-0/3")
    ]  # fmt: skip
    assert refused["reason"] and batches["message"] == "batches of 8 samples"


class Manager(Entering):
    """Nothing but searches that cannot be read."""

    def __init__(self):
        self.running, self._unread, self.session = {}, {}, Session()


def test_searches_that_cannot_be_read_are_named(lines, tmp_path):
    logs.set_up()
    task = Task(BestOfN("7-0", Setting("a red circle", levels=4), 8), 1, 1, tmp_path)
    for error in (OSError(5, "Input/output error"), ValueError("the journal is another search's")):
        Manager()._set_aside(Order(task, "7-0", "jpeg", (4, 8, 8), 4), 0, error)
    paused, ended = lines()
    assert paused["message"].startswith("paused: run directory") and paused["level"] == "warning"
    assert ended["message"] == "search 7-0 cannot go on (the journal is another search's)"
    assert paused["search"] == ended["search"] == "7-0"
