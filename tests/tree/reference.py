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
    """Nodes are dicts; `completed` is the list of (finished node, reward) and `out` the nodes of simulations in flight.

    With `fusing` (mode, after, most, depth, retire) siblings are fused; `fusions` is the list of what was tried.
    """

    def __init__(self, beta, c, a, backup="mean", strength=4.0, across="max", fusing=None):
        self.beta, self.c, self.a, self.backup, self.strength, self.across = beta, c, a, backup, strength, across
        self.nodes = {"root": {"parent": None, "level": None, "k": 0, "phi": 0.0, "open": True}}
        self.completed: list[tuple[str, float]] = []
        self.out: list[str] = []
        self.fusing = fusing
        self.fusions: list[dict] = []
        self.known = {}

    # what happens

    def dispatch(self, parent, id, level, k, phi, open, offer=None):
        self.known = {}
        self.nodes[id] = {"parent": parent, "level": level, "k": k, "phi": phi, "open": open}
        self.out.append(id)
        if offer:
            self.fusions.append({**offer, "parent": parent, "child": id, "made": True, "ratio": None})
            self.nodes[id]["particles"] = offer["particles"]

    def complete(self, child, rollout, reward):
        self.known = {}
        self.out.remove(child)
        leaf = child
        for id, level, k, open in rollout:
            self.nodes[id] = {"parent": leaf, "level": level, "k": k, "phi": 0.0, "open": open}
            leaf = id
        self.completed.append((leaf, reward))
        for index, fusion in enumerate(self.fusions):
            if fusion["child"] == child:
                self.fusions.append(self.fusions.pop(index))  # in the order in which they came back
                fusion["ratio"] = max(-2.0, min(2.0, (reward - fusion["mean"]) / fusion["gain"]))
                break

    def lose(self, child):
        self.known = {}
        self.out.remove(child)
        del self.nodes[child]
        for fusion in self.fusions:
            if fusion["child"] == child:
                fusion["made"] = False

    # what follows from it

    @until_something_happens
    def children(self, id):
        return [child for child, node in self.nodes.items() if node["parent"] == id]

    def unfused(self, id):
        return [child for child in self.children(id) if "particles" not in self.nodes[child]]

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
        children = [child for child in self.unfused(id) if self.N(child)]
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
        return statistics.mean(self.rewards(child)[0] for child in self.unfused(id) if self.N(child))

    def arms(self, id):
        """The children that selection may enter, as far as they lead somewhere."""
        done = [fusion for fusion in self.fusions if fusion["ratio"] is not None and self.fusing["retire"]]
        retired = {particle for fusion in done for particle in fusion["particles"]}
        return [child for child in self.children(id) if child not in retired]

    def kappa(self):
        kappa = 0.5
        for fusion in self.fusions:
            if fusion["ratio"] is not None:
                kappa = 0.8 * kappa + 0.2 * fusion["ratio"]
        return kappa

    def fused_in_a_row(self, id):
        fused = []
        while id != "root":
            node = self.nodes[id]
            if "particles" in node or node["phi"] > 0 or node["parent"] == "root":
                fused.append("particles" in node)
            id = node["parent"]
        return fused.index(False) if False in fused else len(fused)

    def offer(self, id, level, k, phi):
        """What the children of `id` made like a state at `level` have to offer, or None."""
        tried = [fusion for fusion in self.fusions if fusion["parent"] == id]
        kernel = {"level": level, "k": k, "phi": phi}
        found = [c for c in self.unfused(id) if self.N(c) and kernel.items() <= self.nodes[c].items()]
        N = len(found)
        if level == 0 or (phi == 0 and id != "root") or N < 6 or self.fused_in_a_row(id) >= self.fusing["depth"]:
            return None
        if sum(fusion["made"] for fusion in tried) >= self.fusing["most"] or any(N < 2 * t["size"] for t in tried):
            return None
        values = [self.value(child) for child in found]
        mean, sd, top = statistics.mean(values), statistics.pstdev(values), sorted(values)
        if sd < 1e-6 * max(abs(v) for v in values) or (N < self.fusing["after"] and top[-1] - top[-2] >= sd / 2):
            return None
        softmax = self.fusing["mode"] == "innovation"
        raw = [math.exp(2 * (v - mean) / sd) if softmax else math.tanh((v - mean) / sd) for v in values]
        total = sum(raw) if softmax else 1.0
        a = [round(weight / total, 6) + 0.0 for weight in raw]
        norm = math.sqrt(sum(weight**2 for weight in a))
        if sum(abs(weight) for weight in a) ** 2 / norm**2 < 1.2:
            return None
        gain = sum(weight * (v - mean) for weight, v in zip(a, values)) / norm
        value = mean + self.kappa() * gain
        return {"particles": tuple(found), "weights": tuple(a), "mean": mean, "gain": gain, "value": value, "size": N}

    def leads_somewhere(self, id, affordable):
        """Whether selection may enter a node: it has come back, and it or something below can be widened."""
        if not self.N(id):
            return False
        node = {**self.nodes[id], "id": id}
        if node["open"] and affordable(node["level"]):
            return True
        return any(self.leads_somewhere(child, affordable) for child in self.arms(id))

    def select(self, affordable=lambda level: True, sibling=None):
        """The id of the node that gets a child and the offer by which it is fused (None: it is widened); or None.

        `sibling`: (level, k, phi) of a further child of a node at some level.
        """
        id = "root"
        if not affordable(None) and not any(self.leads_somewhere(child, affordable) for child in self.arms(id)):
            return None
        while True:
            node, children = self.nodes[id], self.children(id)
            bonus = math.log(max(1, self.N(id) + self.O(id)))
            bound = {}
            for child in self.arms(id):
                if self.leads_somewhere(child, affordable):
                    count = max(1, self.N(child) + self.O(child))
                    bound[child] = self.value(child) + self.beta * self.spread() * math.sqrt(2 * bonus / count)
            new = self.beta * self.spread() * math.sqrt(2 * bonus)
            top = max(bound.values(), default=-math.inf)
            may = node["open"] and affordable(node["level"])
            permitted = len(children) < self.c * max(1, self.N(id) + self.O(id)) ** self.a
            widen = may and (not bound or (permitted and self.fresh(id) + new >= top - 1e-12))
            offer = self.offer(id, *sibling(node["level"])) if self.fusing and may else None
            if offer and offer["value"] + new > (self.fresh(id) + new if widen else top) + 1e-12:
                return id, offer
            if widen:
                return id, None
            id = min(child for child, value in bound.items() if value >= top - 1e-12)
