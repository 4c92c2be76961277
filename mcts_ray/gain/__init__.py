"""How far to jump: the policies that choose the jump size k."""

from mcts_ray.gain.policy import Anchors, Constant, JumpPolicy, Table, make_policy

__all__ = ["Anchors", "Constant", "JumpPolicy", "Table", "make_policy"]
