import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.gain import Anchors, Constant, Table, make_policy
from mcts_ray.gain.policy import path

POLICIES = [Constant(1), Constant(3), Constant(99), Table((1, 2, 1, 4, 2, 2, 4, 8)), Anchors((8, 5, 2)), Anchors(())]


def test_paths():
    assert path(Constant(1), 4) == (4, 3, 2, 1, 0)
    assert path(Constant(3), 7) == (7, 4, 1, 0)
    assert path(Constant(9), 4) == (4, 0)
    assert path(Table((1, 2, 1, 4, 2, 2, 4, 8)), 7) == (7, 3, 2, 0)
    assert path(Anchors((8, 5, 2)), 8) == (8, 5, 2, 0)
    assert path(Anchors((8, 5, 2)), 4) == (4, 2, 0)
    assert path(Constant(2), 0) == (0,)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("level", range(1, 9))
def test_every_policy_jumps_down_and_not_past_the_end(policy, level):
    assert 1 <= policy.k(level) <= level
    levels = path(policy, level)
    assert levels[0] == level and levels[-1] == 0 and list(levels) == sorted(set(levels), reverse=True)


def test_policies_of_a_configuration():
    assert make_policy(SearchConfig(k=2), tuple) == Constant(2)
    table = SearchConfig(levels=3, jump="table", jump_table=(1, 2, 2))
    assert make_policy(table, tuple) == Table((1, 2, 2)) and table.trajectory_nfe == 2
    assert make_policy(SearchConfig(jump="ays"), lambda: [9, 4]) == Anchors((9, 4))
