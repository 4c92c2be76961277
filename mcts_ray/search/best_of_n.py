"""Best-of-n: n independent trajectories, the best finished image wins. The yardstick of every other search.

n is what the budget pays for: budget // NFE of one trajectory. A trajectory walks from level T to 0 by the jumps of a
policy; with the constant k that is T, T-k, ..., 0 (the last jump shorter if k does not divide T) at ceil(T / k) NFE.

There is no paper to follow: the gain over one sample is that of the maximum of n draws, sigma E[max of n] for normal rewards.
"""

from __future__ import annotations

from mcts_ray.search.base import Outcome, Work
from mcts_ray.search.trajectories import Trajectories


class BestOfN(Trajectories):
    """Best-of-n on the ask/tell units."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._walks: dict[str, tuple[Work, Outcome | None]] = {}

    def _propose(self) -> Work | None:
        if self.nfe_left < self.trajectory_nfe or self.decodes_left < 1:
            return None
        index = len(self._walks)
        edges = self.trajectory(index)
        work = Work(f"{self.id}/{index}", self.id, self.setting, None, "seed", edges)
        self._walks[work.id] = (work, None)
        return work

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
