"""Levels T..0 of a diffusion model, read from the scheduler *object* after `set_timesteps(T)`.

Level T is pure noise and level 0 the scheduler's own end. A state at level i is x_i = alpha_i x0 + sigma_i eps.
Shape suffix: L = T + 1 entries, index = level.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers import AysSchedules

from mcts_ray.diffusion.errors import ClippingRefused, UnsupportedScheduler

_DISCRETE = (DDIMScheduler, DDPMScheduler)
_SIGMA = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler)
_SPACINGS = ("leading", "trailing")
_AYS = {"ays": "StableDiffusionTimesteps", "ays-xl": "StableDiffusionXLTimesteps"}
GRIDS = ("native", *_SPACINGS, "karras", *_AYS)
_RESPACED = {  # options by which a scheduler would put its noise levels elsewhere than at its time steps
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False),
    "interpolation_type": "linear",
}
_RHO = 7.0  # of the Karras grid, as in the paper


@dataclass(frozen=True, eq=False)
class Levels:
    """Noise levels of one scheduler; all tensors fp32 on the CPU.

    timesteps_L: what the network is told at a level; entry 0 is unused, level 0 is never evaluated.
    alpha_L, sigma_L: signal and noise scales (variance preserving: alpha^2 + sigma^2 = 1; flow: alpha = 1 - sigma).
    start_scale: s_T, so that x_T = s_T z with z ~ N(0, I).
    prediction_type: "epsilon", "v_prediction", "sample" or "flow_prediction".
    """

    timesteps_L: torch.Tensor
    alpha_L: torch.Tensor
    sigma_L: torch.Tensor
    start_scale: float
    prediction_type: str

    @property
    def T(self) -> int:
        """Levels of a full trajectory."""
        return len(self.alpha_L) - 1

    @cached_property
    def rows(self) -> list[tuple[float, float, float]]:
        """(time step, alpha, sigma) per level as plain numbers, for gathering mixed batches."""
        return list(zip(self.timesteps_L.tolist(), self.alpha_L.tolist(), self.sigma_L.tolist(), strict=True))

    def diffused(self, z_BCHW: torch.Tensor, level_B: Sequence[int], generator: torch.Generator | None = None):
        """Latents made noisy at their levels, x = alpha z + sigma eps, eps drawn on the CPU: x (B, C, H, W) and time steps (B,)."""
        eps_BCHW = torch.randn(z_BCHW.shape, generator=generator)
        t_B, alpha_B, sigma_B = torch.tensor([self.rows[level] for level in level_B], dtype=torch.float32).unbind(1)
        return alpha_B[:, None, None, None] * z_BCHW + sigma_B[:, None, None, None] * eps_BCHW, t_B

    @cached_property
    def lambda_L(self) -> torch.Tensor:
        """lambda = ln(alpha / sigma) in float64; +inf where sigma = 0, -inf where alpha = 0."""
        return self.alpha_L.double().log() - self.sigma_L.double().log()

    @property
    def log_snr_L(self) -> torch.Tensor:
        """ln(alpha^2 / sigma^2) = 2 lambda."""
        return 2 * self.lambda_L

    @classmethod
    def from_scheduler(cls, scheduler, T: int, grid: str = "native") -> Levels:
        """Read T levels from a diffusers scheduler, which is left untouched.

        grid "native": the scheduler's own time steps. "leading" and "trailing": its time steps with that `timestep_spacing`
        (arXiv 2305.08891, table 2). "karras": even in sigma'^(1/7) between the ends of the native grid, see `karras_levels`.
        "ays" and "ays-xl": Align Your Steps (arXiv 2404.14507), see `ays_timesteps`. Level 0 is the scheduler's own end in all.
        Raises UnsupportedScheduler (ClippingRefused if it clips), or ValueError for a T or grid that it cannot give.
        """
        refuse_clipping(scheduler)
        if grid not in GRIDS:
            raise ValueError(f"unknown grid {grid!r}; choose one of {', '.join(GRIDS)}")
        if T < 1:
            raise ValueError(f"levels must be at least 1, not {T}")
        if grid != "native" and _is_flow(scheduler):
            raise ValueError(f"the {grid} grid exists for Stable Diffusion noise schedules, not for flow matching; use native")
        scheduler = copy.deepcopy(scheduler)
        if grid in (*_SPACINGS, *_AYS):
            options = {**_RESPACED, **({"timestep_spacing": grid} if grid in _SPACINGS else {})}
            scheduler.register_to_config(**{name: value for name, value in options.items() if name in scheduler.config})
        levels = _read(scheduler, T, _AYS.get(grid))
        if grid == "karras":
            levels = karras_levels(levels, scheduler.alphas_cumprod)
        levels._check(T)
        return levels

    def _check(self, T: int) -> None:
        if self.T != T:
            raise ValueError(f"the scheduler gives {self.T} time steps where {T} levels were asked for; choose another number")
        # Level 1 may equal level 0 (DDIM ending at alphas_cumprod[0]); all others must lose noise.
        if (self.lambda_L.diff() > 0).any() or (self.lambda_L[1:].diff() == 0).any():
            raise UnsupportedScheduler("the scheduler's time steps do not run strictly from noise to image")
        if self.alpha_L[-1] == 0 and self.prediction_type == "epsilon":
            raise UnsupportedScheduler("a scheduler that starts at zero signal needs a v_prediction model, not an epsilon model")


def refuse_clipping(scheduler) -> None:
    """Raise ClippingRefused if the scheduler clips or thresholds x0."""
    for option in ("clip_sample", "thresholding"):
        if scheduler.config.get(option, False):
            raise ClippingRefused(type(scheduler).__name__, option)


def karras_levels(levels: Levels, alphas_cumprod: torch.Tensor) -> Levels:
    """The grid of Karras et al. (arXiv 2206.00364, eq. 5, rho = 7) between levels T and 1 of `levels`, whose level 0 is kept:

    sigma'_i = (sigma'_T^(1/rho) + (T - i)/(T - 1) (sigma'_1^(1/rho) - sigma'_T^(1/rho)))^rho,   sigma' = sigma / alpha

    The noise levels are exact, and the network is told the fractional time step at which the log of the training noise levels
    (`alphas_cumprod`), interpolated linearly, takes that value, as in k-diffusion and diffusers' Euler: U-Nets take time steps
    as floats. The nearest training steps would move Stable Diffusion's levels by up to a fifth of a step at T = 30, and be the
    same for two levels from about T = 80 on. ValueError where level T holds no signal.
    """
    if levels.alpha_L[-1] == 0:
        raise ValueError("the karras grid needs signal at its first level, where this scheduler has none; use another grid")
    root_L = (levels.sigma_L.double() / levels.alpha_L.double()) ** (1 / _RHO)
    ratio_T = torch.linspace(float(root_L[-1]), float(root_L[1]), levels.T, dtype=torch.float64) ** _RHO
    log_ratio_N = -0.5 * torch.logit(alphas_cumprod.double().cpu())
    timesteps_T = np.interp(ratio_T.log().numpy(), log_ratio_N.numpy(), np.arange(len(log_ratio_N)))
    alpha_T = 1 / (ratio_T**2 + 1).sqrt()

    def below(end_L: torch.Tensor, values_T: torch.Tensor) -> torch.Tensor:
        return torch.cat([end_L[:1], values_T.flip(0).float()])

    timesteps_L = below(levels.timesteps_L, torch.from_numpy(timesteps_T))
    return replace(
        levels, timesteps_L=timesteps_L, alpha_L=below(levels.alpha_L, alpha_T), sigma_L=below(levels.sigma_L, ratio_T * alpha_T)
    )


def ays_timesteps(alphas_cumprod: torch.Tensor, T: int, table: str) -> list[int]:
    """The ten tabulated AYS time steps as T steps, highest first; `table` is a name in diffusers' `AysSchedules`.

    The log-SNR at the tabulated steps is interpolated linearly over the step index (log-linear in sigma, as its
    authors do), and each value goes to the nearest training step. T = 10 gives the table itself.
    """
    if len(alphas_cumprod) != 1000:
        raise ValueError(f"the AYS tables are made for 1000 training steps, and this scheduler has {len(alphas_cumprod)}")
    table = AysSchedules[table]
    if len(table) == T:
        return list(table)
    lambda_N = (0.5 * torch.logit(alphas_cumprod.double())).numpy()
    wanted_T = np.interp(np.linspace(0, 1, T), np.linspace(0, 1, len(table)), lambda_N[table])
    nearest_T = np.interp(-wanted_T, -lambda_N, np.arange(len(lambda_N))).round().astype(int)
    if (np.diff(nearest_T) >= 0).any():
        raise ValueError(f"the AYS grid has no {T} distinct time steps; use fewer levels or the native grid")
    return nearest_T.tolist()


def ays_levels(levels: Levels, grid: str = "ays") -> tuple[int, ...]:
    """The levels whose time steps are nearest to the ten tabulated AYS time steps, highest first; fewer if two coincide."""
    if levels.prediction_type == "flow_prediction":
        raise ValueError("the AYS levels exist for Stable Diffusion noise schedules, not for flow matching")
    nearest = {int((levels.timesteps_L[1:] - t).abs().argmin()) + 1 for t in AysSchedules[_AYS[grid]]}
    return tuple(sorted(nearest, reverse=True))


def _is_flow(scheduler) -> bool:
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("use_flow_sigmas", False)


def _read(scheduler, T: int, ays: str | None) -> Levels:
    """The levels at the scheduler's time steps, or at those of an AYS table."""
    if isinstance(scheduler, _DISCRETE):
        return _from_alphas_cumprod(scheduler, T, ays)
    if isinstance(scheduler, _SIGMA):
        return _from_sigmas(scheduler, T, ays)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return _from_flow(scheduler, T)
    raise UnsupportedScheduler(
        f"{type(scheduler).__name__} has no known levels; use DDIM, DDPM, Euler, DPMSolverMultistep or FlowMatchEuler"
    )


def _from_alphas_cumprod(scheduler, T: int, ays: str | None) -> Levels:
    """DDIM ends at `final_alpha_cumprod` (which for Stable Diffusion is not clean), DDPM at the clean image."""
    if ays:
        timesteps_T = torch.tensor(ays_timesteps(scheduler.alphas_cumprod, T, ays))
    else:
        scheduler.set_timesteps(T)
        timesteps_T = scheduler.timesteps.cpu()
    if int(timesteps_T[0]) >= len(scheduler.alphas_cumprod):
        raise ValueError(f"{T} levels start past the last training step of this scheduler; use fewer levels")
    end = scheduler.final_alpha_cumprod if isinstance(scheduler, DDIMScheduler) else torch.tensor(1.0)
    alphas_cumprod_L = torch.cat([end.reshape(1), scheduler.alphas_cumprod.cpu()[timesteps_T].flip(0)]).float()
    return _levels(scheduler, timesteps_T, alphas_cumprod_L.sqrt(), (1 - alphas_cumprod_L).sqrt())


def _from_sigmas(scheduler, T: int, ays: str | None) -> Levels:
    """Euler and DPM-Solver++: sigma' = sigma/alpha of a variance-preserving state, the last entry being level 0."""
    if ays:
        scheduler.set_timesteps(timesteps=ays_timesteps(scheduler.alphas_cumprod, T, ays))
    else:
        scheduler.set_timesteps(T)
    ratio_L = scheduler.sigmas.cpu().float().flip(0)
    if scheduler.config.get("use_flow_sigmas", False):
        return _levels(scheduler, scheduler.timesteps.cpu(), 1 - ratio_L, ratio_L)
    alpha_L = 1 / (ratio_L**2 + 1).sqrt()
    return _levels(scheduler, scheduler.timesteps.cpu(), alpha_L, ratio_L * alpha_L)


def _from_flow(scheduler, T: int) -> Levels:
    if scheduler.config.use_dynamic_shifting:
        raise UnsupportedScheduler("flow matching with use_dynamic_shifting has no levels independent of the image size")
    scheduler.set_timesteps(T)
    sigma_L = scheduler.sigmas.cpu().float().flip(0)
    return _levels(scheduler, scheduler.timesteps.cpu(), 1 - sigma_L, sigma_L)


def _levels(scheduler, timesteps_T: torch.Tensor, alpha_L: torch.Tensor, sigma_L: torch.Tensor) -> Levels:
    timesteps_L = torch.cat([torch.zeros(1), timesteps_T.float().flip(0)])
    prediction_type = scheduler.config.get("prediction_type", "flow_prediction")
    return Levels(timesteps_L, alpha_L, sigma_L, _start_scale(scheduler, timesteps_T), prediction_type)


def _start_scale(scheduler, timesteps_T: torch.Tensor) -> float:
    """s_T with s_T z = scale_model_input(z * init_noise_sigma, timesteps[0]); 1 where a scheduler scales nothing."""
    start = torch.ones(1) * getattr(scheduler, "init_noise_sigma", 1.0)
    if hasattr(scheduler, "scale_model_input"):
        start = scheduler.scale_model_input(start, timesteps_T[0])
    return float(start)
