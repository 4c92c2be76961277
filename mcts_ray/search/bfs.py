"""Breadth-first search over denoising steps (Zhang et al., arXiv 2505.23614), which unifies particle methods by three choices.

Score: current, diff or max; temperature: constant or growing as (1 + gamma)^i - 1, gamma .008 or .024; selection: multinomial, SSP
or top. The paper's own choice, the default here: max, growing, SSP; checks every 20 of 100 steps. Top keeps the better half, each
twice, which no longer samples the target.
"""

from __future__ import annotations

from mcts_ray.search.particles import Particles, Resampling


class BFS(Particles):
    """Unified breadth-first search; `tempering` 0 is its constant temperature."""

    def __init__(self, *args, tempering: float = 0.008, resampling: Resampling = "ssp", **options) -> None:
        super().__init__(*args, tempering=tempering, resampling=resampling, **options)
