"""Tempered sequential Monte Carlo after DAS (Kim et al., arXiv 2501.05803, its tempered SMC sampler), without its proposal's gradients.

Particles move by the model's own kernel. With lambda_i = min((1 + gamma)^i - 1, 1), gamma = .008 where T = 100, and 1/alpha = `strength`

    log w += lambda_{t-1} r(x0hat(x_{t-1})) / alpha - lambda_t r(x0hat(x_t)) / alpha

SSP resampling when ESS < K/2. DAS checks at every step. The first and the last call are left out here, which changes nothing but
the price: at x_T lambda is 0, and what the last call predicts is the image, so that copies made there would stay equal.
The numbers of the paper's equations could not be looked up.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcts_ray.search.particles import Particles, Potential, Resampling


class TemperedSMC(Particles):
    """DAS-style SMC; `score_at` None: a check at every step."""

    def __init__(
        self,
        *args,
        potential: Potential = "diff",
        tempering: float = 0.008,
        score_at: Sequence[float] | None = None,
        resampling: Resampling = "ssp",
        ess: float | None = 0.5,
        **options,
    ) -> None:
        super().__init__(*args, potential=potential, tempering=tempering, resampling=resampling, ess=ess, **options)
        calls = self.trajectory_nfe
        self.parts = self.stages([call / calls for call in range(2, calls)] if score_at is None else score_at)

    def _temper(self, level: int) -> float:
        return min(1.0, super()._temper(level))
