"""What searches share that walk down the levels of a jump policy: their settings, and the edges of a walk.

The angle of an edge stands for the eta of DDIM (Song et al., arXiv 2010.02502, equation 16, in the update of equation 12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mcts_ray.gain.policy import Constant, JumpPolicy, path
from mcts_ray.search.base import Edge, Search, Setting
from mcts_ray.search.ids import jump_id, seed_id

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


def no_noise(parent_level: int, level: int) -> float:
    """phi = 0 on every edge: the deterministic (ODE) trajectory."""
    return 0.0


class Trajectories(Search):
    """Trajectories visit the levels of `path`, from T down to 0; `phi(a, s)` is the angle of the edge from level a to s.

    A subclass with settings of its own takes them as keywords and names those that a configuration sets in `options`.
    by_table: the policy is the table of an IGE.
    """

    def __init__(
        self,
        id: str,
        setting: Setting,
        budget: int,
        *,
        seed: int = 0,
        policy: JumpPolicy = Constant(1),
        phi: Callable[[int, int], float] = no_noise,
        max_decodes: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(id, setting, budget, max_decodes, max_seconds)
        self.seed = seed
        self.by_table = False
        self.phi = phi
        self.path = path(policy, setting.levels)

    @classmethod
    def from_config(
        cls, id: str, setting: Setting, config: SearchConfig, phi: Callable[[int, int], float], policy: JumpPolicy
    ) -> Trajectories:
        search = cls(
            id,
            setting,
            config.budget,
            seed=config.seed,
            policy=policy,
            phi=phi,
            max_decodes=config.max_decodes,
            max_seconds=config.max_seconds,
            **{name: value for name, value in cls.options(config).items() if value is not None},
        )
        search.by_table = config.jump == "ige"
        return search

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        """Keywords of this class beside the common ones; None stands for the class's own default."""
        return {}

    @property
    def notes(self) -> list[str]:
        """That an IGE was asked for, but its table has decided."""
        how = "jumps went by the IGE's table, the same at every state of a level: walks are planned before any state can be read"
        return [how] if self.by_table else []

    @property
    def trajectory_nfe(self) -> int:
        """NFE of one trajectory: every level above 0 is evaluated once."""
        return len(self.path) - 1

    def trajectory(self, index: int) -> tuple[Edge, ...]:
        """The `index`-th seed of the job and its walk down to level 0."""
        return self.edges_from(Edge(seed_id(self.seed, index), self.path[0]), self.path[1:])

    def edges_from(self, first: Edge, levels: Sequence[int]) -> tuple[Edge, ...]:
        """`first` and, below it, one jump after the other to each of `levels`."""
        edges = [first]
        for level in levels:
            above = edges[-1]
            edges.append(Edge(jump_id(above.node, above.level - level), level, self.phi(above.level, level)))
        return tuple(edges)
