"""Noise trajectory search (arXiv 2506.03164, its epsilon-greedy search): at each step a local search for the noise it is made with.

A step holds a pivot noise z. In each of K rounds N candidates are tried, each of them with probability epsilon a fresh draw and
otherwise a neighbour of the pivot,

    z' = z + U lambda sqrt(d) u,   u a random direction, U uniform in (0, 1)

every candidate's state is valued by the reward of its own predicted x0, and the best becomes the pivot. The step is made with the
last pivot. The paper's defaults: N = 4, K = 20, lambda = 0.15, epsilon = 0.4. NFE = 1 + N K (T - 1).
The number of the paper's algorithm could not be looked up.

The first pivot is one of the N candidates of the first round, and a pivot only gives way to a better one, so that a step never
ends below what it has seen. The initial noise is not searched, and the move to level 0, which adds next to no noise, is made once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcts_ray.search.base import Work
from mcts_ray.search.rounds import Rounds, Script, State, onward

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

DIGITS = 6  # of U lambda, which enters a node id


class NTS(Rounds):
    """Epsilon-greedy noise search on the ask/tell units.

    offspring: N. rounds: K. radius: lambda. Both sizes shrink, K first, to what is left, and runs follow each other while the
    budget lasts. A single candidate is not valued.
    """

    def __init__(
        self, *args, offspring: int = 4, rounds: int = 20, radius: float = 0.15, epsilon: float = 0.4, **options
    ) -> None:
        super().__init__(*args, **options)
        self.offspring = offspring
        self.rounds = rounds
        self.radius = radius
        self.epsilon = epsilon

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"offspring": config.offspring, "rounds": config.rounds, "radius": config.radius, "epsilon": config.epsilon}

    def _script(self) -> Script:
        while tries := self.largest(self.offspring * self.rounds, self._cost):
            size = min(self.offspring, tries)
            yield from self._run(size, tries // size)

    def _cost(self, tries: int) -> tuple[int, int]:
        drawn = tries * (self.trajectory_nfe - 1)
        return 1 + drawn, self.decodes(1, drawn * (tries > 1))

    def _run(self, size: int, rounds: int) -> Script:
        (state,) = yield [self.walk(None, self.path[:1], score=False)]
        for level in self.path[1:-1]:
            if state is None:
                return
            pivot, best = None, None
            for _ in range(rounds):
                works: list[Work] = []
                for _ in range(size):
                    works.append(self._candidate(state, level, pivot, score=size * rounds > 1))
                    pivot = pivot or works[0]
                for work, reached in zip(works, (yield works)):
                    if reached and (best is None or reached.value > best.value):
                        pivot, best = work, reached
            state = best
        if state:
            yield [self.walk(state, [0])]

    def _candidate(self, state: State, level: int, pivot: Work | None, score: bool) -> Work:
        """A step with a fresh noise or, with probability 1 - epsilon, with one near that of `pivot`."""
        if pivot is None or self.rng.random() < self.epsilon:
            return self.walk(state, [level], score)
        return self.walk(state, [level], score, fuse=onward(pivot, "perturb", round(self.rng.random() * self.radius, DIGITS)))
