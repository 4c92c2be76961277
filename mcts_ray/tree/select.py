"""Selection: from the root to the node that gets a new child, by WU-UCT (Liu et al., ICLR 2020, arXiv 1810.11755).

    argmax_c  V_c + beta s sqrt(2 ln max(1, N_p + O_p) / max(1, N_c + O_c))

Simulations in flight (O) count as visits and leave the values alone. s is the running standard deviation of returns,
so beta has no unit. Ties go to the smaller id. Where the node may be widened, a virtual new child competes with the
value predicted for it (`Node.fresh`) and a count of 1; it wins ties. So does a virtual fused child where there is one to
offer (`mcts_ray.tree.fuse`), which needs no permit and loses ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from mcts_ray.tree.fuse import Offer
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import Tree
from mcts_ray.tree.widen import Widening


def select(
    tree: Tree,
    beta: float,
    widening: Widening,
    affordable: Callable[[Node], bool],
    offers: Callable[[Node], Offer | None] | None = None,
) -> Node | Offer | None:
    """The node to widen, or the fusion to take among those that `offers` has; None if no open node is `affordable`.

    Changes nothing.
    """
    dead: set[Node] = set()
    root, unit = tree.root, beta * tree.spread.sd
    while root not in dead:
        node = root
        while True:
            bonus = unit * math.sqrt(2 * math.log(node.visits + node.in_flight or 1))
            if node.waiting and affordable(node):
                return node
            arm, bound = best_arm(node.arms, bonus, dead)
            free = node.open and node.promised is None and (arm is None or node.fresh + bonus >= bound and widening.permits(node))
            widen = free and affordable(node)
            if offers and node.open and (offer := offers(node)) and affordable(node):
                if offer.value + bonus > (node.fresh + bonus if widen else bound):
                    return offer
            if widen:
                return node
            if arm is None:
                dead.add(node)
                break
            node = arm
    return None


def best_arm(arms: list[Node], bonus: float, dead: AbstractSet[Node] = frozenset()) -> tuple[Node | None, float]:
    """The child with the highest upper bound that is not `dead`, and that bound; `bonus` is beta s sqrt(2 ln (N_p + O_p))."""
    if dead:
        arms = [arm for arm in arms if arm not in dead]
    if not arms:
        return None, -math.inf
    bounds = [arm.value + bonus * arm.certainty for arm in arms]
    bound = max(bounds)
    if bounds.count(bound) == 1:
        return arms[bounds.index(bound)], bound
    return min((arm for arm, upper in zip(arms, bounds) if upper == bound), key=lambda arm: arm.id), bound
