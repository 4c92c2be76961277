"""When a model of a service gets one denoiser more, and when it lets go of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

FULL = 3  # looks in a row at which all batches are full, before one more is asked for
IDLE = 60.0  # seconds for which one fewer would have been enough, before one goes


class Elastic:
    """For one model with from `least` to `most` denoisers. One at a time is asked for, and while the cluster has no room for it, which is
    what an autoscaler waits for, no other."""

    def __init__(self, least: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.least, self.most, self.clock = least, most, clock
        self._full, self._needed = 0, clock()

    def wanted(self, workers: int, census: Mapping[str, Any]) -> int:
        """How many there should be of now `workers`, given what their tree manager has in hand."""
        held, room, here = census["out"] + census["finished"], census["room"], len(census["nfe"])
        full = held >= room and census["waiting"] > 0
        self._full = self._full + 1 if full else 0
        if full or held > room * (here - 1) / here:
            self._needed = self.clock()
        if self._full >= FULL and not census["joining"] and workers < self.most:
            self._full = 0
            return workers + 1
        if self.clock() - self._needed >= IDLE and workers > self.least:
            self._needed = self.clock()
            return workers - 1
        return workers
