import math
import random
import subprocess
import sys

import pytest

from mcts_ray.tree.weights import MODES, Refusal, Weights, fusion_weights

REWARDS = [0.3, 0.7, 0.1, 0.45, 0.6, 0.52, 0.2]
every = pytest.mark.parametrize("mode", MODES)


def test_the_rules():
    mean, sd = sum(REWARDS) / 7, math.sqrt(sum((r - sum(REWARDS) / 7) ** 2 for r in REWARDS) / 7)
    standard = [(r - mean) / sd for r in REWARDS]
    powers = [math.exp(2 * r) for r in standard]
    assert fusion_weights("innovation", REWARDS).a == pytest.approx([p / sum(powers) for p in powers], abs=1e-6)
    assert fusion_weights("signed", REWARDS).a == pytest.approx([math.tanh(r) for r in standard], abs=1e-6)


@every
def test_the_gain_is_what_a_linear_reward_would_rise_by(mode):
    weights = fusion_weights(mode, REWARDS)
    mean = sum(REWARDS) / 7
    gain = sum(a * (r - mean) for a, r in zip(weights.a, REWARDS)) / math.hypot(*weights.a)
    assert weights.mean == pytest.approx(mean) and weights.gain == pytest.approx(gain) and gain > 0


@every
def test_a_better_particle_never_weighs_less(mode):
    a = fusion_weights(mode, REWARDS).a
    assert sorted(range(7), key=lambda i: a[i]) == sorted(range(7), key=lambda i: REWARDS[i])


@every
@pytest.mark.parametrize("unit, offset", [(3.0, 0.0), (1e-9, 0.0), (1e30, 0.0), (1e300, 0.0), (2.0, -40.0), (0.1, 7.0)])
def test_neither_unit_nor_offset_matters(mode, unit, offset):
    weights = fusion_weights(mode, [unit * r + offset for r in REWARDS])
    assert weights.a == pytest.approx(fusion_weights(mode, REWARDS).a, abs=1e-6)
    assert weights.gain == pytest.approx(unit * fusion_weights(mode, REWARDS).gain, rel=1e-6)
    assert math.isfinite(weights.mean)


@every
def test_the_order_of_particles_does_not_matter(mode):
    rewards, order = [*REWARDS, 0.7, 0.1], list(range(9))  # with ties
    random.Random(0).shuffle(order)
    shuffled = fusion_weights(mode, [rewards[i] for i in order])
    assert shuffled.a == tuple(fusion_weights(mode, rewards).a[i] for i in order)


@every
def test_particles_without_a_reward_are_dropped(mode):
    weights = fusion_weights(mode, [math.nan, *REWARDS[:3], -math.inf, *REWARDS[3:]])
    assert weights.kept == (1, 2, 3, 5, 6, 7, 8) and weights.a == fusion_weights(mode, REWARDS).a


@every
def test_refusals(mode):
    assert fusion_weights(mode, REWARDS[:5]) is Refusal.FEW
    assert isinstance(fusion_weights(mode, REWARDS[:5], fewest=5), Weights)
    assert fusion_weights(mode, [math.nan] * 9) is fusion_weights(mode, []) is Refusal.FEW
    assert fusion_weights(mode, [*REWARDS[:5], math.nan]) is Refusal.FEW
    assert fusion_weights(mode, [0.4] * 8) is fusion_weights(mode, [0.0] * 8) is Refusal.FLAT
    assert fusion_weights(mode, [1 + 1e-8 * i for i in range(8)]) is Refusal.FLAT
    with pytest.raises(ValueError, match="inf"):
        fusion_weights(mode, [*REWARDS, math.inf])


def test_one_particle_far_above_the_others_is_left_to_itself():
    """Its softmax weight is nearly 1; under tanh the others still weigh, with the other sign."""
    rewards = [0.0, 0.01, 0.02, 0.0, 0.01, 9.0]
    assert fusion_weights("innovation", rewards) is Refusal.DOMINATED
    assert fusion_weights("signed", rewards).a[5] > 0 > fusion_weights("signed", rewards).a[0]


def test_weights_need_no_torch():
    code = "import mcts_ray.fusion, mcts_ray.search, mcts_ray.tree, sys; print({'torch', 'ray'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"
