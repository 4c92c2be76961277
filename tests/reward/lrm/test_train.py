"""Training at a few steps: the loss falls, a cut run resumes to the same weights, what is written loads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcts_ray.fitting.loop import Recipe
from mcts_ray.reward.lrm import load
from mcts_ray.reward.lrm import train as module
from mcts_ray.reward.lrm.model import LatentRewardModel
from mcts_ray.reward.lrm.pairs import read_pairs
from mcts_ray.reward.lrm.train import SD, SDXL, loss_of_batch, run, split
from mcts_ray.reward.step import States
from tests.reward.lrm.pictures import light_pairs, write_folder
from tests.reward.lrm.published import adapter_of
from tests.tiny import tiny_pipeline

RECIPE = Recipe("lrm", steps=12, batch=8, lr=5e-3, warmup=1, ema=0.0, checkpoint_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of light and dark images, and the generator whose autoencoder encodes them."""
    folder = tmp_path_factory.mktemp("lrm")
    write_folder(folder / "pairs", light_pairs())
    generator().save_pretrained(folder / "model")
    return folder


def generator():
    """The tiny pipeline with latents far from 0: its random autoencoder tells light from dark by a hundredth only."""
    pipe = tiny_pipeline()
    pipe.vae.register_to_config(scaling_factor=74.0)
    return pipe


def train(folder, out, recipe=RECIPE, **options):
    options = {"levels": 3, "recipe": recipe, "device": "cpu", **options}
    return run(str(folder / "model"), folder / "pairs", folder / out, **options)


def test_training_learns_what_the_pairs_say_and_writes_what_loads(folder):
    lines = []
    out = train(folder, "learns", report=lambda part, progress: lines.append((part, progress)))
    metrics = json.loads((out / "metrics.json").read_text())
    assert lines[0][1].metrics == {"images_encoded": 48, "of": 48} and lines[-1][1].step == 12
    assert metrics["held_out"]["accuracy"] > 0.9 and metrics["held_out_pairs"] == 4 and metrics["prompts"] == 6
    assert [row["level"] for row in metrics["held_out"]["levels"]] == [3, 2, 1]
    assert lines[-1][1].loss < 0.5  # ln 2 = .69 where nothing is known
    scorer = load(str(out), adapter_of(generator()))
    pairs = read_pairs(folder / "pairs")
    latents = torch.from_numpy(np.load(next(out.glob("latents-*.npy"))).astype(np.float32))
    better, worse = (latents[pairs.image_P2[pairs.label_P == 1, side]] for side in (0, 1))
    t = torch.full((len(better),), 1.0)
    prompts = [pairs.prompts[i] for i in pairs.prompt_P[pairs.label_P == 1]]
    scores = [scorer.score(States(x, x, x, t, t, {}, prompts, x)) for x in (better, worse)]
    assert (scores[0] > scores[1]).float().mean() > 0.9


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(folder):
    recipe = replace(RECIPE, steps=4, batch=2, ema=0.5)
    whole = train(folder, "whole", recipe)

    class Cut(Exception):
        pass

    original, calls = torch.Tensor.backward, []

    def backward(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise Cut
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", backward)
        with pytest.raises(Cut):
            train(folder, "cut", recipe)
    cut = train(folder, "cut", recipe)
    weights = load_file(whole / "model.safetensors")
    for name, value in load_file(cut / "model.safetensors").items():
        assert torch.equal(value, weights[name]), name
    with pytest.raises(ValueError, match="differs in levels; train into another folder"):
        train(folder, "cut", recipe, levels=5)


def test_a_batch_in_parts_is_the_batch(data, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))  # parts draw their noises in another order
    model = LatentRewardModel.from_pipeline(tiny_pipeline())
    losses, gradients = [], []
    for part in (2**17, 2 * 2 * 4 * 8 * 8):  # all six pairs, two at a time
        monkeypatch.setattr(module, "PART", part)
        model.zero_grad()
        loss, metrics = loss_of_batch(model, data, np.arange(2), 6, np.random.default_rng(0), 0)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and set(metrics) == {"accuracy", "scale"}
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()


def test_prompts_are_held_out_as_a_whole(folder, tmp_path):
    pairs = read_pairs(folder / "pairs")
    kept, held = split(pairs)
    assert sorted([*kept, *held]) == list(range(len(pairs)))
    assert not set(pairs.prompt_P[kept]) & set(pairs.prompt_P[held]) and len(held)
    one = read_pairs(write_folder(tmp_path / "one", light_pairs(1)))
    with pytest.raises(ValueError, match="pairs of one prompt only"):
        split(one)


def test_ties_alone_are_refused(tmp_path):
    ties = [(prompt, first, second, 0.5) for prompt, first, second, _ in light_pairs(4)]
    with pytest.raises(ValueError, match="has only ties to train on, from which nothing can be learned"):
        split(read_pairs(write_folder(tmp_path, ties)))


def test_published_recipes():
    assert (SD.steps, SD.batch, SD.lr, SD.warmup, SD.weight_decay, SD.clip) == (4000, 128, 1e-5, 500, 0.3, 1.0)
    assert (SDXL.steps, SDXL.batch, SDXL.warmup) == (8000, 32, 1000)
