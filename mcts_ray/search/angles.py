"""The angle phi of the jump of a trajectory from level a to s, from the scales of the levels as plain numbers.

Searches keep these, since they travel to processes that import no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mcts_ray.search.branching import scheduled


def eta_angle(start: tuple[float, float], end: tuple[float, float], eta: float, upwards: bool = False) -> float:
    """phi of DDIM's eta for a jump between levels with these (alpha, sigma); `upwards` of the forward process, whatever eta is.

    Downwards rho = alpha_a sigma_s / (alpha_s sigma_a) and sin(phi) = eta sqrt(1 - rho^2); upwards cos(phi) = 1 / rho.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 (deterministic) and 1 (DDPM), not {eta}")
    (alpha_a, sigma_a), (alpha_s, sigma_s) = start, end
    if upwards:
        return math.acos(min(1.0, alpha_s * sigma_a / (alpha_a * sigma_s)))
    rho = alpha_a * sigma_s / (alpha_s * sigma_a)
    return math.asin(min(1.0, eta * math.sqrt(max(0.0, 1.0 - rho**2))))


@dataclass(frozen=True)
class Angles:
    """phi(a, s) by `eta`, or by a `schedule` of the full angle `phi` (a name of `mcts_ray.search.branching.SCHEDULES`), whatever s < a is;
    upwards of the forward process. alpha, sigma: of the levels 0 ... T."""

    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    eta: float = 0.0
    phi: float = 0.0
    schedule: str | None = None

    def __call__(self, a: int, s: int) -> float:
        if self.schedule and s < a:
            return scheduled(a, len(self.alpha) - 1, self.phi, self.schedule)
        return eta_angle((self.alpha[a], self.sigma[a]), (self.alpha[s], self.sigma[s]), self.eta, upwards=s > a)
