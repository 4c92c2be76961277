"""The search tree: nodes, selection (WU-UCT), progressive widening, fusion, values and backup. Neither torch nor Ray."""

from mcts_ray.tree.backup import BACKUPS, Soft, maximum, mean
from mcts_ray.tree.fuse import Fusing, Fusions, Offer
from mcts_ray.tree.node import Node
from mcts_ray.tree.prune import Pruner, Pruning
from mcts_ray.tree.select import select
from mcts_ray.tree.tree import State, Tree
from mcts_ray.tree.values import Prior, Spread
from mcts_ray.tree.widen import Widening

__all__ = [
    "BACKUPS",
    "Fusing",
    "Fusions",
    "Node",
    "Offer",
    "Prior",
    "Pruner",
    "Pruning",
    "Soft",
    "Spread",
    "State",
    "Tree",
    "Widening",
    "maximum",
    "mean",
    "select",
]
