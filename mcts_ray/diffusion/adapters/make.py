"""The adapter that a loaded pipeline needs."""

from __future__ import annotations

from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.adapters.sdxl import StableDiffusionXLAdapter
from mcts_ray.diffusion.adapters.unet import UNetAdapter
from mcts_ray.diffusion.errors import UnsupportedModel
from mcts_ray.diffusion.resolve import PIPELINES


def make_adapter(pipe) -> UNetAdapter:
    """An adapter for a pipeline, by what its U-Net is told; UnsupportedModel or ClippingRefused for one that cannot be run."""
    if not all(hasattr(pipe, part) for part in ("unet", "vae", "scheduler", "encode_prompt")):
        raise UnsupportedModel(f"a {type(pipe).__name__} is not supported; use a {' or a '.join(PIPELINES)}")
    extra = pipe.unet.config.get("addition_embed_type")
    return (StableDiffusionXLAdapter if extra == "text_time" else StableDiffusionAdapter)(pipe)
