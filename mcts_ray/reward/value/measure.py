"""How good a value head is on held-out prompts: ranking within prompts, likelihood and calibration, level by level.

Ranks are compared within a group only, the states of one prompt at one level: between prompts a score has only to know how hard they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from mcts_ray.reward.value.data import Group, Trajectories
from mcts_ray.reward.value.network import ValueNetwork

GROUPS = 32  # at once


@dataclass(frozen=True)
class Prediction:
    """A group's level, predicted mean and standard deviation, and true value, (n,) each, in standard units."""

    level: int
    mean: np.ndarray
    sd: np.ndarray
    true: np.ndarray

    @property
    def spearman(self) -> float | None:
        """Rank correlation of mean and truth; None where all truths are equal or there are fewer than three."""
        if len(self.true) < 3 or np.ptp(self.true) == 0:
            return None
        return float(stats.spearmanr(self.mean, self.true).statistic) if np.ptp(self.mean) > 0 else 0.0


@torch.no_grad()
def predict(
    network: ValueNetwork, data: Trajectories, groups: Sequence[Group], center: float, scale: float, device="cpu"
) -> Iterator[Prediction]:
    """What the network says of some groups, one after the other."""
    for at in range(0, len(groups), GROUPS):
        part = list(groups[at : at + GROUPS])
        batch = data.batch(part, device)
        said = network(batch.taps, batch.x, batch.x0, batch.log_snr, batch.embeddings)
        true_B = (batch.reward - center) / scale
        cuts = np.cumsum([len(group) for group in part])[:-1]
        columns = (np.split(column.cpu().numpy(), cuts) for column in (said.mean, (said.log_variance / 2).exp(), true_B))
        yield from (Prediction(group.level, *values) for group, values in zip(part, zip(*columns, strict=True), strict=True))


def summary(predictions: Sequence[Prediction]) -> dict[str, float | int | None]:
    """Of some predictions together.

    spearman: mean over groups. nll: mean Gaussian negative log likelihood (without its constant) in standard units. r2: share of the
    variance over all prompts that the mean explains. within_68, within_95: shares of truths inside the predicted central intervals.
    """
    ranks = [rank for rank in (prediction.spearman for prediction in predictions) if rank is not None]
    mean, sd, true = (np.concatenate([getattr(p, name) for p in predictions]) for name in ("mean", "sd", "true"))
    error = (true - mean) / sd
    spread = true.var()
    return {
        "spearman": float(np.mean(ranks)) if ranks else None,
        "nll": float(np.mean(0.5 * error**2 + np.log(sd))),
        "r2": float(1 - np.mean((true - mean) ** 2) / spread) if spread else None,
        "within_68": float(np.mean(np.abs(error) < stats.norm.ppf(0.84))),
        "within_95": float(np.mean(np.abs(error) < stats.norm.ppf(0.975))),
        "groups": len(predictions),
        "states": len(true),
    }


def by_level(predictions: Sequence[Prediction]) -> dict[str, dict[str, float | int | None]]:
    """`summary` of each level, highest first."""
    levels = sorted({prediction.level for prediction in predictions}, reverse=True)
    return {str(level): summary([p for p in predictions if p.level == level]) for level in levels}
