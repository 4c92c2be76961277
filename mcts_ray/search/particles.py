"""What the particle searches share: weighted states that walk together and are resampled on the way (sequential Monte Carlo).

K particles start from seeds of their own; at the shares `score_at` of their calls each is valued, v_t = the reward of its predicted
x0, its weight is multiplied by a potential G_t, and they are resampled. With lambda_t = lambda tau_t the potentials are

    diff   G_t = exp(lambda_t v_t - lambda_s v_s), s the check before     max   G_t = exp(lambda_t max_{s >= t} v_s)
    add    G_t = exp(lambda_t sum_{s >= t} v_s)                           current   G_t = exp(lambda_t v_t)

and the last one is exp(lambda r(x_0)) / prod G_t, so that the product is exp(lambda r(x_0)) and the target p(x_0) exp(lambda r(x_0)),
whichever was chosen. tau_t = (1 + gamma)^i - 1 after i of 100 steps; another number of steps counts as that share of 100, so that
every schedule ends at the same tempering. gamma = 0: tau_t = 1. The algorithms differ in their defaults:

    fk             max    constant     multinomial, always         checks at .2 .4 .6 .8
    bfs            max    increasing   SSP, always                 checks at .2 .4 .8
    smc-tempered   diff   increasing   SSP, if ESS < K/2           a check at every step

Where public codes depart from the papers, this does not: the children are valued, not their parents; weights are carried on when
the effective size forbids resampling; they stay logarithms; nothing floors a maximum at 0; the last step is not resampled,
since all images are there to be chosen from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mcts_ray.search.resampling import RESAMPLERS, effective_size
from mcts_ray.search.rounds import Rounds, Script, State, valued

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

Potential = Literal["diff", "max", "add", "current"]
Resampling = Literal["multinomial", "ssp", "top"]


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


class Particles(Rounds):
    """Sequential Monte Carlo on the ask/tell units.

    particles: K, and whole runs follow each other while the budget lasts; None: one run with as many as it pays for.
    strength: lambda. tempering: gamma. score_at: shares of a trajectory's calls. ess: resample only if the effective size is below
    this share of K; None: always. `population`: the particles of the last run with their weights. Where decodes are too few to check
    one particle, trajectories go without checks.
    """

    def __init__(
        self,
        *args,
        particles: int | None = None,
        potential: Potential = "max",
        strength: float = 10.0,
        tempering: float = 0.0,
        score_at: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
        resampling: Resampling = "multinomial",
        ess: float | None = None,
        **options,
    ) -> None:
        super().__init__(*args, **options)
        self.size = particles
        self.potential = potential
        self.strength = strength
        self.tempering = tempering
        self.resampling = resampling
        self.ess = ess
        self.parts = self.stages(score_at)
        self.population: list[Particle] = []

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {
            "particles": config.population,
            "potential": config.potential,
            "strength": config.strength,
            "tempering": config.tempering,
            "score_at": config.score_at,
            "resampling": config.resampling,
            "ess": config.ess,
        }

    def _script(self) -> Script:
        cost = self.trajectory_nfe, self.decodes(1, len(self.parts) - 1)
        if not self.pays_for(*cost):
            yield [self.walk(None, self.path) for _ in range(self.pays_for(self.trajectory_nfe, 1))]
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

    def _temper(self, level: int) -> float:
        """tau at a level: as many steps are behind it as levels of the path above it."""
        if not self.tempering:
            return 1.0
        return (1 + self.tempering) ** (100 * self.path.index(level) / self.trajectory_nfe) - 1

    def _weigh(self, particle: Particle) -> Particle:
        """Multiply in the potential of the state that it has reached."""
        value, level = particle.state.value, particle.state.level
        if level == 0:
            return particle.weighed(self.strength * value - particle.booked)
        strength = self.strength * self._temper(level)
        if self.potential == "diff":
            return particle.weighed(strength * value - particle.booked)
        memory, before = value, particle.memory
        if before is not None and self.potential != "current":
            memory = max(before, value) if self.potential == "max" else before + value
        return particle.weighed(strength * memory, memory)

    def _resample(self, particles: list[Particle]) -> list[Particle]:
        log_weights = [particle.log_weight for particle in particles]
        if self.ess is not None and effective_size(log_weights) >= self.ess * len(particles):
            return particles
        return [replace(particles[index], log_weight=0.0) for index in RESAMPLERS[self.resampling](log_weights, self.rng)]
