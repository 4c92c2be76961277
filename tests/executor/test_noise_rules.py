"""Searches whose noises are made from other noises, on a real engine: an image is what its noise gives, made again by hand."""

import pytest

torch = pytest.importorskip("torch")

from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.noise import draw
from mcts_ray.executor import Job
from mcts_ray.executor.local import LocalExecutor
from mcts_ray.fusion.fuser import fuse
from mcts_ray.search import ALGORITHMS, Setting
from mcts_ray.search.base import Edge, Fuse, Work
from tests.executor.test_local import adapter, executor  # noqa: F401
from tests.tiny import SIZE

SETTING = Setting("a red circle", guidance=2.0, levels=4, height=SIZE, width=SIZE)


@pytest.mark.parametrize("name", ["nts", "demon", "zero-order", "dfs"])
def test_they_run_to_their_end(adapter, name):  # noqa: F811
    search = ALGORITHMS[name]("s", SETTING, 32, phi=lambda a, s: 0.5)
    executor(adapter).run([Job(search, in_flight=4, images=1)])
    assert search.finished and not search.errors and not search.refusals
    assert (search.ledger.fusions > 0) == (name != "dfs")


@pytest.mark.parametrize(
    "mode, particles, weights", [("rotate", ("p", "q"), (0.9, 0.95)), ("perturb", ("p", "q"), (0.1, 0.12)), ("demon", ("p", "q"), (0.8, -0.6))]
)
def test_a_state_is_what_the_rule_says(adapter, mode, particles, weights):  # noqa: F811
    """A seed of the rule's noise gives the image that the same noise gives when it is handed to the engine."""
    run = executor(adapter)
    shape = run.engine.denoiser.adapter.latent_shape(SIZE, SIZE)
    edges = (Edge("new", 4), Edge("next", 2), Edge("end", 0))
    work = Work("s/0", "s", SETTING, None, "fuse", edges, fuse=Fuse(mode, particles, weights))
    images = []
    for noise in (fuse(particles, weights, shape, mode, "new"), draw(["new"], shape)[0]):
        engine = Engine(run.engine.denoiser, 4)
        engine.submit([work], {"new": noise})
        walked = []
        while not walked:
            walked = engine.step()
        images.append(walked[0].latent)
    assert isinstance(run, LocalExecutor) and not torch.allclose(*images)
