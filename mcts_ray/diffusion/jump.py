"""The jump kernel: from the denoiser's (x0, eps) at one level to a state at any lower level.

Shapes: B samples of C channels, H x W latents; `_B` tensors hold one number per sample; all fp32.
Levels: a = where (x0, eps) were predicted, s < a = where the jump lands, p > a = where the path came from.
"""

from __future__ import annotations

import math

import torch

from mcts_ray.diffusion.levels import Levels
from mcts_ray.search.angles import eta_angle


def jump(
    x0_BCHW: torch.Tensor,
    eps_BCHW: torch.Tensor,
    alpha_s_B: torch.Tensor,
    sigma_s_B: torch.Tensor,
    phi_B: torch.Tensor,
    z_BCHW: torch.Tensor | None = None,
) -> torch.Tensor:
    """x_s = alpha_s x0 + sigma_s cos(phi) eps + sigma_s sin(phi) z.

    phi = 0 is DDIM / Euler (arXiv 2010.02502, eq. 12 with eta = 0); `phi_from_eta` gives DDIM's eta.
    `z_BCHW` may be None when every phi is 0.
    """
    x_BCHW = _per_sample(alpha_s_B) * x0_BCHW + _per_sample(sigma_s_B * phi_B.cos()) * eps_BCHW
    if z_BCHW is None:
        return x_BCHW
    return x_BCHW + _per_sample(sigma_s_B * phi_B.sin()) * z_BCHW


def second_order(x_BCHW: torch.Tensor, m0_BCHW: torch.Tensor, m1_BCHW: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++(2M) from its first-order jump `x_BCHW`: x + weight (m0 - m1).

    The solver (arXiv 2211.01095, algorithm 2) is x_s = (sigma_s/sigma_a) x_a - alpha_s (e^-h - 1) D with
    D = m0 + (m0 - m1)/(2r); D = m0 is exactly the jump with phi = 0, so only the difference is added.
    m0, m1: x0 predicted at a and at p. weight_B: from `second_order_weight`; 0 leaves a sample first order.
    """
    return x_BCHW + _per_sample(weight_B) * (m0_BCHW - m1_BCHW)


def second_order_weight(levels: Levels, p: int, a: int, s: int) -> float:
    """alpha_s (1 - e^-h) / (2r) with h = lambda_s - lambda_a and r = (lambda_a - lambda_p)/h; 0 where first order is used.

    First order on the last step (s = 0), and for r < 1/2 when the new jump counts more levels than the previous one.
    """
    lambda_p, lambda_a, lambda_s = levels.lambda_L[[p, a, s]].tolist()
    if s == 0 or math.isinf(lambda_p):
        return 0.0
    h = lambda_s - lambda_a
    r = (lambda_a - lambda_p) / h
    if r < 0.5 and a - s > p - a:
        return 0.0
    return float(levels.alpha_L[s]) * -math.expm1(-h) / (2 * r)


def phi_from_eta(levels: Levels, a: int, s: int, eta: float) -> float:
    """The phi of DDIM's eta for the jump a -> s: rho = alpha_a sigma_s / (alpha_s sigma_a), sin(phi) = eta sqrt(1 - rho^2).

    Finite at alpha_a = 0 and at sigma_s = 0. eta = 1 is DDPM (`fixed_small`), Euler-ancestral and SDE-DPM-Solver++(1).
    Upwards, s > a, it is the forward process whatever eta is: cos(phi) = 1 / rho, so that x_s = (alpha_s / alpha_a) x_a + noise.
    """
    start, end = ((float(levels.alpha_L[level]), float(levels.sigma_L[level])) for level in (a, s))
    return eta_angle(start, end, eta, upwards=s > a)


def split(
    output_BCHW: torch.Tensor,
    x_BCHW: torch.Tensor,
    alpha_B: torch.Tensor,
    sigma_B: torch.Tensor,
    prediction_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's output at x = alpha x0 + sigma eps as (x0, eps).

    epsilon: output = eps. sample: output = x0. v_prediction: alpha eps - sigma x0 (arXiv 2202.00512). flow_prediction: eps - x0.
    """
    alpha, sigma = _per_sample(alpha_B), _per_sample(sigma_B)
    if prediction_type == "epsilon":
        return (x_BCHW - sigma * output_BCHW) / alpha, output_BCHW
    if prediction_type == "sample":
        return output_BCHW, (x_BCHW - alpha * output_BCHW) / sigma
    if prediction_type == "v_prediction":
        return alpha * x_BCHW - sigma * output_BCHW, alpha * output_BCHW + sigma * x_BCHW
    if prediction_type == "flow_prediction":
        return x_BCHW - sigma * output_BCHW, x_BCHW + alpha * output_BCHW
    raise ValueError(f"unknown prediction type {prediction_type!r}")


def _per_sample(value_B: torch.Tensor) -> torch.Tensor:
    return value_B[:, None, None, None]
