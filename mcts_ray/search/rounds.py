"""Searches that go in rounds: units go out together, and what comes next depends on all of their answers.

Such a search is written as a generator that yields the units of a round and is sent the states that they reached, so that an
algorithm reads as it stands in its paper. Answers are sorted back into the order of the units: the search is the same
whatever the order in which they come, and a batch never changes it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mcts_ray.search.base import Edge, Fuse, Outcome, Work
from mcts_ray.search.ids import fuse_id, jump_id, root_id, seed_id
from mcts_ray.search.trajectories import Trajectories


PATIENCE = 100  # units that may fail before they have cost anything, as when states are lost; more could be asked for for ever


@dataclass(frozen=True)
class State:
    """A state that a unit has reached.

    value: its step score, at level 0 the reward of its image; -inf if none was asked for or could be given.
    """

    node: str
    level: int
    value: float = -math.inf

    @property
    def finished(self) -> bool:
        return self.level == 0


def valued(state: State | None) -> bool:
    """Whether a unit has arrived, and where it has arrived could be valued."""
    return state is not None and state.value > -math.inf


def top(states: Iterable[State | None]) -> State | None:
    """The state of the highest value, of equal ones the first; None if no unit has arrived."""
    return max((state for state in states if state), key=lambda state: state.value, default=None)


def onward(pivot: Work, mode: str, size: float) -> Fuse:
    """A step of `size` away from the noise of the first node of `pivot`, which may itself have been made by such steps."""
    before = pivot.fuse or Fuse(mode, (), ())
    return Fuse(mode, (*before.particles, pivot.edges[0].node), (*before.weights, size))


# What a script yields, is sent, and returns: units, where they ended (None: failed) in the same order, nothing.
Script = Generator[Sequence[Work], list["State | None"], None]


def together(scripts: Sequence[Script]) -> Script:
    """Scripts side by side: a round is made of the next round of each that still runs."""
    states: dict[int, list[State | None] | None] = dict.fromkeys(range(len(scripts)))
    while True:
        asked: dict[int, Sequence[Work]] = {}
        for index, reached in states.items():
            try:
                asked[index] = scripts[index].send(reached)
            except StopIteration:
                pass
        if not asked:
            return
        answers = iter((yield [work for works in asked.values() for work in works]))
        states = {index: [next(answers) for _ in works] for index, works in asked.items()}


class Rounds(Trajectories):
    """A search written as a script of rounds. Subclasses write `_script`; `rng` is theirs, seeded by the job's seed.

    A round that does not fit into what is left of the budget ends the search before it begins.
    """

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.rng = np.random.default_rng([self.seed, 0x5EA7C4])
        self._running: Script | None = None
        self._over = False
        self._lost = 0
        self._round: list[Work] = []
        self._waiting: deque[Work] = deque()
        self._reached: dict[str, State | None] = {}
        self._draws: Counter[tuple[str | None, int, Fuse | None]] = Counter()
        self._count = 0
        self._level_of: dict[str, int] = {}
        self._nodes: list[dict] = []

    @abstractmethod
    def _script(self) -> Script:
        """The algorithm: `states = yield units`, again and again; a failed unit's state is None."""

    # for scripts ---------------------------------------------------------------------------------------------------

    def walk(
        self, start: State | None, levels: Sequence[int], score: bool = True, again: bool = True, fuse: Fuse | None = None
    ) -> Work:
        """A unit from `start` (None: from the next seed) to each of `levels`; with `score`, the last state is valued.

        Every walk from the same start draws noise of its own; with `again` False it draws that of the first one. `fuse`: what
        stands in for the noise of the first edge. The levels of a seed begin with T.
        """
        above = start.level if start else 0
        key = (start and start.node, levels[0], fuse)
        draw = self._draws[key] if again else 0
        self._draws[key] += again
        if fuse:
            parent = start.node if start else root_id(self.seed)
            node = fuse_id(parent, fuse.mode, fuse.particles, fuse.weights, draw)
        else:
            node = jump_id(start.node, above - levels[0], draw) if start else seed_id(self.seed, draw)
        first = Edge(node, levels[0], self.phi(above, levels[0]) if start else 0.0)
        edges = self.edges_from(first, levels[1:])
        kept = (edges[-1].node,) if levels[-1] > 0 else ()
        self._count += 1
        action = "fuse" if fuse else "jump" if start else "seed"
        return Work(
            f"{self.id}/{self._count - 1}",
            self.id,
            self.setting,
            start and start.node,
            action,
            edges,
            kept,
            scored=kept if score else (),
            fuse=fuse,
        )

    def stages(self, shares: Sequence[float]) -> list[tuple[int, ...]]:
        """The levels of a trajectory cut after these shares of its calls: the first part begins with T, the last ends at 0."""
        calls = self.trajectory_nfe
        cuts = sorted({min(calls, max(1, math.ceil(share * calls - 1e-9))) for share in shares} | {0, calls + 1})
        return [self.path[a:b] for a, b in zip(cuts, cuts[1:])]

    def decodes(self, images: int, scores: int) -> int:
        """Decodes of so many finished images and step scores."""
        return images + scores * self.setting.score_decodes

    def pays_for(self, nfe: int, decodes: int = 0) -> int:
        """How many times what is left pays for so many NFE and decodes."""
        by_decodes = self.decodes_left // decodes if decodes else math.inf
        return int(max(0, min(self.nfe_left // nfe if nfe else math.inf, by_decodes)))

    def largest(self, most: int, cost: Callable[[int], tuple[int, int]]) -> int:
        """The largest size up to `most` whose cost in (NFE, decodes), which grows with it, is left; 0 if there is none."""
        size = 0
        while size < most and self.pays_for(*cost(size + 1)):
            size += 1
        return size

    # ask/tell ------------------------------------------------------------------------------------------------------

    def _propose(self) -> Work | None:
        if not self._round:
            self._go_on()
        return self._waiting.popleft() if self._waiting else None

    def _apply(self, work: Work, outcome: Outcome) -> None:
        failed = outcome.error is not None or outcome.refused is not None
        self._lost += outcome.error is not None and outcome.cost.nfe < min(1, work.nfe)
        state = None if failed else self._arrive(work, outcome)
        self._reached[work.id] = state
        if len(self._reached) == len(self._round):
            self._go_on()

    def _spent(self) -> bool:
        if not self._round:
            self._go_on()
        return self._over

    def _go_on(self) -> None:
        """Tell the script where its round has ended, and take the next one; a round that does not fit ends it."""
        if self._over:
            return
        states = [self._reached[work.id] for work in self._round]
        self._reached = {}
        try:
            if self._running is None:
                self._running = self._script()
                self._round = list(next(self._running))
            else:
                self._round = list(self._running.send(states))
        except StopIteration:
            self._round = []
        nfe, decodes = sum(work.nfe for work in self._round), sum(work.decodes for work in self._round)
        self._over = self._lost >= PATIENCE or not self._round or nfe > self.nfe_left or decodes > self.decodes_left
        self._waiting = deque(() if self._over else self._round)

    def _arrive(self, work: Work, outcome: Outcome) -> State:
        last = work.edges[-1]
        scores = dict(outcome.scores)
        value = outcome.reward if work.terminal else scores.get(last.node)
        parent, above = work.parent, None
        for edge in work.edges:
            if above is None:
                action = work.action if parent is None or work.fuse else f"jump {self._level_of[parent] - edge.level}"
            else:
                action = f"jump {above.level - edge.level}"
            self._level_of[edge.node] = edge.level
            node = {"id": edge.node, "parent": parent, "level": edge.level, "action": action, "score": scores.get(edge.node)}
            if work.fuse and above is None:
                node["particles"] = list(work.fuse.particles)
            self._nodes.append(node | {"reward": outcome.reward if edge.level == 0 else None})
            parent, above = edge.node, edge
        return State(last.node, last.level, -math.inf if value is None else value)

    def nodes(self) -> list[dict]:
        """Every state reached; visits and value are the number and the mean of the rewards below it."""
        count, total = Counter(), Counter()
        for node in reversed(self._nodes):
            if node["reward"] is not None:
                count[node["id"]] += 1
                total[node["id"]] += node["reward"]
            if node["parent"] is not None:
                count[node["parent"]] += count[node["id"]]
                total[node["parent"]] += total[node["id"]]
        return [
            {name: node[name] for name in ("id", "parent", "level", "action")}
            | {"visits": count[node["id"]], "value": total[node["id"]] / count[node["id"]] if count[node["id"]] else None}
            | {name: node[name] for name in ("score", "particles") if name in node}
            for node in self._nodes
        ]
