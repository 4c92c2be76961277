"""Beam search over noises: TreeG's sample-current variant (Guo et al., arXiv 2502.11420, "TreeG-SC").

An active set of A states walks; each draws K children, every child is valued by the reward of its own predicted x0, and the best A
of all A K children go on, whoever their parents are. A = 1 is SVDD with the best child. K = 2 by default, as in the account of
TreeG by arXiv 2505.23614 (table 2). NFE = A + A K (T - 1).

The move to level 0 costs no NFE and adds next to no noise: each of the last A states makes it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcts_ray.search.rounds import Rounds, Script

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


class Beam(Rounds):
    """Beam search on the ask/tell units.

    active: A, and whole runs follow each other while the budget lasts; None: one run with as many as it pays for.
    offspring: K. Both shrink, A first, to what is left; a single child of each is not valued.
    """

    def __init__(self, *args, active: int | None = None, offspring: int = 2, **options) -> None:
        super().__init__(*args, **options)
        self.active = active
        self.offspring = offspring

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"active": config.population, "offspring": config.offspring}

    def _script(self) -> Script:
        while children := self.largest(self.offspring, lambda children: self._cost(1, children)):
            size = self.largest(self.active or self.nfe_left, lambda size: self._cost(size, children))
            yield from self._run(size, children)

    def _cost(self, size: int, children: int) -> tuple[int, int]:
        drawn = size * children * (self.trajectory_nfe - 1)
        return size + drawn, self.decodes(size, drawn * (children > 1))

    def _run(self, size: int, children: int) -> Script:
        states = yield [self.walk(None, self.path[:1], score=False) for _ in range(size)]
        for level in self.path[1:-1]:
            parents = [state for state in states if state]
            if not parents:
                return
            states = yield [self.walk(parent, [level], children > 1) for parent in parents for _ in range(children)]
            states = sorted((state for state in states if state), key=lambda state: -state.value)[:size]
        if any(states):
            yield [self.walk(state, [0]) for state in states if state]
