"""Progressive widening: when a node may have one more child.

    children < C max(1, N + O)^a,   a in [1/4, 1/2]; DTS: 4/5

(Coulom 2007; Couetoux et al. 2011.) Children still in flight count, so that parallel simulations do not all widen at
once. Widening *permits*; whether to widen is UCB's choice (`mcts_ray.tree.select`). A node in which selection can enter
no child always permits it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcts_ray.tree.node import Node


@dataclass(frozen=True)
class Widening:
    """The constants C and a."""

    c: float = 2.0
    a: float = 0.5

    def permits(self, node: Node) -> bool:
        """Whether the node may have one more child."""
        return len(node.children) < self.c * (node.visits + node.in_flight or 1) ** self.a
