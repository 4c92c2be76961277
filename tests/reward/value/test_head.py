import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.reward.value import load
from mcts_ray.reward.value.head import Config, ValueHead, default_taps, fingerprint
from mcts_ray.reward.value.network import Shape, ValueNetwork
from tests.diffusion.walks import setting
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def adapter():
    return make_adapter(tiny_pipeline())


@pytest.fixture
def saved(adapter, tmp_path):
    """A head with random weights, in a folder."""
    torch.manual_seed(0)
    network = ValueNetwork(Shape({"mid": 16, "up.1": 8}, latent=4, text=16, grid=8, width=16, heads=2))
    torch.nn.init.normal_(network.head[-1].weight)
    head = ValueHead(network, Config("tiny", "jpeg", network.shape, center=-4.0, scale=0.5, generator=fingerprint(adapter)))
    head.save(tmp_path / "head")
    return head, tmp_path / "head"


def scored(denoiser, scorer):
    torch.manual_seed(1)
    x, levels, settings = torch.randn(3, 4, 8, 8), [9, 5, 2], [setting(), setting("a ring"), setting("a cross")]
    prediction = denoiser.denoise(x, levels, settings, scorer.taps)
    return torch.tensor(denoiser.score(scorer, x, prediction, levels, settings, [0, 1, 2]))


def test_a_head_comes_back_as_it_was_saved(adapter, saved):
    head, folder = saved
    back = load(str(folder), adapter)
    assert back.taps == ("mid", "up.1") and back.forwards == 0 and back.config == head.config
    denoiser = Denoiser(adapter)
    torch.testing.assert_close(scored(denoiser, back), scored(denoiser, head), atol=5e-3, rtol=1e-3)  # fp16 weights
    assert scored(denoiser, back).unique().numel() == 3


def test_a_prompt_of_many_states_is_read_once(adapter, saved, monkeypatch):
    """And each state is scored as if it came alone."""
    head, _ = saved
    denoiser, read, count = Denoiser(adapter), head.network.read, []
    monkeypatch.setattr(head.network, "read", lambda embedding: (count.append(len(embedding)), read(embedding))[1])
    torch.manual_seed(2)
    shapes = ("cross", "cross", "ring", "cross")
    x, levels, settings = torch.randn(4, 4, 8, 8), [9, 5, 5, 2], [setting(f"a {shape}") for shape in shapes]
    prediction = denoiser.denoise(x, levels, settings, head.taps)
    together = denoiser.score(head, x, prediction, levels, settings, [0, 1, 2, 3])
    assert count == [2]
    alone = [denoiser.score(head, x, prediction, levels, settings, [row])[0] for row in range(4)]
    assert together == pytest.approx(alone, abs=1e-5)
    others = [setting(f"a {shape}") for shape in ("cross", "ring", "cross", "cross")]  # the state counts, and so does its prompt
    changed = np.array(denoiser.score(head, x, prediction, levels, others, [0, 1, 2, 3])) - together
    assert (np.abs(changed[1:3]) > 1e-4).all() and changed[[0, 3]] == pytest.approx(0, abs=1e-5)


def test_means_and_variances_are_in_units_of_the_reward(adapter, saved):
    head, _ = saved
    seen = []
    denoiser = Denoiser(adapter)
    score = head.score
    head.score = lambda states: (seen.append(states), score(states))[1]
    means = scored(denoiser, head)
    mean, variance = head.score_with_variance(seen[0])
    said = head.network(seen[0].taps, seen[0].x, seen[0].x0, seen[0].log_snr, seen[0].embeddings)
    torch.testing.assert_close(means, mean)
    torch.testing.assert_close(mean, -4 + 0.5 * said.mean)
    torch.testing.assert_close(variance, 0.25 * said.log_variance.exp())


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda c: {"shape": {**c["shape"], "taps": {"mid": 32}}}, "does not fit this model: it reads 32 channels of mid,"),
        (lambda c: {"shape": {**c["shape"], "taps": {"down.5": 16}}}, "it reads 16 channels of down.5, where this U-Net has none"),
        (lambda c: {"shape": {**c["shape"], "text": 768}}, "a prompt embedding of 768, not 4 latent channels and a prompt embedding of 16"),
        (lambda c: {"generator": [-g for g in c["generator"]]}, "its U-Net has other weights"),
        (lambda c: {"kind": "lrm"}, "it is another kind of step model"),
        (lambda c: {"shape": {**c["shape"], "width": 32}}, "holds no value head that can be read: model.safetensors"),
        (lambda c: {"colour": 1}, "holds no value head that can be read: config.json"),
    ],
)
def test_a_head_that_does_not_fit_stops_before_the_search_starts(saved, tmp_path, change, sentence):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change(config)))
    searcher = Searcher(tiny_pipeline(), reward="jpeg")
    asked = SearchConfig(algorithm="psp", levels=8, budget=32, step_reward="value", step_model=str(folder))
    with pytest.raises(ValueError, match=sentence) as error:
        searcher("a red circle", asked, out=tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_folder_that_lacks_a_file_is_refused(adapter, saved, tmp_path):
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(saved[1], folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match=f"holds no value head that can be read: {name}"):
            load(str(folder), adapter)


def test_a_head_with_weights_that_are_not_finite_is_refused(adapter, saved):
    head, folder = saved
    head.network.head[-1].weight.data[0, 0] = float("nan")
    head.save(folder)
    with pytest.raises(ValueError, match="the weights in head.* are not finite") as error:
        load(str(folder), adapter)
    assert "\n" not in str(error.value)


def test_the_same_generator_in_another_precision_fits_and_another_does_not(adapter, saved):
    head, _ = saved
    head.config.check(make_adapter(tiny_pipeline().to(torch.bfloat16)))
    with pytest.raises(ValueError, match="other weights"):
        head.config.check(make_adapter(tiny_pipeline(seed=1)))
    with pytest.raises(ValueError, match="other weights"):
        replace(head.config, generator=()).check(adapter)


def test_taps_that_suit_the_model():
    from diffusers import UNet2DConditionModel

    assert default_taps(tiny_pipeline().unet) == ("mid", "up.0", "up.1")
    large = UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 4, 8, 8), layers_per_block=1, cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2
    )
    assert default_taps(large) == ("down.2", "mid", "up.0")
