"""Pruning: which subtrees selection no longer enters, and when they come back.

    statistical   a child is dropped if mean + z sd < max over its siblings of (mean - z sd), both with enough returns;
                  mean = (n0 prior + sum R) / (n0 + n), sd = sigma_w / sqrt(n0 + n)
    stages        when shares of the budget are spent, the better half of the seeds' subtrees stays (by mean, rounded up)
    gain          a node is never widened if the gain predicted for a jump from its level is not above 0; of the jumps from a node
                  those are left out that are predicted to gain nothing over another one (`hopeless`)

A pruned node keeps its statistics, counts in all values and means, and is revived once all of its siblings' means are below its
own; not if it was fused with them. One that has stayed pruned for a share of the budget is given up: the states of its subtree
are let go (`released`), and it cannot come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mcts_ray.tree.backup import mean
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import Tree

RULES = ("statistical", "stages", "gain")
Gain = Callable[[int, int], "float | None"]  # (parent's level, k) -> predicted gain of the jump; None: no opinion
NodeGain = Callable[[Node, int], "float | None"]  # (parent, k) -> the same for a jump from this very state


@dataclass(frozen=True)
class Pruning:
    """The rules (names in `RULES`) and their constants.

    z: half width of the statistical bounds. least: returns that a bound needs. halvings, cold: shares of the budget, after which
    seeds are halved, and for which a pruned node may come back.
    """

    rules: tuple[str, ...]
    gain: Gain | None = None
    z: float = 2.0
    least: int = 4
    halvings: tuple[float, ...] = (0.5, 0.75)
    cold: float = 1 / 8
    node_gain: NodeGain | None = None

    def hopeless(self, at: int | Node, k: int) -> bool:
        """Whether children by a jump of k from this level, or from this node, are not worth their evaluation."""
        predict = self.node_gain if isinstance(at, Node) else self.gain
        gain = predict(at, k) if predict and "gain" in self.rules else None
        return gain is not None and gain <= 0


class Pruner:
    """Prunes one tree. counts: nodes pruned, revived and evicted so far. released: ids of evicted nodes, for whoever takes them."""

    def __init__(self, tree: Tree, pruning: Pruning, budget: int) -> None:
        self.tree = tree
        self.pruning = pruning
        self.budget = budget
        self.counts = {"pruned": 0, "revived": 0, "evicted": 0}
        self.released: list[str] = []
        self._since: dict[Node, int] = {}  # pruned nodes that may come back, and what had been spent when they were pruned
        self._evicted: set[Node] = set()
        self._halvings = list(pruning.halvings) if "stages" in pruning.rules else []

    def update(self, leaf: Node, spent: int) -> None:
        """A reward has been backed up from `leaf`; `spent` NFE so far."""
        for parent in leaf.path()[1:]:
            self._revive(parent)
            if "statistical" in self.pruning.rules:
                self._compare(parent, spent)
        while self._halvings and spent >= self._halvings[0] * self.budget:
            del self._halvings[0]
            self._halve(spent)
        self._give_up(spent)

    def _compare(self, parent: Node, spent: int) -> None:
        z, within = self.pruning.z, self.tree.spread.sd
        known = [child for child in parent.children if child.returns >= self.pruning.least and not child.pruned]
        if len(known) < 2:
            return
        floor = max(mean(child) - z * child.sd(within) for child in known)
        for child in known:
            if mean(child) + z * child.sd(within) < floor:
                self._prune(child, spent)

    def _halve(self, spent: int) -> None:
        seeds = [seed for seed in self.tree.root.arms if seed.returns]
        ranked = sorted(seeds, key=lambda seed: (-mean(seed), seed.id))
        for seed in ranked[-(-len(ranked) // 2) :]:
            self._prune(seed, spent)

    def _prune(self, node: Node, spent: int) -> None:
        """Selection enters it no more; where it could not anyway, there is nothing to prune."""
        if node in node.parent.arms:
            node.parent.arms.remove(node)
            node.pruned = True
            self._since[node] = spent
            self.counts["pruned"] += 1

    def _revive(self, parent: Node) -> None:
        pruned = [child for child in parent.children if child in self._since] if self._since else []
        if not pruned:
            return
        fused = {id for child in parent.children for id in child.particles}
        best = max((mean(child) for child in parent.children if child.returns and not child.pruned), default=float("-inf"))
        for child in pruned:
            if mean(child) > best and child.id not in fused:
                del self._since[child]
                child.pruned = False
                parent.arms.append(child)
                self.counts["revived"] += 1

    def _give_up(self, spent: int) -> None:
        """Let go of what has been pruned for long; not while something is out below it."""
        limit = spent - self.pruning.cold * self.budget
        for node in [node for node, since in self._since.items() if since <= limit and not node.in_flight]:
            for below in _subtree(node):
                self._since.pop(below, None)
                if below.open and below not in self._evicted:
                    self._evicted.add(below)
                    self.released.append(below.id)
                    self.counts["evicted"] += 1


def _subtree(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children
