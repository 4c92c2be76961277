"""What the IGE reads of a state: numbers that the generator's call at it has computed anyway.

    pooled   of each feature map and of the predicted image: mean and standard deviation of every channel; of the prompt: mean and
             standard deviation over its tokens
    value    what a value head makes of the state just before its last layers, and its prediction: maps and words stay apart there
             until the end, but its network runs once for each state

Legend: B states, C' x h x w feature map, L tokens of width D, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from mcts_ray.gain.folder import PRINT, absolute
from mcts_ray.reward.step import States, load_scorer

KINDS = ("pooled", "value")
MANY_BLOCKS = 2  # a U-Net with more up blocks than this is a large one
HALF = 65504.0  # the largest fp16


class Reader(Protocol):
    """Reads states. taps: the feature maps that it needs; facts: what it is, as in the config; features: F."""

    taps: tuple[str, ...]
    facts: Mapping[str, Any]
    features: int

    def read(self, states: States) -> torch.Tensor:
        """(B, F) fp32, within the range of fp16."""


class Pooled:
    """Mean and standard deviation of maps, predicted image and prompt."""

    def __init__(self, adapter, taps: tuple[str, ...] | None = None) -> None:
        config = adapter.unet.config
        there = channels(adapter.unet)
        self.taps = taps or default_taps(adapter.unet)
        unknown = [name for name in self.taps if name not in there]
        if unknown:
            raise ValueError(f"no tap named {unknown[0]!r}; this U-Net has {', '.join(there)}")
        width = sum(there[name] for name in self.taps) + config.in_channels + config.cross_attention_dim
        self.facts = {"kind": "pooled", "taps": {name: there[name] for name in self.taps}, "text": config.cross_attention_dim}
        self.features = 2 * width

    def read(self, states: States) -> torch.Tensor:
        maps = [*(states.taps[name] for name in self.taps), states.x0]
        parts = [part for map_BChw in maps for part in _moments(map_BChw.flatten(2), 2)]
        parts += _moments(states.embeddings, 1)
        return torch.cat(parts, 1).clamp(-HALF, HALF)


class Trunk:
    """The last hidden state of a value head, with the mean and the log variance that it predicts."""

    def __init__(self, adapter, source: str) -> None:
        self._head = load_scorer("value", source, adapter)
        self._hidden = torch.empty(0)
        last = self._head.network.head
        last.register_forward_pre_hook(self._catch)
        self.taps = tuple(self._head.taps)
        self.facts = {"kind": "value", "source": absolute(source)}
        self.features = last[0].normalized_shape[0] + 2

    def read(self, states: States) -> torch.Tensor:
        mean_B, variance_B = self._head.score_with_variance(states)
        return torch.cat([self._hidden, torch.stack([mean_B, variance_B.log()], 1)], 1).clamp(-HALF, HALF)

    def _catch(self, module, inputs) -> None:
        self._hidden = inputs[0]


def make_reader(facts: Mapping[str, Any], adapter) -> Reader:
    """The reader of a config. ValueError if it does not fit the generator."""
    if facts["kind"] == "value":
        return Trunk(adapter, facts["source"])
    reader = Pooled(adapter, tuple(facts["taps"]))
    for name, here in reader.facts["taps"].items():
        if here != facts["taps"][name]:
            raise ValueError(f"the IGE reads {facts['taps'][name]} channels of {name}, where this U-Net has {here}")
    if reader.facts["text"] != facts["text"]:
        raise ValueError(f"the IGE reads a prompt embedding of {facts['text']}, where this model has {reader.facts['text']}")
    return reader


def default_taps(unet) -> tuple[str, ...]:
    """The maps to read: of a small U-Net all, of a large one the three around the middle."""
    names = list(channels(unet))
    downs, ups = [[name for name in names if name.startswith(side)] for side in ("down.", "up.")]
    return tuple(names) if len(ups) <= MANY_BLOCKS else (downs[-1], "mid", ups[0])


def channels(unet) -> dict[str, int]:
    """Channels of each tap of a U-Net (`mcts_ray.diffusion.taps`)."""
    from mcts_ray.diffusion.taps import unet_points

    widths = unet.config.block_out_channels
    known = {f"down.{i}": width for i, width in enumerate(widths)} | {"mid": widths[-1]}
    known |= {f"up.{i}": width for i, width in enumerate(reversed(widths))}
    return {name: known[name] for name in unet_points(unet)}


def fingerprint(unet) -> tuple[float, ...]:
    """A few weights of the first and last convolution: another model has others, the same in another precision nearly the same."""
    found = []
    for layer in (unet.conv_in, unet.conv_out):
        weight = layer.weight.detach().float().flatten().cpu()
        index = torch.linspace(0, len(weight) - 1, PRINT // 2).long()
        found += [float(f"{value:.4g}") for value in weight[index].tolist()]
    return tuple(found)


def _moments(value: torch.Tensor, over: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over a dimension; `torch.std_mean` takes several times as long on a CPU."""
    value = value.float()
    mean = value.mean(over, keepdim=True)
    return mean.squeeze(over), (value - mean).square_().mean(over).sqrt_()
