"""The layouts: what the authors save and what this project saves load to the same scores."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcts_ray.reward.lrm import load
from mcts_ray.reward.lrm.files import write
from mcts_ray.reward.lrm.layout import find
from mcts_ray.reward.lrm.model import LatentRewardModel
from tests.reward.lrm.published import PIPELINES, adapter_of, flat_state, heads, save_published, tiny_sdxl
from tests.reward.lrm.reference import score
from tests.tiny import tiny_pipeline


def test_the_published_folder_scores_as_the_paper_says(pipe, states, tmp_path):
    small = save_published(pipe, tmp_path)
    assert find(str(tmp_path)).kind == "published"
    scorer = load(str(tmp_path), adapter_of(pipe))
    torch.testing.assert_close(scorer.score(states), score(pipe, small, states.x, states.t, states.prompts), rtol=1e-4, atol=1e-5)
    assert scorer.taps == () and scorer.forwards == 2 and not hasattr(scorer.model.unet, "up_blocks")


def test_older_pickled_weights(pipe, states, tmp_path):
    small = save_published(pipe, tmp_path)
    for file in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        name = "text_encoder/pytorch_model" if file.startswith("text") else file
        torch.save(load_file(tmp_path / f"{file}.safetensors"), tmp_path / f"{name}.bin")
        (tmp_path / f"{file}.safetensors").unlink()
    scores = load(str(tmp_path), adapter_of(pipe)).score(states)
    torch.testing.assert_close(scores, score(pipe, small, states.x, states.t, states.prompts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_one_flat_file(pipe, states, tmp_path, suffix):
    small, state = heads(pipe), flat_state(pipe)
    path = tmp_path / f"lrm{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    scores = load(str(path), adapter_of(pipe)).score(states)
    torch.testing.assert_close(scores, score(pipe, small, states.x, states.t, states.prompts), rtol=1e-4, atol=1e-5)


def test_what_is_written_loads_to_the_same_scores(pipe, states, tmp_path):
    save_published(pipe, tmp_path / "published")
    scorer = load(str(tmp_path / "published"), adapter_of(pipe))
    scorer.model.half().float()  # the own layout is fp16
    write(scorer.model, tmp_path / "own", pipe.vae)
    again = load(str(tmp_path / "own"), adapter_of(pipe))
    assert torch.equal(again.score(states), scorer.score(states))
    names = load_file(tmp_path / "own" / "model.safetensors")
    assert not any("up_blocks" in name or "conv_out" in name for name in names)
    assert {value.dtype for value in names.values()} == {torch.float16}
    assert any(name.startswith("text_encoder.text_model.") for name in names)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    save_published(PIPELINES["sd"](), folder)
    return folder


def _broken(published, tmp_path, change):
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    with pytest.raises(ValueError) as error:
        load(str(tmp_path), adapter_of(PIPELINES["sd"]()))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_and_broken_files_are_named(published, tmp_path):
    cases = {
        "state_dict.pt": ("has no state_dict.pt", lambda f: (f / "state_dict.pt").unlink()),
        "config": ("has no unet/config.json", lambda f: (f / "unet/config.json").unlink()),
        "weights": ("no weights in unet/", lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink()),
        "text": ("no weights in text_encoder/", lambda f: (f / "text_encoder/model.safetensors").unlink()),
        "rubbish": ("state_dict.pt of", lambda f: (f / "state_dict.pt").write_text("rubbish")),
        "list": ("holds no named weights", lambda f: torch.save([1], f / "state_dict.pt")),
        "lacks": ("lacks 1 of its weights, the first being visual_projection.weight", lambda f: _drop(f, "visual_projection")),
        "shape": ("has visual_projection.weight of shape (3, 3)", lambda f: _reshape(f)),
    }
    for name, (sentence, change) in cases.items():
        assert sentence in _broken(published, tmp_path / name, change), name


def test_a_text_encoder_that_lacks_weights_is_not_filled_up_by_chance(published, tmp_path):
    def change(folder):
        file = folder / "text_encoder" / "model.safetensors"
        save_file({name: value for name, value in load_file(file).items() if not name.endswith("layers.0.mlp.fc1.weight")}, file)

    message = _broken(published, tmp_path, change)
    assert "lacks 1 of its weights, the first being text_encoder." in message and "layers.0.mlp.fc1.weight" in message


def _change_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def test_broken_networks_of_a_published_model_are_named(published, tmp_path):
    def other_heads(folder, **values):
        torch.save(_heads(folder) | values, folder / "state_dict.pt")

    text, sizes = "text_encoder/config.json", "text_encoder.embeddings.position_embedding.weight of shape"
    cases = {
        "cut": ("model.safetensors of", lambda f: _cut(f / "text_encoder/model.safetensors")),
        "sizes": (sizes, lambda f: _change_json(f / text, max_position_embeddings=99)),
        "heads": ("describes no networks of a latent reward model: ", lambda f: _change_json(f / text, num_attention_heads=5)),
        "scale": ("no tensor of floating-point numbers as its logit_scale", lambda f: other_heads(f, logit_scale="1")),
        "nan": ("has weights in logit_scale that are not finite", lambda f: other_heads(f, logit_scale=float("nan"))),
        "names": ("holds no named weights", lambda f: torch.save({0: torch.zeros(1)}, f / "state_dict.pt")),
    }
    for name, (sentence, change) in cases.items():
        assert sentence in _broken(published, tmp_path / name, change), name


def test_heads_by_flat_names_are_the_same(published, states, tmp_path):
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    flat = {f"{name}.weight": value["weight"] for name, value in _heads(published).items() if name != "logit_scale"}
    torch.save(flat | {"logit_scale": torch.tensor([2.0])}, tmp_path / "state_dict.pt")
    adapter = adapter_of(PIPELINES["sd"]())
    assert torch.equal(load(str(tmp_path), adapter).score(states), load(str(published), adapter).score(states))


@pytest.fixture(scope="module")
def own(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    pipe = PIPELINES["sd"]()
    write(load(str(published), adapter_of(pipe)).model, folder, pipe.vae)
    return folder


def test_broken_models_of_the_own_layout_are_named(own, tmp_path):
    blocks = {"down_block_types": ["Nope", "Nope"]}
    unet = json.loads((own / "config.json").read_text())["unet"]
    cases = {
        "cut": ("model.safetensors of", lambda f: _cut(f / "model.safetensors")),
        "enhancement": ("has no enhancement of a latent", lambda f: _change_json(f / "config.json", enhancement=None)),
        "family": ("has no family of a latent", lambda f: _change_json(f / "config.json", family="dit")),
        "latents": ("has no latents of a latent", lambda f: _change_json(f / "config.json", latents=4)),
        "channels": ("has no latents.channels of a latent", lambda f: _change_json(f / "config.json", latents={"scaling_factor": 1})),
        "blocks": ("describes no networks of a latent reward model: Nope", lambda f: _change_json(f / "config.json", unet=unet | blocks)),
    }
    for name, (sentence, change) in cases.items():
        message = _broken(own, tmp_path / name, change)
        assert sentence in message and str(tmp_path / name) in message, name


def _heads(folder):
    return torch.load(folder / "state_dict.pt", weights_only=True)


def _drop(folder, name):
    small = _heads(folder)
    del small[name]
    torch.save(small, folder / "state_dict.pt")


def _reshape(folder):
    small = _heads(folder)
    torch.save(small | {"visual_projection": {"weight": torch.zeros(3, 3)}}, folder / "state_dict.pt")


def test_pickles_that_run_code_are_not_read(published, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    message = _broken(published, tmp_path, lambda folder: torch.save({"logit_scale": Evil()}, folder / "state_dict.pt"))
    assert "state_dict.pt of" in message and "cannot be read" in message


def test_models_of_other_latents_are_refused(tmp_path):
    sd, sdxl = PIPELINES["sd"](), PIPELINES["sdxl"]()
    save_published(sd, tmp_path / "sd")
    save_published(sdxl, tmp_path / "sdxl")
    with pytest.raises(ValueError, match="is for SDXL, and the generator is of the family Stable Diffusion"):
        load(str(tmp_path / "sdxl"), adapter_of(sd))
    with pytest.raises(ValueError, match="is for Stable Diffusion 1.x/2.x, and the generator is of the family SDXL"):
        load(str(tmp_path / "sd"), adapter_of(sdxl))
    config = json.loads((tmp_path / "sd" / "unet" / "config.json").read_text())
    (tmp_path / "sd" / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 16}))
    with pytest.raises(ValueError, match="reads latents of 16 channels, and the generator's have 4"):
        load(str(tmp_path / "sd"), adapter_of(sd))


def test_a_generator_with_the_second_text_encoder_alone_is_refused(tmp_path):
    save_published(tiny_sdxl(), tmp_path)
    pipe = tiny_sdxl()
    pipe.text_encoder = pipe.tokenizer = None
    for use in (lambda: load(str(tmp_path), adapter_of(pipe)), lambda: LatentRewardModel.from_pipeline(pipe)):
        with pytest.raises(ValueError, match="needs both text encoders of SDXL; choose a generator"):
            use()


def test_a_model_of_another_autoencoder_is_refused(tmp_path):
    pipe = tiny_pipeline()
    save_published(pipe, tmp_path)
    scorer = load(str(tmp_path), adapter_of(pipe))
    write(scorer.model, tmp_path / "own", pipe.vae)
    pipe.vae.register_to_config(scaling_factor=0.5)
    for source in (tmp_path, tmp_path / "own"):
        with pytest.raises(ValueError, match="another autoencoder"):
            load(str(source), adapter_of(pipe))
