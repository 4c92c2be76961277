"""Which k to jump from a state: the choice that a search makes from what the IGE predicts of it. Neither torch nor Ray.

    k* = argmax_k  E[V(x_{a-k})] - c n(a-k)

V is the calibrated reward without costs, n(l) the calls still to pay from an unevaluated state at level l under the current policy
(n(0) = 0), c the price of a call in units of reward. Every jump costs one call now, whatever its size, so dividing by k is no price.

    greedy   k*
    top-m    the m best in turn, one for each new child of a node
    sample   k* of one draw of V from the predictive distribution, independent for each k, drawn from the node's id

A jump that is hopeless, beaten by another one beyond doubt, is never made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from mcts_ray.gain.policy import JumpPolicy, path

CHOICES = ("greedy", "top-m", "sample")
APART = 2.0  # standard deviations on both sides by which a jump must be beaten to be hopeless


@dataclass(frozen=True)
class Jump:
    """What is predicted of a jump of `k` levels: mean of V after it over V after k = 1, in units of reward, how unsure that mean is, as its
    variance, and the jump error 1 - cos(x0 after it, x0 after k single steps), None if the network does not know it."""

    k: int
    mean: float
    variance: float
    error: float | None = None


@dataclass(frozen=True)
class Gains:
    """What version `version` of the IGE predicts of every jump from `node`; none at a level without data.

    features: what it read, fp16, where a trainer is to learn from it.
    """

    node: str
    version: int
    jumps: tuple[Jump, ...]
    features: bytes | None = None


def gains_of(record: dict) -> Gains:
    """`Gains` from a record of a journal."""
    return Gains(record["node"], record["version"], tuple(Jump(**jump) for jump in record["jumps"]))


@dataclass(frozen=True)
class Transition:
    """Two children of one state (`features`, at `level`) by jumps of k and of `other`, made alike but for that: how much more the
    first one's image was worth."""

    features: bytes
    level: int
    k: int
    other: int
    difference: float


class CallsLeft:
    """n(l): mean of the calls paid by finished walks from a new state at level l on, that state's own included.

    What the policy would pay counts as one such walk, so that there is a number from the start.
    """

    def __init__(self, policy: JumpPolicy) -> None:
        self._policy = policy
        self._known: dict[int, tuple[int, float]] = {}

    def __call__(self, level: int) -> float:
        if level not in self._known:
            self._known[level] = 1, len(path(self._policy, level)) - 1.0
        return self._known[level][1]

    def learn(self, levels: Sequence[int]) -> None:
        """A walk through new states at these levels, down to 0, has been paid for."""
        calls = sum(level > 0 for level in levels)
        for done, level in enumerate(levels):
            if level > 0:
                mean = self(level)
                count = self._known[level][0] + 1
                self._known[level] = count, mean + (calls - done - mean) / count


class Chooser:
    """The choice of one search. price: c. top: m. sizes: the jumps that may be chosen, None: all that are predicted.

    silent: how many jumps were left to the fallback, by level, because nothing is predicted there.
    """

    def __init__(
        self,
        fallback: JumpPolicy,
        choice: str = "greedy",
        price: float = 0.0,
        top: int = 2,
        sizes: Sequence[int] | None = None,
    ) -> None:
        assert choice in CHOICES, "a choice that does not exist"
        self.fallback, self.choice, self.price, self.top, self.sizes = fallback, choice, price, top, sizes
        self.calls = CallsLeft(fallback)
        self.silent: Counter[int] = Counter()
        self._gains: dict[str, Gains] = {}
        self._returned: dict[str, list[tuple[int, float, float]]] = {}
        self._transitions: list[Transition] = []

    def learn(self, gains: Gains) -> None:
        """Take what is predicted of a state."""
        self._gains[gains.node] = gains

    def version(self, node: str, level: int) -> int | None:
        """The version that decides at a node; None where the fallback does."""
        found = self._gains.get(node)
        return found.version if found and self._jumps(node, level) else None

    def net(self, jump: Jump, level: int) -> float:
        """V - c n of a jump from `level`, up to a constant of the state."""
        return jump.mean - self.price * self.calls(level - jump.k)

    def margin(self, node: str, level: int, k: int) -> float | None:
        """By how much the best that may be hoped of a jump is above the least that may be expected of another; None: not known."""
        jumps = self._jumps(node, level)
        return next((self._ahead(jump, jumps, level) for jump in jumps if jump.k == k), None)

    def sizes_at(self, node: str, level: int) -> list[int]:
        """The jumps from a node of which something is predicted."""
        return [jump.k for jump in self._jumps(node, level)]

    def k(self, node: str, level: int, draw: int, worth: Callable[[int], bool] = lambda k: True) -> int:
        """The jump of child number `draw` of a node, one that is `worth` it and not hopeless; the best of all if none is."""
        known = self._jumps(node, level)
        if not known:
            k, most = self.fallback.k(level), max(1, level - 1)
            return k if k <= most else max((size for size in self.sizes or () if size <= most), default=most)
        jumps = [jump for jump in known if worth(jump.k) and self._ahead(jump, known, level) >= 0]
        if not jumps:
            return max(known, key=lambda jump: (self.net(jump, level), jump.k)).k
        if self.choice == "sample":
            jumps = self._drawn(jumps, node, draw)
        ranked = sorted(jumps, key=lambda jump: (-self.net(jump, level), -jump.k))
        return ranked[draw % min(self.top, len(ranked)) if self.choice == "top-m" else 0].k

    def _jumps(self, node: str, level: int) -> list[Jump]:
        """Those that do not end at level 0, where children differ no more by their noise."""
        found = self._gains.get(node)
        if not found:
            return []
        return [jump for jump in found.jumps if jump.k < level and (self.sizes is None or jump.k in self.sizes)]

    def _ahead(self, jump: Jump, jumps: Sequence[Jump], level: int) -> float:
        """What may be hoped of a jump less the most that may be expected of another one; below 0 it is hopeless."""
        low = [self.net(other, level) - APART * math.sqrt(other.variance) for other in jumps if other.k != jump.k]
        return self.net(jump, level) + APART * math.sqrt(jump.variance) - max(low, default=-math.inf)

    def _drawn(self, jumps: Sequence[Jump], node: str, draw: int) -> list[Jump]:
        random = Random(f"{node}/{draw}")  # seeded by text, the same in every process
        return [replace(jump, mean=random.gauss(jump.mean, math.sqrt(jump.variance))) for jump in jumps]

    # online --------------------------------------------------------------------------------------------------------

    def returned(self, node: str, level: int, k: int, phi: float, reward: float) -> None:
        """A new child of `node` has come back with its own reward: it is compared with the last one by each other jump alike."""
        found = self._gains.get(node)
        if not found or found.features is None or k >= level:
            return
        before = self._returned.setdefault(node, [])
        last = {other: known for other, angle, known in before if angle == phi and other != k}
        self._transitions += [Transition(found.features, level, k, other, reward - known) for other, known in last.items()]
        before.append((k, phi, reward))

    def transitions(self) -> list[Transition]:
        """What has come since this was last asked."""
        found, self._transitions = self._transitions, []
        return found
