"""Ask/tell: the plain data that passes between a search, which never sees a tensor, and whatever carries its work out.

`Setting`, `Edge` and `Work` go out, `Cost` and `Outcome` come back; `Ledger`, `Candidate` and `Search` stay with the
search. An executor calls `ask`, carries the units out in any order it likes, and calls `tell` once for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from mcts_ray.gain.choose import Gains, Transition

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig
    from mcts_ray.gain.policy import JumpPolicy


@dataclass(frozen=True)
class Setting:
    """What all units of one search share; hashable.

    `height` and `width` are in pixels, `levels` is T, `grid` a name of `mcts_ray.diffusion.levels.GRIDS` ("native": the
    scheduler's own time steps), `order` is 1 (DDIM) or 2 (DPM-Solver++ 2M) for the moves of a walk. `step_reward`: what scores a
    state, "x0" (its predicted image, decoded and rewarded), "lrm" or "value" (the state itself, by the network in `step_model`).
    `tap` names the features that kept states carry, and `fuse_model` the folder of the network that maps fused ones back; both None
    where no mode of fusion needs them.
    `ige_model`: folder of the IGE that predicts, beside the call at every kept state, what jumps from it gain, on the target
    `ige_target`, by its version `ige_version` (None: the newest); `ige_features`: with what it has read.
    """

    prompt: str
    negative_prompt: str = ""
    guidance: float = 5.0
    levels: int = 30
    grid: str = "native"
    height: int = 64
    width: int = 64
    order: int = 1
    step_reward: str = "x0"
    step_model: str | None = None
    tap: str | None = None
    fuse_model: str | None = None
    ige_model: str | None = None
    ige_target: str = "value"
    ige_version: int | None = None
    ige_features: bool = False

    @property
    def score_decodes(self) -> int:
        """Images that one step score decodes and rewards."""
        return int(self.step_reward == "x0")


@dataclass(frozen=True)
class Edge:
    """One move to a new state `node` at `level`; its noise is drawn from the node id and enters with sin(phi)."""

    node: str
    level: int
    phi: float = 0.0


@dataclass(frozen=True)
class Fuse:
    """How a fused state is made: siblings (`particles`, node ids in tree order), their signed weights, and which of the states
    that one fusion makes (`draw`).

    `mode` names a rule of `mcts_ray.fusion`; all particles are children of the unit's parent by one jump and one phi.
    In the modes "rotate" and "perturb" they are the lineage of a pivot, and the weights the sizes of the steps along it, the
    last of them the step to the fused node, whose direction is the node's own draw.
    """

    mode: str
    particles: tuple[str, ...]
    weights: tuple[float, ...]
    draw: int = 0


@dataclass(frozen=True)
class Work:
    """A walk: move along `edges`, evaluating every new state above level 0 with one denoiser call.

    With `parent` None the first edge's state is a fresh seed x_T = s_T z; otherwise it is the jump from the parent's
    stored (x0, eps) to `edges[0].level`. A state at level 0 is terminal: it is decoded and rewarded, never evaluated.
    `keep` names the nodes whose (x0, eps) stay in the store, so that later units may start from them; `scored` those
    that get a step score, as `setting.step_reward` says. With `fuse` the first edge's noise is not drawn
    from its node id but fused from its siblings', or its whole state is (`action` is then "fuse").
    `version`: of the IGE that chose the first jump.
    """

    id: str
    search: str
    setting: Setting
    parent: str | None
    action: str  # "seed" | "jump" | "fuse"
    edges: tuple[Edge, ...]
    keep: tuple[str, ...] = ()
    epoch: int = 0
    scored: tuple[str, ...] = ()
    fuse: Fuse | None = None
    version: int | None = None

    @property
    def nfe(self) -> int:
        """Denoiser calls this unit needs: the number of edges above level 0."""
        return sum(edge.level > 0 for edge in self.edges)

    @property
    def terminal(self) -> bool:
        """Whether the walk ends in a finished image."""
        return self.edges[-1].level == 0

    @property
    def decodes(self) -> int:
        """Images this unit decodes and rewards: its final one and those of its step scores."""
        return int(self.terminal) + len(self.scored) * self.setting.score_decodes

    @property
    def reward_calls(self) -> int:
        """Scores this unit asks for, those of unfinished states included."""
        return int(self.terminal) + len(self.scored)


@dataclass(frozen=True)
class Cost:
    """What one unit spent; `model_forwards` are network sample-forwards, `denoiser_seconds` its share of busy time."""

    nfe: int = 0
    model_forwards: int = 0
    decodes: int = 0
    reward_calls: int = 0
    fusions: int = 0
    denoiser_seconds: float = 0.0


COSTS = tuple(field.name for field in fields(Cost))


@dataclass(frozen=True)
class Outcome:
    """What became of one unit: its cost, the reward of its image if terminal, the step scores of its `scored` nodes, or an error.

    `refused`: why its particles could not be fused, which ended the unit before it cost anything; that is no error.
    `fallback`, `cosine`, `ess`: as in `Fused`.
    `gains`: what is predicted of jumps from its kept nodes, if `setting.ige_model` is set.
    """

    work: str
    search: str
    epoch: int
    cost: Cost
    reward: float | None = None
    scores: tuple[tuple[str, float | None], ...] = ()
    error: str | None = None
    refused: str | None = None
    fallback: str | None = None
    cosine: float | None = None
    ess: float | None = None
    gains: tuple[Gains, ...] = ()


@dataclass
class Ledger:
    """The account of one search: everything it caused. `seconds` is wall time, `denoiser_seconds` busy time."""

    nfe: int = 0
    model_forwards: int = 0
    decodes: int = 0
    reward_calls: int = 0
    fusions: int = 0
    seconds: float = 0.0
    denoiser_seconds: float = 0.0

    def add(self, cost: Cost) -> None:
        """Book what one unit spent."""
        for name in COSTS:
            setattr(self, name, getattr(self, name) + getattr(cost, name))

    def to_dict(self) -> dict[str, float]:
        """The ledger under the names of `search --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A finished image: its node, its reward, and what had been spent when it was found."""

    node: str
    reward: float
    nfe: int
    seconds: float


class Search(ABC):
    """A search that asks for units of work and is told what became of them.

    Budgets are kept by reservation: a unit is proposed only if, with everything in flight, it still fits, so neither
    `budget` (NFE) nor `max_decodes` is ever exceeded. A failed unit is counted and the search goes on without it.

    With `record_scores` (not with `max_decodes`) every state that is evaluated is also scored; `scores` notes them, and the
    algorithm sees no more of them than those that it asked for itself.

    `extendable`: whether `extend` is of use, that is unless everything is planned by the budget at the start.

    Subclasses write `from_config`, `_propose`, `_apply`, `_spent` and `nodes`; everything an algorithm need not think about is here.
    """

    extendable = True

    def __init__(
        self,
        id: str,
        setting: Setting,
        budget: int,
        max_decodes: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self.id = id
        self.setting = setting
        self.budget = budget
        self.max_decodes = max_decodes
        self.max_seconds = max_seconds
        self.ledger = Ledger()
        self.finished: list[Candidate] = []
        self._ranked: list[tuple[float, int]] = []  # their rewards, negated, and places; the best first, of equal ones the earlier
        self.errors: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.pruning: dict[str, int] = {}
        self.record_scores = False
        self.scores: dict[str, float] = {}
        self._in_flight: dict[str, Work] = {}
        self._reserved_nfe = 0
        self._reserved_decodes = 0
        self._halted = False

    @classmethod
    @abstractmethod
    def from_config(
        cls, id: str, setting: Setting, config: SearchConfig, phi: Callable[[int, int], float], policy: JumpPolicy
    ) -> Search:
        """The search that a resolved configuration describes.

        `phi(a, s)` is the angle of its `eta`, or of its `phi_schedule`, for a jump from level a to s; `policy` chooses jump sizes.
        """

    @abstractmethod
    def _propose(self) -> Work | None:
        """The next unit, within `nfe_left` and `decodes_left`; None when there is nothing to do for now."""

    @abstractmethod
    def _apply(self, work: Work, outcome: Outcome) -> None:
        """Take in the outcome of a unit in flight; `outcome.error` or `outcome.refused` is set for one that made no node."""

    @abstractmethod
    def _spent(self) -> bool:
        """Whether, with nothing in flight, no further unit can ever be proposed."""

    @abstractmethod
    def nodes(self) -> list[dict]:
        """Every node of the tree so far, parents before children: id, parent, level, action, visits, value."""

    def ask(self, room: int) -> list[Work]:
        """At most `room` new units; an empty list means nothing to do until more outcomes arrive."""
        works: list[Work] = []
        while len(works) < room and not self._halted and not self.out_of_time:
            work = self._propose()
            if work is None:
                break
            assert work.nfe <= self.nfe_left and work.decodes <= self.decodes_left, "a proposed unit exceeds the budget"
            assert work.id not in self._in_flight, "a unit was proposed twice"
            self._in_flight[work.id] = work
            self._reserve(work, 1)
            works.append(self._recorded(work))
        return works

    def tell(self, outcome: Outcome) -> bool:
        """Take in one outcome; False if it is late, a duplicate or of an older epoch, which changes nothing."""
        work = self._in_flight.get(outcome.work)
        if work is None or work.epoch != outcome.epoch:
            return False
        del self._in_flight[work.id]
        self._reserve(work, -1)
        self.ledger.add(outcome.cost)
        if outcome.fallback is not None:
            self.refusals[outcome.fallback] += 1
        if outcome.error is not None:
            self.errors.append(outcome.error)
        elif outcome.refused is not None:
            self.refusals[outcome.refused] += 1
        elif outcome.reward is not None:
            node = work.edges[-1].node
            insort(self._ranked, (-outcome.reward, len(self.finished)))
            self.finished.append(Candidate(node, outcome.reward, self.ledger.nfe, self.ledger.seconds))
        if self.record_scores:
            self.scores |= {node: score for node, score in outcome.scores if score is not None}
            outcome = replace(outcome, scores=tuple(pair for pair in outcome.scores if pair[0] in work.scored))
        self._apply(work, outcome)
        return True

    def _reserve(self, work: Work, sign: int) -> None:
        """Keep the sums over the units in flight, of which there may be thousands: one more (1) or one fewer (-1)."""
        self._reserved_nfe += sign * work.nfe
        self._reserved_decodes += sign * work.decodes

    def _recorded(self, work: Work) -> Work:
        """The unit as it goes out: with `record_scores` all of its evaluated states are scored."""
        if not self.record_scores:
            return work
        return replace(work, scored=tuple(edge.node for edge in work.edges if edge.level > 0))

    def reissue(self, work: str) -> Work:
        """The unit `work`, in flight and lost with whoever carried it out, once more: answers of earlier epochs are void."""
        again = replace(self._in_flight[work], epoch=self._in_flight[work].epoch + 1)
        self._in_flight[work] = again
        return self._recorded(again)

    def out(self) -> list[Work]:
        """The units in flight as they went out, in the order in which they were asked for."""
        return [self._recorded(work) for work in self._in_flight.values()]

    def released(self) -> list[str]:
        """Nodes whose kept states are not needed any more, or not for now, since this was last asked."""
        return []

    def transitions(self) -> list[Transition]:
        """What a trainer of the IGE may learn from since this was last asked."""
        return []

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the search went, in sentences."""
        return []

    def tick(self, seconds: float) -> None:
        """Set the clock: wall time since the first ask. From `max_seconds` on nothing more is asked for."""
        self.ledger.seconds = seconds

    def halt(self, costs: Iterable[Cost] = ()) -> None:
        """End the search now. Units in flight are abandoned, but what they have spent so far (`costs`) is booked."""
        self._halted = True
        self._in_flight.clear()
        self._reserved_nfe = self._reserved_decodes = 0
        for cost in costs:
            self.ledger.add(cost)

    def extend(self, nfe: int) -> None:
        """Let the search spend `nfe` more. What was planned by the budget at the start (a number of seeds, a population) stays."""
        assert self.extendable and nfe >= 0
        self.budget += nfe

    def best(self, n: int) -> list[Candidate]:
        """The `n` best finished images so far, best first; of equal ones the earlier."""
        return [self.finished[place] for _, place in self._ranked[:n]]

    @property
    def top(self) -> float | None:
        """The highest reward of a finished image so far, which is that of `best(1)`."""
        return -self._ranked[0][0] if self._ranked else None

    @property
    def done(self) -> bool:
        """Whether the search is over: halted, or out of time or budget with nothing in flight."""
        return self._halted or (not self._in_flight and (self.out_of_time or self._spent()))

    @property
    def out_of_time(self) -> bool:
        """Whether the clock has reached `max_seconds`; units still in flight may be told or abandoned (`halt`)."""
        return self.max_seconds is not None and self.ledger.seconds >= self.max_seconds

    @property
    def in_flight(self) -> int:
        """How many units are out."""
        return len(self._in_flight)

    @property
    def nfe_left(self) -> int:
        """NFE neither spent nor reserved by units in flight."""
        return self.budget - self.ledger.nfe - self._reserved_nfe

    @property
    def decodes_left(self) -> float:
        """Decodes neither spent nor reserved; infinite without `max_decodes`."""
        if self.max_decodes is None:
            return float("inf")
        return self.max_decodes - self.ledger.decodes - self._reserved_decodes
