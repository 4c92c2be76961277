"""A denoiser and its reward actor as the tree manager sees them: what they have in hand, and how to speak to them."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mcts_ray.actors import spec
from mcts_ray.actors.denoiser import Reborn, Report
from mcts_ray.actors.reward import GpuReward, UnknownReward
from mcts_ray.actors.spec import TRIES, Actor, Gone
from mcts_ray.executor.session import Verdict, Walk
from mcts_ray.search.base import Cost, Work
from mcts_ray.search.lineage import Again

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
    finished: units that wait to be scored. size: its batch size. generation: names its engine, which no restart of anybody gives
    twice. nfe: spent in it, by search, and `inside`, on units that are in it still. busy: held while one of its calls is under way.
    up: False from its death until it is back; reviving: held while it comes back. catching_up: it is to take in what another manager
    has left before anything else goes out.
    """

    denoiser: Actor
    reward: Actor
    size: int = 1
    generation: int = field(default_factory=lambda: secrets.randbits(60))
    out: dict[Key, Work] = field(default_factory=dict)
    pending: list[Again] = field(default_factory=list)
    starts: dict[str, Any] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    nfe: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    step_seconds: float = 0.0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    reviving: asyncio.Lock = field(default_factory=asyncio.Lock)
    up: bool = True
    catching_up: bool = False

    @property
    def free(self) -> int:
        """Units that still fit in one batch."""
        return max(0, self.size - len(self.out)) if self.up else 0

    def give(self, work: Work, sizes: tuple[int, ...] = ()) -> None:
        """A unit for its next call, as far as it had got by calls of these `sizes`; one that is to be fused goes out once what it
        starts from is there."""
        self.out[work.search, work.id] = work
        self.pending.append(Again(work, sizes))

    def take_back(self, work: Work) -> None:
        """A unit that is not to go out after all."""
        del self.out[work.search, work.id]
        self.pending = [unit for unit in self.pending if unit.work is not work]

    def clear(self) -> None:
        """Forget everything in hand."""
        self.out, self.pending, self.starts, self.finished = {}, [], {}, []
        self.inside, self.catching_up = Counter(), False

    async def begin(self, size: int) -> None:
        """Have it begin with an empty engine of this batch size."""
        self.size, self.nfe, self.inside, self.generation = size, Counter(), Counter(), secrets.randbits(60)
        await self.denoiser.call("begin", self.generation, size)

    @property
    def ready(self) -> list[Again]:
        """The pending units that can go. One that has been lost twice goes alone, so that it fails alone if it is to blame."""
        ready = [unit for unit in self.pending if not unit.work.fuse or unit.work.id in self.starts]
        suspects = [unit for unit in ready if unit.work.epoch >= TRIES - 1]
        if not suspects:
            return ready
        return suspects[:1] if len(self.pending) == len(self.out) else []

    async def advance(self, states: Sequence[Any], seconds: float | None) -> tuple[Counter[str], list[Finished], Any]:
        """Send what is ready and step until units leave: (NFE spent by search, those units, ref to the states they kept).

        With `seconds` None they are only taken in. Raises one of `DEATHS` if the denoiser dies over it, or has died before, and Gone,
        with nothing sent, if refs are lost.
        """
        units = self.ready
        starts = list(dict.fromkeys(self.starts[unit.work.id] for unit in units if unit.work.fuse))
        call = self.denoiser.handle.advance.options(num_returns=3)
        answer, kept, latents = call.remote(self.generation, units, starts, states, seconds)
        sent = {id(unit) for unit in units}
        self.pending = [unit for unit in self.pending if id(unit) not in sent]
        try:
            with self.denoiser.call_under_way():
                report: Report = await answer
        except Gone:
            self.pending = [*(unit for unit in units if (unit.work.search, unit.work.id) in self.out), *self.pending]
            raise
        for unit in units:
            self.starts.pop(unit.work.id, None)
        spent, self.nfe, self.step_seconds = report.nfe - self.nfe, report.nfe, report.step_seconds
        self.inside.update(spent)
        left, row = [], 0
        for one in report.left:
            rows, row = range(row, row + one.latents), row + one.latents
            work = self.out.pop((one.search, one.work), None)
            self.inside[one.search] -= one.cost.nfe
            if work is not None:
                left.append(Finished(Walk(work, one.cost, one.error, one.scores, one.gains), latents, rows))
        return spent, left, kept

    async def redo(self, generations: Sequence[Sequence[Again]], states: Sequence[Any]) -> tuple[int, list[str], Any, Any]:
        """Have units walked again: (NFE, nodes of the images, ref to the states kept, ref to the latents of the images). Raises as
        `advance`."""
        report, kept, latents = self.denoiser.handle.redo.options(num_returns=3).remote(self.generation, generations, states)
        with self.denoiser.call_under_way():
            nfe, nodes = await report
        return nfe, nodes, kept, latents

    async def show(self, latents: Any, count: int) -> tuple[list[bytes], list[Any]]:
        """Thumbnails of the latents behind a ref, and refs to their images."""
        small, *images = await self.reward.parts("show", 1 + count, latents)
        return small, images

    def fall(self) -> tuple[list[Work], Counter[str]]:
        """It has died: the units that were lost with it, and what these had spent, by search. Nothing is dealt to it until it has been
        revived."""
        works, inside = list(self.out.values()), self.inside
        self.up, self.out, self.pending, self.starts, self.inside = False, {}, [], {}, Counter()
        return works, inside

    async def revive(self) -> None:
        """After a death: it is restarted or replaced, and empty."""
        async with self.reviving:
            if not self.up:
                await self.denoiser.revive()
                await self.begin(self.size)
                await self._follow()
                self.up = True

    async def _follow(self) -> bool:
        """Have the reward actor where the denoiser is, if it is to be; whether it had to move."""
        if not isinstance(self.reward, GpuReward):
            return False
        node, gpus, _ = await self.denoiser.call("place")
        return self.reward.follow(node, gpus)

    async def score(self, units: Sequence[Finished], key: str, reward: Any) -> list[Verdict]:
        """Have the latents of units decoded and scored; a reward actor that dies is replaced, and asked again, in the end unit by
        unit, so that one that kills it fails alone. Raises Gone if latents are lost."""
        for _ in range(TRIES):
            try:
                return await self._score(units, key)
            except UnknownReward:
                await self.reward.call("load", key, reward)
            except spec.DEATHS:
                if not await self._follow():
                    await self.reward.revive()
        if len(units) > 1:
            return [verdict for unit in units for verdict in await self.score([unit], key, reward)]
        return [Verdict(error=f"its reward actor died {TRIES} times")]

    async def _score(self, units: Sequence[Finished], key: str) -> list[Verdict]:
        batches = list(dict.fromkeys(unit.latents for unit in units))
        picks = [(batches.index(unit.latents), row) for unit in units for row in unit.rows]
        prompts = [unit.work.setting.prompt for unit in units for _ in unit.rows]
        last = [sum(len(unit.rows) for unit in units[: i + 1]) - 1 for i in range(len(units))]
        wanted = [place for place, unit in zip(last, units) if unit.work.terminal]
        call = self.reward.handle.score.options(num_returns=1 + len(wanted))
        stats, *images = spec.refs(call.remote(key, picks, prompts, wanted, batches))
        with self.reward.call_under_way():
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
        self.inside.pop(search, None)
        gone = [work for work in self.out.values() if work.search == search]
        self.out = {key: work for key, work in self.out.items() if key[0] != search}
        self.pending = [unit for unit in self.pending if unit.work.search != search]
        for work in gone:
            self.starts.pop(work.id, None)
        try:
            running = await self.denoiser.handle.drop.remote(search) if self.up else []
        except spec.DEATHS:
            running = []  # what a dead denoiser had spent is not known
        return [unit.walk.cost for unit in finished] + running


def rows(unit: Finished) -> int:
    """How many latents of a unit are to be scored."""
    return len(unit.rows)
