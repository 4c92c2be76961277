"""A denoiser and its reward actor as the tree manager sees them: what they have in hand, and how to speak to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mcts_ray.actors import spec
from mcts_ray.actors.denoiser import Reborn, Report
from mcts_ray.actors.reward import UnknownReward
from mcts_ray.actors.spec import TRIES, Actor
from mcts_ray.executor.session import Verdict, Walk
from mcts_ray.search.base import Cost, Work

Key = tuple[str, str]  # search and unit, or search and node
DEATHS = (*spec.DEATHS, Reborn)


@dataclass(frozen=True, eq=False)
class Finished:
    """A unit whose latents wait to be scored: `rows` of the batch of latents behind `latents`."""

    walk: Walk
    latents: Any
    rows: range

    @property
    def work(self) -> Work:
        """The unit."""
        return self.walk.work


@dataclass(eq=False)
class Worker:
    """A denoiser, the reward actor that scores for it, and the units that they have in hand.

    out: units given to it, `pending` those of them not yet sent; starts: refs to what those that are fused start from;
    finished: units that wait to be scored. size: its batch size. generation: how often its engine has been begun. nfe: spent in
    it, by search. busy: held while one of its calls is under way.
    """

    denoiser: Actor
    reward: Actor
    size: int = 1
    generation: int = 0
    out: dict[Key, Work] = field(default_factory=dict)
    pending: list[Work] = field(default_factory=list)
    starts: dict[str, Any] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    nfe: Counter[str] = field(default_factory=Counter)
    step_seconds: float = 0.0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def free(self) -> int:
        """Units that still fit in one batch."""
        return max(0, self.size - len(self.out))

    def give(self, work: Work) -> None:
        """A unit for its next call; one that is to be fused goes out once what it starts from is there."""
        self.out[work.search, work.id] = work
        self.pending.append(work)

    def take_back(self, work: Work) -> None:
        """A unit that is not to go out after all."""
        del self.out[work.search, work.id]
        self.pending.remove(work)

    def clear(self) -> None:
        """Forget everything in hand."""
        self.out, self.pending, self.starts, self.finished = {}, [], {}, []

    async def begin(self, size: int) -> None:
        """Have it begin with an empty engine of this batch size."""
        self.size, self.nfe, self.generation = size, Counter(), self.generation + 1
        await self.denoiser.call("begin", self.generation, size)

    async def advance(self, states: Sequence[Any], seconds: float) -> tuple[Counter[str], list[Finished], Any]:
        """Send what is pending and step until units leave: (NFE spent by search, those units, ref to the states they kept).

        Raises one of `DEATHS` if the denoiser dies over it, or has died before.
        """
        works = [work for work in self.pending if not work.fuse or work.id in self.starts]
        self.pending = [work for work in self.pending if work.fuse and work.id not in self.starts]
        starts = list(dict.fromkeys(self.starts.pop(work.id) for work in works if work.fuse))
        call = self.denoiser.handle.advance.options(num_returns=3)
        answer, kept, latents = call.remote(self.generation, works, starts, states, seconds)
        report: Report = await answer
        spent, self.nfe, self.step_seconds = report.nfe - self.nfe, report.nfe, report.step_seconds
        units, row = [], 0
        for left in report.left:
            rows, row = range(row, row + left.latents), row + left.latents
            work = self.out.pop((left.search, left.work), None)
            if work is not None:
                units.append(Finished(Walk(work, left.cost, left.error, left.scores, left.gains), latents, rows))
        return spent, units, kept

    async def revive(self) -> list[Work]:
        """After a death: the units that were lost with it. It is restarted or replaced, and empty."""
        works = list(self.out.values())
        self.out, self.pending, self.starts = {}, [], {}
        await self.denoiser.revive()
        await self.begin(self.size)
        return works

    async def score(self, units: Sequence[Finished], key: str, reward: Any) -> list[Verdict]:
        """Have the latents of units decoded and scored; a reward actor that dies is replaced, and asked again."""
        for _ in range(TRIES):
            try:
                return await self._score(units, key)
            except UnknownReward:
                await self.reward.call("load", key, reward)
            except spec.DEATHS:
                await self.reward.revive()
        return [Verdict(error=f"its reward actor died {TRIES} times")] * len(units)

    async def _score(self, units: Sequence[Finished], key: str) -> list[Verdict]:
        batches = list(dict.fromkeys(unit.latents for unit in units))
        picks = [(batches.index(unit.latents), row) for unit in units for row in unit.rows]
        prompts = [unit.work.setting.prompt for unit in units for _ in unit.rows]
        last = [sum(len(unit.rows) for unit in units[: i + 1]) - 1 for i in range(len(units))]
        wanted = [place for place, unit in zip(last, units) if unit.work.terminal]
        call = self.reward.handle.score.options(num_returns=1 + len(wanted))
        stats, *images = spec.refs(call.remote(key, picks, prompts, wanted, *batches))
        scored, thumbnails, seconds = await stats
        pictures, answers = iter(zip(images, thumbnails, strict=True)), iter(scored)
        verdicts = []
        for unit in units:
            mine = [next(answers) for _ in unit.rows]
            image, small = next(pictures) if unit.work.terminal else (None, b"")
            verdicts.append(Verdict(mine, image, small, seconds * len(mine) / len(scored)))
        return verdicts

    async def drop(self, search: str) -> list[Cost]:
        """Let go of a search, here and in the denoiser; returns what its units had spent."""
        finished = [unit for unit in self.finished if unit.work.search == search]
        self.finished = [unit for unit in self.finished if unit.work.search != search]
        gone = [work for work in self.out.values() if work.search == search]
        self.out = {key: work for key, work in self.out.items() if key[0] != search}
        self.pending = [work for work in self.pending if work.search != search]
        for work in gone:
            self.starts.pop(work.id, None)
        try:
            running = await self.denoiser.handle.drop.remote(search)
        except spec.DEATHS:
            running = []  # what a dead denoiser had spent is not known
        return [unit.walk.cost for unit in finished] + running
