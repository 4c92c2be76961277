"""The siblings that a fusion is made of: their noises, drawn again from their ids, and what was predicted at them.

All of them are x_i = mu + s z_i with one mu and one s. Both follow from the x_i and the z_i, so nobody has to hand over the
parent: s = <x_i - mean x, z_i - mean z> / ||z_i - mean z||^2, summed over i, and mu = mean (x_i - s z_i).

Shapes: N siblings of C channels, H x W latents; D = C H W; features of C' channels on h x w cells. fp32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.store import Kept
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import Refusal


NOISE = 1e-4  # s, in units of the noise of a seed, below which it is rounding


@dataclass(frozen=True, eq=False)
class Siblings:
    """Names and weights a_i of siblings, and their kept states; `index`: which of the children of their fusion is made.

    folder: of the network that maps features back, where the mode has one; device: for that network.
    """

    names: tuple[str, ...]
    a_N: torch.Tensor
    shape: tuple[int, int, int]
    kept: tuple[Kept, ...]
    index: int = 0
    folder: str | None = None
    device: torch.device | str = "cpu"

    @classmethod
    def of(
        cls, work: Work, shape: tuple[int, int, int], states: Mapping[str, Kept], device: torch.device | str = "cpu"
    ) -> Siblings | Refusal:
        """The siblings of a unit, the heaviest first, of equal ones the smaller id; GONE if one is not among `states`."""
        rule = work.fuse
        pairs = sorted(zip(rule.particles, rule.weights, strict=True), key=lambda pair: (-pair[1], pair[0]))
        names, weights = zip(*pairs)
        if any(name not in states for name in names):
            return Refusal.GONE
        kept = tuple(states[name] for name in names)
        return cls(names, torch.tensor(weights), shape, kept, rule.draw, work.setting.fuse_model, device)

    @cached_property
    def z_NCHW(self) -> torch.Tensor:
        """Their noises."""
        return draw(self.names, self.shape)

    @cached_property
    def x0_NCHW(self) -> torch.Tensor:
        return _stacked([kept.x0 for kept in self.kept])

    @cached_property
    def eps_NCHW(self) -> torch.Tensor:
        return _stacked([kept.eps for kept in self.kept])

    @cached_property
    def features_NChw(self) -> torch.Tensor:
        return _stacked([kept.features for kept in self.kept])

    @property
    def scales(self) -> tuple[float, float]:
        """(alpha, sigma) of their level."""
        return self.kept[0].alpha, self.kept[0].sigma

    @cached_property
    def x_NCHW(self) -> torch.Tensor:
        """Their states, x = alpha x0 + sigma eps."""
        alpha, sigma = self.scales
        return alpha * self.x0_NCHW + sigma * self.eps_NCHW

    @cached_property
    def origin(self) -> tuple[torch.Tensor, float]:
        """(mu, s)."""
        x, z = self.x_NCHW.double(), self.z_NCHW.double()
        apart = z - z.mean(0)
        s = float(((x - x.mean(0)) * apart).sum() / apart.square().sum())
        return (x - s * z).mean(0).float(), s

    @property
    def noisy(self) -> bool:
        """Whether noise of their own has made them, so that they differ."""
        return self.origin[1] > NOISE

    def innovation(self, x_CHW: torch.Tensor) -> torch.Tensor:
        """The noise z (C, H, W) by which a state would be their sibling, (x - mu) / s."""
        mu_CHW, s = self.origin
        return (x_CHW - mu_CHW) / s


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.float().cpu() for tensor in tensors])
