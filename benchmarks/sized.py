"""Pipelines with the U-Nets of SD 1.5 and SDXL, of random weights: as much work as the real ones, and nothing to download.

Text encoders are as wide as the real ones but shallow, tokenizers and autoencoders tiny: they are not what is measured.
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import tiny_scheduler, tiny_text_config, tiny_tokenizer, tiny_vae


def sd15() -> StableDiffusionPipeline:
    """Latents 64 x 64, as of 512 pixels."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(_wide(len(tokenizer), 768)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=tiny_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe


def sdxl() -> StableDiffusionXLPipeline:
    """Latents 128 x 128, as of 1024 pixels."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer(pad_token=".")
    second = _wide(len(tokenizer_2), 1280)
    second.update({"projection_dim": 1280, "hidden_act": "gelu"})
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 1280,
    )
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(_wide(len(tokenizer), 768)),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=tiny_scheduler(),
        add_watermarker=False,
    )


def _wide(words: int, width: int):
    config = tiny_text_config(words)
    config.update({"hidden_size": width, "intermediate_size": width, "num_attention_heads": width // 64})
    return config


PIPELINES = {"sd15": sd15, "sdxl": sdxl}
