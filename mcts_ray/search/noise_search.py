"""Search over the initial noise alone (Ma et al., arXiv 2501.09732, section 3.2): every candidate is a whole trajectory.

Random search: rounds of 1, 2, 4, ... noises, and the best image wins; with equal seeds these are the images of best-of-n.

Zero-order search: around a pivot n, M = 4 neighbours are generated, each a rotation of the pivot that keeps its norm,

    n' = ||n|| (c n / ||n|| + sqrt(1 - c^2) w),   w a random unit vector orthogonal to n,   c = 0.95

as in the public re-implementation, and the best of them becomes the pivot. Where none is better than the pivot it is rejected, and
the search restarts from a new noise, without which it would stay at a fixed point. With eta above 0 the noises of the steps are each
candidate's own, so that neighbours differ by more than the rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcts_ray.search.rounds import Rounds, Script, State, onward, top

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


class RandomSearch(Rounds):
    """Rounds of doubling size; the last is cut down to what the budget pays for."""

    def _script(self) -> Script:
        size = 1
        while affordable := self.pays_for(self.trajectory_nfe, 1):
            yield [self.walk(None, self.path) for _ in range(min(size, affordable))]
            size *= 2


class ZeroOrder(Rounds):
    """offspring: M, the last round cut down to what the budget pays for. cosine: c."""

    def __init__(self, *args, offspring: int = 4, cosine: float = 0.95, **options) -> None:
        super().__init__(*args, **options)
        self.offspring = offspring
        self.cosine = cosine

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"offspring": config.offspring, "cosine": config.cosine}

    def _script(self) -> Script:
        pivot, value = None, None
        while affordable := self.pays_for(self.trajectory_nfe, 1):
            if pivot is None:
                works = [self.walk(None, self.path)]
            else:
                rule = onward(pivot, "rotate", self.cosine)
                works = [self.walk(None, self.path, fuse=rule) for _ in range(min(self.offspring, affordable))]
            states: list[State | None] = yield works
            best = top(states)
            if best and (value is None or best.value > value):
                pivot, value = works[states.index(best)], best.value
            else:
                pivot, value = None, None
