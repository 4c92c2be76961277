"""Which model a name means, checked before torch or diffusers is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mcts_ray.diffusion.errors import (
    ClippingRefused,
    ModelNotFound,
    UnsupportedModel,
    UnsupportedScheduler,
)
from mcts_ray.hub import HubError, hub_file, is_hub_id

XL = "StableDiffusionXLPipeline"
PIPELINES = {"StableDiffusionPipeline": None, XL: "text_time"}  # by class: what its U-Net is told beside text and time step
SCENES = Path(__file__).parents[1] / "scenes" / "weights" / "pipeline"


@dataclass(frozen=True)
class Model:
    """A model that is there to be loaded: `source` is a folder or a hub id, `name` what the user wrote, `pipeline` its class."""

    name: str
    source: str
    local: bool
    pipeline: str = "StableDiffusionPipeline"

    @property
    def is_xl(self) -> bool:
        """Whether it is an SDXL pipeline."""
        return self.pipeline == XL


def resolve_model(name: str) -> Model:
    """The model of a name: "scenes", a local folder, or a hub id "owner/name".

    Reads at most three small files. Raises ModelNotFound (unknown, gated, or not reachable), UnsupportedModel for a pipeline
    or a U-Net of another kind, ClippingRefused for a DDIM scheduler that clips, and UnsupportedScheduler for one without betas.
    """
    if name == "scenes":
        if not (SCENES / "model_index.json").is_file():
            raise ModelNotFound(
                "the weights of the embedded model are missing from this installation; "
                f"make them with `mcts-ray train scenes --out {SCENES.parent}`"
            )
        model = Model(name, str(SCENES), local=True)
    elif name and Path(name).expanduser().is_dir():
        model = Model(name, str(Path(name).expanduser()), local=True)
    elif is_hub_id(name):
        model = Model(name, name, local=False)
    else:
        raise ModelNotFound(f"unknown model {name!r}; use scenes, an existing folder, or a hub id like owner/name")
    model = replace(model, pipeline=_pipeline(name, _read(model, "model_index.json")))
    _check_scheduler(_read(model, "scheduler/scheduler_config.json"))
    check_unet(_read(model, "unet/config.json"), model.pipeline)
    return model


def image_size(model: Model, height: int | None = None, width: int | None = None) -> tuple[int, int]:
    """(height, width) of the images asked for, None meaning as the model was trained; ValueError if it cannot make them.

    Reads the small files unet/config.json and vae/config.json, as the loaded pipeline would.
    """
    factor = 2 ** (len(_read(model, "vae/config.json").get("block_out_channels", (64,))) - 1)
    side = _read(model, "unet/config.json").get("sample_size") or 64
    trained = (side, side) if isinstance(side, int) else side
    height, width = height or trained[0] * factor, width or trained[1] * factor
    check_sides(height, width, factor)
    return height, width


def latent_channels(model: Model) -> int:
    """Channels of its latents, from the small file unet/config.json."""
    return _read(model, "unet/config.json").get("in_channels", 4)


def check_sides(height: int, width: int, factor: int) -> None:
    """ValueError unless both sides are multiples of the autoencoder's factor."""
    if height < factor or width < factor or height % factor or width % factor:
        raise ValueError(f"height and width must be multiples of {factor} for this model, not {height}x{width}")


def check_unet(config: Mapping, pipeline: str) -> None:
    """UnsupportedModel unless a U-Net needs no more than a latent, a time step and what this pipeline tells it of prompts."""
    channels, out = config.get("in_channels", 4), config.get("out_channels", 4)
    if channels != out:
        raise UnsupportedModel(f"a U-Net from {channels} to {out} channels (inpainting, learned variance) is not supported")
    if config.get("time_cond_proj_dim") is not None:
        raise UnsupportedModel("a guidance-distilled U-Net (LCM) is not supported; use the model that it was distilled from")
    if config.get("encoder_hid_dim_type") not in (None, "text_proj"):
        raise UnsupportedModel("a U-Net that reads an image beside the prompt (IP adapter) is not supported; unload it")
    extra = config.get("addition_embed_type")
    if extra != PIPELINES[pipeline]:
        raise UnsupportedModel(f"a {pipeline} around a U-Net with addition_embed_type {extra} is not supported")


def _pipeline(name: str, index: dict) -> str:
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise UnsupportedModel(f"{name} is a {kind or 'folder without a pipeline class'}; supported: {', '.join(PIPELINES)}")
    return kind


def _check_scheduler(config: dict) -> None:
    """Read from the file, because the pipeline's constructor switches `clip_sample` off and says nothing of it.

    Schedulers other than DDIM are replaced at load, where `clip_sample` is set to false.
    """
    kind = config.get("_class_name", "")
    if kind == "DDIMScheduler" and config.get("clip_sample", True):
        raise ClippingRefused(kind, "clip_sample")
    if config.get("thresholding", False):
        raise ClippingRefused(kind, "thresholding")
    if kind.startswith(("EDM", "FlowMatch")):
        raise UnsupportedScheduler(no_betas(kind))


def no_betas(kind: str) -> str:
    """Why the scheduler of a pipeline cannot be replaced."""
    return f"the pipeline ships {kind}, which has no noise schedule that DDIM could take over"


def _read(model: Model, file: str) -> dict:
    path = Path(model.source, file) if model.local else _hub_file(model.name, file)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(f"{model.name} is not a saved pipeline: it has no {file}") from None
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"{file} of {model.name} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ModelNotFound(f"{file} of {model.name} cannot be read: it holds no JSON object")
    return values


def _hub_file(name: str, file: str) -> Path:
    """A small file of a hub repository, from the local cache if it is there."""
    try:
        return hub_file(name, file)
    except HubError as error:
        raise ModelNotFound(str(error)) from None
