"""The Information Gain Evaluator: from what the generator's call at a state has computed, what every jump from there would gain.

The state is read once; each jump size k is a condition that modulates it (FiLM, arXiv 1709.07871), so all are answered in one pass.

Legend: B states of F features, K jump sizes, M targets, W width; log-SNR = ln(alpha^2 / sigma^2).
"""

from __future__ import annotations

import math

import torch
from torch import nn

WAVES = 12  # of a log-SNR
DROPOUT = 0.1  # in training
LOG_VARIANCE = (-7.0, 4.0)  # bounds, in squared standard deviations of a target


class GainNetwork(nn.Module):
    """(mean, log variance) of the standardised targets, each (B, K, M).

    still: for each jump and target, whether the target is 0 by definition (value and jump error of k = 1): then the mean is the
    standardised 0 in `zero` (M,), and the variance the least.
    """

    def __init__(self, features: int, jumps: tuple[int, ...], targets: tuple[str, ...], width: int = 128, blocks: int = 2) -> None:
        super().__init__()
        self.targets = targets
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("zero", torch.zeros(len(targets)))
        self.still = torch.tensor([[k == 1 and name in ("value", "jump_error") for name in targets] for k in jumps])
        self.features = nn.Sequential(nn.Linear(features, width), nn.Dropout(DROPOUT))
        self.noise = nn.Linear(2 * WAVES, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.jump = nn.Embedding(len(jumps), width)
        self.landing = nn.Linear(4 * WAVES, width)
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * len(targets)))
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(
        self, features_BF: torch.Tensor, log_snr_B: torch.Tensor, landing_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log_snr_B: at the states; landing_BK: where each jump ends."""
        state_BW = self.features((features_BF - self.center) / self.spread) + self.noise(waves(log_snr_B))
        for block in self.blocks:
            state_BW = block(state_BW)
        way_BKV = torch.cat([waves(landing_BK), waves(landing_BK - log_snr_B[:, None])], -1)
        scale_BKW, shift_BKW = self.film(self.jump.weight + self.landing(way_BKV)).chunk(2, -1)
        mean_BKM, log_variance_BKM = self.head(state_BW[:, None] * (1 + scale_BKW) + shift_BKW).chunk(2, -1)
        still = self.still.to(mean_BKM.device)
        mean_BKM = torch.where(still, self.zero, mean_BKM)
        return mean_BKM, log_variance_BKM.clamp(*LOG_VARIANCE).masked_fill(still, LOG_VARIANCE[0])


class Block(nn.Module):
    """A pre-norm residual layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = (nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(2 * width, width))
        self.layers = nn.Sequential(nn.LayerNorm(width), *layers)

    def forward(self, state_BW: torch.Tensor) -> torch.Tensor:
        return state_BW + self.layers(state_BW)


def waves(log_snr: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of a log-SNR, or of a difference of two, from slow to fast: (..., 2 WAVES); beyond +-16 all is noise, or none."""
    frequency = torch.exp(torch.linspace(math.log(0.05), math.log(2.0), WAVES, device=log_snr.device))
    angle = log_snr.clamp(-16, 16)[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
