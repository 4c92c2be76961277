"""SVDD, soft value-based decoding (Li et al., arXiv 2408.08252, algorithm 1), with the posterior-mean value ("SVDD-PM").

One state walks; at each step M children are drawn, each is valued by the reward of its own predicted x0, v = r(x0(x_{t-1})), and
one goes on with probability proportional to exp(v / alpha). The paper's image experiments: M = 20, alpha -> 0 (the best child),
eta = 1. A child's prediction is kept, so that NFE = 1 + M (T - 1); the public code pays for the chosen child once more.

The move to level 0 costs no NFE and adds next to no noise: it is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcts_ray.search.resampling import normalised
from mcts_ray.search.rounds import Rounds, Script, State, top

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


class SVDD(Rounds):
    """SVDD on the ask/tell units.

    offspring: M at most; a run has as many as what is left pays for, and runs follow each other while the budget lasts.
    A single child is not valued. strength: 1 / alpha; None: the best child.
    """

    def __init__(self, *args, offspring: int = 20, strength: float | None = None, **options) -> None:
        super().__init__(*args, **options)
        self.offspring = offspring
        self.strength = strength

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"offspring": config.offspring, "strength": config.strength}

    def _script(self) -> Script:
        while children := self.largest(self.offspring, self._cost):
            yield from self._run(children)

    def _cost(self, children: int) -> tuple[int, int]:
        drawn = children * (self.trajectory_nfe - 1)
        return 1 + drawn, self.decodes(1, drawn * (children > 1))

    def _run(self, children: int) -> Script:
        (state,) = yield [self.walk(None, self.path[:1], score=False)]
        for level in self.path[1:-1]:
            if state is None:
                return
            state = self._choose((yield [self.walk(state, [level], score=children > 1) for _ in range(children)]))
        if state:
            yield [self.walk(state, [0])]

    def _choose(self, states: Sequence[State | None]) -> State | None:
        there = [state for state in states if state]
        if self.strength is None or not there:
            return top(there)
        weight = normalised([self.strength * state.value for state in there])
        return there[self.rng.choice(len(there), p=weight)]
