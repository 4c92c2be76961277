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
    before = scheduler.timesteps.clone()
    levels = Levels.from_scheduler(scheduler, 10)
    assert torch.equal(levels.alpha_L[10], scheduler.alphas_cumprod[901].sqrt())
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps is None


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
