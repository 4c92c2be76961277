"""Who gets the next unit: whose turn it is to ask, and which denoiser is to carry it out. Plain decisions, neither torch nor Ray."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable
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


class Places:
    """Where units go: to the least loaded denoiser that has room, but to the holder of the parent's state as long as that has no more
    than `SLACK` of a batch more in hand. loads: of each denoiser the units that it has in hand, may have, and its batch size.
    """

    def __init__(self, loads: Iterable[tuple[int, int, int]]) -> None:
        self._out, self._room, self._size = map(list, zip(*loads))
        self.free = sum(max(0, room - out) for out, room in zip(self._out, self._room))
        self._fill = [self._filled(at) for at in range(len(self._out))]

    def give(self, holder: int | None = None) -> int:
        """The denoiser of the next unit, which then has it in hand. Of equal ones the first; one without room only where none has any."""
        at = self._fill.index(min(self._fill))
        if holder is not None and self._fill[holder] <= self._fill[at] + SLACK:
            at = holder
        if self._fill[at] == math.inf:
            at = self._out.index(min(self._out))
        self.free -= self._out[at] < self._room[at]
        self._out[at] += 1
        self._fill[at] = self._filled(at)
        return at

    def _filled(self, at: int) -> float:
        """How many batches one has in hand; infinite if it has no room."""
        return self._out[at] / self._size[at] if self._out[at] < self._room[at] else math.inf


class Depth:
    """How many units a denoiser may hold: a batch that it works on, and twice as many as leave with one call, up to another batch: those
    that the next call is to begin with, so that it need not wait for whoever deals them, and those on their way there.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._leaving = 1.0

    def left(self, count: int) -> None:
        """So many units have left with one call."""
        self._leaving += AHEAD * (count - self._leaving)

    @property
    def leaving(self) -> int:
        """Units that are to leave with the call under way."""
        return min(self.size, max(1, math.ceil(self._leaving)))

    @property
    def room(self) -> int:
        """Units that may be in hand."""
        return self.size + min(self.size, 2 * self.leaving)


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
