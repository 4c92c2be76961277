"""Numbers in brackets are those of the invariants in the design notes: level, permutation, scale, types, refusals, shapes."""

import math

import pytest
import torch
from scipy.stats import kstest

from mcts_ray.diffusion.noise import draw
from mcts_ray.tree.weights import Refusal, fusion_weights
from mcts_ray.fusion.innovation import barycenter, transported, weighted_sum

SHAPE = (4, 64, 64)
D = math.prod(SHAPE)
REWARDS = [0.3, 0.7, 0.1, 0.45, 0.6, 0.52]


def particles(n=6, shape=SHAPE, name="z"):
    return draw([f"{name}{i}" for i in range(n)], shape)


def weights(mode, rewards=REWARDS):
    return torch.tensor(fusion_weights(mode, rewards).a)


MODES = pytest.mark.parametrize("a_N", [weights("innovation"), weights("signed")], ids=["innovation", "signed"])


def normal(z_CHW):
    """Whether z looks like N(0, I): 14 figures, each within 4 standard errors (a false alarm in 1e-3 of all cases)."""
    C, H, W = z_CHW.shape
    z = z_CHW.double()
    d = z.numel()
    power = torch.fft.fft2(z, norm="ortho").abs().square()
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None]).expand(C, H, W)
    bands = [power[(radius >= low) & (radius < low + 0.1)] for low in (0.0, 0.1, 0.2, 0.3, 0.4)]
    levels = [abs(p.mean() - 1) < 4 * math.sqrt(2 / p.numel()) for p in bands]  # of a real field each power is there twice
    lags = [abs((z * z.roll(1, axis)).mean()) < 4 / math.sqrt(d) for axis in (1, 2)]
    rest = [abs(z.mean()) < 4 / math.sqrt(d), kstest(z.flatten().numpy(), "norm").pvalue > 1e-4]
    means = [abs(channel.mean()) < 4 / math.sqrt(H * W) for channel in z]
    return abs((z**2).mean() - 1) < 4 * math.sqrt(2 / d) and all(levels) and all(lags) and all(rest) and all(means)


def test_one_particle_and_equal_ones_give_that_particle():
    """[1, 2, 3] As a new node it would be a copy, so `barycenter` refuses it."""
    z_ND = particles().flatten(1)
    one_hot = torch.eye(6)[2]
    torch.testing.assert_close(transported(z_ND, one_hot), z_ND[2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(transported(z_ND[:1], torch.tensor([0.3])), z_ND[0], rtol=1e-6, atol=1e-6)
    equal = z_ND[:1].expand(6, -1)
    torch.testing.assert_close(transported(equal, weights("innovation")), z_ND[0], rtol=1e-6, atol=1e-6)
    assert barycenter(particles(), one_hot) is Refusal.COPY
    assert barycenter(particles(1).expand(6, *SHAPE), weights("innovation")) is Refusal.COPY


def test_noise_that_cancels_is_refused():
    """[3] Signed weights on equal particles, opposite particles, and weights that are all 0."""
    z_NCHW = particles()
    assert barycenter(z_NCHW[:1].expand(2, *SHAPE), torch.tensor([1.0, -1.0])) is Refusal.CANCELLED
    assert barycenter(torch.stack([z_NCHW[0], -z_NCHW[0]]), torch.tensor([0.5, 0.5])) is Refusal.CANCELLED
    assert barycenter(z_NCHW, torch.zeros(6)) is Refusal.CANCELLED


def test_nearly_a_copy_is_refused_and_only_that():
    """[17]"""
    z_NCHW = particles()
    for share, refused in ((0.1, True), (0.3, False)):  # cosines of about .995 and .96
        near = torch.zeros(6)
        near[0], near[1] = 1.0, share
        assert (barycenter(z_NCHW, near) is Refusal.COPY) == refused


def test_the_mirror_image_of_a_particle_is_a_copy_too():
    """[17] Signed weights: nearly all of it is on one bad sibling."""
    a_N = torch.tensor([-1.0, 0.1, 0.0, 0.0, 0.0, 0.0])
    assert barycenter(particles(), a_N) is Refusal.COPY
    assert barycenter(particles(), a_N * torch.tensor([1.0, 3.0, 1, 1, 1, 1])) is not Refusal.COPY


@MODES
def test_the_order_of_particles_does_not_matter(a_N):
    """[4]"""
    z_NCHW, order = particles(), torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(barycenter(z_NCHW[order], a_N[order]), barycenter(z_NCHW, a_N), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["innovation", "signed"])
def test_fused_noise_is_noise_and_the_weighted_mean_is_not(mode):
    """[5] Rewards independent of the noise. Eight sets for each rule: a false alarm in 1.6 % of all seeds."""
    for index in range(8):
        z_NCHW = particles(name=f"set {index} ")
        assert normal(barycenter(z_NCHW, weights(mode)))
    a_N = weights("innovation")
    assert not normal(weighted_sum(z_NCHW.flatten(1), a_N).reshape(SHAPE))


@MODES
def test_a_fused_child_is_as_far_from_its_parent_as_its_siblings(a_N):
    """[6] The norm is the weighted mean of theirs, so it lies among them."""
    z_NCHW = particles()
    norms = z_NCHW.flatten(1).norm(dim=1)
    assert norms.min() <= barycenter(z_NCHW, a_N).norm() <= norms.max()


@MODES
def test_scale(a_N):
    """[7] Noise in another unit; weights in another unit change nothing."""
    z_NCHW = particles()
    fused = barycenter(z_NCHW, a_N)
    torch.testing.assert_close(barycenter(3 * z_NCHW, a_N), 3 * fused)
    torch.testing.assert_close(barycenter(z_NCHW, 3 * a_N), fused)


@MODES
def test_no_gradients_and_inputs_stay_as_they_are(a_N):
    """[13, 16]"""
    z_NCHW = particles().requires_grad_()
    before, a_before = z_NCHW.detach().clone(), a_N.clone()
    fused = barycenter(z_NCHW, a_N)
    assert not fused.requires_grad and torch.equal(z_NCHW, before) and torch.equal(a_N, a_before)
    assert torch.equal(fused, barycenter(z_NCHW, a_N))


@MODES
def test_types_and_strides(a_N):
    """[15] fp32 maths whatever comes in; the type that came in goes out."""
    z_NCHW = particles()
    for dtype in (torch.float16, torch.bfloat16):
        half = z_NCHW.to(dtype)
        fused = barycenter(half, a_N)
        assert fused.dtype == dtype and torch.equal(fused, barycenter(half.float(), a_N).to(dtype))
    last = z_NCHW.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(barycenter(last, a_N), barycenter(z_NCHW, a_N))
    with pytest.raises(RuntimeError):
        barycenter(z_NCHW.to("meta"), a_N)


@MODES
@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 128, 128), (16, 128, 128), (4, 48, 96), (1, 64, 64)])
def test_shapes(a_N, shape):
    """[18]"""
    fused = barycenter(particles(shape=shape), a_N)
    assert fused.shape == shape and fused.isfinite().all()
