"""Jump policies: how many levels k to jump from a level.

    constant   the same k everywhere
    table      a k for every level, for example the best ones found offline
    ays        from any level to the next of the ten Align Your Steps levels (arXiv 2404.14507)
    ige        chosen at each state (`mcts_ray.gain.choose`); here is what it falls back to, its table

The last jump is cut to end at level 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


class JumpPolicy(Protocol):
    """Chooses jump sizes."""

    def k(self, level: int) -> int:
        """Levels to jump from `level` > 0: at least 1, at most `level`."""


def path(policy: JumpPolicy, level: int) -> tuple[int, ...]:
    """The levels from `level` down to 0, both included, that the policy walks through."""
    levels = [level]
    while levels[-1] > 0:
        levels.append(levels[-1] - policy.k(levels[-1]))
    return tuple(levels)


@dataclass(frozen=True)
class Constant:
    """Always `size` levels."""

    size: int

    def k(self, level: int) -> int:
        return min(self.size, level)


@dataclass(frozen=True)
class Table:
    """`sizes[level - 1]` levels from `level`."""

    sizes: tuple[int, ...]

    def k(self, level: int) -> int:
        return min(self.sizes[level - 1], level)


@dataclass(frozen=True)
class Anchors:
    """To the next lower one of some fixed levels."""

    levels: tuple[int, ...]

    def k(self, level: int) -> int:
        return level - max((anchor for anchor in self.levels if anchor < level), default=0)


def make_policy(config: SearchConfig, ays_levels: Callable[[], Sequence[int]]) -> JumpPolicy:
    """The policy of a configuration; `ays_levels` tells the model's levels nearest to the AYS time steps."""
    if config.jump_table:
        return Table(config.jump_table)
    if config.jump == "ays":
        return Anchors(tuple(ays_levels()))
    return Constant(config.k)
