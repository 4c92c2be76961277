"""Feynman-Kac steering (Singhal et al., arXiv 2501.06848, section 3): particles are resampled by potentials of their rewards.

K particles walk together; at the shares `score_at` of their calls each is valued, v_t = the reward of its predicted x0, and its
weight is multiplied by a potential (section 3.2), here with the reward in the exponent scaled by lambda:

    diff   G_t = exp(lambda (v_t - v_s)), s the check before          max   G_t = exp(lambda max_{s >= t} v_s)
    add    G_t = exp(lambda sum_{s >= t} v_s)

The last potential is exp(lambda r(x_0)) / prod G_t, so that the product is exp(lambda r(x_0)) and the target
p(x_0) exp(lambda r(x_0)), whichever was chosen. The paper's image experiments: max, checks every 20 of 100 steps from 20 to 80,
lambda = 10, DDIM with eta = 1.

Where the public code departs from the paper, this does not: the children are valued, not their parents; weights are carried
on when the effective size forbids resampling; they stay logarithms; nothing floors a maximum at 0; the last step is not
resampled, since all images are there to be chosen from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mcts_ray.search.resampling import effective_size, multinomial
from mcts_ray.search.rounds import Rounds, Script, State, valued

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

Potential = Literal["diff", "max", "add"]


@dataclass(frozen=True)
class Particle:
    """A state with its log weight since the last resampling, the sum of its lineage's log potentials (`booked`), and what its
    potential remembers of the values before."""

    state: State
    log_weight: float = 0.0
    booked: float = 0.0
    memory: float | None = None

    def weighed(self, log_potential: float, memory: float | None = None) -> Particle:
        """The particle after one more potential."""
        return replace(
            self, log_weight=self.log_weight + log_potential, booked=self.booked + log_potential, memory=memory
        )


class FK(Rounds):
    """Feynman-Kac steering on the ask/tell units.

    particles: K, and whole runs follow each other while the budget lasts; None: one run with as many as it pays for.
    strength: lambda. score_at: shares of a trajectory's calls. ess: resample only if the effective size is below this share of
    K; None: always. `population`: the particles of the last run with their weights.
    """

    def __init__(
        self,
        *args,
        particles: int | None = None,
        potential: Potential = "max",
        strength: float = 10.0,
        score_at: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
        ess: float | None = None,
        **options,
    ) -> None:
        super().__init__(*args, **options)
        self.size = particles
        self.potential = potential
        self.strength = strength
        self.ess = ess
        self.parts = self.stages(score_at)
        self.population: list[Particle] = []

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {
            "particles": config.population,
            "potential": config.potential,
            "strength": config.strength,
            "score_at": config.score_at,
            "ess": config.ess,
        }

    def _script(self) -> Script:
        cost = self.trajectory_nfe, len(self.parts)
        while size := min(self.size or math.inf, self.pays_for(*cost)):
            yield from self._run(size)

    def _run(self, size: int) -> Script:
        first, *later = self.parts
        states = yield [self.walk(None, first) for _ in range(size)]
        particles = [self._weigh(Particle(state)) for state in states if valued(state)]
        for part in later:
            if not particles:
                return
            particles = self._resample(particles)
            states = yield [self.walk(particle.state, part) for particle in particles]
            particles = [self._weigh(replace(p, state=state)) for p, state in zip(particles, states) if valued(state)]
        self.population = particles

    def _weigh(self, particle: Particle) -> Particle:
        """Multiply in the potential of the state that it has reached."""
        value = particle.state.value
        if particle.state.finished or self.potential == "diff":
            return particle.weighed(self.strength * value - particle.booked)
        before = particle.memory
        if before is None:
            memory = value
        else:
            memory = max(before, value) if self.potential == "max" else before + value
        return particle.weighed(self.strength * memory, memory)

    def _resample(self, particles: list[Particle]) -> list[Particle]:
        log_weights = [particle.log_weight for particle in particles]
        if self.ess is not None and effective_size(log_weights) >= self.ess * len(particles):
            return particles
        return [replace(particles[index], log_weight=0.0) for index in multinomial(log_weights, self.rng)]
