"""The autoencoder alone, for a process that only decodes."""

from __future__ import annotations

import torch


class VaeAdapter:
    """A diffusers `AutoencoderKL` behind the calls that the decoder needs."""

    def __init__(self, vae):
        self.vae = vae.eval().to(memory_format=torch.channels_last)  # its convolutions take half the time on a CPU

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
        config = self.vae.config
        latent_NCHW = latent_NCHW / config.scaling_factor
        if config.get("shift_factor"):
            latent_NCHW = latent_NCHW + config.shift_factor
        return self.vae.decode(latent_NCHW.to(self.vae.dtype), return_dict=False)[0].float()
