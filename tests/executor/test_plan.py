"""What a configuration says of levels and noise reaches the units of its searches."""

import pickle
import subprocess
import sys

import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.levels import ays_levels
from mcts_ray.diffusion.sizing import candidates
from mcts_ray.executor.plan import make_plan
from mcts_ray.search import ALGORITHMS
from mcts_ray.search.branching import Branching, scheduled
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(StableDiffusionAdapter(tiny_pipeline()))


def first_unit(denoiser, **values):
    (search,) = make_plan("tiny", denoiser, ["a red circle"], SearchConfig(**values), "jpeg").searches
    return search.ask(1)[0]


def moves(unit):
    """(a, s, phi) of every jump of a unit."""
    return [(above.level, edge.level, edge.phi) for above, edge in zip(unit.edges, unit.edges[1:])]


@pytest.mark.parametrize("grid", ["native", "leading", "trailing", "karras", "ays"])
def test_all_levels_come_from_the_grid(denoiser, grid):
    levels = denoiser.levels(10, grid)
    unit = first_unit(denoiser, levels=10, grid=grid, eta=0.5)
    assert unit.setting.grid == grid and unit.setting.levels == 10
    assert moves(unit) == [(a, a - 1, phi_from_eta(levels, a, a - 1, 0.5)) for a in range(10, 0, -1)]
    assert first_unit(denoiser, algorithm="mcts", levels=10, grid=grid).setting.grid == grid


@pytest.mark.parametrize("grid", ["native", "trailing", "karras", "ays"])
def test_ays_jumps_go_through_the_levels_of_the_grid(denoiser, grid):
    unit = first_unit(denoiser, levels=30, grid=grid, jump="ays")
    assert [edge.level for edge in unit.edges] == [*ays_levels(denoiser.levels(30, grid)), 0]


@pytest.mark.parametrize("algorithm, k", [("best-of-n", 1), ("best-of-n", 3), ("psp", 1), ("dts", 1), ("random", 2), ("dfs", 1)])
@pytest.mark.parametrize("schedule", ["constant", "taper", "linear", "cosine"])
def test_noise_by_a_schedule_of_phi(denoiser, algorithm, k, schedule):
    unit = first_unit(denoiser, algorithm=algorithm, levels=10, k=k, phi=0.3, phi_schedule=schedule)
    assert [phi for _, _, phi in moves(unit)] == [scheduled(a, 10, 0.3, schedule) for a, _, _ in moves(unit)]


def test_a_grid_without_so_many_levels_is_a_mistake_of_one_sentence(denoiser):
    with pytest.raises(ValueError, match="the AYS grid has no 900 distinct time steps; use fewer levels or the native grid"):
        first_unit(denoiser, levels=900, grid="ays")


def test_a_tree_branches_by_its_schedule(denoiser):
    for schedule in (None, "taper", "linear"):
        config = SearchConfig(algorithm="mcts", levels=10, phi=0.5, phi_schedule=schedule)
        (search,) = make_plan("tiny", denoiser, ["a red circle"], config, "jpeg").searches
        assert search.branching == Branching(10, 0.5, 3, schedule or "taper")


def test_the_batch_size_is_in_the_plan(denoiser):
    def planned(asked):
        return make_plan("tiny", denoiser, ["a red circle"], SearchConfig(), "jpeg", batch_size=asked).batch_size

    assert (planned(None), planned(5)) == (64, 5)  # on a CPU a constant, or results would differ from run to run in their last digits
    assert planned("profile") == planned("profile") in candidates(64)


def test_a_search_comes_into_a_process_without_torch(denoiser):
    """As into the tree manager, for which the sum of what it loads is its size."""
    plans = [make_plan("tiny", denoiser, ["a red circle"], SearchConfig(algorithm=name), "jpeg") for name in ALGORITHMS]
    script = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit(9 if {'torch', 'diffusers', 'ray'} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, "-c", script], input=pickle.dumps(plans)).returncode == 0
