import math

import pytest

from mcts_ray.tree import BACKUPS, Prior, Soft, State, Tree, maximum, mean
from mcts_ray.tree.backup import log_mean_exp, make_rule


def grown(rule, rewards, ks=None):
    """A tree with one child of the root per reward, each finished at once; `ks`: their jumps."""
    tree = Tree("root", 4, rule)
    for index, reward in enumerate(rewards):
        state = State(f"n{index}", 0, ks[index] if ks else 4, 0.5)
        tree.complete(tree.dispatch(tree.root, state), [], reward)
    return tree


def test_the_rules():
    assert BACKUPS == ("mean", "max", "soft")
    assert make_rule("mean", 1.0, "max") is mean and make_rule("max", 1.0, "max") is maximum
    assert make_rule("soft", 3.0, "mean") == Soft(3.0, "mean")
    assert grown(mean, [1.0, 2.0, 6.0]).root.value == pytest.approx(3.0)
    assert grown(maximum, [1.0, 2.0, 6.0]).root.value == 6.0
    expected = math.log((math.exp(0.5) + math.exp(1.0) + math.exp(3.0)) / 3) / 0.5
    assert grown(Soft(0.5), [1.0, 2.0, 6.0]).root.value == pytest.approx(expected)


def test_soft_is_a_mean_so_more_children_do_not_raise_it():
    """A log-sum-exp without - ln n, as in a public port of DTS, would grow with the number of children."""
    assert grown(Soft(2.0), [0.7] * 2).root.value == pytest.approx(0.7)
    assert grown(Soft(2.0), [0.7] * 50).root.value == pytest.approx(0.7)


def test_soft_lies_between_mean_and_max():
    rewards = [0.1, 0.9, 0.4, 0.3]
    assert grown(Soft(1e-6), rewards).root.value == pytest.approx(0.425, abs=1e-4)
    assert grown(Soft(1e5), rewards).root.value == pytest.approx(0.9, abs=1e-4)
    assert log_mean_exp([1000.0, 999.0], 10.0) < 1000.0


def test_soft_takes_the_mean_exp_within_each_jump_first():
    """Children of k = 4: 0 and 1, of k = 2: 0.8. A pooled log-mean-exp would let the number of tries of each k decide."""
    rewards, ks = [0.0, 1.0, 0.8], [4, 4, 2]
    four = log_mean_exp([0.0, 1.0], 3.0)
    assert grown(Soft(3.0, "max"), rewards, ks).root.value == pytest.approx(max(four, 0.8))
    assert grown(Soft(3.0, "mean"), rewards, ks).root.value == pytest.approx((2 * four + 0.8) / 3)


def test_a_fused_child_enters_mean_and_max_but_not_soft():
    for rule, value in ((mean, 3.0), (maximum, 6.0), (Soft(2.0), 1.5), (Soft(2.0, "mean"), 1.5)):
        tree = grown(rule, [1.5, 1.5])
        tree.complete(tree.dispatch(tree.root, State("f", 0, 4, 0.5), ("n0", "n1")), [], 6.0)
        assert tree.root.value == pytest.approx(value) and tree.root.best == 6.0


def test_an_unexpanded_child_enters_the_soft_backup_by_its_prior():
    tree = Tree("root", 4, Soft(2.0))
    waiting = tree.dispatch(tree.root, State("w", 2, 2, 0.5))
    tree.complete(tree.dispatch(tree.root, State("a", 0, 2, 0.5)), [], 0.3)
    assert tree.root.value == pytest.approx(0.3)
    waiting.believe(Prior(0.4, within=0.1, between=0.1))
    tree.complete(tree.dispatch(tree.root, State("b", 0, 2, 0.5)), [], 0.3)
    assert tree.root.value == pytest.approx(log_mean_exp([0.3, 0.3, 0.4 + 2.0 * 0.2 / 2], 2.0))


@pytest.mark.parametrize("rule", [mean, maximum, Soft(2.0), Soft(2.0, "mean")])
def test_every_rule_stays_within_the_rewards_and_gives_an_only_reward_back(rule):
    tree = Tree("root", 6, rule)
    child = tree.dispatch(tree.root, State("a", 4, 2, 0.5, True))
    leaf = tree.complete(child, [State("b", 2, 2), State("c", 0, 2)], 0.25)
    assert [node.value for node in leaf.path()] == [0.25] * 4
    for index, reward in enumerate([-1.0, 0.5, 0.1]):
        head = tree.dispatch(child, State(f"x{index}", 1, 3, 0.5))
        tree.complete(head, [State(f"y{index}", 0, 1)], reward)
        assert min(-1.0, reward) <= tree.root.value <= 0.5
    assert tree.root.visits == child.visits == 4 and child.best == 0.5 and child.total == pytest.approx(-0.15)


@pytest.mark.parametrize("rule", [mean, maximum])
def test_a_prior_draws_every_rule_to_itself(rule):
    tree = Tree("root", 4, rule, calibration=lambda level, score: Prior(score, 0.3, 0.1))
    child = tree.dispatch(tree.root, State("a", 2, 2, 0.5))
    tree.complete(child, [State("b", 0, 2)], 1.0, [("a", 0.2)])
    assert child.score == 0.2 and child.value == pytest.approx((3 * 0.2 + 1.0) / 4)
    assert tree["b"].value == 1.0
