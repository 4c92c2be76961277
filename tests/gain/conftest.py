"""One small set of recorded transitions and one IGE trained on it, for all tests that only read them."""

import os
import shutil
from dataclasses import replace

import pytest

T = 8
JUMPS = (1, 2, 4, 8)
PROMPTS = ["a red circle", "a blue square", "a fox", "a hen"]


@pytest.fixture(scope="session")
def scale():
    from mcts_ray.gain.record import Scale

    return Scale(states=3, noises=3, jumps=JUMPS)


@pytest.fixture(scope="session")
def transitions(tiny_folder, tmp_path_factory, scale):
    """The folder of what was recorded on the tiny pipeline."""
    from mcts_ray.gain import collect

    out = tmp_path_factory.mktemp("gain") / "transitions"
    return collect.run(str(tiny_folder), "jpeg", PROMPTS, out, scale=scale, levels=T, guidance=2.0, device="cpu", threads=1)


@pytest.fixture(scope="session")
def trained(tiny_folder, transitions, tmp_path_factory):
    """The folder of an IGE; not to be written to."""
    from mcts_ray.gain import train

    recipe = replace(train.RECIPE, steps=20, batch=8, checkpoint_every=10)
    return train.run(str(tiny_folder), transitions, tmp_path_factory.mktemp("gain") / "ige", recipe=recipe, width=16, threads=1)


@pytest.fixture
def ige(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "ige")


@pytest.fixture(autouse=True)
def _one_thread():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
