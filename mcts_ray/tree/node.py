"""A node of the tree: one state on one denoising path, and the statistics of everything found below it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mcts_ray.tree.values import Prior
from mcts_ray.tree.weights import Fused


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """A state at `level`, made from `parent` by a jump of `k` levels with branching angle `phi` (k = 0: a seed).

    visits, in_flight: N completed and O dispatched simulations through it. returns, total, best: count n, sum and
    maximum of the terminal rewards below it. value: V by the backup rule. certainty: 1 / sqrt(max(1, N + O)).
    firsts, completed: sum and count of the returns of the roll-outs that made its unfused children.
    children: all, dispatched ones included; arms: those that selection may enter. open: it may be widened.
    draws: children ever dispatched with noise of their own, lost ones included, so that none is drawn twice; lost: how
    many children were lost. particles: ids of the siblings of which it was fused; empty for all other nodes. fused: what is
    said of that.
    pruned: it has been taken out of its parent's arms (`mcts_ray.tree.prune`).
    promised: what stands for the reward of a walk that has stopped here, until it comes from further down; walk: the node that this
    walk began with.
    """

    id: str
    parent: Node | None
    level: int
    k: int = 0
    phi: float = 0.0
    open: bool = False
    visits: int = 0
    in_flight: int = 0
    returns: int = 0
    total: float = 0.0
    best: float = -math.inf
    value: float = math.nan
    certainty: float = 1.0
    firsts: float = 0.0
    completed: int = 0
    score: float | None = None
    prior: Prior | None = None
    prior_weight: float = 0.0
    prior_sum: float = 0.0
    draws: int = 0
    lost: int = 0
    particles: tuple[str, ...] = ()
    fused: Fused | None = None
    pruned: bool = False
    promised: float | None = None
    walk: Node | None = None
    children: list[Node] = field(default_factory=list)
    arms: list[Node] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Node({self.id[:8]}, level {self.level}, N {self.visits}, O {self.in_flight}, V {self.value:.3f})"

    @property
    def action(self) -> str:
        """What made it, as files and reports say it."""
        if self.particles:
            return "fuse"
        return f"jump {self.k}" if self.k else "seed"

    @property
    def terminal(self) -> bool:
        """Whether it is a finished image."""
        return self.level == 0

    @property
    def waiting(self) -> bool:
        """Whether a walk has stopped here and nothing has gone on from it."""
        return self.promised is not None and not self.children

    @property
    def fresh(self) -> float:
        """Predicted value of one more child: its own prior joined with what the own roll-out of each unfused child returned.

        (n0 prior + sum of first returns) / (n0 + their number). Later returns of a child are left out: they come from
        where the search chose to look.
        """
        return (self.prior_sum + self.firsts) / (self.prior_weight + self.completed)

    def believe(self, prior: Prior) -> None:
        """Take a calibrated prior; a finished image needs none (n0 = 0)."""
        if not self.terminal:
            self.prior = prior
            self.prior_weight = prior.weight
            self.prior_sum = prior.weight * prior.mean

    def sd(self, within: float) -> float:
        """sigma_w / sqrt(n0 + n), sigma_w being its prior's or, without one, `within`; infinite if nothing is known."""
        known = self.prior_weight + self.returns
        sigma_w = math.sqrt(self.prior.within) if self.prior else within
        return sigma_w / math.sqrt(known) if known else math.inf

    def path(self) -> list[Node]:
        """From this node up to the root."""
        nodes, node = [], self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes
