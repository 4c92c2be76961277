"""SDXL (arXiv 2307.01952) behind the few calls that the denoiser and the decoder need.

Shapes: N rows of a network call; C, H, W latent; L tokens, D their width in both text encoders together; P pooled.
"""

from __future__ import annotations

import torch

from mcts_ray.diffusion.adapters.unet import UNetAdapter
from mcts_ray.diffusion.errors import UnsupportedModel
from mcts_ray.diffusion.prompts import Condition

_TIME_IDS = 6  # original height and width, crop from the top and the left, target height and width


class StableDiffusionXLAdapter(UNetAdapter):
    """A loaded `StableDiffusionXLPipeline`: the base model, with two text encoders or the second alone.

    Original and target size are those of the image asked for, nothing is cropped: the defaults of the pipeline.
    Also raises UnsupportedModel for a U-Net that reads other sizes (the refiner).
    """

    pipeline = "StableDiffusionXLPipeline"
    ays_grid = "ays-xl"

    def __init__(self, pipe):
        super().__init__(pipe, upcast_vae=True)
        if pipe.text_encoder_2 is None:
            raise UnsupportedModel("an SDXL pipeline without its second text encoder cannot read prompts")
        wanted = _TIME_IDS * pipe.unet.config.addition_time_embed_dim + pipe.text_encoder_2.config.projection_dim
        given = pipe.unet.add_embedding.linear_1.in_features
        if given != wanted:
            raise UnsupportedModel(
                f"an SDXL U-Net with {given} added features where size, crop and pooled prompt make {wanted} "
                "(the refiner) is not supported; use the base model"
            )
        for encoder in (pipe.text_encoder, pipe.text_encoder_2):
            if encoder is not None:
                encoder.eval()

    @torch.no_grad()
    def encode(self, prompt: str, negative: bool = False) -> Condition:
        """The pipeline's own embedding (L, D) and pooled embedding (P,).

        An empty negative prompt is no negative prompt: zeros, where the pipeline says `force_zeros_for_empty_prompt`.
        """
        embedding_1LD, _, pooled_1P, _ = self.pipe.encode_prompt([prompt], device=self.device, do_classifier_free_guidance=False)
        if negative and not prompt and self.pipe.config.force_zeros_for_empty_prompt:
            return Condition(torch.zeros_like(embedding_1LD[0]), torch.zeros_like(pooled_1P[0]))
        return Condition(embedding_1LD[0], pooled_1P[0])

    @torch.no_grad()
    def forward(self, x_NCHW: torch.Tensor, t_N: torch.Tensor, condition: Condition) -> torch.Tensor:
        dtype = self.unet.dtype
        added = {"text_embeds": condition.pooled.to(dtype), "time_ids": self._time_ids(x_NCHW)}
        output = self.unet(
            x_NCHW.to(dtype),
            t_N,
            encoder_hidden_states=condition.embedding.to(dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )
        return output[0].float()

    def _time_ids(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 6): sizes in pixels, which are those of the latent, since sides are multiples of the autoencoder's factor."""
        height, width = (side * self.scale_factor for side in x_NCHW.shape[2:])
        ids_6 = torch.tensor([height, width, 0, 0, height, width], dtype=self.unet.dtype)
        return ids_6.to(self.device).expand(len(x_NCHW), -1)
