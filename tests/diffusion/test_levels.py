import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from mcts_ray.diffusion.errors import ClippingRefused, UnsupportedScheduler
from mcts_ray.diffusion.levels import Levels, ays_levels
from tests.tiny import SD_BETAS, tiny_scheduler

SCHEDULERS = [
    tiny_scheduler(),
    tiny_scheduler(timestep_spacing="trailing"),
    tiny_scheduler(timestep_spacing="linspace"),
    tiny_scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
    DDPMScheduler(**SD_BETAS, clip_sample=False, steps_offset=1),
    EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1),
    EulerDiscreteScheduler(**SD_BETAS, use_karras_sigmas=True),
    DPMSolverMultistepScheduler(**SD_BETAS, final_sigmas_type="zero"),
    DPMSolverMultistepScheduler(**SD_BETAS, final_sigmas_type="sigma_min"),
    FlowMatchEulerDiscreteScheduler(shift=3.0),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("T", [1, 7, 30])
def test_levels_descend_in_noise(scheduler, T):
    levels = Levels.from_scheduler(scheduler, T)
    assert levels.T == T and levels.timesteps_L.shape == levels.alpha_L.shape == levels.sigma_L.shape == (T + 1,)
    assert (levels.log_snr_L[1:].diff() < 0).all() and levels.log_snr_L[0] >= levels.log_snr_L[1]
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        torch.testing.assert_close(levels.alpha_L**2 + levels.sigma_L**2, torch.ones(T + 1))


def test_reads_the_object_and_leaves_it_untouched():
    scheduler = tiny_scheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    before, config = scheduler.timesteps.clone(), dict(scheduler.config)
    levels, trailing = Levels.from_scheduler(scheduler, 10), Levels.from_scheduler(scheduler, 10, "trailing")
    assert torch.equal(trailing.alpha_L[10], scheduler.alphas_cumprod[999].sqrt())
    assert torch.equal(levels.alpha_L[10], scheduler.alphas_cumprod[901].sqrt())
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps is None
    assert dict(scheduler.config) == config


def test_level_zero_is_the_schedulers_own_end():
    end = Levels.from_scheduler(tiny_scheduler(), 10)
    assert end.alpha_L[0] == pytest.approx(0.99957, abs=1e-5) and end.sigma_L[0] == pytest.approx(0.0292, abs=1e-4)
    sigma_min = Levels.from_scheduler(DPMSolverMultistepScheduler(**SD_BETAS, final_sigmas_type="sigma_min"), 10)
    assert sigma_min.sigma_L[0] == pytest.approx(0.0292, abs=1e-4)
    for scheduler in (
        tiny_scheduler(set_alpha_to_one=True),
        DDPMScheduler(**SD_BETAS, clip_sample=False),
        EulerDiscreteScheduler(**SD_BETAS),
        DPMSolverMultistepScheduler(**SD_BETAS),
        FlowMatchEulerDiscreteScheduler(),
    ):
        clean = Levels.from_scheduler(scheduler, 10)
        assert clean.alpha_L[0] == 1 and clean.sigma_L[0] == 0


def test_start_scale_is_what_the_first_call_sees():
    assert Levels.from_scheduler(tiny_scheduler(), 10).start_scale == 1
    assert Levels.from_scheduler(DPMSolverMultistepScheduler(**SD_BETAS), 10).start_scale == 1
    assert Levels.from_scheduler(FlowMatchEulerDiscreteScheduler(), 10).start_scale == 1
    leading = EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading")
    assert Levels.from_scheduler(leading, 10).start_scale == pytest.approx(1, abs=1e-6)
    linspace = Levels.from_scheduler(EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="linspace"), 10)
    assert linspace.start_scale == pytest.approx(float(linspace.sigma_L[10]), rel=1e-6) and linspace.start_scale < 0.999


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(**SD_BETAS),
        DDPMScheduler(**SD_BETAS),
        DDPMScheduler(**SD_BETAS, clip_sample=False, thresholding=True),
        DPMSolverMultistepScheduler(**SD_BETAS, thresholding=True),
    ],
)
def test_clipping_is_refused(scheduler):
    with pytest.raises(ClippingRefused, match="(clip_sample|thresholding)=true"):
        Levels.from_scheduler(scheduler, 10)


def test_what_has_no_levels_says_so():
    with pytest.raises(UnsupportedScheduler, match="PNDMScheduler has no known levels"):
        Levels.from_scheduler(PNDMScheduler(**SD_BETAS), 10)
    with pytest.raises(UnsupportedScheduler, match="dynamic_shifting"):
        Levels.from_scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 10)
    with pytest.raises(UnsupportedScheduler, match="needs a v_prediction model"):
        Levels.from_scheduler(tiny_scheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10)
    with pytest.raises(ValueError, match="unknown grid"):
        Levels.from_scheduler(tiny_scheduler(), 10, "cosine")
    with pytest.raises(ValueError, match="at least 1"):
        Levels.from_scheduler(tiny_scheduler(), 0)
    with pytest.raises(ValueError, match="use fewer levels"):
        Levels.from_scheduler(tiny_scheduler(), 1000)


@pytest.mark.parametrize(
    "scheduler",
    [tiny_scheduler(), DDPMScheduler(**SD_BETAS, clip_sample=False), EulerDiscreteScheduler(**SD_BETAS), DPMSolverMultistepScheduler(**SD_BETAS)],
    ids=lambda s: type(s).__name__,
)
def test_ays_grid(scheduler):
    ten = Levels.from_scheduler(scheduler, 10, "ays")
    assert ten.timesteps_L[1:].flip(0).tolist() == [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]  # arXiv 2404.14507, as in diffusers
    xl = Levels.from_scheduler(scheduler, 10, "ays-xl")
    assert xl.timesteps_L[10] == 999 and xl.timesteps_L[1] == 13
    many = Levels.from_scheduler(scheduler, 28, "ays")
    assert many.timesteps_L[28] == 999 and many.timesteps_L[1] == 24
    # 28 = 3 x 9 + 1, so every third of the 28 is one of the table's ten
    assert many.timesteps_L[1:].flip(0)[::3].tolist() == ten.timesteps_L[1:].flip(0).tolist()
    torch.testing.assert_close(many.alpha_L[1::3], ten.alpha_L[1:])


def test_ays_refusals():
    with pytest.raises(ValueError, match="no 900 distinct time steps"):
        Levels.from_scheduler(tiny_scheduler(), 900, "ays")
    with pytest.raises(ValueError, match="1000 training steps"):
        Levels.from_scheduler(tiny_scheduler(num_train_timesteps=500), 10, "ays")
    with pytest.raises(ValueError, match="not for flow matching"):
        Levels.from_scheduler(FlowMatchEulerDiscreteScheduler(), 10, "ays")


@pytest.mark.parametrize("grid", ["leading", "trailing"])
@pytest.mark.parametrize("T", [7, 10, 30])
@pytest.mark.parametrize(
    "scheduler",
    [tiny_scheduler(), DDPMScheduler(**SD_BETAS, clip_sample=False), EulerDiscreteScheduler(**SD_BETAS, use_karras_sigmas=True)],
    ids=lambda s: type(s).__name__,
)
def test_spaced_grids_are_the_stock_schedulers(scheduler, T, grid):
    """Whatever the scheduler's own spacing is; level 0 stays its own end."""
    stock = type(scheduler).from_config(scheduler.config, timestep_spacing=grid, use_karras_sigmas=False)
    stock.set_timesteps(T)
    levels = Levels.from_scheduler(scheduler, T, grid)
    assert levels.timesteps_L[1:].flip(0).tolist() == stock.timesteps.tolist()
    torch.testing.assert_close(levels.alpha_L[1:].flip(0), stock.alphas_cumprod[stock.timesteps.long()].sqrt())
    assert levels.alpha_L[0] == Levels.from_scheduler(scheduler, T).alpha_L[0]


def test_the_native_grid_is_its_own_spacing():
    for spacing in ("leading", "trailing"):
        native, named = (Levels.from_scheduler(tiny_scheduler(timestep_spacing=spacing), 30, grid) for grid in ("native", spacing))
        assert torch.equal(native.alpha_L, named.alpha_L) and torch.equal(native.timesteps_L, named.timesteps_L)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("T", [2, 10, 30])
def test_karras_grid_is_that_of_the_stock_euler(T, spacing):
    stock = EulerDiscreteScheduler(**SD_BETAS, timestep_spacing=spacing, steps_offset=1, use_karras_sigmas=True)
    stock.set_timesteps(T)
    plain = EulerDiscreteScheduler(**SD_BETAS, timestep_spacing=spacing, steps_offset=1)
    levels = Levels.from_scheduler(plain, T, "karras")
    torch.testing.assert_close(levels.sigma_L / levels.alpha_L, stock.sigmas.flip(0))
    torch.testing.assert_close(levels.timesteps_L[1:].flip(0), stock.timesteps, atol=1e-3, rtol=0)
    assert levels.start_scale == Levels.from_scheduler(plain, T).start_scale


@pytest.mark.parametrize("T", [1, 10, 100])
def test_karras_grid_keeps_the_ends_of_the_native_one(T):
    native, karras = (Levels.from_scheduler(tiny_scheduler(), T, grid) for grid in ("native", "karras"))
    for one, other in zip((native.timesteps_L, native.alpha_L, native.sigma_L), (karras.timesteps_L, karras.alpha_L, karras.sigma_L)):
        torch.testing.assert_close(one[[0, 1, -1]], other[[0, 1, -1]])
    root_L = (karras.sigma_L / karras.alpha_L)[1:].double() ** (1 / 7)  # equation 5: even in the seventh root of sigma'
    torch.testing.assert_close(root_L.diff(), ((root_L[-1] - root_L[0]) / max(1, T - 1)).expand(T - 1), atol=1e-6, rtol=1e-4)


def test_grid_refusals():
    dpm = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    for grid in ("leading", "trailing", "karras", "ays"):
        for flow in (FlowMatchEulerDiscreteScheduler(), dpm):
            with pytest.raises(ValueError, match=f"the {grid} grid exists .* not for flow matching"):
                Levels.from_scheduler(flow, 10, grid)
    with pytest.raises(ValueError, match="karras grid needs signal at its first level"):
        Levels.from_scheduler(tiny_scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10, "karras")
    with pytest.raises(UnsupportedScheduler, match="PNDMScheduler has no known levels"):
        Levels.from_scheduler(PNDMScheduler(**SD_BETAS), 10, "trailing")


@pytest.mark.parametrize("T", [5, 10, 30, 50])
def test_ays_levels_are_the_nearest_ones_of_the_native_grid(T):
    levels = Levels.from_scheduler(tiny_scheduler(), T)
    found = ays_levels(levels)
    assert found[0] == T and list(found) == sorted(set(found), reverse=True) and len(found) <= 10
    assert len(found) == 10 or T < 30
    for level, t in zip(found, (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)) if len(found) == 10 else ():
        assert abs(levels.timesteps_L[level] - t) == (levels.timesteps_L[1:] - t).abs().min()
    with pytest.raises(ValueError, match="not for flow matching"):
        ays_levels(Levels.from_scheduler(FlowMatchEulerDiscreteScheduler(), T))


@pytest.mark.parametrize("grid", ["trailing", "karras", "ays"])
def test_ays_levels_of_other_grids(grid):
    levels = Levels.from_scheduler(tiny_scheduler(), 30, grid)
    found = ays_levels(levels)
    assert found[0] == 30 and list(found) == sorted(set(found), reverse=True) and 8 <= len(found) <= 10
    assert all((levels.timesteps_L[1:] - t).abs().min() == (levels.timesteps_L[list(found)] - t).abs().min() for t in (645, 233, 24))
