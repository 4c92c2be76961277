import pytest
import torch

from mcts_ray.reward.value import collect

PROMPTS = ["a red circle", "a blue square", "a ring", "a cross", "two rings", "a red square"]
LEVELS = 5


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def collected(tiny_folder, tmp_path_factory):
    """Trajectories of the tiny pipeline, judged by jpeg."""
    out = tmp_path_factory.mktemp("value") / "data"
    return collect.run(str(tiny_folder), "jpeg", PROMPTS, out, trajectories=4, levels=LEVELS, guidance=2.0, device="cpu")
