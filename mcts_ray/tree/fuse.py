"""Fuse-and-deepen: when siblings may be fused, and what their fused child is expected to be worth.

The particle set of a node: those of its children that a further one would be a sibling of, by one kernel (level, jump k, angle
phi; seeds at the root), come back, not fused themselves; a node has as many sets as kernels. Their rewards r are their values. A
set without noise of its own (phi = 0, or level 0) is refused. It is due with N >= `after` particles, or with N >= 6 whose best
two are closer than sd / 2 (if one is far ahead, deepen it), and twice as many as when it was last tried. The virtual fused child
then competes in selection with the value

    mean r + kappa sum_i a_i (r_i - mean r) / ||a||

kappa is the share of the promised gain that was realised: a running mean over the fused children that have come back, of
(first return - mean r) / promised gain. A fused child is a child like others for counts and widening, but no draw of their
kernel: it stays out of later sets, of the soft backup and of `Node.fresh`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from mcts_ray.tree.weights import FEWEST, Refusal, fusion_weights
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import State

Kernel = tuple[int, int, float]  # level, k and phi, by which children of one parent are siblings
Set = tuple[Node, Kernel]

CLOSE = 0.5  # standard deviations between the best two, below which neither is worth deepening alone
KAPPA, RATE, LIMIT = 0.5, 0.2, 2.0  # kappa at first; weight of each new ratio in it; size to which ratios are cut


@dataclass(frozen=True)
class Fusing:
    """The rule (`mode`), N from which a set is due, how often one set may be fused, and fused noises in a row on a path.

    children: how many one fusion makes. retire: particles are no longer entered once their fused child has come back; their
    statistics stay.
    """

    mode: str
    after: int = FEWEST
    most: int = 1
    depth: int = 1
    retire: bool = False
    children: int = 1


@dataclass(frozen=True)
class Offer:
    """A fusion that `parent` has to offer: particles, weights, the mean of their rewards, promised gain, expected value.

    kernel: of the particles, and of the fused child. size: of the set, including particles that had no usable reward. draw: which of
    the children of the fusion it is about.
    """

    parent: Node
    kernel: Kernel
    particles: tuple[str, ...]
    weights: tuple[float, ...]
    mean: float
    gain: float
    value: float
    size: int
    draw: int = 0

    @property
    def set(self) -> Set:
        """What is fused."""
        return self.parent, self.kernel


class Fusions:
    """The fusions of one tree: made, out and learned from."""

    def __init__(self, fusing: Fusing) -> None:
        self.fusing = fusing
        self.kappa = KAPPA
        self.retired = 0  # particles that are no longer entered
        self._tried: dict[Set, tuple[int, int]] = {}  # its size when last tried, fusions made or out
        self._refused: dict[tuple[Set, Refusal], int] = {}  # its size when that was last told
        self._out: dict[Node, Offer] = {}
        self._living: Counter[tuple[Set, int]] = Counter()  # by set and its size the children of a fusion that are out or have come back

    def consider(self, parent: Node, sibling: State) -> Offer | Refusal | None:
        """What the particles of `parent` have to offer, `sibling` being the state of a further child; changes nothing.

        A refusal if the set is due but cannot be fused, by its kernel or its rewards; None if it is not due.
        """
        particles = self._particles(parent, sibling)
        if not particles:
            return None
        if sibling.level == 0 or (sibling.k and not sibling.phi):
            return Refusal.NOISELESS
        values = [particle.value for particle in particles]
        if math.inf in values:  # a mean of finite rewards that are too large
            return Refusal.FAILED
        weights = fusion_weights(self.fusing.mode, values)
        if isinstance(weights, Refusal):
            return weights
        best, second = sorted(values, reverse=True)[:2]
        if len(particles) < self.fusing.after and best - second >= CLOSE * weights.sd:
            return None
        kept = tuple(particles[i].id for i in weights.kept)
        value = weights.mean + self.kappa * weights.gain
        return Offer(parent, kernel(sibling), kept, weights.a, weights.mean, weights.gain, value, len(particles))

    def refused(self, parent: Node, sibling: State) -> Refusal | None:
        """Why the particles of `parent` cannot be fused although they are due: told once, and again when they are twice as many."""
        found = self.consider(parent, sibling)
        if not isinstance(found, Refusal):
            return None
        key, size = ((parent, kernel(sibling)), found), len(self._siblings(parent, sibling))
        if size < 2 * self._refused.get(key, 0):
            return None
        self._refused[key] = size
        return found

    def _particles(self, parent: Node, sibling: State) -> list[Node]:
        """The particle set, or nothing if it is too small, already fused, or fused too often on the way to it."""
        size, made = self._tried.get((parent, kernel(sibling)), (0, 0))
        fewest = max(FEWEST, 2 * size)
        if made == self.fusing.most or len(parent.children) < fewest or in_a_row(parent) >= self.fusing.depth:
            return []
        found = self._siblings(parent, sibling)
        return found if len(found) >= fewest else []

    def _siblings(self, parent: Node, sibling: State) -> list[Node]:
        return [c for c in parent.children if kernel(c) == kernel(sibling) and c.returns and not c.particles]

    def dispatch(self, offer: Offer, child: Node) -> None:
        """`child` is out to be made as offered. The first of the children of one fusion counts for all."""
        _, made = self._tried.get(offer.set, (0, 0))
        self._tried[offer.set] = offer.size, made + (offer.draw == 0)
        self._living[offer.set, offer.size] += 1
        self._out[child] = offer

    def following(self, offer: Offer) -> Offer | None:
        """The next child of the same fusion, if there is one."""
        return replace(offer, draw=offer.draw + 1) if offer.draw + 1 < self.fusing.children else None

    def complete(self, child: Node, reward: float) -> None:
        """`child` has come back with its first return."""
        offer = self._out.pop(child)
        ratio = (reward - offer.mean) / offer.gain
        self.kappa += RATE * (min(LIMIT, max(-LIMIT, ratio)) - self.kappa)
        if self.fusing.retire:
            entered = len(offer.parent.arms)
            offer.parent.arms = [arm for arm in offer.parent.arms if arm.id not in offer.particles]
            self.retired += entered - len(offer.parent.arms)

    def take_back(self, child: Node) -> Set:
        """`child` was refused or lost: it is not made, but its set, which is returned, counts as tried; as fused if another child of the
        same fusion is there."""
        offer = self._out.pop(child)
        self._living[offer.set, offer.size] -= 1
        if not self._living[offer.set, offer.size]:
            size, made = self._tried[offer.set]
            self._tried[offer.set] = size, made - 1
        return offer.set


def kernel(state: Node | State) -> Kernel:
    """By what a state was, or is to be, drawn."""
    return state.level, state.k, state.phi


def in_a_row(node: Node) -> int:
    """How many of the last noises on the path to `node` were fused, one after the other; noise-free moves are passed over."""
    count = 0
    while node.parent is not None and (node.particles or (node.k and not node.phi)):
        count += bool(node.particles)
        node = node.parent
    return count
