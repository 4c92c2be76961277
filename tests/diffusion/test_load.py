import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from mcts_ray.diffusion import load
from mcts_ray.diffusion.load import load_pipeline, use_ddim
from tests.diffusion.fake_hub import fake_hub
from tests.diffusion.test_exact import stock
from tests.diffusion.walks import engine_of, run, seed_walk, setting
from tests.tiny import SD_BETAS, tiny_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pipe):
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(path)
    return path


def test_a_folder(folder, pipe, capfd):
    loaded = load_pipeline(str(folder), "cpu")
    assert capfd.readouterr() == ("", "")
    assert loaded.safety_checker is None and isinstance(loaded.scheduler, DDIMScheduler)
    latent = run(engine_of(loaded), [seed_walk("w", setting())])["w"].latent
    torch.testing.assert_close(latent, stock(pipe, "w/10", 10), atol=1e-4, rtol=0)


def test_dtype(folder):
    loaded = load_pipeline(str(folder), "cpu", "bf16")
    assert loaded.unet.dtype == loaded.vae.dtype == loaded.text_encoder.dtype == torch.bfloat16


def test_half_precision_files(tmp_path):
    pipe = tiny_pipeline().to(dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "plain")
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    for name in ("plain", "variant"):
        loaded = load_pipeline(str(tmp_path / name), "cpu", "fp32")
        assert loaded.unet.dtype == loaded.text_encoder.dtype == torch.float32
        torch.testing.assert_close(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight.float())


def test_another_scheduler_is_announced_once(tmp_path, caplog):
    tiny_pipeline(scheduler=PNDMScheduler(**SD_BETAS, skip_prk_steps=True, steps_offset=1)).save_pretrained(tmp_path)
    load._announced.clear()
    with caplog.at_level(logging.WARNING, "mcts_ray"):
        first, second = load_pipeline(str(tmp_path), "cpu"), load_pipeline(str(tmp_path), "cpu")
    for loaded in (first, second):
        assert isinstance(loaded.scheduler, DDIMScheduler) and loaded.scheduler.config.clip_sample is False
        assert loaded.scheduler.config.beta_schedule == "scaled_linear" and loaded.scheduler.config.set_alpha_to_one is False
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} ships PNDMScheduler; it is replaced by DDIMScheduler, so images differ from that sampler's"
    ]


def test_ddim_is_left_alone(caplog):
    pipe = tiny_pipeline()
    scheduler = pipe.scheduler
    assert use_ddim(pipe).scheduler is scheduler and not caplog.records
    euler = use_ddim(tiny_pipeline("v_prediction", EulerDiscreteScheduler(**SD_BETAS, prediction_type="v_prediction")), "euler")
    assert euler.scheduler.config.prediction_type == "v_prediction"


def test_weights_without_safetensors(tmp_path, folder):
    tiny_pipeline().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(load.UnsupportedModel, match="cannot be loaded"):
        load_pipeline(str(tmp_path), "cpu")


HUB_SCRIPT = """
import json, sys
from mcts_ray.diffusion.resolve import resolve_model
names = json.loads(sys.argv[1])
said = {}
for name in names:
    try:
        said[name] = type(resolve_model(name)).__name__
    except ValueError as error:
        said[name] = type(error).__name__ + ": " + str(error)
assert "torch" not in sys.modules and "diffusers" not in sys.modules
if sys.argv[2:]:
    from mcts_ray.diffusion.load import load_pipeline
    said["loaded"] = type(load_pipeline(sys.argv[2], "cpu")).__name__
print(json.dumps(said))
"""


def ask_hub(endpoint, home, names, *loaded):
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, json.dumps(names), *loaded], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return json.loads(ran.stdout)


def test_hub_ids(tmp_path, folder):
    """Every answer of a hub, through the real client and the real `from_pretrained`; then the hub goes away."""
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "README.md").write_text("no pipeline")
    home = tmp_path / "home"
    with fake_hub({"me/tiny": folder, "me/stray": stray}, gated=("lab/gated",)) as endpoint:
        said = ask_hub(endpoint, home, ["me/tiny", "me/stray", "lab/gated", "me/nothing", "me/--bad.."], "me/tiny")
    assert said["me/tiny"] == "Model" and said["loaded"] == "StableDiffusionPipeline"
    assert said["me/stray"] == "ModelNotFound: me/stray is not a diffusers pipeline: it has no model_index.json"
    assert said["lab/gated"].startswith("ModelNotFound: lab/gated is gated") and "hf auth login" in said["lab/gated"]
    assert said["me/nothing"].startswith("ModelNotFound: no model me/nothing on the hub")
    assert said["me/--bad.."].startswith("ModelNotFound: unknown model")
    said = ask_hub(endpoint, home, ["me/tiny", "me/other"], "me/tiny")
    assert said["me/tiny"] == "Model" and said["loaded"] == "StableDiffusionPipeline"  # from the cache
    assert "me/other is not in the local cache and the hub cannot be reached" in said["me/other"]
