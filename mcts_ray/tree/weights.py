"""From the rewards of siblings to the signed weights a_i with which their innovations are fused.

    signed       a_i = tanh(r~_i)
    all others   a = softmax(r~ / tau),  tau = 1/2
    r~           rewards standardised within the set (population sd), so that no unit and no offset of them matters

If rewards were linear in the innovations, fusing would raise the mean reward by sum_i a_i (r_i - mean r) / ||a||.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

FEWEST = 6  # particles of a fusion
TAU = 0.5  # temperature of the softmax, in standard deviations
FLAT = 1e-6  # sd as a share of the largest |reward|, below which it is rounding
ALONE = 1.2  # effective number of particles below which the result would be a copy of one of them
DIGITS = 6  # of the weights: they enter a node id, which must not hang on the last bit of an exp


class Refusal(str, Enum):
    """Why a set of particles is not fused, or not as asked: the first four are known beforehand, the others when it is tried.

    NOISELESS: no noise has made them (s = 0), so that they are all the same. CANCELLED: the weighted noises leave nothing. COPY: the
    result is one of the particles. GONE: the state of a particle is not kept any more. FAILED: an error, which is logged. STILL: a
    transport moves too few tokens, or comes no nearer to the particles than their mean or one of them does; such a set is fused by
    innovation instead.
    """

    NOISELESS = "noiseless"

    FEW = "few"
    FLAT = "flat"
    DOMINATED = "dominated"
    CANCELLED = "cancelled"
    COPY = "copy"
    GONE = "gone"
    FAILED = "failed"
    STILL = "still"


REASONS = {
    Refusal.NOISELESS: "no noise has made the siblings, so they are all the same",
    Refusal.FEW: "fewer than six siblings have a usable reward",
    Refusal.FLAT: "their rewards are equal",
    Refusal.DOMINATED: "one sibling has all the weight",
    Refusal.CANCELLED: "nothing is left of their noises",
    Refusal.COPY: "the result is one of them, or its mirror image",
    Refusal.GONE: "a state was pruned away",
    Refusal.FAILED: "an error, which is in the log",
    Refusal.STILL: "hardly a token moved: fused by innovation instead",
}


@dataclass(frozen=True)
class Fused:
    """What is said of a fusion: why it was made by innovation instead of as asked, if it was; the cosine of the fused noise with that of
    the heaviest particle; `ess`, the effective number of particles (sum |a|)^2 / sum a^2. None where there is nothing to say."""

    fallback: str | None = None
    cosine: float | None = None
    ess: float | None = None


@dataclass(frozen=True)
class Weights:
    """Weights `a` of the particles `kept` (indices of the given ones), mean and sd of their rewards, and the promised gain."""

    kept: tuple[int, ...]
    a: tuple[float, ...]
    mean: float
    sd: float
    gain: float


def fusion_weights(mode: str, rewards: Sequence[float], fewest: int = FEWEST) -> Weights | Refusal:
    """The weights of a set, or why there are none; particles whose reward is NaN or -inf are dropped.

    Raises ValueError for a reward of +inf, which no reward may give.
    """
    if math.inf in rewards:
        raise ValueError("a reward of +inf cannot be weighed")
    kept = tuple(i for i, reward in enumerate(rewards) if math.isfinite(reward))
    if len(kept) < fewest:
        return Refusal.FEW
    scale = max(abs(rewards[i]) for i in kept) or 1.0
    scaled = [rewards[i] / scale for i in kept]  # at most 1, so that no square overflows
    mean = math.fsum(scaled) / len(kept)
    sd = math.sqrt(math.fsum((r - mean) ** 2 for r in scaled) / len(kept))
    if sd < FLAT:
        return Refusal.FLAT
    standard = [(r - mean) / sd for r in scaled]
    a = tuple(round(weight, DIGITS) + 0.0 for weight in MODES[mode](standard))  # no -0.0
    square = math.fsum(weight**2 for weight in a)
    if math.fsum(map(abs, a)) ** 2 < ALONE * square:
        return Refusal.DOMINATED
    promised = math.fsum(weight * r for weight, r in zip(a, standard)) / math.sqrt(square)
    return Weights(kept, a, scale * mean, scale * sd, scale * sd * promised)


def _softmax(standard: list[float]) -> list[float]:
    top = max(standard)
    powers = [math.exp((r - top) / TAU) for r in standard]
    return [power / math.fsum(powers) for power in powers]


def _signed(standard: list[float]) -> list[float]:
    return [math.tanh(r) for r in standard]


MODES = dict.fromkeys(
    ("innovation", "ensemble", "x0_transport", "features", "decoder", "mean", "slerp", "fresh"), _softmax
) | {"signed": _signed}
STATES = frozenset({"ensemble", "x0_transport", "features", "decoder", "slerp"})  # modes that read what was predicted at the particles
FEATURES = frozenset({"features", "decoder"})  # and what the network's features were there
