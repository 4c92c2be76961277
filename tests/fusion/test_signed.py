"""The signed sum; numbers in brackets are those of the invariants in the design notes. Most are tested with those of `innovation`."""

from statistics import mean, pstdev

import pytest
import torch

from mcts_ray.fusion.innovation import mean_norm, weighted_sum
from mcts_ray.fusion.signed import signed_sum
from mcts_ray.tree.weights import TAU, Refusal, fusion_weights
from tests.fusion.test_innovation import particles


def weights(rewards):
    return torch.tensor(fusion_weights("signed", rewards).a)


def standardised(rewards):
    return [(reward - mean(rewards)) / pstdev(rewards) for reward in rewards]


def test_it_points_to_where_a_linear_reward_rises():
    """r_i = <g, z_i>: away from bad siblings too, so the sum lies nearer to g than a weighted mean of the same siblings."""
    nearer, cosines = 0, []
    for family in range(40):
        z_NCHW = particles(8, (4, 8, 8), f"family {family}, ")
        g = z_NCHW.new_tensor(1.0).expand(z_NCHW[0].numel())
        rewards = (z_NCHW.flatten(1) @ g).tolist()
        mean_D = weighted_sum(z_NCHW.flatten(1), torch.softmax(torch.tensor(standardised(rewards)) / TAU, 0))
        cosine, of_mean = (float(torch.cosine_similarity(z_D, g, 0)) for z_D in (signed_sum(z_NCHW, weights(rewards)).flatten(), mean_D))
        nearer += cosine > of_mean
        cosines.append(cosine)
    assert nearer >= 30 and min(cosines) > 0  # of fair coins 30 of 40 come in one of a thousand cases


def test_weights_that_sum_to_nothing_are_nothing_special():
    z_NCHW, a_N = particles(), torch.tensor([1.0, 0.5, 0.25, -1.0, -0.5, -0.25])
    fused = signed_sum(z_NCHW, a_N)
    torch.testing.assert_close(fused.norm(), mean_norm(z_NCHW.flatten(1), a_N), rtol=1e-5, atol=0)
    torch.testing.assert_close(signed_sum(z_NCHW, -a_N), -fused)


def test_a_mirror_image_is_a_copy():
    a_N = torch.zeros(6)
    a_N[3] = -0.7
    assert signed_sum(particles(), a_N) is Refusal.COPY


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_fp32(dtype):
    half, a_N = particles().to(dtype), weights([0.3, 0.7, 0.1, 0.45, 0.6, 0.52])
    assert torch.equal(signed_sum(half, a_N), signed_sum(half.float(), a_N).to(dtype))
