"""Metrics of a service, for its own /metrics route and, inside a Ray actor, for Ray's exporter (which adds the prefix `ray_`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mcts_ray.service.runner import Ended

SECONDS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
REWARDS = (-1, -0.5, -0.2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 5.0, 10.0)

# name: kind, what it says, label. Counters are exported as <name>_total.
METRICS: dict[str, tuple[str, str, str | None]] = {
    "mcts_ray_searches_ended": ("counter", "Searches that have ended, by status.", "status"),
    "mcts_ray_nfe": ("counter", "Denoiser evaluations spent.", None),
    "mcts_ray_nfe_per_second": ("gauge", "Denoiser evaluations per second, over the last reports.", None),
    "mcts_ray_batch_fill": ("gauge", "Share of all batch slots that hold a unit.", None),
    "mcts_ray_queue_wait_seconds": ("histogram", "Seconds that searches were queued.", None),
    "mcts_ray_searches_queued": ("gauge", "Searches that wait.", None),
    "mcts_ray_searches_running": ("gauge", "Searches that run.", None),
    "mcts_ray_units_in_flight": ("gauge", "Units of work that are out, or wait for their score.", None),
    "mcts_ray_duplicates_dropped": ("counter", "Outcomes that came late or twice, and were dropped.", None),
    "mcts_ray_replays": ("counter", "Units of work that were lost and went out again.", None),
    "mcts_ray_actor_deaths": ("counter", "Denoisers that died.", None),
    "mcts_ray_phase_seconds": ("counter", "Busy seconds of ended searches: denoise, score (decode and reward), wall.", "phase"),
    "mcts_ray_reward": ("histogram", "Best reward of ended searches, by the name of the reward.", "reward"),
}
_BUCKETS = {"mcts_ray_queue_wait_seconds": SECONDS, "mcts_ray_reward": REWARDS}


class Meter:
    """All metrics. ray: report them to Ray too, which needs to be connected."""

    def __init__(self, ray: bool = False) -> None:
        self.registry = CollectorRegistry()
        self._own = {name: self._make(name) for name in METRICS}
        self._ray = {name: _ray_metric(name) for name in METRICS} if ray else {}
        self._nfe = 0
        self._last = (time.monotonic(), 0)
        self._seen: dict[str, int] = {}

    def queued_for(self, seconds: float) -> None:
        """A search has begun after so long."""
        self._add("mcts_ray_queue_wait_seconds", seconds)

    def spent(self, nfe: int) -> None:
        """Denoiser evaluations since the last call."""
        self._nfe += max(0, nfe)
        self._add("mcts_ray_nfe", max(0, nfe))

    def ended(self, ended: Ended, seen: int | None) -> None:
        """A search has ended, `seen` NFE of which were told with `spent`."""
        self._add("mcts_ray_searches_ended", 1, ended.status)
        for phase, seconds in ended.seconds.items():
            self._add("mcts_ray_phase_seconds", seconds, phase)
        if ended.result:
            self.spent(ended.result["ledger"]["nfe"] - (seen or 0))
            if ended.result["reward"]["best"] is not None:
                self._add("mcts_ray_reward", ended.result["reward"]["best"], ended.result["reward"]["name"])

    def report(self, queued: int, running: int, censuses: Sequence[dict[str, Any]]) -> None:
        """How things stand: the queue, and what each tree manager has in hand."""
        now, (before, nfe) = time.monotonic(), self._last
        if now > before:
            self._set("mcts_ray_nfe_per_second", (self._nfe - nfe) / (now - before))
        self._last = now, self._nfe
        self._set("mcts_ray_searches_queued", queued)
        self._set("mcts_ray_searches_running", running)
        total = {name: sum(census.get(name, 0) for census in censuses) for name in ("out", "finished", "room", *_GROWING)}
        self._set("mcts_ray_units_in_flight", total["out"] + total["finished"])
        self._set("mcts_ray_batch_fill", min(1.0, total["out"] / total["room"]) if total["room"] else 0.0)
        for name, metric in _GROWING.items():
            self._add(metric, max(0, total[name] - self._seen.get(name, 0)))
            self._seen[name] = total[name]

    def text(self) -> str:
        """In Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def _make(self, name: str):
        kind, words, label = METRICS[name]
        labels = [label] if label else []
        if kind == "histogram":
            return Histogram(name, words, labels, registry=self.registry, buckets=_BUCKETS[name])
        return {"counter": Counter, "gauge": Gauge}[kind](name, words, labels, registry=self.registry)

    def _add(self, name: str, amount: float, label: str | None = None) -> None:
        """Count, or observe."""
        own = self._own[name].labels(label) if label else self._own[name]
        histogram = METRICS[name][0] == "histogram"
        own.observe(amount) if histogram else own.inc(amount)
        if name in self._ray and (histogram or amount > 0):  # Ray refuses to count nothing
            tags = {METRICS[name][2]: label} if label else None
            (self._ray[name].observe if histogram else self._ray[name].inc)(amount, tags=tags)

    def _set(self, name: str, value: float) -> None:
        self._own[name].set(value)
        if name in self._ray:
            self._ray[name].set(value)


_GROWING = {"duplicates": "mcts_ray_duplicates_dropped", "replays": "mcts_ray_replays", "deaths": "mcts_ray_actor_deaths"}


def _ray_metric(name: str):
    from ray.util import metrics

    kind, words, label = METRICS[name]
    tags = (label,) if label else ()
    if kind == "histogram":
        # Ray's histograms take positive boundaries only, and leave out values below 0
        return metrics.Histogram(name, words, boundaries=[edge for edge in _BUCKETS[name] if edge > 0], tag_keys=tags)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[kind](name, words, tag_keys=tags)
