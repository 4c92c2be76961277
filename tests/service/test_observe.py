"""The metrics of a service, and those that Ray is told."""

from mcts_ray.service import observe


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
