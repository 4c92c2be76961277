"""A control: spherical interpolation of whole states, one after the other, as noises are mixed in arXiv 2604.14790.

    y <- slerp(y, x_i; a_i / (a_1 + ... + a_i)),   y = x_1 at first

The norm comes out right and the spectrum wrong: siblings share their parent's mean, so that they are far from orthogonal and
their interpolation is nearly the weighted mean, whose low frequencies are then too strong and whose high ones are too weak.
"""

from __future__ import annotations

import torch

PARALLEL = 1e-4  # sine below which two directions are one


@torch.no_grad()
def slerp_mean(x_NCHW: torch.Tensor, a_N: torch.Tensor) -> torch.Tensor:
    """The interpolated state (C, H, W) in the type of `x_NCHW`, for weights of at least 0; its norm is the weighted mean of theirs.

    The maths is in fp32, and the order of the states matters a little.
    """
    x_ND, a_N = x_NCHW.float().flatten(1), a_N.float()
    y_D, total = x_ND[0], a_N[0]
    for x_D, a in zip(x_ND[1:], a_N[1:]):
        if a > 0:
            total = total + a
            y_D = slerp(y_D, x_D, float(a / total)) if total > a else x_D
    return y_D.reshape(x_NCHW.shape[1:]).to(x_NCHW.dtype)


def slerp(y_D: torch.Tensor, x_D: torch.Tensor, t: float) -> torch.Tensor:
    """From y (t = 0) to x (t = 1) along the arc between their directions; the norm goes in a straight line."""
    y_norm, x_norm = y_D.norm(), x_D.norm()
    u_D, v_D = y_D / y_norm, x_D / x_norm
    angle = torch.acos((u_D @ v_D).clamp(-1, 1))
    if torch.sin(angle) < PARALLEL:
        return torch.lerp(y_D, x_D, t)
    direction_D = (torch.sin((1 - t) * angle) * u_D + torch.sin(t * angle) * v_D) / torch.sin(angle)
    return torch.lerp(y_norm, x_norm, t) * direction_D
