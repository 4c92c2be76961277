"""A calibration that goes on learning during one search: what finished trajectories say of this prompt.

Offline, R = m_i(S) + a + b (S - s_i) + noise, where a and b are a prompt's own offset and slope at level i; over prompts they have
mean 0 and the variances that `mcts_ray.reward.calibrate` has estimated. Each finished trajectory with a score at level i is one
observation of them, taken in by recursive least squares (the exact Gaussian posterior):

    K = P x / (v + x' P x),   theta += K (R - m_i(S) - x' theta),   P -= K x' P,   x = (1, S - s_i)

v: the noise within a prompt. So the search starts with the offline fit, which with few observations it hardly leaves, and ends with
the map of its own prompt. A state is judged by what was known before its own trajectory ended, and all states of a tree again
when the number of observations has doubled (`due`), so that siblings of different age are compared by one map.

Deterministic: it depends on the order of the outcomes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mcts_ray.reward.calibrate import Calibration, Level, prior
from mcts_ray.tree.values import Prior

FIRST = 8  # observations after which the states of a tree are judged again for the first time


@dataclass
class _Posterior:
    """Mean (a, b) and covariance (P_aa, P_ab, P_bb) of one level's offset and slope."""

    level: Level
    a: float = 0.0
    b: float = 0.0
    aa: float = field(init=False)
    ab: float = field(init=False, default=0.0)
    bb: float = field(init=False)

    def __post_init__(self) -> None:
        self.aa, self.bb = self.level.offset, self.level.slope

    def predict(self, score: float) -> tuple[float, float, float, float]:
        """Mean and variance of R, then P x, for a score."""
        x = self.level.clipped(score) - self.level.center
        pa, pb = self.aa + self.ab * x, self.ab + self.bb * x
        return self.level.mean(score) + self.a + self.b * x, self.level.noise + pa + pb * x, pa, pb

    def observe(self, score: float, reward: float) -> None:
        mean, variance, pa, pb = self.predict(score)
        if variance <= 0:
            return
        ka, kb = pa / variance, pb / variance
        self.a += ka * (reward - mean)
        self.b += kb * (reward - mean)
        self.aa, self.ab, self.bb = self.aa - ka * pa, self.ab - ka * pb, self.bb - kb * pb


class Refreshed:
    """A calibration for one search; `seen`: observations so far."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.seen = 0
        self._next = FIRST
        self._posteriors: dict[int, _Posterior] = {}

    def __call__(self, level: int, score: float) -> Prior:
        """What a raw score says of the final reward, by all that is known by now."""
        mean, variance, *_ = self._at(level).predict(score)
        return prior(mean, variance, self.calibration.at(level).within)

    def observe(self, level: int, score: float, reward: float) -> None:
        """A trajectory has ended in `reward` whose state at `level` has `score`."""
        self._at(level).observe(score, reward)
        self.seen += 1

    def due(self) -> bool:
        """Whether what was judged before should be judged again: at 8, 16, 32 ... observations; true once for each."""
        if self.seen < self._next:
            return False
        while self._next <= self.seen:
            self._next *= 2
        return True

    def _at(self, level: int) -> _Posterior:
        if level not in self._posteriors:
            self._posteriors[level] = _Posterior(self.calibration.at(level))
        return self._posteriors[level]
