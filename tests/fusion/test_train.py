"""Training of the fusion decoder at a few steps: it learns, resumes, and ends in a folder that a search can use."""

import json
from dataclasses import replace

import pytest
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.cli import run as cli
from mcts_ray.fusion import train
from mcts_ray.fitting.loop import Recipe


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(train, "SHARD", 2)
    monkeypatch.setattr(train, "LEVELS", 4)
    monkeypatch.setattr(train, "KEPT", 3)


def test_it_learns_to_read_features(tmp_path):
    """Features from which x follows by a linear map, at 60 steps; without training it explains nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 4, 4, 4, generator=generator)
    features = torch.einsum("dc,nchw->ndhw", torch.randn(8, 4, generator=generator), x)
    states = {"features": features, "x": x, "log_snr": torch.zeros(96)}
    recipe = Recipe("fusion", steps=60, batch=16, lr=3e-3, warmup=10, ema=0.9)
    _, learnt = train.train(states, tmp_path / "learnt", recipe)
    _, nothing = train.train(states, tmp_path / "nothing", replace(recipe, steps=1))
    assert learnt > 0.5 > 0.1 > nothing


def test_whole_trajectories_are_held_out(tmp_path):
    """None of the three states of the first one is trained on: their x are no numbers, which a loss may not be."""
    states = {"features": torch.randn(96, 8, 4, 4), "x": torch.randn(96, 4, 4, 4), "log_snr": torch.zeros(96)}
    states["x"][:3] = float("nan")
    _, held_out = train.train(states, tmp_path, Recipe("fusion", steps=20, batch=64, lr=1e-3, warmup=1))
    assert held_out != held_out


def test_from_the_command_to_a_search(tiny_folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue ring\n")
    out = tmp_path / "decoder"
    command = ["train", "fusion", "--model", str(tiny_folder), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]
    assert cli([*command, "--trajectories", "3", "--steps", "2", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out)}
    config = json.loads((out / "config.json").read_text())
    assert config["tap"] == "up.0" and config["network"]["features"] == 16 and config["recipe"]["steps"] == 2
    shards = sorted((out / "states").glob("*.safetensors"))
    before = [shard.stat().st_mtime_ns for shard in shards]
    assert len(shards) == 2
    assert cli([*command, "--trajectories", "3", "--steps", "2", "--device", "cpu"]) == 0  # all is there
    assert [shard.stat().st_mtime_ns for shard in shards] == before
    fuse = {"fuse": "decoder", "fuse_model": str(out)}
    search = SearchConfig(algorithm="mcts", levels=8, budget=110, seeds=7, guidance=2.0, in_flight=4, reward="jpeg", **fuse)
    result = Searcher.from_pretrained(str(tiny_folder), device="cpu")("a red circle", search)
    assert result.ledger.fusions > 0 and not result.errors


def test_states_are_reached_by_the_engine_and_fit_together(tiny_folder, tmp_path):
    from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
    from mcts_ray.diffusion.denoiser import Denoiser
    from mcts_ray.search.base import Setting
    from tests.tiny import tiny_pipeline

    denoiser = Denoiser(StableDiffusionAdapter(tiny_pipeline()))
    states = train.collect(denoiser, "tiny", tmp_path, ["a red circle"], 2, train.RECIPE)
    assert states["x"].shape == (6, 4, 8, 8) and states["features"].shape == (6, 16, 8, 8) and len(states["log_snr"].unique()) > 1
    level = next(i for i in range(1, 5) if abs(_log_snr(denoiser, i) - float(states["log_snr"][0])) < 1e-4)
    setting = Setting("a red circle", guidance=7.5, levels=4)
    again = denoiser.denoise(states["x"][:1].float(), [level], [setting], taps=("up.0",)).taps["up.0"]
    torch.testing.assert_close(again, states["features"][:1].float(), atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="holds states of another model, seed, number or prompts"):
        train.collect(denoiser, "tiny", tmp_path, ["a blue ring"], 2, train.RECIPE)


def _log_snr(denoiser, level):
    _, alpha, sigma = denoiser.levels(4).rows[level]
    return train.log_snr(alpha, sigma)


def test_another_model_needs_prompts(tiny_folder, tmp_path, capsys):
    assert cli(["train", "fusion", "--model", str(tiny_folder), "--out", str(tmp_path)]) == 2
    assert "need prompts; give a file of them with --prompts" in capsys.readouterr().err
