"""Best-of-n: n independent trajectories, the best finished image wins. The yardstick of every other search.

n is what the budget pays for: budget // NFE of one trajectory. A trajectory walks from level T to 0 by the jumps of a
policy; with the constant k that is T, T-k, ..., 0 (the last jump shorter if k does not divide T) at ceil(T / k) NFE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcts_ray.gain.policy import Constant, JumpPolicy, path
from mcts_ray.search.base import Edge, Outcome, Search, Setting, Work
from mcts_ray.search.ids import jump_id, seed_id

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


def no_noise(parent_level: int, level: int) -> float:
    """phi = 0 on every edge: the deterministic (ODE) trajectory."""
    return 0.0


class BestOfN(Search):
    """Best-of-n on the ask/tell units; `phi(a, s)` is the branching angle of the edge from level a to level s."""

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
        self.path = path(policy, setting.levels)
        self.phis = (0.0, *(phi(a, s) for a, s in zip(self.path, self.path[1:])))
        self._walks: dict[str, tuple[Work, Outcome | None]] = {}

    @classmethod
    def from_config(
        cls, id: str, setting: Setting, config: SearchConfig, phi: Callable[[int, int], float], policy: JumpPolicy
    ) -> BestOfN:
        return cls(
            id,
            setting,
            config.budget,
            seed=config.seed,
            policy=policy,
            phi=phi,
            max_decodes=config.max_decodes,
            max_seconds=config.max_seconds,
        )

    @property
    def trajectory_nfe(self) -> int:
        """NFE of one trajectory: every level above 0 is evaluated once."""
        return len(self.path) - 1

    def _propose(self) -> Work | None:
        if self.nfe_left < self.trajectory_nfe or self.decodes_left < 1:
            return None
        index = len(self._walks)
        edges = self._edges(index)
        work = Work(f"{self.id}/{index}", self.id, self.setting, None, "seed", edges)
        self._walks[work.id] = (work, None)
        return work

    def _edges(self, index: int) -> tuple[Edge, ...]:
        """The `index`-th trajectory: its seed, then one jump after the other down to level 0."""
        node = seed_id(self.seed, index)
        edges = [Edge(node, self.path[0])]
        for above, level, phi in zip(self.path, self.path[1:], self.phis[1:]):
            node = jump_id(node, above - level)
            edges.append(Edge(node, level, phi))
        return tuple(edges)

    def _apply(self, work: Work, outcome: Outcome) -> None:
        self._walks[work.id] = (work, outcome)

    def _spent(self) -> bool:
        return self.nfe_left < self.trajectory_nfe or self.decodes_left < 1

    def nodes(self) -> list[dict]:
        """Every state of every trajectory; its value is the reward in which the trajectory ended (None: no image)."""
        nodes = []
        for work, outcome in self._walks.values():
            reward = outcome.reward if outcome else None
            parent = None
            for edge, above in zip(work.edges, (None, *work.edges)):
                action = "seed" if above is None else f"jump {above.level - edge.level}"
                visits = int(reward is not None)
                node = {"id": edge.node, "parent": parent, "level": edge.level, "action": action}
                nodes.append({**node, "visits": visits, "value": reward})
                parent = edge.node
        return nodes
