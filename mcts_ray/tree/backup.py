"""Backup rules: how the values and rewards below a node make its own value V.

A rule is a function of the node, applied from the finished image up to the root. With n0 and prior of
`mcts_ray.tree.values` and the n rewards R below the node:

    mean     V = (n0 prior + sum R) / (n0 + n)
    max      V = (n0 prior + n max R) / (n0 + n)
    soft     V = (1/lambda) [logsumexp over children of lambda v - ln children]     (a mean, so more children do not raise it)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mcts_ray.tree.node import Node

Rule = Callable[[Node], float]


def mean(node: Node) -> float:
    """The mean of the rewards below, drawn to the prior."""
    return (node.prior_sum + node.total) / (node.prior_weight + node.returns)


def maximum(node: Node) -> float:
    """The best of the rewards below, drawn to the prior; without rewards, the mean of what is promised."""
    if node.best == -math.inf:
        return mean(node)
    return (node.prior_sum + node.returns * node.best) / (node.prior_weight + node.returns)


@dataclass(frozen=True)
class Soft:
    """Soft Bellman backup with inverse temperature lambda (DTS, arXiv 2506.20701), for trees whose edges differ.

    Children of one kernel, that is of one k and one phi, are draws of one distribution: the log-mean-exp is taken within
    each such group. `across` then joins the groups: "max", or "mean" weighted by their sizes (the policy as it was
    followed). A child without returns enters as prior + lambda Var[R | S] / 2, and not at all without a prior. A fused
    child is no draw at all and stays out.
    """

    strength: float
    across: str = "max"

    def __call__(self, node: Node) -> float:
        if not node.children:
            return mean(node)
        groups: dict[tuple[int, float], list[float]] = {}
        for child in node.children:
            if child.particles:
                continue
            if child.returns:
                groups.setdefault((child.k, child.phi), []).append(child.value)
            elif child.prior:
                groups.setdefault((child.k, child.phi), []).append(child.prior.mean + self.strength * child.prior.variance / 2)
        values = [(log_mean_exp(group, self.strength), len(group)) for group in groups.values()]
        if self.across == "max":
            return max(value for value, _ in values)
        return sum(value * size for value, size in values) / sum(size for _, size in values)


def log_mean_exp(values: list[float], strength: float) -> float:
    """(1/lambda) ln (1/n sum_i exp(lambda v_i)), without overflow."""
    top = max(values)
    return top + math.log(sum(math.exp(strength * (value - top)) for value in values) / len(values)) / strength


BACKUPS = ("mean", "max", "soft")


def make_rule(name: str, strength: float, across: str) -> Rule:
    """The rule of that name; `strength` and `across` are for soft."""
    return {"mean": mean, "max": maximum, "soft": Soft(strength, across)}[name]


def backup(leaf: Node, reward: float, rule: Rule, top: Node | None = None) -> None:
    """One completed simulation: N += 1, O -= 1 and the reward on the path from `leaf` to the root, or up to below `top`.

    A leaf above level 0 is where a walk has stopped, and `reward` what is promised there: a return, but no image's.
    """
    best = reward if leaf.terminal else -math.inf
    node = leaf
    while node is not top:
        parent = node.parent
        if not node.returns and parent is not None and not node.particles:
            parent.firsts += reward
            parent.completed += 1
        node.visits += 1
        node.in_flight -= 1
        node.returns += 1
        node.total += reward
        if best > node.best:
            node.best = best
        node.value = rule(node)
        node = parent


def backup_further(leaf: Node, stopped: Node, reward: float, rule: Rule) -> None:
    """The same of a simulation that has gone on from where a walk had `stopped`: from there up the reward takes the place of what was
    promised, and n stays."""
    backup(leaf, reward, rule, top=stopped)
    change = reward - stopped.promised
    node, own = stopped, True
    while node is not None:
        if own and node.parent is not None and not node.particles:
            node.parent.firsts += change
        own = own and node is not stopped.walk
        node.visits += 1
        node.in_flight -= 1
        node.total += change
        if leaf.terminal and reward > node.best:
            node.best = reward
        node.value = rule(node)
        node = node.parent
