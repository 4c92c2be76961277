"""Depth-first search with backtracking (Zhang et al., arXiv 2505.23614, global search, "DFS"): what looks bad is sent back and tried again.

One state walks; at check levels it is valued by the reward of its predicted x0. If the value is below a threshold, the state is
re-noised by the forward process to a higher level s and walks down again, until the backtrack budget is spent; then the best state that
has been seen at that check goes on. Re-noising needs no kernel of its own: with x_a = alpha_a x0 + sigma_a eps,

    x_s = (alpha_s / alpha_a) x_a + noise = alpha_s x0 + sigma_s (cos(phi) eps + sin(phi) z)
    cos(phi) = alpha_s sigma_a / (alpha_a sigma_s)

is the kernel of every jump, with the angle that `phi` gives for jumps upwards, whatever eta is.

The paper's thresholds are tuned per task; by default it is here the mean of the values seen at the same check before, which needs
no unit of the reward. Checks (0.2, 0.4, 0.6, 0.8), the way back (a quarter of a trajectory) and the backtracks (8 per trajectory) are
choices of this implementation, which follows a description of the paper's method in words; its equation numbers could not be looked
up. On its way down a re-noised state is valued at the check that it failed, not at earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mcts_ray.search.rounds import Rounds, Script, State, top

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


class DFS(Rounds):
    """Depth-first search on the ask/tell units; trajectories follow each other while the budget lasts.

    threshold: delta; None: the mean of what was seen at the check before. score_at: checks, in shares of a trajectory's calls.
    backtracks: how often one trajectory may be sent back. reach: how far, as a share of a trajectory's calls. What the trajectory
    needs to be finished is never spent on going back; where decodes are too few for its checks it walks without them.
    """

    def __init__(
        self,
        *args,
        threshold: float | None = None,
        score_at: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
        backtracks: int = 8,
        reach: float = 0.25,
        **options,
    ) -> None:
        super().__init__(*args, **options)
        self.threshold = threshold
        self.backtracks = backtracks
        self.reach = max(1, math.ceil(reach * self.trajectory_nfe - 1e-9))
        self.parts = self.stages(score_at)
        self._seen: dict[int, list[float]] = {part[-1]: [] for part in self.parts}

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {
            "threshold": config.threshold,
            "score_at": config.score_at,
            "backtracks": config.backtracks,
            "reach": config.reach,
        }

    def _script(self) -> Script:
        while self.pays_for(self.trajectory_nfe, 1):
            if self.pays_for(self.trajectory_nfe, self.decodes(1, len(self.parts) - 1)):
                yield from self._run()
            else:
                yield [self.walk(None, self.path)]

    def _run(self) -> Script:
        state, backtracks = None, self.backtracks
        for done, part in enumerate(self.parts[:-1], 1):
            (state,) = yield [self.walk(state, part)]
            if state is None:
                return
            tried = [state]
            while backtracks and self._fails(state) and (back := self._way_back(state.level, done)):
                backtracks -= 1
                (again,) = yield [self.walk(state, back)]
                if again is None:
                    break
                state = again
                tried.append(state)
            self._seen[state.level] += [one.value for one in tried if one.value > -math.inf]
            state = top(tried)
        yield [self.walk(state, self.parts[-1])]

    def _fails(self, state: State) -> bool:
        if self.threshold is not None:
            return state.value < self.threshold
        seen = self._seen[state.level]
        return bool(seen) and state.value < fmean(seen)

    def _way_back(self, level: int, done: int) -> Sequence[int]:
        """From the re-noised level down to `level`; nothing if there is none above, or the rest would not be paid for."""
        here = self.path.index(level)
        back = self.path[max(0, here - self.reach) : here + 1]
        rest = self.trajectory_nfe - here - 1
        fits = self.pays_for(len(back) + rest, self.decodes(1, len(self.parts) - done))
        return back if here and fits else ()
