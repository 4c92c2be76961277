"""A slow, plain WU-UCT tree: nothing is kept but what happened, and every figure is counted anew when it is needed.

Written from algorithms and papers, not from `mcts_ray.tree`; the golden trees and the lockstep tests come from it.
"""

from __future__ import annotations

import math
import statistics
from functools import wraps


def until_something_happens(figure):
    """Count a figure once between two events."""

    @wraps(figure)
    def counted(self, id):
        key = figure.__name__, id
        if key not in self.known:
            self.known[key] = figure(self, id)
        return self.known[key]

    return counted


class ReferenceTree:
    """Nodes are dicts; `completed` is the list of (finished node, reward) and `out` the nodes of simulations in flight."""

    def __init__(self, beta, c, a, backup="mean", strength=4.0, across="max"):
        self.beta, self.c, self.a, self.backup, self.strength, self.across = beta, c, a, backup, strength, across
        self.nodes = {"root": {"parent": None, "level": None, "k": 0, "phi": 0.0, "open": True}}
        self.completed: list[tuple[str, float]] = []
        self.out: list[str] = []
        self.known = {}

    # what happens

    def dispatch(self, parent, id, level, k, phi, open):
        self.known = {}
        self.nodes[id] = {"parent": parent, "level": level, "k": k, "phi": phi, "open": open}
        self.out.append(id)

    def complete(self, child, rollout, reward):
        self.known = {}
        self.out.remove(child)
        leaf = child
        for id, level, k, open in rollout:
            self.nodes[id] = {"parent": leaf, "level": level, "k": k, "phi": 0.0, "open": open}
            leaf = id
        self.completed.append((leaf, reward))

    def lose(self, child):
        self.known = {}
        self.out.remove(child)
        del self.nodes[child]

    # what follows from it

    @until_something_happens
    def children(self, id):
        return [child for child, node in self.nodes.items() if node["parent"] == id]

    def below(self, id, other):
        while other is not None:
            if other == id:
                return True
            other = self.nodes[other]["parent"]
        return False

    @until_something_happens
    def rewards(self, id):
        return [reward for leaf, reward in self.completed if self.below(id, leaf)]

    def N(self, id):
        return len(self.rewards(id))

    @until_something_happens
    def O(self, id):  # noqa: E743
        return sum(self.below(id, child) for child in self.out)

    @until_something_happens
    def value(self, id):
        rewards = self.rewards(id)
        if self.backup == "mean":
            return sum(rewards) / len(rewards)
        if self.backup == "max":
            return max(rewards)
        children = [child for child in self.children(id) if self.N(child)]
        if not children:
            return rewards[0]
        kinds = sorted({(self.nodes[c]["k"], self.nodes[c]["phi"]) for c in children})
        groups = [[self.value(c) for c in children if (self.nodes[c]["k"], self.nodes[c]["phi"]) == kind] for kind in kinds]
        soft = [math.log(statistics.mean(math.exp(self.strength * v) for v in group)) / self.strength for group in groups]
        if self.across == "max":
            return max(soft)
        return sum(v * len(group) for v, group in zip(soft, groups)) / len(children)

    def spread(self):
        rewards = [reward for _, reward in self.completed]
        return statistics.stdev(rewards) if len(rewards) > 1 else 1.0

    def fresh(self, id):
        return statistics.mean(self.rewards(child)[0] for child in self.children(id) if self.N(child))

    def leads_somewhere(self, id, affordable):
        """Whether selection may enter a node: it has come back, and it or something below can be widened."""
        if not self.N(id):
            return False
        node = {**self.nodes[id], "id": id}
        if node["open"] and affordable(node["level"]):
            return True
        return any(self.leads_somewhere(child, affordable) for child in self.children(id))

    def select(self, affordable=lambda level: True):
        """The id of the node to widen, or None."""
        id = "root"
        if not affordable(None) and not any(self.leads_somewhere(child, affordable) for child in self.children(id)):
            return None
        while True:
            node, children = self.nodes[id], self.children(id)
            bonus = math.log(max(1, self.N(id) + self.O(id)))
            bound = {}
            for child in children:
                if self.leads_somewhere(child, affordable):
                    count = max(1, self.N(child) + self.O(child))
                    bound[child] = self.value(child) + self.beta * self.spread() * math.sqrt(2 * bonus / count)
            widen = node["open"] and affordable(node["level"])
            if widen and not bound:
                return id
            if widen and len(children) < self.c * max(1, self.N(id) + self.O(id)) ** self.a:
                if self.fresh(id) + self.beta * self.spread() * math.sqrt(2 * bonus) >= max(bound.values()) - 1e-12:
                    return id
            top = max(bound.values())
            id = min(child for child, value in bound.items() if value >= top - 1e-12)
