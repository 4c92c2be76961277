"""Angles of jumps from plain numbers: those of the levels themselves, to the last bit."""

import pytest

from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.levels import Levels
from mcts_ray.search.angles import Angles
from tests.tiny import tiny_scheduler

LEVELS = Levels.from_scheduler(tiny_scheduler(), 20)
SCALES = tuple(LEVELS.alpha_L.tolist()), tuple(LEVELS.sigma_L.tolist())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_angles_by_eta_are_those_of_the_levels(eta):
    angles = Angles(*SCALES, eta=eta)
    pairs = [(a, s) for a in range(1, 21) for s in range(21) if s != a and (s < a or LEVELS.sigma_L[a] > 0)]
    assert [angles(a, s) for a, s in pairs] == [phi_from_eta(LEVELS, a, s, eta) for a, s in pairs]


def test_phi_of_a_schedule_is_the_same_for_every_jump_size_and_the_forward_process_upwards():
    def phi(a, s, schedule="taper"):
        return Angles(*SCALES, phi=0.4, schedule=schedule)(a, s)

    assert [phi(20, s) for s in (19, 12, 0)] == [0.4] * 3
    assert phi(12, 11, "linear") == pytest.approx(0.2)
    assert phi(4, 3, "cosine") == 0
    assert phi(5, 9) == phi_from_eta(LEVELS, 5, 9, 1.0)
