import pytest

from mcts_ray.search.branching import SCHEDULES, Branching, scheduled


def test_phi_is_zero_in_the_last_fifth_and_full_from_two_fifths_on():
    branching = Branching(30, 0.6, 3)
    assert [branching.angle(level) for level in (0, 3, 6)] == [0.0] * 3
    assert branching.angle(9) == pytest.approx(0.3)
    assert [branching.angle(level) for level in (12, 20, 30)] == [0.6] * 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_grow_with_the_noise_up_to_the_full_angle(schedule):
    angles = [scheduled(level, 30, 0.6, schedule) for level in range(31)]
    assert angles == sorted(angles) and angles[30] == pytest.approx(0.6)
    quiet = [angle == 0 for angle in angles]
    assert quiet == [level <= 6 and schedule != "constant" for level in range(31)]


def test_schedules_between_their_ends():
    """At 14, 18 and 22 of 30 levels v is 1/3, 1/2 and 2/3."""
    for schedule, expected in {
        "constant": [0.6, 0.6, 0.6],
        "taper": [0.6, 0.6, 0.6],
        "linear": [0.2, 0.3, 0.4],
        "cosine": [0.15, 0.3, 0.45],
    }.items():
        assert [scheduled(level, 30, 0.6, schedule) for level in (14, 18, 22)] == pytest.approx(expected)
        assert Branching(30, 0.6, 3, schedule).angle(22) == scheduled(22, 30, 0.6, schedule)
    assert scheduled(8, 30, 0.6, "taper") == pytest.approx(0.2) and scheduled(8, 30, 0.6, "constant") == 0.6


def test_marks_part_the_noisy_levels_evenly():
    assert Branching(30, 0.6, 3).marks == (24, 18, 12)
    assert Branching(30, 0.6, 1).marks == (18,)
    assert Branching(10, 0.6, 50).marks == (10, 9, 8, 7, 6, 5, 4, 3, 2)


@pytest.mark.parametrize("stride", [1, 2, 4, 7])
def test_a_path_branches_once_at_or_below_every_mark(stride):
    branching = Branching(30, 0.6, 3)
    levels = [*range(30, 0, -stride), 0]
    opened = [s for a, s in zip(levels, levels[1:]) if branching.opens(a, s)]
    assert len(opened) == 3 and all(mark - stride < level <= mark for mark, level in zip(branching.marks, opened))


def test_without_phi_nothing_branches():
    assert not any(Branching(30, 0.0, 30).opens(level + 1, level) for level in range(30))
