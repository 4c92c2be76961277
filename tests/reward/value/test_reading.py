"""A value head begins with the way in which a reward reads, where it lends one that fits."""

import pytest
import torch

from mcts_ray.reward.base import Reward
from mcts_ray.reward.value import reading
from mcts_ray.reward.value.network import Shape, ValueNetwork
from mcts_ray.reward.value.reading import borrow
from mcts_ray.reward.value.train import _share_of
from mcts_ray.scenes.scorer import Scorer

PROMPTS = ["a red circle left of a blue square", "a green ring", "a white cross above a cyan square", "a purple triangle below a red ring"]
SHAPE = Shape({"up.0": 5}, latent=4, text=24, grid=8)


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load()


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(len(PROMPTS), 16, 24, generator=torch.Generator().manual_seed(0))


def test_it_looks_with_the_reward_s_weights_and_knows_its_words(scorer, embeddings, monkeypatch):
    monkeypatch.setattr(reading, "STEPS", 150)
    torch.manual_seed(0)
    network = ValueNetwork(SHAPE)

    missed = borrow(network, Reward("scenes", scorer), PROMPTS, embeddings)

    lent = scorer.network.text.state_dict()
    assert all(value.equal(lent[name]) for name, value in network.blocks.state_dict().items())
    assert network.verdict[1].weight.equal(scorer.network.head[1].weight)
    known, network = Reward("scenes", scorer).reading(PROMPTS), network.eval()
    with torch.no_grad():
        said = network.read(embeddings)
    assert missed < 0.2
    assert ((said.word - known.word).square().mean() / known.word.var()) < 0.2
    assert ((said.relates > 0) == (known.relates > 0.5)).all()
    related = known.relates > 0.5
    for side in (0, 1):
        assert said.between[:, side].argmax(2)[related].equal(known.between[:, side][related])


def test_relations_stand_between_the_shapes_around_them(scorer):
    found = Reward("scenes", scorer).reading(["a red circle left of a blue square"])
    tokens = scorer.tokenizer.convert_ids_to_tokens(scorer._tokens(["a red circle left of a blue square"])[0])
    at = int(found.relates[0].argmax())

    assert tokens[at].startswith("left")
    assert [tokens[index].removesuffix("</w>") for index in found.between[0, :, at]] == ["circle", "square"]
    assert found.counts[0].sum() == 6  # two colours, two shapes, the relation, nothing else


@pytest.mark.parametrize("shape", [Shape({"up.0": 5}, 4, 24, 8, width=40), Shape({"up.0": 5}, 4, 24, 8, blocks=1)])
def test_nothing_is_taken_that_does_not_fit(scorer, embeddings, shape):
    network = ValueNetwork(shape)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    assert borrow(network, Reward("scenes", scorer), PROMPTS, embeddings) is None
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_reward_may_lend_nothing(embeddings):
    assert borrow(ValueNetwork(SHAPE), Reward("mine", lambda images, prompts: [0.0] * len(prompts)), PROMPTS, embeddings) is None


def test_a_reading_that_fails_is_one_sentence():
    class Broken:
        def reading(self, prompts):
            raise KeyError("words")

    with pytest.raises(ValueError, match="the reading of reward 'mine' raised KeyError: 'words'"):
        Reward("mine", Broken()).reading(PROMPTS)


def test_the_line_from_verdicts_to_rewards():
    verdict = torch.zeros(4, 3, 5)
    verdict[:, :2, 1] = 1  # two of the three words state something
    verdict[:, :, 0] = torch.tensor([[0.0, 0, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]])

    assert _share_of(verdict, torch.tensor([-1.0, 1, 3, 3])) == pytest.approx((4, -1))
    assert _share_of(torch.ones(4, 3, 5), torch.zeros(4)) == (0, 0)
