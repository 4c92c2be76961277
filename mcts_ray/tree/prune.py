"""Pruning: which subtrees selection no longer enters, when they come back, and which states are kept.

    statistical   a child is dropped if mean + z sd < max over its siblings of (mean - z sd), both with enough returns;
                  mean = (n0 prior + sum R) / (n0 + n), sd = sigma_w / sqrt(n0 + n)
    stages        when shares of the budget are spent, the better half of the seeds' subtrees stays (by mean, rounded up)
    gain          a node is never widened if the gain predicted for a jump from its level is not above 0; of the jumps from a node
                  those are left out that are predicted to gain nothing over another one (`hopeless`)
    memory        states are let go (`released`): those of a subtree when it is pruned, any other when nothing has started from it
                  for a share of the budget

A pruned node keeps its statistics, counts in all values and means, and is revived once all of its siblings' means are below its
own; not if it was fused with them. So is one whose states have been let go, and one that was only cold is entered like any other: what
is to start from such a state makes it again, from the nearest state above that is still kept, by the same edges and the noise of the
same ids (`Pruner.lost`). That costs a call for each state on the way, which is booked. A state whose noise was fused, or that lies
below one, cannot be made again from ids alone and is never let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mcts_ray.tree.backup import mean
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import Tree

RULES = ("statistical", "stages", "gain", "memory")
COUNTS = ("pruned", "statistical", "stages", "gain", "revived", "evicted", "remade")
Gain = Callable[[int, int], "float | None"]  # (parent's level, k) -> predicted gain of the jump; None: no opinion
NodeGain = Callable[[Node, int], "float | None"]  # (parent, k) -> the same for a jump from this very state


@dataclass(frozen=True)
class Pruning:
    """The rules (names in `RULES`) and their constants.

    z: half width of the statistical bounds. least: returns that a bound needs. halvings, cold: shares of the budget, after which
    seeds are halved, and for which a state is kept that nothing starts from. revive: whether pruned nodes may come back.
    """

    rules: tuple[str, ...]
    gain: Gain | None = None
    z: float = 2.0
    least: int = 4
    halvings: tuple[float, ...] = (0.5, 0.75)
    cold: float = 1 / 8
    revive: bool = True
    node_gain: NodeGain | None = None

    def hopeless(self, at: int | Node, k: int) -> bool:
        """Whether children by a jump of k from this level, or from this node, are not worth their evaluation."""
        predict = self.node_gain if isinstance(at, Node) else self.gain
        gain = predict(at, k) if predict and "gain" in self.rules else None
        return gain is not None and gain <= 0


class Pruner:
    """Prunes one tree, whose open nodes are those whose states are kept. spared: nodes whose states must stay.

    counts: so far, nodes pruned (in all and by rule), nodes not opened and jumps left out by `gain`, nodes revived, states let go
    and states made again. released: ids of states to let go, for whoever takes them.
    """

    def __init__(self, tree: Tree, pruning: Pruning, budget: int, spared: Callable[[Node], bool] = lambda node: False) -> None:
        self.tree = tree
        self.pruning = pruning
        self.budget = budget
        self.counts = dict.fromkeys(COUNTS, 0)
        self.released: list[str] = []
        self._spared = spared
        self._halvings = sorted(pruning.halvings) if "stages" in pruning.rules else []
        self._pruned: set[Node] = set()
        self._remembers = "memory" in pruning.rules
        self._used: dict[Node, int] = {}  # of each state that is kept, in this order: what had been spent when it last was of use
        self._making: set[Node] = set()

    def update(self, leaf: Node, spent: int) -> None:
        """A reward has been backed up from `leaf`; `spent` NFE so far."""
        if self._remembers:
            self._use(leaf, spent)
        for parent in leaf.path()[1:]:
            self._revive(parent)
            if "statistical" in self.pruning.rules:
                self._compare(parent)
        while self._halvings and spent >= self._halvings[0] * self.budget:
            del self._halvings[0]
            self._halve()
        limit = spent - self.pruning.cold * self.budget
        cold = []
        for node, used in self._used.items():
            if used > limit:
                break
            cold.append(node)
        self._let_go(cold)

    # subtrees ------------------------------------------------------------------------------------------------------

    def _compare(self, parent: Node) -> None:
        z, within = self.pruning.z, self.tree.spread.sd
        known = [child for child in parent.children if child.returns >= self.pruning.least and not child.pruned]
        if len(known) < 2:
            return
        floor = max(mean(child) - z * child.sd(within) for child in known)
        for child in known:
            if mean(child) + z * child.sd(within) < floor:
                self._prune(child, "statistical")

    def _halve(self) -> None:
        seeds = [seed for seed in self.tree.root.arms if seed.returns]
        ranked = sorted(seeds, key=lambda seed: (-mean(seed), seed.id))
        for seed in ranked[-(-len(ranked) // 2) :]:
            self._prune(seed, "stages")

    def _prune(self, node: Node, rule: str) -> None:
        """Selection enters it no more; where it could not anyway, there is nothing to prune."""
        if node in node.parent.arms:
            node.parent.arms.remove(node)
            node.pruned = True
            self._pruned.add(node)
            self.counts["pruned"] += 1
            self.counts[rule] += 1
            if self._remembers:
                self._let_go(_subtree(node))

    def _revive(self, parent: Node) -> None:
        pruned = [child for child in parent.children if child in self._pruned] if self._pruned and self.pruning.revive else []
        if not pruned:
            return
        fused = {id for child in parent.children for id in child.particles}
        best = max((mean(child) for child in parent.children if child.returns and not child.pruned), default=float("-inf"))
        for child in pruned:
            if mean(child) > best and child.id not in fused:
                self._pruned.remove(child)
                child.pruned = False
                parent.arms.append(child)
                self.counts["revived"] += 1

    # states --------------------------------------------------------------------------------------------------------

    def lost(self, node: Node) -> list[Node]:
        """What has to be made again before a child of `node` can start, from the top; nothing where its state is kept."""
        path = []
        while self._remembers and node is not self.tree.root and node not in self._used:
            path.append(node)
            node = node.parent
        return path[::-1]

    def waits(self, node: Node) -> bool:
        """Whether its state is being made again."""
        return node in self._making

    def begin(self, path: Sequence[Node]) -> None:
        """These states are being made again; should one of them still wait to be let go, it stays."""
        self._making.update(path)
        again = {node.id for node in path}
        self.released = [id for id in self.released if id not in again]

    def end(self, path: Sequence[Node], spent: int | None) -> None:
        """They have been made again when so much was spent; None: they could not be."""
        self._making.difference_update(path)
        if spent is not None:
            self.counts["remade"] += len(path)
            for node in path:
                if node.open:
                    self._touch(node, spent)

    def _use(self, leaf: Node, spent: int) -> None:
        """New states have been kept, and one above them has been of use."""
        for node in leaf.path()[:-1]:
            if node.returns > 1:
                if node in self._used:
                    self._touch(node, spent)
                break
            if node.open:
                self._touch(node, spent)

    def _touch(self, node: Node, spent: int) -> None:
        self._used.pop(node, None)
        self._used[node] = spent

    def _let_go(self, nodes: Iterable[Node]) -> None:
        """Let go of the states of these nodes; not while something is out below one, and not where it could not be made again."""
        for node in nodes:
            fused = any(above.particles for above in node.path())
            if node in self._used and not node.in_flight and not fused and not self._spared(node):
                del self._used[node]
                self.released.append(node.id)
                self.counts["evicted"] += 1


def _subtree(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children
