import numpy as np
import pytest
import torch

from mcts_ray.diffusion.levels import Levels
from mcts_ray.reward.lrm.data import Data
from mcts_ray.reward.lrm.pairs import Pairs
from mcts_ray.reward.lrm.words import Words
from mcts_ray.reward.step import States
from tests.reward.lrm.published import PIPELINES
from tests.tiny import tiny_pipeline, tiny_scheduler

PROMPTS = ["a red fox", "", "a very long prompt that is cut off"]


@pytest.fixture(scope="session", params=list(PIPELINES))
def pipe(request):
    """A tiny generator of each family."""
    return PIPELINES[request.param]()


@pytest.fixture(scope="session")
def states():
    """Three states at different levels and of different prompts."""
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([951.0, 401.0, 1.0])
    return States(x, x, x, t, t, {}, PROMPTS, x)


@pytest.fixture(scope="session")
def data():
    """A pair and a tie of random latents at the published levels."""
    pairs = Pairs(None, ("a fox", "a hen"), ("x", "y", "z"), np.array([0, 1]), np.array([[0, 1], [2, 1]]), np.array([1.0, 0.5]))
    latents = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float16)
    return Data(pairs, latents, Levels.from_scheduler(tiny_scheduler(), 20), Words.of_pipeline(tiny_pipeline()), torch.device("cpu"))
