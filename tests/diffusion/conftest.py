import pytest
import torch

from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.denoiser import Denoiser
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def denoiser(pipe):
    return Denoiser(StableDiffusionAdapter(pipe))
