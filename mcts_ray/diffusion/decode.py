"""Latents to images in micro-batches."""

from __future__ import annotations

import numpy as np
import torch

from mcts_ray.diffusion.memory import Slices

_PIXELS = {"cpu": 2**16, "cuda": 2**22}  # per micro-batch: 16 images of 512 x 512 on a GPU, 16 of 64 x 64 in a CPU's cache


class Decoder:
    """Decodes latents to uint8 images as the stock pipeline does; out of memory halves the micro-batch and tries again."""

    def __init__(self, adapter, batch_size: int | None = None):
        self.adapter = adapter
        self.batch_size = batch_size
        self._slices: dict[tuple[int, ...], Slices] = {}

    def decode(self, latent_NCHW: torch.Tensor) -> np.ndarray:
        """(N, C, H, W) -> (N, height, width, 3) uint8."""
        shape = tuple(latent_NCHW.shape[1:])
        if shape not in self._slices:
            self._slices[shape] = Slices(self.batch_size or self._default_batch(shape))
        parts = self._slices[shape].run(len(latent_NCHW), lambda part: self._decode(latent_NCHW[part]))
        return np.concatenate(parts)

    def _default_batch(self, shape: tuple[int, ...]) -> int:
        factor = self.adapter.scale_factor
        return max(1, _PIXELS[self.adapter.device.type] // (shape[1] * shape[2] * factor**2))

    def _decode(self, latent_NCHW: torch.Tensor) -> np.ndarray:
        image_NCHW = self.adapter.decode(latent_NCHW.to(self.adapter.device))
        image_NHWC = (image_NCHW / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return (image_NHWC * 255).round().to(torch.uint8).cpu().numpy()
