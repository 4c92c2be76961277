"""Siblings fused by what the network sees in them: features are averaged and mapped back to a latent by a small trained network.

    x~ = D(sum_i a_i f_i) + rho*      rho* = sum_i a_i rho_i, with the mean norm of the rho_i,   rho_i = x_i - D(f_i)
    z* = (x~ - mu) / s, with the mean norm of the z_i                                                       sum_i a_i = 1

D was trained to find x_i from its features f_i and its log-SNR (`mcts_ray.fusion.train`). As a regression it knows the mean alone,
so what it leaves out, rho_i, is fused like noise; with one sibling, and with equal ones, the result is that sibling, exactly.

Shapes: N siblings of C channels, H x W latents; features of C' channels on h x w cells; D = C H W.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from mcts_ray.fusion.innovation import CANCELLED, copies, mean_norm, transported, weighted_sum
from mcts_ray.tree.weights import Refusal


class DecoderNetwork(nn.Module):
    """D: convolutions on the grid of the features, modulated by the log-SNR; `factor` cells of the latent for each of theirs.

    forward: features_NChw, log_snr_N -> latent (N, C, factor h, factor w).
    """

    def __init__(self, features: int, channels: int, factor: int = 1, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.config = {"features": features, "channels": channels, "factor": factor, "width": width, "blocks": blocks}
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("sd", torch.ones(features))
        self.level = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 2 * blocks * width))
        self.enter = nn.Conv2d(features, width, 1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = nn.Conv2d(width, channels * factor**2, 3, padding=1)

    def forward(self, features_NChw: torch.Tensor, log_snr_N: torch.Tensor) -> torch.Tensor:
        standard = (features_NChw - self.mean[:, None, None]) / self.sd[:, None, None]
        h = self.enter(standard)
        for block, change in zip(self.blocks, self.level(log_snr_N[:, None] / 10).chunk(len(self.blocks), 1)):
            h = block(h, change)
        return F.pixel_shuffle(self.leave(h), self.config["factor"])

    def latent(self, features_NChw: torch.Tensor, log_snr: float, size: tuple[int, int]) -> torch.Tensor:
        """The latents (N, C, *size) of features on any grid, and on any device, to which they come back."""
        device, features_NChw = features_NChw.device, features_NChw.to(self.mean.device)
        grid = [-(-side // self.config["factor"]) for side in size]
        if list(features_NChw.shape[2:]) != grid:
            features_NChw = F.interpolate(features_NChw, grid, mode="bilinear", align_corners=False)
        found = self(features_NChw, features_NChw.new_full((len(features_NChw),), log_snr))
        return found[..., : size[0], : size[1]].to(device)

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """`config.json`, with `about` in it, and `model.safetensors` in fp16."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"network": self.config, **about}, indent=2) + "\n")


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, h_NChw: torch.Tensor, change_NC: torch.Tensor) -> torch.Tensor:
        scale, shift = change_NC[..., None, None].chunk(2, 1)
        return h_NChw + self.second(F.silu(self.first(F.silu(self.norm(h_NChw) * (1 + scale) + shift))))


@lru_cache(maxsize=4)
def load(folder: str, device: str = "cpu") -> DecoderNetwork:
    """The network in a folder, fp32."""
    network = DecoderNetwork(**read_config(folder)["network"])
    network.load_state_dict({name: value.float() for name, value in load_file(Path(folder) / "model.safetensors").items()})
    return network.to(device).eval().requires_grad_(False)


def read_config(folder: str) -> dict[str, Any]:
    """What a folder says of its network; ValueError for one that cannot be read."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return {"network": dict(config["network"]), "tap": str(config["tap"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder} holds no fusion decoder; make one with `mcts-ray train fusion --out {folder}`") from None


def check_decoder(folder: str, adapter) -> str:
    """The tap that the network of a folder reads; ValueError if the model behind `adapter` has no such features."""
    config = read_config(folder)
    network, tap = config["network"], config["tap"]
    have = adapter.unet.config.in_channels, tap_channels(adapter.unet).get(tap)
    if have != (network.get("channels"), network.get("features")):
        raise ValueError(f"the fusion decoder in {folder} was trained for another model; train one with `mcts-ray train fusion --model`")
    return tap


def tap_channels(unet: nn.Module) -> dict[str, int]:
    """Channels of the taps that a decoder may read: the up blocks' outputs."""
    return {f"up.{i}": block.resnets[-1].conv2.out_channels for i, block in enumerate(unet.up_blocks)}


@torch.no_grad()
def decoded(
    z_NCHW: torch.Tensor,
    x_NCHW: torch.Tensor,
    features_NChw: torch.Tensor,
    a_N: torch.Tensor,
    origin: tuple[torch.Tensor, float],
    log_snr: float,
    network: DecoderNetwork,
) -> torch.Tensor | Refusal:
    """The noise z* (C, H, W) in the type of `z_NCHW`; `origin`: (mu, s). The maths is in fp32, weights are at least 0."""
    z_ND, a_N = z_NCHW.float().flatten(1), a_N.float()
    found_D = toward(x_NCHW.float(), features_NChw.float(), a_N / a_N.sum(), origin, log_snr, network).flatten()
    norm = mean_norm(z_ND, a_N)
    if not found_D.norm() >= CANCELLED * norm:
        return Refusal.CANCELLED
    if copies(z_ND, found_D):
        return Refusal.COPY
    return (norm / found_D.norm() * found_D).reshape(z_NCHW.shape[1:]).to(z_NCHW.dtype)


def toward(x_NCHW, features_NChw, w_N, origin, log_snr: float, network: DecoderNetwork) -> torch.Tensor:
    """(x~ - mu) / s (C, H, W), of whatever length; weights sum to 1."""
    fused_1Chw = weighted_sum(features_NChw.flatten(1), w_N).reshape(1, *features_NChw.shape[1:])
    latents = network.latent(torch.cat([fused_1Chw, features_NChw]), log_snr, x_NCHW.shape[2:])
    rest_ND = (x_NCHW - latents[1:]).flatten(1)
    mu_CHW, s = origin
    return (latents[0] + transported(rest_ND, w_N).reshape(mu_CHW.shape) - mu_CHW) / s
