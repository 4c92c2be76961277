"""Reading and writing latent reward models; pickled files are read with `weights_only`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mcts_ray.diffusion.quiet import quiet
from mcts_ray.reward.lrm.layout import Layout, check_latents, read_json, reason
from mcts_ray.reward.lrm.model import ENHANCEMENT, LatentRewardModel, check_encoders, without_up_path

State = dict[str, torch.Tensor]
PUBLISHED_SCALING = {"sd": 0.18215, "sdxl": 0.13025}  # of the autoencoders that the published models were trained on
_TEXT = "text_model."  # transformers has dropped it from CLIPTextModel; the published files have it, and so have ours


def read(layout: Layout, pipe) -> LatentRewardModel:
    """The model of a layout, for the latents of `pipe`, in the files' own precision and on the CPU.

    Raises ValueError with one sentence for a model of another family or other latents, or for files that do not hold it.
    """
    with quiet():
        if layout.kind == "published":
            return _published(layout, pipe)
        if layout.kind == "own":
            return _own(layout, pipe)
        return _flat(layout, pipe)


def write(model: LatentRewardModel, folder: Path, vae, **notes) -> None:
    """The own layout: fp16 weights under the names of the published flat file, and what rebuilds the networks. `notes` go along."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: _plain(encoder.config.to_diff_dict()) for name, encoder in _text_encoders(model).items()}
    latents = {"channels": vae.config.latent_channels, "scaling_factor": vae.config.scaling_factor}
    config = {"kind": "lrm", "family": model.family, "enhancement": model.enhancement, "latents": latents, **notes}
    config |= {"unet": _plain(model.unet.config), **texts}
    state = {_published_name(name, model): value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _plain(config: Mapping) -> dict:
    """A configuration without what says where and by what it was saved."""
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in ("architectures", "dtype", "transformers_version")}


def _own(layout: Layout, pipe) -> LatentRewardModel:
    config = layout.config
    check_fits(layout.name, config["family"], config["latents"]["channels"], config["latents"]["scaling_factor"], pipe)
    texts = [config[name] for name in ("text_encoder", "text_encoder_2") if name in config]
    model = _empty(f"config.json of {layout.name}", config["unet"], *texts, enhancement=config["enhancement"])
    return _fill(layout, model, _weights(layout.name, layout.path / "model.safetensors"))


def _flat(layout: Layout, pipe) -> LatentRewardModel:
    state = _weights(layout.name, layout.path)
    family = "sdxl" if any(name.startswith("text_encoder_2.") for name in state) else "sd"
    if any(getattr(state.get(name), "ndim", 0) < 2 for name in ("visual_projection.weight", "unet.conv_in.weight")):
        raise ValueError(f"{layout.name} holds no latent reward model: no weights named visual_projection and unet")
    check_fits(layout.name, family, state["unet.conv_in.weight"].shape[1], PUBLISHED_SCALING[family], pipe)
    encoders = [pipe.text_encoder, pipe.text_encoder_2] if family == "sdxl" else [pipe.text_encoder]
    texts = [encoder.config.to_dict() for encoder in encoders]
    return _fill(layout, _empty("the generator", dict(pipe.unet.config), *texts), state)


def _published(layout: Layout, pipe) -> LatentRewardModel:
    family = "sdxl" if (layout.path / "text_encoder_2").is_dir() else "sd"
    config = read_json(layout.name, layout.path / "unet" / "config.json")
    check_fits(layout.name, family, config.get("in_channels", 4), PUBLISHED_SCALING[family], pipe)
    small = _small(layout)
    encoders = ["text_encoder", "text_encoder_2"][: 2 if family == "sdxl" else 1]
    texts = [read_json(layout.name, layout.path / name / "config.json") for name in encoders]
    state = {f"{part}.{key}": value for part in ("unet", *encoders) for key, value in _folder_weights(layout, part).items()}
    model = _empty(f"a config.json in unet/ or a text encoder of {layout.name}", config, *texts)
    return _fill(layout, model, state | small)


def _small(layout: Layout) -> State:
    """state_dict.pt: {"visual_projection": {"weight"}, "text_projection": {"weight"} (not SDXL), "logit_scale": number or tensor}."""
    nested = _weights(layout.name, layout.path / "state_dict.pt")
    flat: State = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": weight for key, weight in value.items()}
        elif isinstance(value, (int, float)) or (name == "logit_scale" and torch.is_tensor(value) and value.numel() == 1):
            flat[name] = torch.tensor(float(value))
        else:
            flat[name] = value
    return flat


def _weights(source: str, path: Path) -> dict:
    """What a file of weights holds."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip have errors of their own
        raise ValueError(f"{path.name} of {source} cannot be read: {reason(error)}") from None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path.name} of {source} cannot be read: it holds no named weights")
    return dict(state)


def _folder_weights(layout: Layout, name: str) -> State:
    """All weights in a folder as diffusers or transformers saves it: one file or shards, safetensors or older."""
    for pattern in ("diffusion_pytorch_model*.safetensors", "model*.safetensors", "diffusion_pytorch_model*.bin", "pytorch_model*.bin"):
        paths = sorted((layout.path / name).glob(pattern))
        full = [path for path in paths if ".fp16." not in path.name] or paths
        if full:
            return {key: value for path in full for key, value in _weights(layout.name, path).items()}
    raise ValueError(f"the latent reward model {layout.name} has no weights in {name}/")


def _empty(
    where: str, unet: dict, text_encoder: dict, text_encoder_2: dict | None = None, enhancement: float = ENHANCEMENT
) -> LatentRewardModel:
    """A model of these shapes whose weights are still to be filled. where: what describes them; ValueError if they are no networks."""
    try:
        encoders = [CLIPTextModel(CLIPTextConfig(**text_encoder))]
        encoders += [CLIPTextModelWithProjection(CLIPTextConfig(**text_encoder_2))] if text_encoder_2 else []
        return LatentRewardModel(_empty_unet(unet), *encoders, enhancement=enhancement)
    except Exception as error:  # diffusers, transformers and torch have no common one for a configuration that is none
        raise ValueError(f"{where} describes no networks of a latent reward model: {reason(error)}") from None


def _empty_unet(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return without_up_path(UNet2DConditionModel.from_config(config))


def _fill(layout: Layout, model: LatentRewardModel, state: State) -> LatentRewardModel:
    """The model with the weights of `state`, whatever else that holds; ValueError if one is missing, of another shape, or not finite."""
    expected = model.state_dict()
    names = {_published_name(name, model): name for name in expected}
    found = {names.get(name, name): value for name, value in state.items() if name in names or name in expected}
    missing = [name for name in expected if name not in found]
    if missing:
        raise ValueError(f"the latent reward model {layout.name} lacks {len(missing)} of its weights, the first being {missing[0]}")
    for name, value in found.items():
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            raise ValueError(f"the latent reward model {layout.name} has no tensor of floating-point numbers as its {name}")
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} where its networks have {tuple(expected[name].shape)}"
            raise ValueError(f"the latent reward model {layout.name} has {name} of shape {shapes}")
        if not value.isfinite().all():
            raise ValueError(f"the latent reward model {layout.name} has weights in {name} that are not finite; use another copy of it")
    model.load_state_dict(found, assign=True)
    return model.eval().requires_grad_(False)


def _published_name(name: str, model: LatentRewardModel) -> str:
    """The name of a weight in the published flat file."""
    for encoder in _text_encoders(model):
        rest = name.removeprefix(f"{encoder}.")
        if rest != name and not rest.startswith((_TEXT, "text_projection")):
            return f"{encoder}.{_TEXT}{rest}"
    return name


def _text_encoders(model: LatentRewardModel) -> dict[str, nn.Module]:
    both = {"text_encoder": model.text_encoder, "text_encoder_2": model.text_encoder_2}
    return {name: encoder for name, encoder in both.items() if encoder is not None}


def check_fits(name: str, family: str, channels: int, scaling_factor: float, pipe) -> None:
    """ValueError unless a model of this family and these latents can score those of `pipe`."""
    theirs, vae = "sd" if getattr(pipe, "text_encoder_2", None) is None else "sdxl", pipe.vae.config
    check_latents(name, (family, channels), (theirs, vae.latent_channels))
    check_encoders(pipe)
    if abs(scaling_factor - vae.scaling_factor) > 1e-3 * scaling_factor:
        raise ValueError(
            f"the latent reward model {name} was trained on another autoencoder (scaling factor {scaling_factor:g}, the generator's "
            f"{vae.scaling_factor:g}); choose one that was trained on this one's latents"
        )
