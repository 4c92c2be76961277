"""The kernel against diffusers' own schedulers, with a known function in place of the network."""

import math

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from mcts_ray.diffusion.jump import jump, phi_from_eta, second_order, second_order_weight, split
from mcts_ray.diffusion.levels import Levels
from mcts_ray.diffusion.noise import draw
from tests.tiny import SD_BETAS, tiny_scheduler

SHAPE = (4, 8, 8)
LEADING = {**SD_BETAS, "timestep_spacing": "leading", "steps_offset": 1}


def network(x_BCHW, t):
    """Any smooth function of the state and the time step."""
    return 0.8 * torch.sin(2 * x_BCHW) + 0.3 * x_BCHW.roll(1, dims=-1) + 1e-4 * float(t)


def noise(*names):
    return draw(names, SHAPE)


def walk(levels, x, path, eta=0.0, z=None):
    """Our side: jumps along `path` (level T first), noise z[s] for the jump to level s."""
    for a, s in zip(path, path[1:], strict=False):
        t, alpha, sigma = levels.rows[a]
        one = torch.ones(len(x))
        x0, eps = split(network(x, t), x, one * alpha, one * sigma, levels.prediction_type)
        phi = phi_from_eta(levels, a, s, eta)
        _, alpha_s, sigma_s = levels.rows[s]
        x = jump(x0, eps, one * alpha_s, one * sigma_s, one * phi, z[s] if eta else None)
    return x


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clean_end", [False, True])
def test_ddim_with_eta_last_step_included(prediction_type, eta, clean_end):
    scheduler = tiny_scheduler(prediction_type, set_alpha_to_one=clean_end)
    levels = Levels.from_scheduler(scheduler, 10)
    z = {s: noise(f"a{s}", f"b{s}") for s in range(11)}
    scheduler.set_timesteps(10)
    x = noise("a", "b")
    for i, t in enumerate(scheduler.timesteps):
        noise_arg = {"variance_noise": z[9 - i]} if eta else {}
        x = scheduler.step(network(x, t), t, x, eta=eta, **noise_arg).prev_sample
    ours = walk(levels, noise("a", "b"), range(10, -1, -1), eta, z)
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-5)


def test_ddpm_fixed_small_is_eta_one():
    scheduler = DDPMScheduler(**LEADING, clip_sample=False, variance_type="fixed_small")
    levels = Levels.from_scheduler(scheduler, 10)
    scheduler.set_timesteps(10)
    x = noise("a", "b")
    generator, same = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    z = {}
    for i, t in enumerate(scheduler.timesteps):
        z[9 - i] = torch.randn(2, *SHAPE, generator=same)
        x = scheduler.step(network(x, t), t, x, generator=generator).prev_sample
    ours = walk(levels, noise("a", "b"), range(10, -1, -1), 1.0, z)
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_euler_is_phi_zero_and_euler_ancestral_is_eta_one(kind, spacing, prediction_type):
    scheduler = kind(**{**LEADING, "timestep_spacing": spacing}, prediction_type=prediction_type)
    levels = Levels.from_scheduler(scheduler, 10)
    scheduler.set_timesteps(10)
    x = noise("a", "b") * scheduler.init_noise_sigma
    generator, same = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    z = {}
    for i, t in enumerate(scheduler.timesteps):
        z[9 - i] = torch.randn(2, *SHAPE, generator=same)
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, generator=generator).prev_sample
    eta = 1.0 if kind is EulerAncestralDiscreteScheduler else 0.0
    ours = walk(levels, levels.start_scale * noise("a", "b"), range(10, -1, -1), eta, z)
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    levels = Levels.from_scheduler(scheduler, 10)
    scheduler.set_timesteps(10)
    x = noise("a", "b")
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    ours = walk(levels, levels.start_scale * noise("a", "b"), range(10, -1, -1))
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-5)


def test_flow_jumps_keep_the_right_noise():
    """Deterministic or not, a jump to sigma = .6 of an exact prediction has noise .6 (an Euler-Maruyama step would leave 1.16)."""
    levels = Levels.from_scheduler(FlowMatchEulerDiscreteScheduler(), 10)
    sigma = float(levels.sigma_L[6])
    x = jump(torch.zeros(1, 1, 100, 100), noise_of(0), *(torch.tensor([v]) for v in (1 - sigma, sigma, math.pi / 3)), noise_of(1))
    assert x.std() == pytest.approx(sigma, rel=0.05)  # 7 standard errors


def noise_of(name):
    return draw([str(name)], (1, 100, 100))


def test_trailing_k2_is_stock_with_half_the_steps():
    scheduler = tiny_scheduler(timestep_spacing="trailing")
    levels = Levels.from_scheduler(scheduler, 20)
    scheduler.set_timesteps(10)
    x = noise("a", "b")
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    torch.testing.assert_close(walk(levels, noise("a", "b"), range(20, -1, -2)), x, atol=1e-4, rtol=1e-5)


def test_leading_k2_from_level_19_with_a_last_jump_of_1():
    """DDIM with T = 20, `leading`: time steps 951, 901, ..., 1. From level 19, k = 2 visits 901, 801, ..., 1: stock T = 10."""
    scheduler = tiny_scheduler()
    levels = Levels.from_scheduler(scheduler, 20)
    scheduler.set_timesteps(10)
    x = noise("a", "b")
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    path = [*range(19, 0, -2), 0]
    assert [levels.timesteps_L[level] for level in path[:-1]] == scheduler.timesteps.tolist()
    torch.testing.assert_close(walk(levels, noise("a", "b"), path), x, atol=1e-4, rtol=1e-5)


def test_phi_from_eta_is_finite_at_the_ends():
    zero_snr = Levels.from_scheduler(tiny_scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10)
    assert zero_snr.alpha_L[10] == 0
    assert phi_from_eta(zero_snr, 10, 9, 1.0) == pytest.approx(math.pi / 2)
    assert phi_from_eta(zero_snr, 10, 9, 0.0) == 0
    clean = Levels.from_scheduler(tiny_scheduler(set_alpha_to_one=True), 10)
    assert math.isfinite(phi_from_eta(clean, 1, 0, 1.0)) and clean.sigma_L[0] == 0
    with pytest.raises(ValueError, match="between 0"):
        phi_from_eta(clean, 2, 1, 1.5)


def test_samples_of_a_batch_jump_independently():
    levels = Levels.from_scheduler(tiny_scheduler(), 20)
    x0, eps, z = noise(*"abc"), noise(*"def"), noise(*"ghi")
    s, phi = [15, 3, 0], [0.0, 0.4, math.pi / 2]
    together = jump(x0, eps, levels.alpha_L[s], levels.sigma_L[s], torch.tensor(phi), z)
    for b in range(3):
        part = slice(b, b + 1)
        alone = jump(x0[part], eps[part], levels.alpha_L[[s[b]]], levels.sigma_L[[s[b]]], torch.tensor([phi[b]]), z[part])
        torch.testing.assert_close(together[part], alone, atol=0, rtol=0)
    torch.testing.assert_close(together[0], levels.alpha_L[15] * x0[0] + levels.sigma_L[15] * eps[0])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_split_recovers_a_known_state(prediction_type):
    x0, eps = noise(*"ab"), noise(*"cd")
    alpha, sigma = (torch.tensor([0.8, 0.3]), torch.tensor([0.6, 0.91**0.5]))
    if prediction_type == "flow_prediction":
        sigma = 1 - alpha
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    output = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s * x0, "flow_prediction": eps - x0}[prediction_type]
    found = split(output, a * x0 + s * eps, alpha, sigma, prediction_type)
    torch.testing.assert_close(found[0], x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], eps, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown prediction type"):
        split(output, x0, alpha, sigma, "score")


def test_second_order_weight_falls_back():
    levels = Levels.from_scheduler(tiny_scheduler(), 20)
    assert second_order_weight(levels, 2, 1, 0) == 0  # the last step
    assert second_order_weight(levels, 11, 10, 9) > 0
    assert second_order_weight(levels, 11, 10, 5) == 0  # r < 1/2 and a longer jump
    assert second_order_weight(levels, 14, 10, 9) > 0  # a shorter jump, whatever r
    zero_snr = Levels.from_scheduler(tiny_scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"), 20)
    assert second_order_weight(zero_snr, 20, 19, 18) == 0  # lambda_p = -inf
    x, m0, m1 = noise(*"ab"), noise(*"cd"), noise(*"ef")
    moved = second_order(x, m0, m1, torch.tensor([0.0, 0.5]))
    assert torch.equal(moved[0], x[0])
    torch.testing.assert_close(moved[1], x[1] + 0.5 * (m0[1] - m1[1]))
