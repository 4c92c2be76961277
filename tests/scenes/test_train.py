"""The recipes at a few steps: they run, resume to the same weights, and export what the product loads."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from mcts_ray.scenes import parse, render
from mcts_ray.scenes.scorer import Scorer
from mcts_ray.scenes.train import autoencoder, run, unet
from mcts_ray.scenes.train.autoencoder import RECIPE, build, train
from mcts_ray.scenes.train.text import START, tokenizer


def test_every_word_of_the_grammar_is_one_token():
    words = tokenizer()
    prompt = "a red circle left of a blue square right of a white triangle"
    ids = words(prompt).input_ids
    assert len(ids) == len(prompt.split()) + 2 and ids[0] == words.convert_tokens_to_ids(START)
    for word in ("above", "below", "and", "diamond", "ring", "cross", "cyan", "orange", "purple", "yellow", "green"):
        assert len(words(word).input_ids) == 3


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    recipe = replace(RECIPE, steps=4, batch=2, checkpoint_every=2)
    whole, _ = train(tmp_path / "whole", recipe)

    class Cut(Exception):
        pass

    original = torch.Tensor.backward
    calls = []

    def backward(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise Cut
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", backward)
        with pytest.raises(Cut):
            train(tmp_path / "cut", recipe)
    resumed, _ = train(tmp_path / "cut", recipe)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    recipe = replace(RECIPE, steps=1, batch=2)
    train(tmp_path, recipe)
    with pytest.raises(ValueError, match="another recipe"):
        train(tmp_path, replace(recipe, lr=1.0))


def test_run_exports_a_pipeline_and_a_scorer_that_load(tmp_path, monkeypatch):
    monkeypatch.setattr(unet, "POOL", 256)
    monkeypatch.setattr(autoencoder, "latent_scale", partial(autoencoder.latent_scale, n=64))
    out = run("all", tmp_path, steps=1)
    pipe = StableDiffusionPipeline.from_pretrained(out / "pipeline", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(["a red circle"], num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 64, 64, 3)
    images = np.stack([render(parse("a red circle"))] * 3)
    scores = Scorer.load(folder=out)(images, ["a red circle", "a blue ring", "a red circle"])
    assert scores.shape == (3,) and ((0 < scores) & (scores < 1)).all() and np.isclose(scores[0], scores[2])
    notes = json.loads((out / "training.json").read_text())
    assert set(notes) == {"autoencoder", "unet", "unet-second", "scorer"} and notes["unet"]["steps"] == 1


def test_unknown_part():
    with pytest.raises(ValueError, match="no part 'decoder'"):
        run("decoder")


def test_autoencoder_shape():
    latent = build().encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    assert latent.shape == (1, 4, 8, 8)
