"""Who gets the next unit: whose turn it is to ask, and which denoiser is to carry it out. Plain decisions, neither torch nor Ray."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

AHEAD = 0.2  # weight of the last call in the mean number of units that leave with one
SLACK = 0.25  # of a batch: how much more the holder of a parent's state may have in hand and still be given its child


class Shares:
    """Fair shares of the denoisers between searches, in NFE: of those that want something, whoever has been given least goes first,
    of equal ones whoever has waited longest.

    Start-time fair queueing (Goyal et al., SIGCOMM 1996): one that comes, or that has wanted nothing for a while, goes on from where
    the others stand, so that nobody saves up turns. Where all units cost the same this is round robin.
    """

    def __init__(self) -> None:
        self._given: dict[Hashable, float] = {}
        self._place: dict[Hashable, int] = {}
        self._places = 0
        self._now = 0.0  # what the one served last had been given before

    def enter(self, id: Hashable) -> None:
        """One more, behind those that are there."""
        self._given[id] = self._now
        self._to_the_back(id)

    def leave(self, id: Hashable) -> None:
        """It wants nothing more."""
        self._given.pop(id, None)
        self._place.pop(id, None)

    def deal(self, room: int, ask: Callable[[Hashable], int | None]) -> int:
        """Let them `ask` in their turn, at most `room` times in all, until nobody wants more; returns how often one did.

        `ask(id)` is what its next unit costs in NFE, or None if it wants none for now.
        """
        queue = [(given, self._place[id], id) for id, given in self._given.items()] if room > 0 else []
        heapq.heapify(queue)
        dealt, idle = 0, []
        while queue and dealt < room:
            given, _, id = heapq.heappop(queue)
            cost = ask(id)
            if cost is None:
                idle.append(id)
                continue
            dealt += 1
            self._now = max(self._now, given)
            self._given[id] = given + max(1, cost)  # one that only decodes is not free
            self._to_the_back(id)
            heapq.heappush(queue, (self._given[id], self._place[id], id))
        for id in idle:
            self._given[id] = max(self._given[id], self._now)
        return dealt

    def _to_the_back(self, id: Hashable) -> None:
        self._places += 1
        self._place[id] = self._places


@dataclass(frozen=True)
class Load:
    """What a denoiser has in hand: `out` units of at most `room`, in batches of `size`."""

    out: int
    room: int
    size: int

    @property
    def free(self) -> int:
        """Units that it may be given."""
        return max(0, self.room - self.out)


def place(loads: Sequence[Load], holder: int | None = None) -> int:
    """Which denoiser gets a unit: the least loaded; the `holder` of its parent's state before it, unless that has no room or more than
    `SLACK` of a batch more in hand. Of equal ones the first. One without room only where none has any."""
    least = min(range(len(loads)), key=lambda at: (not loads[at].free, loads[at].out / loads[at].size, at))
    if holder is not None and loads[holder].free:
        if loads[holder].out / loads[holder].size <= loads[least].out / loads[least].size + SLACK:
            return holder
    return least


class Depth:
    """How many units a denoiser may hold: a batch that it works on, and of the next one, which waits for it, as many as leave with one
    call, so that it need not wait for whoever deals them. So there are two batches at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._leaving = 1.0

    def left(self, count: int) -> None:
        """So many units have left with one call."""
        self._leaving += AHEAD * (count - self._leaving)

    @property
    def next(self) -> int:
        """Units that may wait for the next call."""
        return min(self.size, max(1, math.ceil(self._leaving)))


def least_used(sizes: Iterable[tuple[Any, int]], limit: int, spare: Callable[[Any], bool]) -> list[Any]:
    """What is to be evicted of a cache, the least recently used first, until no more than `limit` bytes are left; `sizes`: in the order
    of their last use, each with its bytes. What is to be spared stays, whatever it weighs."""
    sizes = list(sizes)
    over = sum(size for _, size in sizes) - limit
    evicted = []
    for key, size in sizes:
        if over <= 0:
            break
        if not spare(key):
            evicted.append(key)
            over -= size
    return evicted
