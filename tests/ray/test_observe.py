"""The metrics of a service as Ray takes them: which there are, what they are told, and what Ray's exporter makes of their names."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
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


def test_ray_is_told_what_the_service_says_itself(cluster, monkeypatch):
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


@pytest.mark.slow
def test_rays_exporter_has_what_the_dashboard_asks_for(cluster):
    """Under the same names after `ray_`; Ray sends them every ten seconds."""
    use(Meter(ray=True))
    (node,) = cluster.nodes()
    address, wanted = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", {f"ray_{name}" for name in asked()}
    deadline, missing = time.monotonic() + 60, wanted
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        missing = {name for name in wanted if not re.search(rf"^{name}\b", text, re.MULTILINE)}
    assert not missing and len(wanted) >= 10
