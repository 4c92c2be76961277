import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcts_ray.diffusion import resolve
from mcts_ray.diffusion.errors import (
    ClippingRefused,
    ModelNotFound,
    UnsupportedModel,
    UnsupportedScheduler,
)
from mcts_ray.diffusion.resolve import image_size, resolve_model

DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}


def saved(path: Path, kind="StableDiffusionPipeline", scheduler=DDIM, unet=None) -> str:
    (path / "scheduler").mkdir(parents=True)
    (path / "unet").mkdir()
    (path / "unet" / "config.json").write_text(json.dumps(unet or {}))
    (path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return str(path)


def test_a_folder(tmp_path, monkeypatch):
    name = saved(tmp_path / "model")
    assert resolve_model(name) == resolve.Model(name, name, local=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/model").source == name


def test_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "SCENES", tmp_path / "pipeline")
    with pytest.raises(ModelNotFound, match="missing from this installation"):
        resolve_model("scenes")
    saved(tmp_path / "pipeline")
    assert resolve_model("scenes") == resolve.Model("scenes", str(tmp_path / "pipeline"), local=True)


@pytest.mark.parametrize("name", ["", "sd15", "/no/such/folder", "./here", "a/b/c", "owner/name with blanks"])
def test_unknown(name):
    with pytest.raises(ModelNotFound, match="unknown model"):
        resolve_model(name)


def test_what_is_not_a_supported_pipeline(tmp_path):
    with pytest.raises(ModelNotFound, match="not a saved pipeline: it has no model_index.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelNotFound, match="cannot be read"):
        resolve_model(str(tmp_path))
    with pytest.raises(UnsupportedModel, match="is a FluxPipeline; supported: StableDiffusionPipeline"):
        resolve_model(saved(tmp_path / "flux", "FluxPipeline"))
    with pytest.raises(UnsupportedModel, match="is a StableDiffusionXLImg2ImgPipeline; supported: .*, StableDiffusionXLPipeline"):
        resolve_model(saved(tmp_path / "refiner", "StableDiffusionXLImg2ImgPipeline"))


XL_UNET = {"addition_embed_type": "text_time"}


def test_sdxl_is_known_by_its_class_and_its_unet(tmp_path):
    name = saved(tmp_path / "xl", "StableDiffusionXLPipeline", unet=XL_UNET)
    assert resolve_model(name) == resolve.Model(name, name, local=True, pipeline="StableDiffusionXLPipeline")
    assert resolve_model(name).is_xl and not resolve_model(saved(tmp_path / "sd")).is_xl


@pytest.mark.parametrize(
    "kind, unet, message",
    [
        ("StableDiffusionXLPipeline", {**XL_UNET, "time_cond_proj_dim": 256}, r"guidance-distilled U-Net \(LCM\) is not supported"),
        ("StableDiffusionXLPipeline", {**XL_UNET, "in_channels": 9}, r"from 9 to 4 channels \(inpainting"),
        ("StableDiffusionXLPipeline", {}, "StableDiffusionXLPipeline around a U-Net with addition_embed_type None"),
        ("StableDiffusionPipeline", XL_UNET, "StableDiffusionPipeline around a U-Net with addition_embed_type text_time"),
        ("StableDiffusionPipeline", {"encoder_hid_dim_type": "ip_image_proj"}, "IP adapter"),
    ],
)
def test_unets_that_are_refused_from_the_file(tmp_path, kind, unet, message):
    with pytest.raises(UnsupportedModel, match=message):
        resolve_model(saved(tmp_path / "model", kind, unet=unet))


def test_clipping_is_refused_from_the_file(tmp_path):
    """The pipeline's constructor would switch it off without a word."""
    with pytest.raises(ClippingRefused, match="DDIMScheduler has clip_sample=true"):
        resolve_model(saved(tmp_path / "on", scheduler={**DDIM, "clip_sample": True}))
    with pytest.raises(ClippingRefused):
        resolve_model(saved(tmp_path / "default", scheduler={"_class_name": "DDIMScheduler"}))
    with pytest.raises(ClippingRefused, match="thresholding"):
        resolve_model(saved(tmp_path / "threshold", scheduler={**DDIM, "thresholding": True}))
    with pytest.raises(UnsupportedScheduler, match="EDMEulerScheduler, which has no noise schedule that DDIM could take over"):
        resolve_model(saved(tmp_path / "edm", scheduler={"_class_name": "EDMEulerScheduler"}))
    resolve_model(saved(tmp_path / "ddpm", scheduler={"_class_name": "DDPMScheduler", "clip_sample": True}))


def test_image_size_is_that_of_the_loaded_pipeline(tiny_folder):
    from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
    from mcts_ray.diffusion.load import load_pipeline

    model = resolve_model(str(tiny_folder))
    assert image_size(model) == StableDiffusionAdapter(load_pipeline(model, "cpu")).default_size
    assert image_size(model, width=48) == (32, 48)
    for sides in ((30, 32), (32, 2)):
        with pytest.raises(ValueError, match="multiples of 4"):
            image_size(model, *sides)


def test_imports_nothing_heavy():
    code = "import mcts_ray.diffusion.resolve, mcts_ray.diffusion.device, sys; print({'torch', 'diffusers', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
