"""Named U-Net features, read by forward hooks from the same call that predicts x0 and eps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

Point = tuple[nn.Module, str]  # a module, and "input" or "output"


def unet_points(unet: nn.Module) -> dict[str, Point]:
    """Tap names of a UNet2DConditionModel.

    "down.i": input of the i-th down block's down-sampler (the last block has none); "mid": output of the middle block, if any;
    "up.i": output of the i-th up block.
    """
    points: dict[str, Point] = {}
    for i, block in enumerate(unet.down_blocks):
        if block.downsamplers is not None:
            points[f"down.{i}"] = (block.downsamplers[0], "input")
    if unet.mid_block is not None:
        points["mid"] = (unet.mid_block, "output")
    for i, block in enumerate(unet.up_blocks):
        points[f"up.{i}"] = (block, "output")
    return points


def middle_tap(points: Mapping[str, Point]) -> str:
    """The tap whose features tell most about what is where: an up block short of the middle, as DIFT found (arXiv 2306.03881)."""
    ups = [name for name in points if name.startswith("up.")]
    return ups[max(0, len(ups) // 2 - 1)]


def unet_channels(unet: nn.Module) -> dict[str, int]:
    """Channels of each tap of a UNet2DConditionModel, in the order of `unet_points`."""
    channels = unet.config.block_out_channels
    known = {f"down.{i}": count for i, count in enumerate(channels)} | {"mid": channels[-1]}
    known |= {f"up.{i}": count for i, count in enumerate(reversed(channels))}
    return {name: known[name] for name in unet_points(unet)}


@contextmanager
def tapped(points: Mapping[str, Point], names: Sequence[str], pooled: bool) -> Iterator[dict[str, torch.Tensor]]:
    """Within the block, a forward fills the yielded dict: name -> fp32 map (N, C, h, w), or its mean over h, w (N, C) if pooled.

    Raises ValueError for a name that the network lacks.
    """
    unknown = [name for name in names if name not in points]
    if unknown:
        raise ValueError(f"no tap named {unknown[0]!r}; this network has {', '.join(points)}")
    found: dict[str, torch.Tensor] = {}

    def record(name: str, feature_NChw: torch.Tensor) -> None:
        feature_NChw = feature_NChw.detach().float()
        found[name] = feature_NChw.mean(dim=(2, 3)) if pooled else feature_NChw

    handles = [_hook(*points[name], lambda feature, name=name: record(name, feature)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, side: str, record):
    if side == "input":
        return module.register_forward_pre_hook(lambda _, inputs: record(inputs[0]))
    return module.register_forward_hook(lambda _, __, output: record(output))
