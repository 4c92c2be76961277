"""What pipelines around a `UNet2DConditionModel` have in common behind the few calls of the denoiser and the decoder.

Shapes: N rows of a network call; C, H, W latent; L tokens, D their width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from mcts_ray.diffusion.adapters.vae import VaeAdapter
from mcts_ray.diffusion.errors import UnsupportedModel
from mcts_ray.diffusion.levels import refuse_clipping
from mcts_ray.diffusion.prompts import Condition
from mcts_ray.diffusion.resolve import check_sides, check_unet
from mcts_ray.diffusion.taps import unet_points


class UNetAdapter(ABC):
    """A loaded pipeline; LoRA weights and textual inversions in it apply as they do in the pipeline.

    pipeline: the class in `model_index.json`. ays_grid: the table of AYS time steps made for these models.
    Raises UnsupportedModel for U-Nets that need more than a latent, a time step and what `encode` gives, and ClippingRefused
    for a scheduler that clips.
    """

    pipeline: ClassVar[str]
    ays_grid: ClassVar[str]

    def __init__(self, pipe, upcast_vae: bool = False):
        unet, vae = pipe.unet.config, pipe.vae.config
        check_unet(unet, self.pipeline)
        if unet.in_channels != vae.latent_channels:
            raise UnsupportedModel(f"a U-Net of {unet.in_channels} channels on {vae.latent_channels}-channel latents is not supported")
        refuse_clipping(pipe.scheduler)
        self.pipe = pipe
        self.unet = pipe.unet.eval()
        self._vae = VaeAdapter(pipe.vae, upcast_vae)
        self.device = self.unet.device
        self.scheduler = pipe.scheduler
        self.tap_points = unet_points(self.unet)

    @property
    def scale_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return self._vae.scale_factor

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the pipeline makes when not told otherwise."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.scale_factor, width * self.scale_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, H, W) of the latent of an image; ValueError unless both sides are multiples of the autoencoder's factor."""
        factor = self.scale_factor
        check_sides(height, width, factor)
        return self.unet.config.in_channels, height // factor, width // factor

    @abstractmethod
    def encode(self, prompt: str, negative: bool = False) -> Condition:
        """What the pipeline's own text encoders make of one prompt, or negative prompt."""

    @abstractmethod
    def forward(self, x_NCHW: torch.Tensor, t_N: torch.Tensor, condition: Condition) -> torch.Tensor:
        """One network call in the network's dtype on N stacked conditions; the output is fp32."""

    def decode(self, latent_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, height, width) in [-1, 1], fp32, possibly overshooting."""
        return self._vae.decode(latent_NCHW)
