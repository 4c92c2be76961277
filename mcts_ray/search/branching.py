"""Where a tree branches, and how strongly: functions of the level alone, the same for every jump size.

A child of a node at level a is made with the angle phi(a): it keeps cos^2(phi) of the noise it inherits and takes
sin^2(phi) of fresh noise. Roll-outs are deterministic, so a path can only be left where it was branched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

QUIET = 0.2  # share of the levels, at the end, in which no noise is added
FULL = 0.4  # share of the levels from which on phi is at its full size


@dataclass(frozen=True)
class Branching:
    """Branching of trajectories of T `levels` with the full angle `phi`, at `count` levels spread over the noisy part.

    A path is branched at the first state that it has at or below each mark: the marks part the levels between T and T/5
    evenly. With few marks siblings gather at the same nodes, which is what statistics and particle sets need.
    """

    levels: int
    phi: float
    count: int

    @cached_property
    def marks(self) -> tuple[int, ...]:
        """The levels at or below which paths branch, highest first."""
        share = (1 - QUIET) / (self.count + 1)
        marks = {round(self.levels * (1 - share * (j + 1))) for j in range(self.count)}
        return tuple(sorted(marks, reverse=True))

    def angle(self, level: int) -> float:
        """phi of the jumps from `level`: 0 in the last fifth, full from two fifths on, linear between."""
        ramp = (level / self.levels - QUIET) / (FULL - QUIET)
        return self.phi * min(1.0, max(0.0, ramp))

    def opens(self, above: int, level: int) -> bool:
        """Whether the state at `level`, reached from `above`, may be branched."""
        return self.angle(level) > 0 and any(level <= mark < above for mark in self.marks)
