"""Feynman-Kac steering (Singhal et al., arXiv 2501.06848, section 3): particles are resampled by potentials of their rewards.

The potentials are those of section 3.2 (diff, max, add; formulas in `mcts_ray.search.particles`), with the reward in the exponent
scaled by a constant lambda. The paper's image experiments: max, checks every 20 of 100 steps from 20 to 80, lambda = 10, DDIM with
eta = 1, multinomial resampling.
"""

from __future__ import annotations

from mcts_ray.search.particles import Particles


class FK(Particles):
    """Feynman-Kac steering: the family as `Particles` has it by default."""
