"""Structured logs, and the metrics that Ray is told."""

import json
import logging

import pytest

from mcts_ray.service import logs, observe


@pytest.fixture
def package_logger():
    logger = logging.getLogger("mcts_ray")
    kept = logger.handlers, logger.propagate, logger.level
    yield logger
    logger.handlers, logger.propagate = kept[:2]
    logger.setLevel(kept[2])


def test_a_line_is_an_object_with_the_ids(package_logger, capsys):
    logs.set_up()
    logging.getLogger("mcts_ray.executor.base").info("unit sent again", extra={"search": "1-0", "work": "1-0/3", "epoch": 1})
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("mcts_ray.service.jobs").exception("a search has failed", extra={"job": "a"})
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["message"], first["search"], first["work"], first["epoch"]) == ("unit sent again", "1-0", "1-0/3", 1)
    assert second["level"] == "error" and second["job"] == "a" and "ValueError: x" in second["traceback"]


def test_rates_and_growing_numbers_are_differences():
    meter = observe.Meter()
    meter.spent(50)
    meter.report(1, 2, [{"out": 4, "room": 8, "replays": 3}, {"out": 2, "finished": 1, "room": 4, "replays": 1}])
    meter.report(0, 0, [{"replays": 2}])  # a manager has been replaced: its count begins again
    meter.report(0, 0, [{"replays": 5}])
    text = meter.text()
    assert "mcts_ray_replays_total 7.0" in text and "mcts_ray_nfe_total 50.0" in text and "mcts_ray_units_in_flight 0.0" in text


def test_every_metric_of_the_contract_is_there():
    names = "nfe_per_second batch_fill queue_wait_seconds units_in_flight duplicates_dropped replays phase_seconds reward".split()
    assert {f"mcts_ray_{name}" for name in names} <= set(observe.METRICS)
