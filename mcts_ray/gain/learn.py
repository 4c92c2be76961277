"""The losses of an IGE, offline and online.

    NLL = s^(2 beta) [ (y - m)^2 / s^2 + ln s^2 ] / 2                          beta-NLL (arXiv 2203.09168), the factor without gradient
    state:                                         y = mean over the J children of a jump
    pair of children of one state by jumps k, l:   y = (R_k - R_l) / scale,  m = m_k - m_l,  s^2 = J (s_k^2 + s_l^2)

So s^2 is the variance of a mean gain, which a choice between jumps is about, not that of a single completion.

Legend: B states, K jumps, M targets, J children of a jump; all targets standardised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mcts_ray.gain.evaluator import noise_of
from mcts_ray.gain.folder import Config
from mcts_ray.gain.network import GainNetwork

BETA = 0.5


@dataclass(frozen=True, eq=False)
class Examples:
    """States with their targets: features (B, F), level (B,), and each target (B, K, J) by name, NaN where there is none."""

    features: torch.Tensor
    level: np.ndarray
    targets: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.level)

    def take(self, rows: np.ndarray) -> Examples:
        """Some of them."""
        index = torch.from_numpy(np.asarray(rows))
        return Examples(self.features[index], self.level[rows], {name: value[index] for name, value in self.targets.items()})


def losses(network: GainNetwork, config: Config, examples: Examples, beta: float = BETA) -> dict[str, torch.Tensor]:
    """The mean beta-NLL of each target that occurs among the examples; beta = 0: the likelihood itself."""
    device = network.center.device
    log_snr_B, landing_BK = noise_of(config.log_snr, config.jumps, examples.level.tolist(), device)
    mean_BKM, log_variance_BKM = network(examples.features.float().to(device), log_snr_B, landing_BK)
    found = {}
    for m, name in enumerate(config.targets):
        if name not in examples.targets:
            continue
        center, scale = config.units[name]
        true_BK = (examples.targets[name].to(device).nanmean(2) - center) / scale
        there = torch.isfinite(true_BK) & ~network.still.to(device)[:, m]
        if there.any():
            nll_BK = likelihood(mean_BKM[:, :, m], log_variance_BKM[:, :, m], torch.where(there, true_BK, 0.0), beta)
            found[name] = nll_BK[there].mean()
    return found


def likelihood(mean: torch.Tensor, log_variance: torch.Tensor, true: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """beta-NLL, element by element."""
    nll = 0.5 * ((true - mean).square() / log_variance.exp() + log_variance)
    return (log_variance.detach().exp() ** beta * nll) if beta else nll


def pair_loss(
    network: GainNetwork, config: Config, features_BF: torch.Tensor, levels: Sequence[int], pairs: Sequence[tuple[int, int]], difference: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """The mean beta-NLL of differences of final rewards (B,) between children by jumps (k, other), on the target `value`."""
    device, m = network.center.device, config.targets.index("value")
    log_snr_B, landing_BK = noise_of(config.log_snr, config.jumps, levels, device)
    mean_BKM, log_variance_BKM = network(features_BF.float().to(device), log_snr_B, landing_BK)
    one, other = (torch.tensor([config.jumps.index(pair[side]) for pair in pairs], device=device) for side in (0, 1))
    row = torch.arange(len(pairs), device=device)
    mean_B = mean_BKM[row, one, m] - mean_BKM[row, other, m]
    variance_B = config.children * (log_variance_BKM[row, one, m].exp() + log_variance_BKM[row, other, m].exp())
    return likelihood(mean_B, variance_B.log(), difference.to(device) / config.units["value"][1]).mean()
