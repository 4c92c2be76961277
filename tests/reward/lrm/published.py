"""Latent reward models as their authors save them, built from stock modules at tiny sizes, and a tiny SDXL pipeline."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import SIZE, tiny_pipeline, tiny_scheduler, tiny_tokenizer


def _text_config(width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=width,
        projection_dim=projection,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """Two text encoders, an added text and size condition, and no attention in the first block, as in SDXL."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 24),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=16 + 20,
            attention_head_dim=2,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 12,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=SIZE,
            scaling_factor=0.13025,
        )
        texts = CLIPTextModel(_text_config(16, 16)), CLIPTextModelWithProjection(_text_config(20, 12))
    words = tiny_tokenizer(), tiny_tokenizer()
    pipe = StableDiffusionXLPipeline(vae, *texts, *words, unet, tiny_scheduler(), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def heads(pipe, seed: int = 1) -> dict:
    """What lies in state_dict.pt."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> dict[str, torch.Tensor]:
        return {"weight": torch.randn(shape, generator=generator) / shape[1] ** 0.5}

    channels = pipe.unet.config.block_out_channels
    width = sum(channels) + channels[-1]
    if hasattr(pipe, "text_encoder_2"):
        return {"visual_projection": weight(12, width), "logit_scale": torch.tensor(2.0)}
    text = pipe.text_encoder.config
    projections = {"visual_projection": weight(text.projection_dim, width)}
    return projections | {"text_projection": weight(text.projection_dim, text.hidden_size), "logit_scale": 2.0}


def save_published(pipe, folder: Path, seed: int = 1) -> dict:
    """The published folder, whole U-Net included, of a pipeline's own networks; returns the heads."""
    pipe.unet.save_pretrained(folder / "unet")
    pipe.text_encoder.save_pretrained(folder / "text_encoder")
    if hasattr(pipe, "text_encoder_2"):
        pipe.text_encoder_2.save_pretrained(folder / "text_encoder_2")
    torch.save(heads(pipe, seed), folder / "state_dict.pt")
    return heads(pipe, seed)


def flat_state(pipe, seed: int = 1) -> dict[str, torch.Tensor]:
    """The state dict of the module in one file, by the published names."""
    small = heads(pipe, seed)
    state = {f"unet.{name}": value for name, value in pipe.unet.state_dict().items()}
    for encoder in ("text_encoder", "text_encoder_2"):
        if hasattr(pipe, encoder):
            for name, value in getattr(pipe, encoder).state_dict().items():
                prefix = "" if name.startswith(("text_model", "text_projection")) else "text_model."
                state[f"{encoder}.{prefix}{name}"] = value
    state |= {f"{name}.weight": value["weight"] for name, value in small.items() if name != "logit_scale"}
    state["logit_scale"] = torch.tensor(float(small["logit_scale"]))
    return {name: value.contiguous() for name, value in state.items()}


def adapter_of(pipe) -> SimpleNamespace:
    """What a step scorer needs of an adapter."""
    return SimpleNamespace(pipe=pipe, unet=pipe.unet, device=pipe.unet.device)


PIPELINES = {"sd": cache(tiny_pipeline), "sdxl": cache(tiny_sdxl)}  # one of each, for tests that leave it as it is
