"""How far the units of a stopped search had got, from its journal alone. Neither torch nor Ray.

With one engine the order of everything follows from the asks and the size of a batch: ask until the batch is full, step, tell what
has left. Going through the same motions beside the journal says after how many steps it ends, and which states each call held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Standing:
    """sizes: samples of each denoiser call that a unit has had, by unit. midway: the search was stopped while the outcomes of units
    that had left the engine together were being told."""

    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    midway: bool = False


def standing(records: Iterable[dict[str, Any]], batch_size: int, score_decodes: bool = True) -> Standing:
    """Where the units stand at the end of the journal of a search that had an engine of `batch_size` to itself; `score_decodes`:
    whether its step scores wait for a decoder, as `Setting.score_decodes` says.

    Nothing is known (an empty Standing) of searches that shared engines, or lost units on the way.
    """
    records = [one for one in records if one["type"] in ("ask", "tell", "reissue")]
    return _Motions(records, batch_size, score_decodes).run() or Standing()


class _Motions:
    """The loop of an executor, without an engine."""

    def __init__(self, records: Sequence[dict[str, Any]], batch_size: int, score_decodes: bool) -> None:
        self.records, self.batch_size, self.score_decodes = records, batch_size, score_decodes
        self.at = 0
        self.midway = False
        self.waiting: set[str] = set()  # units that wait for a decoder when they have left
        self.left: dict[str, int] = {}  # calls that units in the engine still need
        self.finished: list[str] = []
        self.sizes: dict[str, list[int]] = {}

    def run(self) -> Standing | None:
        """Until the journal ends; None where it tells of something else."""
        while self.at < len(self.records):
            before = self.at
            self.fill()
            if self.at == len(self.records):
                break
            free = len(self.left) < self.batch_size
            if self.finished and (free or len(self.finished) >= self.batch_size):
                if not self.tell(self.finished):
                    return None
                self.midway = bool(self.finished)
            elif self.left:
                if not self.step():
                    return None
            elif self.at == before:
                return None
        return Standing({id: tuple(sizes) for id, sizes in self.sizes.items()}, self.midway)

    def next(self, kind: str) -> dict[str, Any] | None:
        """The next record, if it is of this kind."""
        record = self.records[self.at] if self.at < len(self.records) else None
        return record if record and record["type"] == kind else None

    def fill(self) -> None:
        """Units go out while there is room; those that cannot be fused come back."""
        while len(self.left) < self.batch_size and (ask := self.next("ask")):
            self.left[ask["work"]] = sum(level > 0 for _, level, _ in ask["edges"])
            self.sizes[ask["work"]] = []
            if ask["edges"][-1][1] == 0 or (ask["scored"] and self.score_decodes):
                self.waiting.add(ask["work"])
            self.at += 1
        while (told := self.next("tell")) and told.get("refused") and told["work"] in self.left:
            del self.left[told["work"]]
            self.at += 1

    def step(self) -> bool:
        """One call of all units that need one; those that wait for no decoder are told at once. False if the journal differs."""
        calls = [id for id, left in self.left.items() if left]
        for id in calls:
            self.sizes[id].append(len(calls))
            self.left[id] -= 1
        gone = [id for id, left in self.left.items() if not left]
        self.left = {id: left for id, left in self.left.items() if left}
        self.finished += [id for id in gone if id in self.waiting]
        return self.tell([id for id in gone if id not in self.waiting])

    def tell(self, units: list[str]) -> bool:
        """Units are told, and taken off the list, as far as the journal goes; False if that tells something else."""
        while units and self.at < len(self.records):
            told = self.next("tell")
            if not told or told["work"] not in units:
                return False
            units.remove(told["work"])
            self.at += 1
        return True
