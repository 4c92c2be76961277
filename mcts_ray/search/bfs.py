"""Breadth-first search over denoising steps (Zhang et al., arXiv 2505.23614, tables 1 and 2): particle methods unified by three choices.

Score: current, diff or max; temperature: constant or growing as (1 + gamma)^i - 1, gamma .008 or .024; selection: multinomial, SSP
or top: table 1 names methods by them, table 2 chooses. The paper's own choice, the default here: max, growing, SSP; checks after 20,
40 and 80 of 100 steps. That is how a third party who has reproduced both tables gives them; comparisons that check where FK steering
does (every fifth of the steps) set `score_at` so. Top keeps the better half, each twice, which no longer samples the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcts_ray.search.particles import Particles, Resampling


class BFS(Particles):
    """Unified breadth-first search; `tempering` 0 is its constant temperature."""

    def __init__(
        self,
        *args,
        tempering: float = 0.008,
        score_at: Sequence[float] = (0.2, 0.4, 0.8),
        resampling: Resampling = "ssp",
        **options,
    ) -> None:
        super().__init__(*args, tempering=tempering, score_at=score_at, resampling=resampling, **options)
