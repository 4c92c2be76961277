"""Structured logs: what a line holds, and what is said of units."""

import json
import logging

import pytest

from mcts_ray import logs
from mcts_ray.executor.backend import Task
from mcts_ray.search import BestOfN, Cost, Outcome, Setting


@pytest.fixture
def lines(capsys):
    """After `logs.set_up`: the lines that have been logged, as objects."""
    logger = logging.getLogger("mcts_ray")
    kept = logger.handlers, logger.propagate, logger.level
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logger.handlers, logger.propagate = kept[:2]
    logger.setLevel(kept[2])


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
