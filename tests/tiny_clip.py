"""A tiny CLIP with its own tokenizer and image processor, and a head for it, saved in the layouts of the published weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.tiny import tiny_tokenizer

SIDE = 32
WIDTH = 12  # features


def save_clip(folder: Path, seed: int = 0, processor: bool = True, side: int = SIDE) -> Path:
    """A randomly initialised `CLIPModel` whose prompts are cut at 16 tokens."""
    tokenizer = tiny_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": SIDE, "patch_size": 8}, projection_dim=WIDTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for parameter in model.parameters():  # as published weights differ more than initial ones do
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if processor:
        tokenizer.save_pretrained(folder)
        save_processor(folder, side)
    return folder


def save_processor(folder: Path, side: int = SIDE) -> None:
    """An image processor alone."""
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder)


def head_state(seed: int = 0, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """Random layers under the keys of sac+logos+ava1-l14-linearMSE.pth: numbers 1, 3 and 5 are dropout."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {0: (width, 10), 2: (10, 8), 4: (8, 6), 6: (6, 4), 7: (4, 1)}
    weights = {f"layers.{i}.weight": torch.randn(b, a, generator=generator) for i, (a, b) in sizes.items()}
    return weights | {f"layers.{i}.bias": torch.randn(b, generator=generator) for i, (_, b) in sizes.items()}
