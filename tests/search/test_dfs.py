import math

import pytest

from mcts_ray.search import DFS, Setting

from .fake import carry_out, worth


def make(budget=200, levels=20, **options):
    return DFS("s", Setting("a red circle", levels=levels), budget, **{"phi": lambda a, s: 0.3, **options})


def test_a_threshold_below_all_values_is_never_failed():
    search = make(threshold=-1.0)
    works = carry_out(search)
    assert len(search.finished) == 10 and all(work.edges[0].level < 20 for work in works if work.parent)


def test_a_state_below_the_threshold_is_sent_up_and_the_best_goes_on():
    works = carry_out(make(threshold=2.0, backtracks=3, score_at=(0.5,)), room=1)
    assert [work.edges[0].level for work in works[:5]] == [20, 16, 16, 16, 10]
    tried = [work.edges[-1].node for work in works[:4]]
    assert [work.parent for work in works[1:4]] == tried[:3]
    assert works[4].parent == max(tried, key=worth)


def test_backtracks_are_counted_per_trajectory():
    works = carry_out(make(1000, threshold=2.0, backtracks=5, score_at=(0.5,)))
    levels = [(work.edges[0].level, work.parent) for work in works]
    trajectories = sum(parent is None for _, parent in levels)
    assert sum(len(work.edges) == 6 for work in works) == 5 * trajectories


def test_what_finishes_the_trajectory_is_not_spent_on_going_back():
    search = make(27, threshold=2.0, score_at=(0.5,))
    carry_out(search)
    assert len(search.finished) == 1 and search.ledger.nfe == 26


def test_by_default_the_first_trajectory_passes_and_later_ones_are_compared_with_what_was_seen():
    works = carry_out(make(1000), room=1)
    second = [index for index, work in enumerate(works) if work.parent is None][1]
    level = 20
    for work in works[:second]:
        assert work.edges[0].level <= level
        level = work.edges[-1].level
    assert any(len(work.edges) == 6 for work in works[second:])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_going_up_is_the_forward_process(eta):
    """The angle that is given for jumps upwards adds the noise of q(x_s | x_a), s > a, whatever eta is."""
    from diffusers import DDIMScheduler

    from mcts_ray.diffusion.jump import phi_from_eta
    from mcts_ray.diffusion.levels import Levels
    from tests.tiny import SD_BETAS

    levels = Levels.from_scheduler(DDIMScheduler(**SD_BETAS, steps_offset=1, clip_sample=False), 20)
    alpha, sigma = levels.alpha_L.double(), levels.sigma_L.double()
    a, s = 8, 14
    phi = phi_from_eta(levels, a, s, eta)
    keeps, adds = sigma[s] * math.cos(phi), sigma[s] * math.sin(phi)
    assert float(keeps) == pytest.approx(float(alpha[s] / alpha[a] * sigma[a]), rel=1e-6)
    assert float(adds**2) == pytest.approx(float(1 - (alpha[s] / alpha[a]) ** 2), rel=1e-5)
