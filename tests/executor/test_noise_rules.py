"""Searches whose noises are made from other noises, or that go back up, on a real engine."""

import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.executor import Job
from mcts_ray.fusion.fuser import fuse
from mcts_ray.search import ALGORITHMS, Setting
from tests.executor.test_local import adapter, executor  # noqa: F401
from tests.tiny import SIZE

SETTING = Setting("a red circle", guidance=2.0, levels=4, height=SIZE, width=SIZE)


@pytest.mark.parametrize("name", ["nts", "demon", "zero-order", "dfs"])
def test_they_run_to_their_end(adapter, name):  # noqa: F811
    search = ALGORITHMS[name]("s", SETTING, 32, phi=lambda a, s: 0.5)
    executor(adapter).run([Job(search, in_flight=4, images=1)])
    assert search.finished and not search.errors and not search.refusals
    assert (search.ledger.fusions > 0) == (name != "dfs")


@pytest.mark.parametrize("name", ["nts", "zero-order", "demon"])
def test_the_executor_hands_the_rules_noise_to_the_engine(adapter, name):  # noqa: F811
    """Known trap: a rule that is asked for and not carried out. Every fused node gets the noise that its rule gives, exactly."""
    search = ALGORITHMS[name]("s", SETTING, 32, phi=lambda a, s: 0.5)
    run, given, works = executor(adapter), {}, {}
    submit = run.engine.submit

    def watch(units, noise, states):
        units = list(units)
        given.update(noise)
        assert not states
        works.update({unit.edges[0].node: unit for unit in units if unit.fuse})
        submit(units, noise, states)

    run.engine.submit = watch
    run.run([Job(search, in_flight=4, images=1)])
    shape = run.engine.denoiser.adapter.latent_shape(SIZE, SIZE)
    assert works and set(works) == set(given)
    for node, work in works.items():
        rule = work.fuse
        assert torch.equal(given[node], fuse(rule.particles, rule.weights, shape, rule.mode, node))
        assert not torch.equal(given[node], draw([node], shape)[0])
