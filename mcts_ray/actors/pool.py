"""A denoiser and its reward actor as the tree manager sees them: what they have in hand, and how to speak to them."""

from __future__ import annotations

import asyncio
import logging
import pickle
import secrets
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from mcts_ray.actors import spec
from mcts_ray.actors.beside import Beside, unless_displaced
from mcts_ray.actors.denoiser import Reborn, Report
from mcts_ray.actors.reward import UnknownReward
from mcts_ray.actors.spec import TRIES, Actor, Gone
from mcts_ray.actors.states import Key
from mcts_ray.executor.schedule import Depth
from mcts_ray.executor.session import Verdict, Walk
from mcts_ray.search.base import Cost, Work
from mcts_ray.search.lineage import Again

log = logging.getLogger(__name__)
CALLS = 2  # that a denoiser may have to answer: it works on one, and the next one is there when it has done
DEATHS = (*spec.DEATHS, Reborn)
HANGS = 2 * spec.FETCH  # seconds, or SLOW times those by the slowest step or latent so far, after which an actor is taken to hang
SLOW = 20
PLACE = 10.0  # seconds to come back from a death that has left a denoiser its place


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


@dataclass(frozen=True, eq=False)
class Sent:
    """A call of `advance` under way, with the units that it took along: refs to its report, the states it keeps and its latents."""

    units: list[Again]
    answer: Any
    kept: Any
    latents: Any
    generation: int


@dataclass(eq=False)
class Worker:
    """A denoiser, the reward actor that scores for it, and the units that they have in hand.

    out: units given to it, by search and unit, `pending` those of them not yet sent; starts: refs to what those that are fused start
    from; finished: units that wait to be scored. size: of its largest batches, `sizes` by shape. loose: it may be given more than one
    batch, by `depth`, and its outcomes are told whenever they come. generation: names its engine, which no restart of anybody gives
    twice. nfe: spent in it, by search, and `inside`, on units that are in it still. step_seconds: of its last step, and `slowest` of all
    since it began; 0.0 until it has made one, which loads what a model needs; judged: likewise by reward, for a latent. busy: held by
    whoever sends it something, `calls`: of `advance`, that it has not answered. up: False from its death until it is back; coming: the
    last attempt to have it back; failures: of such, one after the other, the last with this `error`; away: since when it has no place.
    catching_up: it is to take in what another manager has left before anything else goes out. leaving: it gets nothing more, and goes
    when it has nothing in hand. news: set when there may be something to do for it.
    """

    denoiser: Actor
    reward: Actor
    size: int = 1
    sizes: dict[tuple[int, int, int], int] = field(default_factory=dict)
    generation: int = field(default_factory=lambda: secrets.randbits(60))
    out: dict[Key, Work] = field(default_factory=dict)
    pending: list[Again] = field(default_factory=list)
    starts: dict[str, Any] = field(default_factory=dict)
    finished: list[Finished] = field(default_factory=list)
    nfe: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    judged: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.0
    slowest: float = 0.0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    up: bool = True
    coming: asyncio.Task[bool] | None = None
    failures: int = 0
    error: Exception | None = None
    away: float | None = None
    catching_up: bool = False
    loose: bool = False
    leaving: bool = False
    calls: int = 0
    scoring: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task] = field(default_factory=set)
    trouble: BaseException | None = None

    def __post_init__(self) -> None:
        self.depth = Depth(self.size)

    @property
    def room(self) -> int:
        """Units that it may have in hand: a batch, and where it is loose some that wait for the next one, unless what waits for the
        reward actor is two batches already."""
        if not self.up or self.leaving or (self.loose and len(self.finished) >= 2 * self.size):
            return 0
        return self.depth.room if self.loose else self.size

    @property
    def free(self) -> int:
        """Units that it may still be given."""
        return max(0, self.room - len(self.out))

    @property
    def idle(self) -> bool:
        """Whether it has nothing in hand."""
        return not (self.out or self.finished or self.tasks)

    @property
    def wants_call(self) -> bool:
        """Whether something is to be sent: units, or word that those inside go on. A second call goes out only if its batches will be full
        once those have left that are to leave with the first, since a batch that is not full costs the time of a full one."""
        if self.calls:
            return self.loose and self.calls < CALLS and self.sent + len(self.ready) - self.depth.leaving >= self.size
        return bool(self.ready) or self.sent > 0

    @property
    def sent(self) -> int:
        """Units that it has been sent, and that have not left."""
        return len(self.out) - len(self.pending)

    @property
    def unreported(self) -> int:
        """At most how many NFE it has spent of which no answer has told yet: what the units inside still had before them."""
        waiting = {(unit.work.search, unit.work.id) for unit in self.pending}
        return max(0, sum(work.nfe for key, work in self.out.items() if key not in waiting) - self.inside.total()) if self.calls else 0

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Have something done beside everything else; what it raises is `trouble`."""
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.trouble = task.exception()
        self.news.set()

    async def quiet(self) -> None:
        """Until nothing of it is under way; for whoever holds `busy`."""
        while self.tasks:
            await asyncio.wait(self.tasks)

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
        self.inside, self.catching_up, self.trouble = Counter(), False, None
        self.calls, self.scoring = 0, False
        for task in self.tasks:
            task.cancel()

    def rest(self, size: int) -> None:
        """It is to begin anew, with batches of this size, before it is given to do."""
        self.size, self.nfe, self.inside = size, Counter(), Counter()
        self.up, self.failures, self.error = False, 0, None

    async def begin(self, size: int) -> None:
        """Have it begin with an empty engine of this batch size."""
        self.size, self.nfe, self.inside, self.generation = size, Counter(), Counter(), secrets.randbits(60)
        self.depth, self.slowest, self.calls = Depth(size), 0.0, 0
        await self.denoiser.call("begin", self.generation, size)

    def fit(self, size: int) -> None:
        """Have in hand as much as batches of this size need; what waits for smaller ones waits in the engine."""
        self.size = self.depth.size = size

    @property
    def ready(self) -> list[Again]:
        """The pending units that can go. One that has been lost twice goes alone, so that it fails alone if it is to blame."""
        ready = [unit for unit in self.pending if not unit.work.fuse or unit.work.id in self.starts]
        if all(work.epoch < TRIES - 1 for work in self.out.values()):
            return ready
        suspects = [unit for unit in ready if unit.work.epoch >= TRIES - 1]
        if self.sent:  # something is inside, a suspect or what was there before
            return []
        return suspects[:1] or ready

    def send(self, states: Sequence[Any], seconds: float | None) -> Sent:
        """Send what is ready, of more than a batch the rest with the next call, and have it step until units leave; with `seconds` None
        they are only taken in."""
        units = self.ready
        if self.loose:
            units = units[: max(0, self.depth.room - self.sent)]
        starts = list(dict.fromkeys(self.starts[unit.work.id] for unit in units if unit.work.fuse))
        call = self.denoiser.handle.advance.options(num_returns=3)
        packed = pickle.dumps((units, self.sizes))  # plain data, which Ray's own pickler takes several times as long for
        answer, kept, latents = call.remote(self.generation, packed, starts, states, seconds)
        sent = {id(unit) for unit in units}
        self.pending = [unit for unit in self.pending if id(unit) not in sent]
        self.calls += 1
        return Sent(units, answer, kept, latents, self.generation)

    async def receive(self, sent: Sent) -> tuple[Report, list[Finished]]:
        """The answer to a call: its report, and the units that have left. Raises one of `DEATHS` if the denoiser dies over it, or has
        died before, and Gone, with nothing taken in, if refs are lost."""
        try:
            patience = _patience(self.slowest, 1 + max((len(unit.sizes) for unit in sent.units), default=0))
            report: Report = await self.denoiser.answer(sent.answer, patience)
        except Gone:
            self.pending = [*(unit for unit in sent.units if (unit.work.search, unit.work.id) in self.out), *self.pending]
            raise
        finally:
            self.calls -= sent.generation == self.generation
        for unit in sent.units:
            self.starts.pop(unit.work.id, None)
        self.step_seconds = report.step_seconds
        self.slowest = max(self.slowest, report.step_seconds)
        self.nfe.update(report.nfe)
        self.inside.update(report.nfe)
        self.depth.left(len(report.left))
        left, row = [], 0
        for one in report.left:
            rows, row = range(row, row + one.latents), row + one.latents
            work = self.out.pop((one.search, one.work), None)
            self.inside[one.search] -= one.cost.nfe
            if work is not None:
                left.append(Finished(Walk(work, one.cost, one.error, one.scores, one.gains), sent.latents, rows))
        return report, left

    async def redo(self, generations: Sequence[Sequence[Again]], states: Sequence[Any]) -> tuple[int, list[str], int, Any, Any]:
        """Have units walked again: (NFE, nodes of the images, bytes of the states kept, ref to those, ref to the latents of the images).
        Raises as `receive`."""
        report, kept, latents = self.denoiser.handle.redo.options(num_returns=3).remote(self.generation, generations, states)
        steps = sum(unit.work.nfe for generation in generations for unit in generation)
        nfe, nodes, size = await self.denoiser.answer(report, _patience(self.slowest, steps))
        return nfe, nodes, size, kept, latents

    async def show(self, latents: Any, count: int) -> tuple[list[bytes], list[Any]]:
        """Thumbnails of the latents behind a ref, and refs to their images."""
        small, *images = await self.reward.parts("show", 1 + count, latents)
        return small, images

    def fall(self, blamed: Collection[Work] = ()) -> tuple[list[Work], Counter[str]]:
        """It has died: the units that were lost with it, and what these had spent, by search. Those that it had not been sent stay, as
        they have nothing to do with it, unless they are `blamed`. Nothing is dealt to it until it has been revived."""
        self.pending = [unit for unit in self.pending if unit.work not in blamed]
        waiting = {(unit.work.search, unit.work.id): unit.work for unit in self.pending}
        works, inside = [work for key, work in self.out.items() if key not in waiting], self.inside
        for work in works:
            self.starts.pop(work.id, None)
        self.up, self.out, self.inside = False, waiting, Counter()
        return works, inside

    def revive(self) -> asyncio.Task[bool]:
        """After a death, or to begin anew: it is restarted or replaced where it has to be, and empty. The attempt, one for all who wait
        for it, gives whether it is back."""
        if self.coming is None or self.coming.done():
            self.coming = asyncio.create_task(self._revive())
        return self.coming

    async def _revive(self) -> bool:
        if self.up:
            return True
        try:
            self.away = self.away or time.monotonic()
            await self.denoiser.revive()
            await self.begin(self.size)
            self.away = None
            if isinstance(self.reward, Beside):
                await self.reward.follow()
        except Exception as error:
            self.failures, self.error = self.failures + 1, error
            log.warning("%r does not come back (%s)", self.denoiser, spec.first_line(error))
            if not isinstance(error, DEATHS):  # what a CUDA error has left behind is to go with the process
                self.denoiser.end()
            return False
        self.up, self.failures, self.error = True, 0, None
        return True

    @property
    def displaced(self) -> bool:
        """Whether it has had no place for longer than it takes to come back where it was."""
        return not self.up and self.away is not None and time.monotonic() - self.away > PLACE

    @property
    def lost(self) -> bool:
        """Whether nobody should count on it: it has had no place for long, or comes back in vain."""
        return not self.up and (self.failures >= TRIES or (self.away is not None and time.monotonic() - self.away > spec.PATIENCE))

    async def score(self, units: Sequence[Finished], key: str, reward: Any) -> list[Verdict]:
        """Have the latents of units decoded and scored; a reward actor that dies is replaced, and asked again, in the end unit by
        unit, so that one that kills it fails alone. Raises Gone if latents are lost, Displaced where it cannot be replaced for now."""
        why = f"its reward actor died {TRIES} times; its log says of what"
        for _ in range(TRIES):
            try:
                return await self._score(units, key)
            except UnknownReward:
                if error := await self._reload(key, reward):
                    why = f"its reward cannot be loaded again: {error}"
            except spec.DEATHS:
                await unless_displaced(self.reward.revive(), lambda: isinstance(self.reward, Beside) and self.displaced)
        if len(units) > 1:
            return [verdict for unit in units for verdict in await self.score([unit], key, reward)]
        return [Verdict(error=why)]

    async def _reload(self, key: str, reward: Any) -> str | None:
        """Have a reward actor that has been restarted load a reward; what is wrong if it cannot."""
        try:
            await self.reward.call("load", key, reward)
        except Exception as error:  # it could at first, so that it is no mistake of the user's
            return spec.first_line(error)

    async def _score(self, units: Sequence[Finished], key: str) -> list[Verdict]:
        batches = {ref: place for place, ref in enumerate(dict.fromkeys(unit.latents for unit in units))}
        picks = [(batches[unit.latents], row) for unit in units for row in unit.rows]
        prompts = [unit.work.setting.prompt for unit in units for _ in unit.rows]
        wanted = [end - 1 for end, unit in zip(accumulate(map(rows, units)), units) if unit.work.terminal]
        call = self.reward.handle.score.options(num_returns=1 + len(wanted))
        stats, *images = spec.refs(call.remote(pickle.dumps((key, picks, prompts, wanted)), list(batches)))
        scored, thumbnails, seconds = await self.reward.answer(stats, _patience(self.judged.get(key, 0.0), len(picks)))
        self.judged[key] = max(self.judged.get(key, 0.0), seconds / len(picks))
        pictures, answers = iter(zip(images, thumbnails, strict=True)), iter(scored)
        verdicts = []
        for unit in units:
            mine = [next(answers) for _ in unit.rows]
            image, small = next(pictures) if unit.work.terminal else (None, b"")
            verdicts.append(Verdict(mine, image, small, seconds * len(mine) / len(scored)))
        return verdicts

    def forget(self, search: str) -> None:
        """A search that has been handed over is not counted by its name any more."""
        self.nfe[""] += self.nfe.pop(search, 0)
        self.inside.pop(search, None)
        self.judged.pop(search, None)

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


def _patience(slowest: float, count: int) -> float | None:
    """Seconds to wait for the answer of a call of so many steps, or latents; None, without end, until one is known."""
    return max(HANGS, SLOW * slowest * count) if slowest else None


def rows(unit: Finished) -> int:
    """How many latents of a unit are to be scored."""
    return len(unit.rows)
