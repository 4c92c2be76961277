"""Rollover budget forcing (Kim et al., arXiv 2503.19385, section 5 and algorithm 1).

Each of B samples starts from the best of n_init noises, by the reward of its predicted x0, r*. Every step has a quota Q of children,
which are drawn and valued one at a time: the first child with a value above r* goes on, r* becomes its value, and what is left of the
quota rolls over to the next step,

    Q <- Q0 + (Q - used),    Q0 = max(1, floor((NFE of the sample - n_init) / S))

S being the steps of a trajectory. If none is better, the best child of the step goes on with r* as it was, and Q <- Q0. At the last
step whose children are valued all that is left is spent, and its best child is finished. The paper's setting: B = 2, n_init = 25 with
500 NFE and S = 10, so that Q0 = 22; 25 noises are a tenth of a sample's NFE, which is also the most that is spent on noises here. Its
change of interpolant, from linear to variance preserving, is a matter of the model's levels and is not made here; eta = 1 takes the
place of its diffusion coefficient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcts_ray.search.rounds import Rounds, Script, State, together, top

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

INIT_SHARE = 10  # at most one in so many NFE goes to initial noises


class RBF(Rounds):
    """Rollover budget forcing on the ask/tell units.

    samples: B at most, each with its own equal share of the budget. init: n_init at most. Where decodes are too few to value every
    state, a sample is a trajectory without search.
    """

    def __init__(self, *args, samples: int = 2, init: int = 25, **options) -> None:
        super().__init__(*args, **options)
        self.samples = samples
        self.init = init

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"samples": config.population, "init": config.init}

    def _script(self) -> Script:
        calls = self.trajectory_nfe
        while samples := min(self.samples, self.pays_for(calls, 1)):
            searching = min(samples, self.pays_for(calls, self.decodes(1, calls)))
            if searching:
                nfe = self.nfe_left // searching
                if self.setting.score_decodes:
                    nfe = int(min(nfe, self.decodes_left // searching - 1))
                yield from together([self._sample(nfe) for _ in range(searching)])
            else:
                yield [self.walk(None, self.path) for _ in range(samples)]

    def _sample(self, nfe: int) -> Script:
        """One sample with so many NFE; every state is scored, and its image decoded."""
        *steps, last = self.path[1:-1] or [0]
        moves = self.trajectory_nfe - 1
        init = max(1, min(self.init, nfe // INIT_SHARE, nfe - moves))
        state = top((yield [self.walk(None, self.path[:1]) for _ in range(init)]))
        nfe -= init
        quota = base = max(1, nfe // self.trajectory_nfe)
        record = state.value if state else None
        for level in steps:
            if state is None:
                return
            best: State | None = None
            used = 0
            while used < quota and not (best and best.value > record):
                (child,) = yield [self.walk(state, [level])]
                used += 1
                best = top([best, child])
            if best and best.value > record:
                record, quota = best.value, base + quota - used
            else:
                quota = base
            nfe -= used
            state = best
        if state and last:
            state = top((yield [self.walk(state, [last]) for _ in range(nfe)]))
        if state:
            yield [self.walk(state, [0])]
