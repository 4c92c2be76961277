"""A reward that tells what it thinks of single words, and a head that learns from that."""

import json

import numpy as np
import pytest
import torch

from mcts_ray.reward.lrm import collect as images_of
from mcts_ray.reward.value import collect, train
from mcts_ray.reward.value.data import Trajectories, joined
from mcts_ray.reward.value.network import Opinion
from mcts_ray.reward.value.renoised import Renoised
from mcts_ray.reward.value.train import words

PROMPTS = ["a red circle left of a blue square", "a green ring", "a white cross above a red ring"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return collect.run("scenes", None, PROMPTS, tmp_path_factory.mktemp("words"), trajectories=2, levels=3, device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    return images_of.run("scenes", "scenes", ["a red ring", "a blue cross"], out, images=2, renders=2, levels=2, device="cpu")


def share(verdict_BLV):
    """Of the facts, those that hold."""
    return (verdict_BLV[..., 0] * verdict_BLV[..., 1]).sum(1) / verdict_BLV[..., 1].sum(1)


def test_the_verdicts_of_a_state_are_those_on_its_own_final_image(data):
    known = Trajectories(data)
    batch = known.batch(known.groups)
    torch.testing.assert_close(share(batch.verdict), batch.reward, atol=2e-3, rtol=0)
    assert len({tuple(row) for row in batch.verdict[..., 0].tolist()}) == 6  # one for each trajectory
    facts = {prompt: int(batch.verdict[batch.group == group, :, 1].sum(1)[0]) for group, prompt in enumerate(g.prompt for g in known.groups)}
    assert facts == {0: 6, 1: 3, 2: 6}  # colours, shapes, relations, and nothing else


def test_images_made_noisy_again_carry_theirs(data, images, tmp_path):
    known = Trajectories(data)
    batch = Renoised(images, known, set(), tmp_path, torch.device("cpu")).batch(np.random.default_rng(0), 4, first=1)
    torch.testing.assert_close(share(batch.verdict), batch.reward, atol=2e-3, rtol=0)
    both = joined(known.batch(known.groups[:1]), batch)
    assert len(both.verdict) == len(both.reward)


def test_a_training_begins_with_the_way_in_which_the_reward_reads(data, tmp_path, monkeypatch):
    seen = []

    def borrow(network, reward, prompts, embedding_PLD, seed):
        seen.append((reward.name, len(prompts), embedding_PLD.shape))

    monkeypatch.setattr(train, "borrow", borrow)
    for steps in (1, 1):  # the second time it is ended already
        train.run("scenes", data, tmp_path, steps=steps, width=16, device="cpu")
    assert seen == [("scenes", 2, (2, 16, 96))]  # one of the three prompts is held out


@pytest.mark.slow
def test_a_head_learns_from_words(data, images, tmp_path):
    told = []
    out = train.run("scenes", data, tmp_path, steps=50, images=images, width=16, device="cpu", report=told.append)
    assert 0 < told[0].metrics["words"] < 4 and json.loads((out / "metrics.json").read_text())["best_step"] == 50


def test_the_loss_of_words_is_least_where_the_network_says_what_the_reward_has_told():
    verdict = torch.tensor([[[1.0, 1, 0.5, -0.5, 1], [0.0, 1, 9, 9, 1], [0.3, 0, 9, 9, 0]]])
    where = torch.tensor([[[0.5, -0.5], [0.0, 0], [0, 0]]])

    def loss(logits, where=where):
        return float(words(Opinion(torch.zeros(1), torch.zeros(1), torch.tensor([logits]), where), verdict))

    assert loss([9.0, -9.0, 0.0]) == loss([9.0, -9.0, 5.0]) < 1e-3 < loss([9.0, 9.0, 0.0])  # the third word states nothing
    assert loss([9.0, -9.0, 0.0], where + torch.tensor([1.0, 0])) == pytest.approx(2, abs=1e-3)  # only where a word holds is it placed
