"""The autoencoder alone, for a process that only decodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class VaeAdapter:
    """A diffusers `AutoencoderKL` behind the calls that the decoder needs.

    upcast: whether one that asks for it (`force_upcast`) is run in fp32 where it is kept in fp16, in which it overflows, as
    the pipelines of SDXL do and those of Stable Diffusion do not.
    """

    def __init__(self, vae, upcast: bool = False):
        self.vae = vae.eval().to(memory_format=torch.channels_last)  # its convolutions take half the time on a CPU
        self._upcast = upcast and bool(vae.config.get("force_upcast"))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.vae.device

    @property
    def scale_factor(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def decode(self, latent_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, height, width) in [-1, 1], fp32, possibly overshooting."""
        with self._precise():
            return self.vae.decode(self._unscaled(latent_NCHW).to(self.vae.dtype), return_dict=False)[0].float()

    def _unscaled(self, latent_NCHW: torch.Tensor) -> torch.Tensor:
        """Latents as the autoencoder itself makes them."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean_1C11, std_1C11 = (torch.tensor(each).view(1, -1, 1, 1).to(latent_NCHW) for each in (mean, std))
            return latent_NCHW * std_1C11 / config.scaling_factor + mean_1C11
        latent_NCHW = latent_NCHW / config.scaling_factor
        return latent_NCHW + config.shift_factor if config.get("shift_factor") else latent_NCHW

    @contextmanager
    def _precise(self) -> Iterator[None]:
        """fp32 weights within, where they are asked for; the pipeline finds its own again."""
        if not (self._upcast and self.vae.dtype == torch.float16):
            yield
            return
        self.vae.float()  # `to` of diffusers would warn of modules to be kept in fp32 even where there are none
        try:
            yield
        finally:
            self.vae.half()
