import math

import numpy as np
import torch

from mcts_ray.reward.lrm.data import bradley_terry, ranked_right
from mcts_ray.reward.lrm.model import LatentRewardModel
from tests.tiny import tiny_pipeline


def test_twenty_levels_of_stable_diffusion_are_the_published_time_steps(data):
    assert data.levels.timesteps_L[1:].int().tolist() == list(range(1, 1000, 50))


def test_both_of_a_pair_have_one_level_and_noises_of_their_own(data):
    x, t = data.states(np.array([0, 1]), np.array([20, 3]), torch.Generator().manual_seed(0))
    assert t.tolist() == [951.0, 101.0, 951.0, 101.0]
    noise = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    for row, (image, level) in enumerate([(0, 20), (2, 3), (1, 20), (1, 3)]):
        alpha, sigma = data.levels.alpha_L[level], data.levels.sigma_L[level]
        expected = alpha * torch.from_numpy(data.latent_NCHW[image].astype(np.float32)) + sigma * noise[row]
        torch.testing.assert_close(x[row], expected)
    assert not torch.equal(noise[1], noise[3])


def test_scores_are_those_of_each_image_with_its_own_prompt(data):
    model = LatentRewardModel.from_pipeline(tiny_pipeline()).requires_grad_(False)
    scores = data.scores(model, np.array([0, 1]), np.array([20, 3]), torch.Generator().manual_seed(0))
    x, t = data.states(np.array([0, 1]), np.array([20, 3]), torch.Generator().manual_seed(0))
    empty = model.encode(*data.words([""]))
    for row, (pair, side) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        text = model.encode(*data.words([data.pairs.prompts[pair]]))
        alone = model(x[row : row + 1], t[row : row + 1], text, empty)
        torch.testing.assert_close(scores[pair, side], alone[0])


def test_the_loss_of_bradley_and_terry():
    score = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0], [0.3, 0.3]])
    loss = bradley_terry(score, torch.tensor([1.0, 0.0, 0.5, 0.5]))
    p = 1 / (1 + math.exp(-2))
    expected = [-math.log(p), -math.log(1 - p), -(math.log(p) + math.log(1 - p)) / 2 - math.log(2), 0.0]
    torch.testing.assert_close(loss, torch.tensor(expected))
    assert loss[2] > 0


def test_ranked_right_knows_no_ties():
    score = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert ranked_right(score, torch.tensor([1.0, 0.0, 0.5, 1.0])).tolist() == [True, False, False, False]
