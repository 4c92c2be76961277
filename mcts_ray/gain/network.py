"""The Information Gain Evaluator: from what the generator's call at a state has computed, what every jump from there would gain.

A network for each target, all of one shape and carried out as one: they share no weights, so training may end for each where it is best.
The state is read once; each jump size k is a condition that modulates it (FiLM, arXiv 1709.07871), so all are answered in one pass.

Legend: M targets, B states of F features, K jump sizes, W width; log-SNR = ln(alpha^2 / sigma^2).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional

WAVES = 12  # of a log-SNR
DROPOUT = 0.1  # in training
LOG_VARIANCE = (-7.0, 4.0)  # bounds, in squared standard deviations of a target


class GainNetwork(nn.Module):
    """(mean, log variance) of the standardised targets, each (B, K, M).

    Every parameter has M parts, one for each target. still: for each jump and target, whether the target is 0 by definition (value and
    jump error of k = 1): then the mean is the standardised 0 in `zero` (M,), and the variance the least.
    """

    def __init__(self, features: int, jumps: tuple[int, ...], targets: tuple[str, ...], width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.targets, M = targets, len(targets)
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("zero", torch.zeros(M))
        self.still = torch.tensor([[k == 1 and name in ("value", "jump_error") for name in targets] for k in jumps])
        self.features = nn.Sequential(Linears(M, features, width), nn.Dropout(DROPOUT))
        self.noise = Linears(M, 2 * WAVES, width)
        self.blocks = nn.ModuleList(Block(M, width) for _ in range(blocks))
        self.jump = nn.Parameter(torch.randn(M, 1, len(jumps), width))
        self.landing = Linears(M, 4 * WAVES, width)
        self.film = nn.Sequential(nn.SiLU(), Linears(M, width, 2 * width))
        self.head = nn.Sequential(Norms(M, width), Linears(M, width, width), nn.GELU(), Linears(M, width, 2))
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(
        self, features_BF: torch.Tensor, log_snr_B: torch.Tensor, landing_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log_snr_B: at the states; landing_BK: where each jump ends."""
        state_MBW = self.features((features_BF - self.center) / self.spread) + self.noise(waves(log_snr_B))
        for block in self.blocks:
            state_MBW = block(state_MBW)
        way_BKV = torch.cat([waves(landing_BK), waves(landing_BK - log_snr_B[:, None])], -1)
        way_MBKW = self.landing(way_BKV.flatten(0, 1)).unflatten(1, landing_BK.shape) + self.jump
        scale_MBKW, shift_MBKW = self.film(way_MBKW.flatten(1, 2)).unflatten(1, landing_BK.shape).chunk(2, -1)
        said_MNW = (state_MBW[:, :, None] * (1 + scale_MBKW) + shift_MBKW).flatten(1, 2)
        mean_BKM, log_variance_BKM = self.head(said_MNW).unflatten(1, landing_BK.shape).movedim(0, 2).unbind(-1)
        still = self.still.to(mean_BKM.device)
        mean_BKM = torch.where(still, self.zero, mean_BKM)
        return mean_BKM, log_variance_BKM.clamp(*LOG_VARIANCE).masked_fill(still, LOG_VARIANCE[0])

    def only(self, targets: tuple[str, ...]) -> GainNetwork:
        """A network of some of the targets, a copy."""
        parts = [self.targets.index(name) for name in targets]
        other = copy.deepcopy(self)
        other.targets, other.still, other.zero = targets, self.still[:, parts], self.zero[parts]
        for value in other.parameters():
            value.data = value.data[parts]
        return other

    def part(self, state: dict[str, torch.Tensor], target: str) -> dict[str, torch.Tensor]:
        """What belongs to one target in a state of these parameters, a copy on the CPU."""
        m = self.targets.index(target)
        return {name: state[name][m].detach().cpu().clone() for name, _ in self.named_parameters()}

    def joined(self, parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The state of these buffers with, for each target, its `part`."""
        state = {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}
        for m, target in enumerate(self.targets):
            for name, value in parts[target].items():
                state[name][m] = value
        return state


class Linears(nn.Module):
    """A linear layer of each of M networks: (N, I) or (M, N, I) to (M, N, O)."""

    def __init__(self, count: int, inside: int, outside: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inside)
        self.weight = nn.Parameter(torch.empty(count, inside, outside).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, outside).uniform_(-bound, bound))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, value.expand(len(self.weight), *value.shape[-2:]), self.weight)


class Norms(nn.Module):
    """A layer norm of each of M networks, (M, N, W)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count, 1, width))
        self.bias = nn.Parameter(torch.zeros(count, 1, width))

    def forward(self, value_MNW: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias, functional.layer_norm(value_MNW, value_MNW.shape[-1:]), self.weight)


class Block(nn.Module):
    """A pre-norm residual layer of each network."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        layers = (Linears(count, width, 2 * width), nn.GELU(), nn.Dropout(DROPOUT), Linears(count, 2 * width, width))
        self.layers = nn.Sequential(Norms(count, width), *layers)

    def forward(self, state_MBW: torch.Tensor) -> torch.Tensor:
        return state_MBW + self.layers(state_MBW)


def waves(log_snr: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of a log-SNR, or of a difference of two, from slow to fast: (..., 2 WAVES); beyond +-16 all is noise, or none."""
    frequency = torch.exp(torch.linspace(math.log(0.05), math.log(2.0), WAVES, device=log_snr.device))
    angle = log_snr.clamp(-16, 16)[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
