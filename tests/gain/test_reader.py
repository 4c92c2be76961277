"""What is read of a state: pooled features, and the trunk of a value head."""

from dataclasses import replace

import pytest
import torch

from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.gain import collect, train
from mcts_ray.gain.data import Recorded, read_manifest
from mcts_ray.gain.evaluator import load_evaluator
from mcts_ray.gain.folder import Config
from mcts_ray.gain.reader import Pooled, Trunk, make_reader
from mcts_ray.gain.record import Scale
from mcts_ray.reward.value.head import Config as HeadConfig
from mcts_ray.reward.value.head import ValueHead, fingerprint
from mcts_ray.reward.value.network import Shape, ValueNetwork
from mcts_ray.search import Setting

from .conftest import JUMPS, PROMPTS, T

WIDTH = 16


@pytest.fixture(scope="module")
def denoiser(tiny_folder):
    return Denoiser(make_adapter(load_pipeline(str(tiny_folder), "cpu")))


@pytest.fixture(scope="module")
def head(denoiser, tmp_path_factory):
    """The folder of a value head of random weights."""
    torch.manual_seed(0)
    network = ValueNetwork(Shape({"mid": 16, "up.1": 8}, latent=4, text=16, grid=8, width=WIDTH, heads=2))
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.3)
    folder = tmp_path_factory.mktemp("gain") / "head"
    config = HeadConfig("tiny", "jpeg", network.shape, center=-4.0, scale=0.5, generator=fingerprint(denoiser.adapter))
    ValueHead(network, config).save(folder)
    return folder


def states(denoiser, reader, levels=(7, 5, 2)):
    torch.manual_seed(1)
    x, settings = torch.randn(3, 4, 8, 8), [Setting(text, levels=T, height=32, width=32) for text in PROMPTS[:3]]
    prediction = denoiser.denoise(x, levels, settings, reader.taps)
    return denoiser._states(reader.taps, x, prediction, levels, settings, [0, 1, 2])


def test_a_trunk_is_the_last_hidden_state_and_what_the_head_predicts(denoiser, head):
    trunk = Trunk(denoiser.adapter, str(head))
    assert trunk.taps == ("mid", "up.1") and trunk.features == WIDTH + 2 and trunk.facts == {"kind": "value", "source": str(head)}
    seen = states(denoiser, trunk)
    found_BF = trunk.read(seen)
    scorer = denoiser.scorer("value", str(head))
    mean_B, variance_B = scorer.score_with_variance(seen)
    torch.testing.assert_close(found_BF[:, -2:], torch.stack([mean_B, variance_B.log()], 1))
    hidden_BW = found_BF[:, :WIDTH]
    opinion = scorer.network.head(hidden_BW)[:, 1].clamp(-7, 3)  # its variance hangs on nothing else
    torch.testing.assert_close(opinion, (variance_B / 0.25).log())
    alone = trunk.read(states(denoiser, trunk).part(slice(1, 2)))
    torch.testing.assert_close(alone[0], found_BF[1], atol=1e-4, rtol=1e-4)


def test_a_trunk_comes_back_by_its_facts_wherever_the_process_works(denoiser, head, monkeypatch):
    monkeypatch.chdir(head.parent)
    trunk = Trunk(denoiser.adapter, "head")
    monkeypatch.chdir("/")
    again = make_reader(trunk.facts, denoiser.adapter)
    seen = states(denoiser, trunk)
    assert isinstance(again, Trunk) and torch.equal(trunk.read(seen), again.read(seen))


def test_pooled_features_come_back_by_their_facts(denoiser):
    pooled = Pooled(denoiser.adapter)
    again = make_reader(pooled.facts, denoiser.adapter)
    seen = states(denoiser, pooled)
    assert isinstance(again, Pooled) and torch.equal(pooled.read(seen), again.read(seen))
    assert pooled.read(seen).shape == (3, pooled.features)


def test_an_ige_on_a_trunk_from_collection_to_prediction(denoiser, head, tiny_folder, tmp_path):
    scale = Scale(states=2, noises=2, jumps=JUMPS)
    common = {"scale": scale, "levels": T, "guidance": 2.0, "device": "cpu", "threads": 1}
    data = collect.run(str(tiny_folder), "jpeg", PROMPTS[:2], tmp_path / "t", trunk=str(head), **common)
    assert Recorded(data).features.shape[1] == WIDTH + 2
    recipe = replace(train.RECIPE, steps=4, batch=4, checkpoint_every=2)
    folder = train.run(str(tiny_folder), data, tmp_path / "ige", recipe=recipe, width=8, threads=1)
    assert Config.read(folder).reader == {"kind": "value", "source": str(head)}
    evaluator = load_evaluator(str(folder), denoiser)
    settings = [Setting(text, levels=T) for text in PROMPTS[:3]]
    found = evaluator.evaluate(states(denoiser, evaluator.reader), ["x", "y", "z"], [7, 5, 2], settings)
    assert [gains.node for gains in found] == ["x", "y", "z"] and {gains.version for gains in found} == {0}
    with pytest.raises(ValueError, match="made with other reader, features; collect into another folder"):
        collect._check_same(data, read_manifest(data), {"reader": dict(Pooled(denoiser.adapter).facts), "features": 1})
