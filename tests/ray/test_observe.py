"""The metrics of a service as Ray exports them."""

import re
import time
import urllib.request

import pytest

from mcts_ray.service.observe import Meter
from mcts_ray.service.runner import Ended
from tests.service.test_observe import CENSUS, RESULT, asked, use

pytestmark = pytest.mark.slow  # Ray sends them every ten seconds


def test_rays_exporter_has_what_the_dashboard_asks_for(cluster):
    """Under the same names after `ray_`; Ray forgets gauges that are not set again, and the service does so every two seconds."""
    meter = Meter(ray=True)
    use(meter)
    meter.ended(Ended("done", {**RESULT, "reward": {"name": "scenes", "best": 0.4}}), 40)
    (node,) = cluster.nodes()
    address, wanted = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", {f"ray_{name}" for name in asked()}
    deadline, missing = time.monotonic() + 60, wanted
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        meter.report(3, 2, [CENSUS])
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        missing = {name for name in wanted if not re.search(rf"^{name}\b", text, re.MULTILINE)}
    assert not missing and len(wanted) >= 10
