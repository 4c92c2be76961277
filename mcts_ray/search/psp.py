"""Progressive seed pruning (arXiv 2607.21591): start many seeds, finish few.

2N seeds run to a quarter of their denoiser calls; the N best go on to a half; the N/2 best of those are finished and the best
image wins. Ranks are those of step scores at the last call of a stage, by default the reward of the x0 predicted there, which
costs a decode and a reward but no NFE. All seeds of a stage have the same levels, so raw scores may be compared. With ceil(S/4) and
ceil(S/2) calls of S that is

    NFE = 2N ceil(S/4) + N (ceil(S/2) - ceil(S/4)) + N/2 (S - ceil(S/2)),   about N S

and the number of seeds is the largest that the budget pays for. The schedule is that of the paper's table of methods
at matched compute (there N = 4); the numbers of its sections and equations could not be looked up.
"""

from __future__ import annotations

from mcts_ray.search.base import Outcome, Work
from mcts_ray.search.trajectories import Trajectories


class PSP(Trajectories):
    """Progressive seed pruning on the ask/tell units."""

    extendable = False  # all seeds begin together

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        calls = self.trajectory_nfe
        cuts = sorted({0, -(-calls // 4), -(-calls // 2), calls})  # the first two coincide on very short trajectories
        self.stages = list(zip(cuts, cuts[1:]))
        self.trajectories = [self.trajectory(index) for index in range(self._seeds())]
        self.stage = 0
        self.running = list(range(len(self.trajectories)))
        self._waiting = list(self.running)
        self._scores: dict[int, float] = {}
        self._rewards: dict[int, float] = {}
        self._reached = [0] * len(self.trajectories)
        self._index: dict[str, int] = {}

    def _seeds(self) -> int:
        """The largest number of seeds that budget and decodes pay for; every stage halves it, rounded up."""

        def fits(n: int) -> bool:
            sizes = [-(-n // 2**stage) for stage in range(len(self.stages))]
            nfe = sum(size * (stop - start) for size, (start, stop) in zip(sizes, self.stages))
            decodes = sizes[-1] + sum(sizes[:-1]) * self.setting.score_decodes
            return nfe <= self.budget and (self.max_decodes is None or decodes <= self.max_decodes)

        n = 0
        while fits(n + 1):
            n += 1
        return n

    def _propose(self) -> Work | None:
        if not self._waiting:
            return None
        index = self._waiting.pop(0)
        start, stop = self.stages[self.stage]
        edges = self.trajectories[index]
        last = self.stage == len(self.stages) - 1
        walk = edges[start:] if last else edges[start:stop]
        kept = () if last else (walk[-1].node,)
        parent = edges[start - 1].node if start else None
        name = f"{self.id}/{self.stage}.{index}"
        self._index[name] = index
        action = "jump" if start else "seed"
        return Work(name, self.id, self.setting, parent, action, walk, kept, scored=kept)

    def _apply(self, work: Work, outcome: Outcome) -> None:
        index = self._index.pop(work.id)
        if outcome.error is None:
            self._reached[index] += len(work.edges)
            if outcome.reward is not None:
                self._rewards[index] = outcome.reward
            scores = dict(outcome.scores)
            for node in work.scored:
                if scores.get(node) is not None:
                    self._scores[index] = scores[node]
        if not self._waiting and not self._in_flight:
            self._next_stage()

    def _next_stage(self) -> None:
        """Keep the better half of the seeds that this stage was begun with; those without a score are out."""
        if self.stage == len(self.stages) - 1:
            return
        keep = -(-len(self.running) // 2)
        ranked = sorted(self._scores, key=lambda index: (-self._scores[index], index))
        self.running, self._scores = sorted(ranked[:keep]), {}
        self._waiting = list(self.running)
        self.stage += 1

    def _spent(self) -> bool:
        return not self._waiting

    def nodes(self) -> list[dict]:
        """Every state reached; the value of a trajectory is its reward (None: pruned or failed)."""
        nodes = []
        for index, edges in enumerate(self.trajectories):
            reward = self._rewards.get(index)
            for edge, above in zip(edges[: self._reached[index]], (None, *edges)):
                action = "seed" if above is None else f"jump {above.level - edge.level}"
                node = {"id": edge.node, "parent": above and above.node, "level": edge.level, "action": action}
                nodes.append({**node, "visits": int(reward is not None), "value": reward})
        return nodes
