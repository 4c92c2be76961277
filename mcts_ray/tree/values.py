"""What a node is worth: the calibrated prior of its state joined with the rewards found below it.

    V = (n0 prior + sum R) / (n0 + n)        sd = sigma_w / sqrt(n0 + n)        n0 = sigma_w^2 / tau^2

n: terminal rewards below the node. sigma_w^2: variance of the final rewards of completions from one state.
tau^2 = Var[R | S, i] - sigma_w^2: what the score S at level i leaves open about the state itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOOR = 1e-6  # of tau^2 as a share of sigma_w^2, so that n0 stays finite
ENOUGH = 8  # returns from which on their own spread is trusted


@dataclass(frozen=True)
class Prior:
    """What a calibrated score says of the final reward: its mean E[R | S, i], sigma_w^2 (`within`) and tau^2 (`between`)."""

    mean: float
    within: float
    between: float

    @property
    def weight(self) -> float:
        """n0 = sigma_w^2 / tau^2: how many returns the prior is worth."""
        return self.within / max(self.between, FLOOR * self.within) if self.within else 0.0

    @property
    def variance(self) -> float:
        """Var[R | S, i] = sigma_w^2 + tau^2."""
        return self.within + self.between


class Spread:
    """s: the running standard deviation of all returns (Welford), the unit of exploration.

    Until 8 returns are in it is the prior's standard deviation where there is one; without a prior it is that of the
    returns so far, and 1 before the second.
    """

    __slots__ = ("count", "mean", "_squares", "prior", "sd")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        self.prior: float | None = None
        self.sd = 1.0

    def add(self, reward: float) -> None:
        """Take in one return."""
        self.count += 1
        shift = reward - self.mean
        self.mean += shift / self.count
        self._squares += shift * (reward - self.mean)
        self._update()

    def expect(self, prior: Prior) -> None:
        """Take the standard deviation of a prior; the first one counts."""
        if self.prior is None:
            self.prior = math.sqrt(prior.variance)
            self._update()

    def _update(self) -> None:
        if self.prior is not None and self.count < ENOUGH:
            self.sd = self.prior
        elif self.count > 1:
            self.sd = math.sqrt(self._squares / (self.count - 1))
