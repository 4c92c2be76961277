"""The network of the value head: words of the prompt look at patches of the generator's feature maps.

Pooled features lose which colour is on which shape and where; so the maps stay maps. They are brought to one grid of patches and added up
with the predicted image and the noisy state, and the patches see those around them. The words look at each other and at the patches, as a
reader who checks a picture against its caption, twice: between the looks a word is told how what two words have found is displaced. In the
end every word gives a verdict, and a weighted mean over the words says what to expect. How words look is what a reward that is such a
reader itself can lend (`mcts_ray.reward.value.reading`).

Legend: B states, C' x h x w a feature map, C x H x W latent, G x G patches, P = G^2, L words of width D, W width of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn import functional as F

WAVES = 16  # of the log-SNR
DROPOUT = 0.05  # in training: rewards are few, one for all states of a trajectory
INNER = 48  # width of what patches learn of those around them
LOG_VARIANCE = (-7.0, 3.0)  # bounds, in squared standard deviations of the reward
Seen = Sequence[torch.Tensor]  # keys and values (B, heads, M, W / heads) of M tokens


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
    width, heads: of the network. blocks: of a look.
    """

    taps: Mapping[str, int]
    latent: int
    text: int
    grid: int
    width: int = 80
    heads: int = 4
    blocks: int = 2


@dataclass(frozen=True)
class Words:
    """What the network makes of the words of B prompts, whatever the picture: themselves (B, L, W), how much each counts (B, L, before
    the softmax), whether it speaks of two others (B, L, a logit), and of which (B, 2, L, L, before the softmax over the last)."""

    word: torch.Tensor
    counts: torch.Tensor
    relates: torch.Tensor
    between: torch.Tensor

    def of(self, prompt_B: torch.Tensor | None) -> Words:
        """Those of some prompts, by number; of all, once each, if None."""
        if prompt_B is None:
            return self
        return Words(*(getattr(self, part.name)[prompt_B] for part in fields(self)))


class ValueNetwork(nn.Module):
    """The standardised reward to expect of a state, and why.

    mean = m + a + b sum_l w_l sigmoid(v_l), w = softmax over words, v_l the verdict of word l; m, a, b, w, v are learned.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        options = {"dim_feedforward": 2 * width, "dropout": DROPOUT, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.maps = nn.ModuleDict({_key(name): Map(channels, width) for name, channels in shape.taps.items()})
        self.latents = nn.Sequential(_conv(2 * shape.latent, INNER), nn.GELU(), _conv(INNER, width))
        self.register_buffer("waves", places(shape.grid, 4), persistent=False)
        self.place = nn.Linear(self.waves.shape[1], width)
        self.noise = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.around = nn.ModuleList(Around(width) for _ in range(2))
        self.words = nn.Linear(shape.text, width)
        self.context = nn.TransformerEncoderLayer(width, shape.heads, **options)
        self.meaning = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Look(width, shape.heads, **options) for _ in range(shape.blocks))
        self.where = nn.Linear(width, 2)
        self.compare = Compare(width)
        self.verdict = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.weight = nn.Linear(width, 1)
        self.share = nn.Linear(1, 1)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2))
        for layer in (self.noise[-1], self.head[-1], self.share):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        taps: Mapping[str, torch.Tensor],
        x_BCHW: torch.Tensor,
        x0_BCHW: torch.Tensor,
        log_snr_B: torch.Tensor,
        embedding_NLD: torch.Tensor,
        prompt_B: torch.Tensor | None = None,
    ) -> Opinion:
        """taps: maps (B, C', h, w) by tap name; log_snr_B: ln(alpha^2 / sigma^2). prompt_B: which of the N prompts each state has, which
        are read once each; None if each state has its own."""
        scale_B1W, shift_B1W, level_B1W = self.noise(fourier(log_snr_B))[:, None].chunk(3, -1)
        patch_BPW = self._patches(taps, torch.cat([x_BCHW, x0_BCHW], 1)) * (1 + scale_B1W) + shift_B1W
        for block in self.around:
            patch_BPW = patch_BPW + block(patch_BPW, self.shape.grid)
        words, seen = self.read(embedding_NLD).of(prompt_B), [block.seen(patch_BPW) for block in self.blocks]
        word_BLW = self._look(words.word + level_B1W, seen)
        where_BL2 = self.where(word_BLW)
        word_BLW = self._look(word_BLW + self.compare(words, where_BL2), seen)
        verdict_BL1, weight_BL1 = self.verdict(word_BLW), words.counts.softmax(1)[..., None]
        pooled_BW, share_B1 = (weight_BL1 * word_BLW).sum(1), (weight_BL1 * verdict_BL1.sigmoid()).sum(1)
        mean_B, log_variance_B = self.head(pooled_BW + level_B1W[:, 0]).unbind(1)
        mean_B = mean_B + self.share(share_B1).squeeze(1)
        return Opinion(mean_B, log_variance_B.clamp(*LOG_VARIANCE), verdict_BL1.squeeze(2), where_BL2)

    def read(self, embedding_BLD: torch.Tensor) -> Words:
        """Prompts alone."""
        word_BLW = self.meaning(self.context(self.words(embedding_BLD)))
        return Words(word_BLW, self.weight(word_BLW).squeeze(2), *self.compare.choose(word_BLW))

    def _look(self, word_BLW: torch.Tensor, seen: Sequence[Seen]) -> torch.Tensor:
        for block, patches in zip(self.blocks, seen, strict=True):
            word_BLW = block(word_BLW, patches)
        return word_BLW

    def _patches(self, taps: Mapping[str, torch.Tensor], latent_BCHW: torch.Tensor) -> torch.Tensor:
        """The sum of all maps on one grid (B, P, W)."""
        grid = self.shape.grid
        latent_BCGG = to_grid(latent_BCHW, grid, exact=True).contiguous(memory_format=torch.channels_last)  # so patches lie as tokens do
        total_BPW = _tokens(self.latents(latent_BCGG)) + self.place(self.waves)
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
        weight_WC = self.project.weight / self.spread
        token_BpW = F.linear(_tokens(map_BChw), weight_WC, self.project.bias - weight_WC @ self.center)
        if tuple(side) == (grid, grid):
            return token_BpW
        return _tokens(to_grid(token_BpW.transpose(1, 2).unflatten(2, side), grid, exact=True))


class Look(nn.TransformerDecoderLayer):
    """The stock layer, pre-norm, for words that look more than once at patches which are projected once."""

    def seen(self, patch_BPW: torch.Tensor) -> Seen:
        """Keys and values of the patches, without biases: that of keys changes no attention, that of values is added to what is found."""
        return self._split(F.linear(patch_BPW, self.multihead_attn.in_proj_weight[patch_BPW.shape[2] :]), 2)

    def forward(self, word_BLW: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Words that have looked at each other and at what is `seen`."""
        around, across, width = self.self_attn, self.multihead_attn, word_BLW.shape[2]
        query, *others = self._split(F.linear(self.norm1(word_BLW), around.in_proj_weight, around.in_proj_bias), 3)
        word_BLW = word_BLW + self._attend(around, query, others)
        (query,) = self._split(F.linear(self.norm2(word_BLW), across.in_proj_weight[:width], across.in_proj_bias[:width]), 1)
        word_BLW = word_BLW + self._attend(across, query, seen, across.in_proj_bias[2 * width :])
        return word_BLW + self._ff_block(self.norm3(word_BLW))

    def _split(self, token_BNX: torch.Tensor, parts: int) -> Seen:
        """So many parts of projected tokens by head: (B, heads, N, W / heads) each."""
        return token_BNX.unflatten(2, (parts, self.self_attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, attention: nn.MultiheadAttention, query: torch.Tensor, seen: Seen, bias: torch.Tensor | float = 0.0) -> torch.Tensor:
        dropout = attention.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(query, *seen, dropout_p=dropout)
        return self.dropout1(attention.out_proj(found.transpose(1, 2).flatten(2) + bias))


class Around(nn.Module):
    """What a patch learns (B, P, W) of those around it, through a narrow 3 x 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolve = nn.Sequential(nn.Conv2d(width, INNER, 1), nn.GELU(), _conv(INNER, INNER), nn.GELU(), nn.Conv2d(INNER, width, 1))

    def forward(self, patch_BPW: torch.Tensor, grid: int) -> torch.Tensor:
        return _tokens(self.convolve(self.norm(patch_BPW).transpose(1, 2).unflatten(2, (grid, grid))))


class Compare(nn.Module):
    """For each word a feature (B, L, W) of how the place of one word that it picks is displaced from that of another, as far as it
    speaks of two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pick, self.key, self.relates = nn.Linear(width, 2 * width), nn.Linear(width, width), nn.Linear(width, 1)
        self.moved = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width))

    def choose(self, word_BLW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`relates` and `between` of `Words`."""
        pick_B2LW = self.pick(word_BLW).unflatten(2, (2, -1)).transpose(1, 2)
        match_B2LL = pick_B2LW @ self.key(word_BLW)[:, None].transpose(2, 3) / word_BLW.shape[2] ** 0.5
        return self.relates(word_BLW).squeeze(2), match_B2LL

    def forward(self, words: Words, where_BL2: torch.Tensor) -> torch.Tensor:
        first_BL2, second_BL2 = (words.between.softmax(3) @ where_BL2[:, None]).unbind(1)
        moved_BL2 = second_BL2 - first_BL2
        return self.moved(torch.cat([moved_BL2, moved_BL2.abs()], -1)) * words.relates.sigmoid()[..., None]


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


def _conv(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


def _tokens(map_BChw: torch.Tensor) -> torch.Tensor:
    return map_BChw.flatten(2).transpose(1, 2)


def _key(tap: str) -> str:
    return tap.replace(".", "_")
