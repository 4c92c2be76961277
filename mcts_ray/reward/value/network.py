"""The network of the value head: patches of the generator's feature maps and the words of the prompt look at each other.

Pooled features lose which colour is on which shape and where; so the maps stay maps. They are brought to one grid of patches and added up
with the predicted image and the noisy state; the patches look at the words, then the words look at each other and at the patches,
as a reader who checks a picture against its caption. Between two looks a word is told where it has found what it speaks of, and how
two words that it picks are displaced. In the end every word gives a verdict, and a weighted mean over the words says what to expect.

Legend: B states, C' x h x w a feature map, C x H x W latent, G x G patches, P = G^2, L words of width D, W width of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

WAVES = 16  # of the log-SNR
DROPOUT = 0.1  # in training: rewards are few, one for all states of a trajectory
LOG_VARIANCE = (-7.0, 3.0)  # bounds, in squared standard deviations of the reward

Seen = tuple[torch.Tensor, torch.Tensor]  # keys and values (B, heads, M, W / heads) of M tokens


@dataclass(frozen=True)
class Opinion:
    """What the network says of B states: mean and log variance (B,) of the standardised reward, and of each word the logit (B, L) of what
    it states and the place (B, L, 2) that it speaks of, x and y in [-1, 1]. Of the words a reward may tell the truth, or nobody."""

    mean: torch.Tensor
    log_variance: torch.Tensor
    verdict: torch.Tensor
    where: torch.Tensor


@dataclass(frozen=True)
class Shape:
    """What fixes the shapes of a value network.

    taps: channels of the generator's feature maps by tap name. latent: channels C. text: width D of the prompt embedding. grid: G.
    width, heads: of the network. blocks: how often the words look at the patches.
    """

    taps: Mapping[str, int]
    latent: int
    text: int
    grid: int
    width: int = 80
    heads: int = 4
    blocks: int = 2


class ValueNetwork(nn.Module):
    """The standardised reward to expect of a state, and why.

    mean = m + c sum_l w_l sigmoid(v_l), w = softmax over words, v_l the verdict of word l; m, w, v, c are learned.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.maps = nn.ModuleDict({_key(name): Map(channels, width) for name, channels in shape.taps.items()})
        self.latents = nn.Linear(2 * shape.latent, width)
        self.words = nn.Linear(shape.text, width)
        self.register_buffer("waves", places(shape.grid, 4), persistent=False)
        self.place = nn.Linear(self.waves.shape[1], width)
        self.noise = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.patches = Block(width, shape.heads, looks_around=False)
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.blocks))
        self.where = nn.Linear(width, 2)
        self.found = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        self.compare = Compare(width)
        self.verdict = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.weight = nn.Linear(width, 1)
        self.share = nn.Linear(1, 1, bias=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2))
        for value in (self.head[-1].weight, self.head[-1].bias, self.share.weight):
            nn.init.zeros_(value)

    def forward(
        self,
        taps: Mapping[str, torch.Tensor],
        x_BCHW: torch.Tensor,
        x0_BCHW: torch.Tensor,
        log_snr_B: torch.Tensor,
        embedding_BLD: torch.Tensor,
    ) -> Opinion:
        """taps: maps (B, C', h, w) by tap name; log_snr_B: ln(alpha^2 / sigma^2)."""
        scale_B1W, shift_B1W, level_B1W = self.noise(fourier(log_snr_B))[:, None].chunk(3, -1)
        patch_BPW = self._patches(taps, torch.cat([x_BCHW, x0_BCHW], 1)) * (1 + scale_B1W) + shift_B1W
        word_BLW = self.words(embedding_BLD) + level_B1W
        patch_BPW = self.patches(patch_BPW, self.patches.across.seen(word_BLW))
        seen = [block.across.seen(patch_BPW) for block in self.blocks]
        word_BLW = self._look(word_BLW, seen)
        where_BL2 = self.where(word_BLW)
        word_BLW = word_BLW + self.found(where_BL2) + self.compare(word_BLW, where_BL2)
        word_BLW = self._look(word_BLW, seen)
        verdict_BL1, weight_BL1 = self.verdict(word_BLW), self.weight(word_BLW).softmax(1)
        pooled_BW, share_B1 = (weight_BL1 * word_BLW).sum(1), (weight_BL1 * verdict_BL1.sigmoid()).sum(1)
        mean_B, log_variance_B = self.head(pooled_BW + level_B1W[:, 0]).unbind(1)
        mean_B = mean_B + self.share(share_B1).squeeze(1)
        return Opinion(mean_B, log_variance_B.clamp(*LOG_VARIANCE), verdict_BL1.squeeze(2), where_BL2)

    def _look(self, word_BLW: torch.Tensor, seen: Sequence[Seen]) -> torch.Tensor:
        for block, patches in zip(self.blocks, seen, strict=True):
            word_BLW = block(word_BLW, patches)
        return word_BLW

    def _patches(self, taps: Mapping[str, torch.Tensor], latent_BCHW: torch.Tensor) -> torch.Tensor:
        """The sum of all maps on one grid (B, P, W)."""
        grid = self.shape.grid
        total_BPW = self.latents(_tokens(to_grid(latent_BCHW, grid, exact=True))) + self.place(self.waves)
        for name in self.shape.taps:
            total_BPW = total_BPW + self.maps[_key(name)](taps[name], grid)
        return total_BPW


class Map(nn.Module):
    """A feature map in standard units, channel by channel, and projected; `center` and `spread` are those of the training data."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.project = nn.Linear(channels, width)

    def forward(self, map_BChw: torch.Tensor, grid: int) -> torch.Tensor:
        """(B, P, W); projected at its own size where that is the smaller one."""
        map_BChw = to_grid(map_BChw, grid)
        side = map_BChw.shape[2:]
        token_BpW = self.project((_tokens(map_BChw) - self.center) / self.spread)
        if tuple(side) == (grid, grid):
            return token_BpW
        return _tokens(to_grid(token_BpW.transpose(1, 2).unflatten(2, side), grid, exact=True))


class Compare(nn.Module):
    """For each word a feature (B, L, W) of how the place of one word that it picks is displaced from that of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.pick, self.key = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.moved = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, word_BLW: torch.Tensor, where_BL2: torch.Tensor) -> torch.Tensor:
        word_BLW = self.norm(word_BLW)
        pick_B2LW = self.pick(word_BLW).unflatten(2, (2, -1)).transpose(1, 2)
        match_B2LL = pick_B2LW @ self.key(word_BLW)[:, None].transpose(2, 3) / word_BLW.shape[2] ** 0.5
        first_BL2, second_BL2 = (match_B2LL.softmax(3) @ where_BL2[:, None]).unbind(1)
        moved_BL2 = second_BL2 - first_BL2
        return self.moved(torch.cat([moved_BL2, moved_BL2.abs()], -1))


class Block(nn.Module):
    """Pre-norm attention: to each other (`looks_around`), then to the others' tokens, then a feed-forward layer."""

    def __init__(self, width: int, heads: int, looks_around: bool = True) -> None:
        super().__init__()
        self.around = Attention(width, heads) if looks_around else None
        self.across = Attention(width, heads)
        self.drop = nn.Dropout(DROPOUT)
        self.forth = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, token_BNW: torch.Tensor, others: Seen) -> torch.Tensor:
        if self.around is not None:
            token_BNW = token_BNW + self.drop(self.around(token_BNW, self.around.seen(token_BNW)))
        token_BNW = token_BNW + self.drop(self.across(token_BNW, others))
        return token_BNW + self.drop(self.forth(token_BNW))


class Attention(nn.Module):
    """Multi-head attention of N tokens to M others, each layer-normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.other = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def seen(self, other_BMW: torch.Tensor) -> Seen:
        """Keys and values of the others, which one can look at several times."""
        key, value = (self._split(part) for part in self.key_value(self.other(other_BMW)).chunk(2, -1))
        return key, value

    def forward(self, token_BNW: torch.Tensor, others: Seen) -> torch.Tensor:
        query = self._split(self.query(self.norm(token_BNW)))
        return self.out(F.scaled_dot_product_attention(query, *others).transpose(1, 2).flatten(2))

    def _split(self, token_BNW: torch.Tensor) -> torch.Tensor:
        return token_BNW.unflatten(2, (self.heads, -1)).transpose(1, 2)


def to_grid(map_BChw: torch.Tensor, grid: int, exact: bool = False) -> torch.Tensor:
    """A map averaged down to at most G x G; with `exact` a smaller one is interpolated up to it."""
    height, width = map_BChw.shape[2:]
    size = (min(height, grid), min(width, grid))
    if size != (height, width):
        map_BChw = F.adaptive_avg_pool2d(map_BChw, size)
    if exact and size != (grid, grid):
        map_BChw = F.interpolate(map_BChw, (grid, grid), mode="bilinear", align_corners=False)
    return map_BChw


def places(grid: int, waves: int) -> torch.Tensor:
    """Where each patch is, as waves of its coordinates (P, 4 waves)."""
    at = (torch.arange(grid) + 0.5) / grid
    angle_GK = torch.pi * at[:, None] * torch.arange(1, waves + 1)
    wave_GK = torch.cat([angle_GK.sin(), angle_GK.cos()], 1)
    rows, columns = wave_GK[:, None].expand(-1, grid, -1), wave_GK[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)


def fourier(log_snr_B: torch.Tensor) -> torch.Tensor:
    """Waves of the log-SNR (B, 2 WAVES), from slow to fast ones; beyond +-16 all is noise, or none."""
    frequency_K = torch.exp(torch.linspace(math.log(0.05), math.log(3.0), WAVES, device=log_snr_B.device))
    angle_BK = log_snr_B.clamp(-16, 16)[:, None] * frequency_K
    return torch.cat([angle_BK.sin(), angle_BK.cos()], 1)


def _tokens(map_BChw: torch.Tensor) -> torch.Tensor:
    return map_BChw.flatten(2).transpose(1, 2)


def _key(tap: str) -> str:
    return tap.replace(".", "_")
