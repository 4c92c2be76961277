"""Tiny pipelines of the Stable Diffusion classes built from configs: 32 x 32 images, 8 x 8 x 4 latents, own CLIP tokenizers."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIZE = 32


def tiny_tokenizer(length: int = 16, **options) -> CLIPTokenizer:
    """A character-level CLIP tokenizer."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    tokens = ["<|startoftext|>", "<|endoftext|>", *characters, *(c + "</w>" for c in characters)]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=length, **options)


def tiny_scheduler(prediction_type: str = "epsilon", **options) -> DDIMScheduler:
    """Stable Diffusion's DDIM: scaled linear betas, `leading` steps from 1, not ending clean."""
    options = {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False, **options}
    return DDIMScheduler(**SD_BETAS, prediction_type=prediction_type, **options)


def tiny_vae() -> AutoencoderKL:
    """Four pixels per latent cell."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )


def tiny_text_config(words: int) -> CLIPTextConfig:
    """16 tokens of width 16."""
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tiny_pipeline(prediction_type: str = "epsilon", scheduler=None, seed: int = 0) -> StableDiffusionPipeline:
    """A randomly initialised pipeline in fp32 on the CPU, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = tiny_vae()
        tokenizer = tiny_tokenizer()
        text_encoder = CLIPTextModel(tiny_text_config(len(tokenizer)))
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler or tiny_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_xl_pipeline(scheduler=None, seed: int = 0, **options) -> StableDiffusionXLPipeline:
    """The same in the classes of SDXL: two text encoders, three blocks, sizes and a pooled embedding beside the prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=32,
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            norm_num_groups=4,
        )
        vae = tiny_vae()
        tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer(pad_token=".")
        text_encoder = CLIPTextModel(tiny_text_config(len(tokenizer)))
        config = tiny_text_config(len(tokenizer_2))
        config.update({"projection_dim": 24, "hidden_act": "gelu"})
        text_encoder_2 = CLIPTextModelWithProjection(config)
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=scheduler or tiny_scheduler(),
        add_watermarker=False,
        **options,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
