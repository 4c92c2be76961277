"""Where a tree branches, and how strongly paths part by noise: functions of the level alone, the same for every jump size.

A child of a state at level a is made with the angle phi(a): it keeps cos^2(phi) of the noise it inherits and takes
sin^2(phi) of fresh noise. A schedule gives phi(a) as a share of its full angle, by u = a / T:

    constant   1 at every level                              taper    1 down to u = 2/5, from there linearly to 0 at u = 1/5
    linear     v                                             cosine   (1 - cos(pi v)) / 2

with v = (u - 1/5) / (4/5), cut at 0: all but the first are widest at high noise and 0 in the last fifth of the levels. The tree's
roll-outs are deterministic, so there a path can only be left where it was branched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

QUIET = 0.2  # share of the levels, at the end, in which no noise is added
FULL = 0.4  # share of the levels from which on the taper is at its full size


def _ramp(u: float, full: float = 1.0) -> float:
    """0 up to the quiet share, 1 from `full` on, linear between."""
    return min(1.0, max(0.0, (u - QUIET) / (full - QUIET)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "taper": lambda u: _ramp(u, FULL),
    "linear": _ramp,
    "cosine": lambda u: (1 - math.cos(math.pi * _ramp(u))) / 2,
}


def scheduled(level: int, levels: int, phi: float, schedule: str) -> float:
    """phi of the jumps from `level` of `levels`, for the full angle `phi` and a name of SCHEDULES."""
    return phi * SCHEDULES[schedule](level / levels)


@dataclass(frozen=True)
class Branching:
    """Branching of trajectories of T `levels` with the full angle `phi`, at `count` levels spread over the noisy part.

    A path is branched at the first state that it has at or below each mark: the marks part the levels between T and T/5
    evenly. With few marks siblings gather at the same nodes, which is what statistics and particle sets need.
    """

    levels: int
    phi: float
    count: int
    schedule: str = "taper"

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """The levels at or below which paths branch, highest first."""
        share = (1 - QUIET) / (self.count + 1)
        marks = {round(self.levels * (1 - share * (j + 1))) for j in range(self.count)}
        return tuple(sorted(marks, reverse=True))

    def angle(self, level: int) -> float:
        """phi of the jumps from `level`, as the schedule gives it."""
        return scheduled(level, self.levels, self.phi, self.schedule)

    def opens(self, above: int, level: int) -> bool:
        """Whether the state at `level`, reached from `above`, may be branched."""
        return self.angle(level) > 0 and any(level <= mark < above for mark in self.marks)
