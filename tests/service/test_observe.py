"""The metrics of a service, and those that Ray is told."""

import json
import re
from pathlib import Path

from ray.util import metrics

from mcts_ray.service.observe import METRICS, Meter
from mcts_ray.service.runner import Ended

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "mcts-ray.json"
CENSUS = {"out": 4, "finished": 2, "room": 8, "duplicates": 1, "replays": 3, "deaths": 1}
RESULT = {"ledger": {"nfe": 60}, "reward": {"name": "jpeg", "best": -0.4}}


def use(meter):
    """Everything that a service tells of a search."""
    meter.queued_for(1.5)
    meter.spent(40)
    meter.report(3, 2, [CENSUS])
    meter.ended(Ended("done", RESULT, None, {"denoise": 2.0, "score": 0.0}), 40)
    meter.report(3, 2, [CENSUS])


def asked():
    """What the dashboard asks for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {name for panel in panels for target in panel["targets"] for name in re.findall(r"mcts_ray_\w+", target["expr"])}


def test_rates_and_growing_numbers_are_differences():
    meter = Meter()
    meter.spent(50)
    meter.report(1, 2, [{"out": 4, "room": 8, "replays": 3}, {"out": 2, "finished": 1, "room": 4, "replays": 1}])
    meter.report(0, 0, [{"replays": 2}])  # a manager has been replaced: its count begins again
    meter.report(0, 0, [{"replays": 5}])
    text = meter.text()
    assert "mcts_ray_replays_total 7.0" in text and "mcts_ray_nfe_total 50.0" in text and "mcts_ray_units_in_flight 0.0" in text


def test_every_metric_of_the_contract_is_there():
    names = "nfe_per_second batch_fill queue_wait_seconds units_in_flight duplicates_dropped replays phase_seconds reward".split()
    assert {f"mcts_ray_{name}" for name in names} <= set(METRICS)


def test_ray_is_told_what_the_service_says_itself(monkeypatch):
    told = {}
    record = metrics.Metric._record

    def noting(metric, value, tags=None):
        record(metric, value, tags)  # which refuses what Ray does
        told.setdefault((metric.info["name"], *(tags or {}).values()), []).append(value)

    monkeypatch.setattr(metrics.Metric, "_record", noting)
    meter = Meter(ray=True)
    kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
    assert {name: type(metric) for name, metric in meter._ray.items()} == {name: kinds[kind] for name, (kind, *_) in METRICS.items()}
    use(meter)
    rates = told.pop(("mcts_ray_nfe_per_second",))
    assert len(rates) == 2 and all(rate > 0 for rate in rates)
    assert told == {
        ("mcts_ray_queue_wait_seconds",): [1.5],
        ("mcts_ray_nfe",): [40, 20],
        ("mcts_ray_searches_queued",): [3, 3],
        ("mcts_ray_searches_running",): [2, 2],
        ("mcts_ray_units_in_flight",): [6, 6],
        ("mcts_ray_batch_fill",): [0.5, 0.5],
        ("mcts_ray_duplicates_dropped",): [1],
        ("mcts_ray_replays",): [3],
        ("mcts_ray_actor_deaths",): [1],
        ("mcts_ray_searches_ended", "done"): [1],
        ("mcts_ray_phase_seconds", "denoise"): [2.0],
        ("mcts_ray_reward", "jpeg"): [-0.4],
    }


def test_the_dashboard_asks_for_what_ray_is_told():
    ends = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    assert asked() <= {name + ends[METRICS[name][0]] for name in Meter(ray=True)._ray} and len(asked()) >= 10
