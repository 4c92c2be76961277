"""Scored images made noisy again, beside recorded trajectories."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcts_ray.reward.lrm import collect as images_of
from mcts_ray.reward.value import train
from mcts_ray.reward.value.data import Trajectories, joined
from mcts_ray.reward.value.renoised import Renoised

from .conftest import LEVELS


@pytest.fixture(scope="module")
def images(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    return images_of.run(str(tiny_folder), "jpeg", ["a fox", "a hen", "a red circle"], out, images=3, levels=2, device="cpu")


def make(images, collected, out, left_out=()):
    return Renoised(images, Trajectories(collected), set(left_out), out, torch.device("cpu"))


def test_states_are_new_in_every_batch_and_have_the_shapes_of_recorded_ones(images, collected, tmp_path):
    known = Trajectories(collected)
    source = make(images, collected, tmp_path, left_out=["a red circle"])
    assert len(source) == 2
    one, two = (source.batch(np.random.default_rng(0), 4, first=2) for _ in range(2))
    assert torch.equal(one.reward, two.reward) and torch.equal(one.log_snr, two.log_snr) and not torch.equal(one.x, two.x)
    assert one.group.tolist() == [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    scores = {tuple(record["scores"]) for record in map(json.loads, (images / "scores.jsonl").read_text().splitlines())}
    assert {tuple(np.round(part, 4)) for part in one.reward.view(4, 3).tolist()} <= {tuple(np.round(s, 4)) for s in scores}
    for row in one.log_snr.view(4, 3):
        assert row.unique().numel() == 1  # a group is at one level
    both = joined(known.batch(known.groups[:2]), one)
    assert len(both.x) == len(both.group) == len(both.embeddings) == len(both.taps[next(iter(both.taps))])


def test_at_the_last_level_a_state_is_nearly_its_image(images, collected, tmp_path):
    source = make(images, collected, tmp_path)
    levels = source._denoiser.levels(LEVELS)
    batch = source.batch(np.random.default_rng(1), 64)
    cleanest = batch.log_snr == batch.log_snr.max()
    _, alpha, sigma = levels.rows[1]
    residual = batch.x[cleanest] / alpha  # z + sigma / alpha eps
    latents = torch.from_numpy(np.asarray(source._latent_NCHW, np.float32))
    nearest = torch.cdist(residual.flatten(1), latents.flatten(1)).min(1).values / residual[0].numel() ** 0.5
    assert (nearest < 2 * sigma / alpha).all()


def test_a_head_is_trained_on_both(images, collected, tiny_folder, tmp_path):
    out = train.run(str(tiny_folder), collected, tmp_path / "head", steps=3, images=images, width=16, device="cpu")
    assert json.loads((out / "metrics.json").read_text())["images"] == str(images)


def test_noise_of_a_generator_is_the_same_in_every_batch(images, collected, tmp_path):
    source = make(images, collected, tmp_path)
    one, two = (source.batch(np.random.default_rng(0), 2, noise=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.x, two.x) and torch.equal(one.x0, two.x0)


def test_a_training_on_both_that_was_cut_off_ends_as_an_unbroken_one(images, collected, tiny_folder, tmp_path, monkeypatch):
    """States made in the background, learned from at once and again later, are those of their number, whoever makes them when."""
    monkeypatch.setattr(train, "LATER", 2)
    recipe = replace(train.RECIPE, steps=5, checkpoint_every=3, warmup=1)
    options = {"images": images, "width": 16, "device": "cpu", "recipe": recipe}
    whole = train.run(str(tiny_folder), collected, tmp_path / "whole", **options)

    def cut(progress):
        raise InterruptedError

    with pytest.raises(InterruptedError):  # the first report comes after the last step, so that of step 3 is gone on with
        train.run(str(tiny_folder), collected, tmp_path / "cut", report=cut, **options)
    assert torch.load(tmp_path / "cut" / "value.pt", weights_only=True)["step"] == 3
    again = train.run(str(tiny_folder), collected, tmp_path / "cut", **options)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["model", "reward"])
def test_images_of_others_are_refused(images, collected, tmp_path, name):
    (tmp_path / "collect.json").write_text(json.dumps({**json.loads((images / "collect.json").read_text()), name: "other"}))
    with pytest.raises(ValueError, match=f"are of {name} other, the trajectories of "):
        make(tmp_path, collected, tmp_path)


def test_images_that_are_in_no_pair_yet_are_refused(images, collected, tmp_path):
    """A collection that is being added to has scores first, pairs at the end."""
    cut = shutil.copytree(images, tmp_path / "cut")
    lines = (cut / "manifest.jsonl").read_text().splitlines(keepends=True)
    (cut / "manifest.jsonl").write_text("".join(line for line in lines if "a hen" not in line))
    with pytest.raises(ValueError, match="was cut off; go on with the same `mcts-ray train reward --kind lrm --collect`"):
        make(cut, collected, tmp_path)


def test_a_folder_without_images_is_refused(collected, tmp_path):
    with pytest.raises(ValueError, match="holds no scored images; make some"):
        make(tmp_path, collected, tmp_path)


def test_images_of_held_out_prompts_alone_are_refused(images, collected, tmp_path):
    with pytest.raises(ValueError, match="are held out; make images of others too"):
        make(images, collected, tmp_path, left_out=["a fox", "a hen", "a red circle"])
