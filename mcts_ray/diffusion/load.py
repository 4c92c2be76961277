"""Loading a pipeline: the embedded one, a folder and a hub id go the same way, through `from_pretrained`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mcts_ray.diffusion.device import resolve_device, resolve_dtype
from mcts_ray.diffusion.errors import ClippingRefused, ModelNotFound, UnsupportedModel, UnsupportedScheduler
from mcts_ray.diffusion.quiet import quiet
from mcts_ray.diffusion.resolve import Model, no_betas, resolve_model

__all__ = [
    "ClippingRefused",
    "Model",
    "ModelNotFound",
    "UnsupportedModel",
    "UnsupportedScheduler",
    "load_pipeline",
    "load_vae",
    "resolve_device",
    "resolve_dtype",
    "resolve_model",
    "use_ddim",
]

log = logging.getLogger(__name__)
_announced: set[tuple[str, str]] = set()


def load_pipeline(model: str | Model, device="auto", dtype="fp32"):
    """A `StableDiffusionPipeline` or `StableDiffusionXLPipeline` on DDIM, ready for the adapter; safetensors only, no safety checker.

    device: "auto", "cpu", "cuda"; dtype: "fp32", "bf16", "fp16"; or the torch objects themselves.
    Raises ModelNotFound, UnsupportedModel, ClippingRefused or ValueError, each with a sentence for the user.
    """
    model = resolve_model(model) if isinstance(model, str) else model
    device = resolve_device(device) if isinstance(device, str) else device
    dtype = resolve_dtype(dtype, device) if isinstance(dtype, str) else dtype
    with quiet():
        pipe = _from_pretrained(model, dtype)
        pipe.set_progress_bar_config(disable=True)
        pipe.to(device)
    return use_ddim(pipe, model.name)


def load_vae(model: Model, device, dtype):
    """The autoencoder of a pipeline alone, as `load_pipeline` would have it."""
    from diffusers import AutoencoderKL

    load = partial(AutoencoderKL.from_pretrained, model.source, subfolder="vae")
    with quiet():
        return _loading(model, load, dtype).to(device)


def use_ddim(pipe, name: str = "the pipeline"):
    """The same pipeline with its scheduler replaced by DDIM (without clipping) unless it is DDIM; announced once per model.

    Raises UnsupportedScheduler for one of another kind of noise (EDM, flow matching).
    """
    from diffusers import DDIMScheduler

    shipped = type(pipe.scheduler).__name__
    if isinstance(pipe.scheduler, DDIMScheduler):
        return pipe
    if "beta_schedule" not in pipe.scheduler.config or pipe.scheduler.config.get("use_flow_sigmas"):
        raise UnsupportedScheduler(no_betas(shipped))
    with quiet():
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    if (name, shipped) not in _announced:
        _announced.add((name, shipped))
        log.warning("%s ships %s; it is replaced by DDIMScheduler, so images differ from that sampler's", name, shipped)
    return pipe


def _from_pretrained(model: Model, dtype):
    from diffusers import DiffusionPipeline

    options = {"add_watermarker": False} if model.is_xl else {"safety_checker": None, "requires_safety_checker": False}
    return _loading(model, partial(DiffusionPipeline.from_pretrained, model.source, **options), dtype)


def _loading(model: Model, load: Callable, dtype):
    """What `load` makes of the safetensors of a model; UnsupportedModel if it cannot."""
    options = {"use_safetensors": True, "dtype": dtype}
    if model.local and _half_precision_only(Path(model.source)):
        options["variant"] = "fp16"
    try:
        return load(**options)
    except (OSError, ValueError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnsupportedModel(f"{model.name} cannot be loaded: {reason}") from error


def _half_precision_only(folder: Path) -> bool:
    """Whether the folder holds only files named `….fp16.safetensors` for its U-Net."""
    names = [path.name for path in (folder / "unet").glob("*.safetensors")]
    return bool(names) and all(".fp16." in name for name in names)
