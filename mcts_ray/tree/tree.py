"""The tree and the life of a simulation in it: dispatched, then completed or lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mcts_ray.tree.backup import Rule, backup, backup_further, mean
from mcts_ray.tree.node import Node
from mcts_ray.tree.values import Prior, Spread

Calibration = Callable[[int, float], Prior]  # (level, raw step score) -> what it says of the final reward
TOLERATED = 3  # lost children of a node, besides as many as it has, before it is no longer widened


@dataclass(frozen=True)
class State:
    """A state on a path: its node id, its level, the jump `k` and angle `phi` that led to it, and whether it may be widened."""

    id: str
    level: int
    k: int = 0
    phi: float = 0.0
    open: bool = False


class Tree:
    """All nodes by id, parents before children; the root stands above the seeds and is no state itself.

    Raw step scores of different levels cannot be compared, so they stay on their nodes (`Node.score`) and enter values
    only through a `calibration`. One that learns (`observe`, `due`: `mcts_ray.reward.refresh`) is shown where trajectories ended.
    """

    def __init__(self, root: str, level: int, rule: Rule = mean, calibration: Calibration | None = None) -> None:
        self.root = Node(root, None, level, open=True)
        self.rule = rule
        self.calibration = calibration
        self.spread = Spread()
        self._nodes: dict[str, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, id: str) -> Node:
        return self._nodes[id]

    def dispatch(self, parent: Node, state: State, particles: tuple[str, ...] = ()) -> Node:
        """Reserve a new child of `parent`, fused of `particles` if there are any.

        It counts for widening at once, O += 1 on its path.
        """
        child = self._add(parent, state)
        child.particles = particles
        parent.draws += not particles
        node = parent
        while node is not None:
            node.in_flight += 1
            node.certainty = 1 / math.sqrt(node.visits + node.in_flight)
            node = node.parent
        return child

    def complete(
        self, child: Node, rollout: Iterable[State], reward: float | None, scores: Iterable[tuple[str, float]] = ()
    ) -> Node:
        """The simulation that made `child` has come back: its roll-out joins the tree, its reward is backed up.

        `scores`: raw step scores of its nodes. Returns the node of the finished image; without a reward that where the walk stops for
        now, whose prior is backed up in its place. From now on selection may enter `child` if there is something to widen in it or
        below.
        """
        stopped = child.parent if child.parent.promised is not None else None
        leaf = child
        for state in rollout:
            leaf.draws += 1
            leaf = self._add(leaf, state)
        judged = [(self._nodes[id], score) for id, score in scores]
        for node, score in judged:
            self._score(node, score)
        worth = reward
        if reward is None:
            worth = leaf.promised = leaf.prior.mean if leaf.prior else self.spread.mean
            leaf.walk = stopped.walk if stopped else child
        node = leaf
        while node is not child.parent:
            if node.open or node.arms:
                node.parent.arms.append(node)
            node = node.parent
        if stopped:
            backup_further(leaf, stopped, worth, self.rule)
            stopped.promised = None
        else:
            backup(leaf, worth, self.rule)
        if reward is not None:
            self.spread.add(reward)
            if hasattr(self.calibration, "observe"):
                self._learn([*judged, *self._on_the_way(stopped)], reward)
        return leaf

    def take_back(self, child: Node) -> None:
        """The simulation that was to make `child` never began: O -= 1 on its path, nothing else; the child is forgotten."""
        for node in child.path()[1:]:
            node.in_flight -= 1
            node.certainty = 1 / math.sqrt(max(1, node.visits + node.in_flight))
        child.parent.children.remove(child)
        del self._nodes[child.id]

    def lose(self, child: Node) -> None:
        """The simulation that made `child` failed: it is taken back, and a parent that loses too many is closed."""
        self.take_back(child)
        parent = child.parent
        parent.lost += 1
        if parent.lost >= TOLERATED + len(parent.children):
            parent.open, parent.promised = False, None

    def rows(self) -> list[dict]:
        """Every node as tree.json has it; those in flight have 0 visits and no value, fused ones name their `particles` and have what
        `Fused` says of them, pruned ones say so."""
        return [
            {
                "id": node.id,
                "parent": None if node.parent is self.root else node.parent.id,
                "level": node.level,
                "action": node.action,
                "visits": node.visits,
                "value": node.value if node.returns else None,
                "phi": node.phi,
                "score": node.score,
                **({"particles": list(node.particles)} if node.particles else {}),
                **({name: said for name, said in vars(node.fused).items() if said is not None} if node.fused else {}),
                **({"pruned": True} if node.pruned else {}),
            }
            for node in self
        ]

    def _score(self, node: Node, score: float) -> None:
        node.score = score
        if self.calibration:
            prior = self.calibration(node.level, score)
            node.believe(prior)
            self.spread.expect(prior)

    def _on_the_way(self, stopped: Node | None) -> list[tuple[Node, float]]:
        """The states with step scores that a walk had made before it stopped there, and went on."""
        path = stopped.path() if stopped else []
        own = path[: path.index(stopped.walk) + 1] if path else []
        return [(node, node.score) for node in own if node.score is not None]

    def _learn(self, judged: list[tuple[Node, float]], reward: float) -> None:
        """Each state with its own roll-out is one observation; when it is due, all are judged and valued again."""
        for node, score in judged:
            self.calibration.observe(node.level, score, reward)
        if not self.calibration.due():
            return
        for node in self:
            if node.score is not None:
                node.believe(self.calibration(node.level, node.score))
        for node in reversed(self._nodes.values()):  # children before parents
            if node.returns:
                node.value = self.rule(node)
        self.root.value = self.rule(self.root)

    def _add(self, parent: Node, state: State) -> Node:
        assert state.id not in self._nodes, "a node was added twice"
        node = Node(state.id, parent, state.level, state.k, state.phi, state.open, in_flight=1)
        parent.children.append(node)
        self._nodes[state.id] = node
        return node
