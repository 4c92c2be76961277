"""Demon, Tanh variant (Yeh, Lee and Chen, arXiv 2410.05760, section 4): each step is made with the best mixture of K noises.

K children are drawn and valued, v_k = r(x0(x_{t-1}^k)) by the child's own predicted x0; the step is then made with

    z* = sqrt(d) sum_k w_k z_k / ||sum_k w_k z_k||,   w_k = tanh((v_k - mean v) / tau),   tau = the standard deviation of v

The paper's setting: K = 16, adaptive tau. Each step costs K + 1 NFE, the last of them for the state that goes on: NFE =
1 + (K + 1)(T - 1). Unlike the paper, which values a child by an ODE or a consistency model from there on, one prediction is all that
is spent on it; the steps are those of DDIM with eta = 1, not of the paper's Heun scheme, and tau is that of each step. Where all
values are equal, or a fused noise cannot be made, the best child goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcts_ray.search.base import Fuse
from mcts_ray.search.rounds import Rounds, Script, State, top
from mcts_ray.tree.weights import Refusal, fusion_weights

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig


class Demon(Rounds):
    """Demon on the ask/tell units.

    offspring: K at most; a run has as many as what is left pays for, and runs follow each other while the budget lasts.
    A single child is not valued, it simply goes on.
    """

    def __init__(self, *args, offspring: int = 16, **options) -> None:
        super().__init__(*args, **options)
        self.offspring = offspring

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"offspring": config.offspring}

    def _script(self) -> Script:
        while children := self.largest(self.offspring, self._cost):
            yield from self._run(children)

    def _cost(self, children: int) -> tuple[int, int]:
        moves, several = self.trajectory_nfe - 1, children > 1
        return 1 + (children + several) * moves, self.decodes(1, children * moves * several)

    def _run(self, children: int) -> Script:
        (state,) = yield [self.walk(None, self.path[:1], score=False)]
        for level in self.path[1:-1]:
            if state is None:
                return
            drawn = yield [self.walk(state, [level], score=children > 1) for _ in range(children)]
            rule = self._mixture(drawn)
            (mixed,) = (yield [self.walk(state, [level], score=False, fuse=rule)]) if rule else (None,)
            state = mixed or top(drawn)
        if state:
            yield [self.walk(state, [0])]

    def _mixture(self, drawn: Sequence[State | None]) -> Fuse | None:
        there = [state for state in drawn if state]
        weights = fusion_weights("signed", [state.value for state in there], fewest=2)
        if isinstance(weights, Refusal):
            return None
        return Fuse("demon", tuple(there[index].node for index in weights.kept), weights.a)
