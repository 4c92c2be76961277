"""Stable Diffusion 1.x and 2.x behind the few calls that the denoiser and the decoder need."""

from __future__ import annotations

import torch

from mcts_ray.diffusion.adapters.vae import VaeAdapter
from mcts_ray.diffusion.errors import UnsupportedModel
from mcts_ray.diffusion.levels import refuse_clipping
from mcts_ray.diffusion.resolve import check_sides
from mcts_ray.diffusion.taps import unet_points


class StableDiffusionAdapter:
    """A loaded `StableDiffusionPipeline`; LoRA weights and textual inversions in it apply as they do in the pipeline.

    Raises UnsupportedModel for U-Nets that need more than a latent, a time step and a text embedding
    (inpainting, SDXL, guidance-distilled), and ClippingRefused for a scheduler that clips.
    """

    def __init__(self, pipe):
        unet, vae = pipe.unet.config, pipe.vae.config
        if unet.in_channels != vae.latent_channels or unet.out_channels != unet.in_channels:
            raise UnsupportedModel(
                f"a U-Net from {unet.in_channels} to {unet.out_channels} channels on {vae.latent_channels}-channel latents "
                "(inpainting, learned variance) is not supported"
            )
        if unet.time_cond_proj_dim is not None or unet.addition_embed_type is not None:
            raise UnsupportedModel("guidance-distilled (LCM) and SDXL U-Nets are not supported yet")
        refuse_clipping(pipe.scheduler)
        self.pipe = pipe
        self.unet = pipe.unet.eval()
        self._vae = VaeAdapter(pipe.vae)
        pipe.text_encoder.eval()
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

    @torch.no_grad()
    def encode(self, prompt: str) -> torch.Tensor:
        """The pipeline's own text embedding (L, D); a negative prompt is encoded in the same way."""
        return self.pipe.encode_prompt([prompt], self.device, 1, do_classifier_free_guidance=False)[0][0]

    @torch.no_grad()
    def forward(self, x_NCHW: torch.Tensor, t_N: torch.Tensor, embedding_NLD: torch.Tensor) -> torch.Tensor:
        """One network call in the network's dtype; the output is fp32."""
        output = self.unet(
            x_NCHW.to(self.unet.dtype), t_N, encoder_hidden_states=embedding_NLD.to(self.unet.dtype), return_dict=False
        )
        return output[0].float()

    def decode(self, latent_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, height, width) in [-1, 1], fp32, possibly overshooting."""
        return self._vae.decode(latent_NCHW)
