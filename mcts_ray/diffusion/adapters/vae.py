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
            return self.vae.decode(unscaled(self.vae, latent_NCHW).to(self.vae.dtype), return_dict=False)[0].float()

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


def unscaled(vae, latent_NCHW: torch.Tensor) -> torch.Tensor:
    """Latents as the autoencoder itself makes them, of those that the U-Net sees."""
    config = vae.config
    if _has_units(config):
        mean_1C11, std_1C11 = _units(config, latent_NCHW)
        return latent_NCHW * std_1C11 / config.scaling_factor + mean_1C11
    latent_NCHW = latent_NCHW / config.scaling_factor
    return latent_NCHW + config.shift_factor if config.get("shift_factor") else latent_NCHW


def scaled(vae, latent_NCHW: torch.Tensor) -> torch.Tensor:
    """Latents as the U-Net sees them, of those that the autoencoder itself makes: the inverse of `unscaled`."""
    config = vae.config
    if _has_units(config):
        mean_1C11, std_1C11 = _units(config, latent_NCHW)
        return (latent_NCHW - mean_1C11) * config.scaling_factor / std_1C11
    return (latent_NCHW - (config.get("shift_factor") or 0)) * config.scaling_factor


def _has_units(config) -> bool:
    """Whether the autoencoder has a mean and a spread for each channel, which go before the shift."""
    return config.get("latents_mean") is not None and config.get("latents_std") is not None


def _units(config, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Mean and spread (1, C, 1, 1) of its channels."""
    return tuple(torch.tensor(each).view(1, -1, 1, 1).to(like) for each in (config.latents_mean, config.latents_std))
