"""Stable Diffusion 1.x and 2.x behind the few calls that the denoiser and the decoder need."""

from __future__ import annotations

import torch

from mcts_ray.diffusion.adapters.unet import UNetAdapter
from mcts_ray.diffusion.prompts import Condition


class StableDiffusionAdapter(UNetAdapter):
    """A loaded `StableDiffusionPipeline`."""

    pipeline = "StableDiffusionPipeline"
    ays_grid = "ays"

    def __init__(self, pipe):
        super().__init__(pipe)
        pipe.text_encoder.eval()

    @torch.no_grad()
    def encode(self, prompt: str, negative: bool = False) -> Condition:
        """The pipeline's own text embedding (L, D); a negative prompt is encoded in the same way."""
        return Condition(self.pipe.encode_prompt([prompt], self.device, 1, do_classifier_free_guidance=False)[0][0])

    @torch.no_grad()
    def forward(self, x_NCHW: torch.Tensor, t_N: torch.Tensor, condition: Condition) -> torch.Tensor:
        dtype = self.unet.dtype
        output = self.unet(x_NCHW.to(dtype), t_N, encoder_hidden_states=condition.embedding.to(dtype), return_dict=False)
        return output[0].float()
