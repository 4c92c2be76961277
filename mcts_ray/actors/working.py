"""How the tree manager keeps its denoisers at work: a loop for each of them, in one of two ways.

A denoiser that is alone goes *in step*, and so do all when a search is about to be out of time: units are dealt until its batch is full, it
steps until some have left, these are scored and told; so with one denoiser the order of asks and tells is that of `LocalExecutor`. Several
go *loosely*: each has a second call that it begins without asking anybody, what has left is decoded and scored beside it, and outcomes
are told when they come. In both ways nothing is asked for that there is no room for: what waits is with the searches, which have a cap of
their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from mcts_ray.actors.beside import Displaced
from mcts_ray.actors.fusing import Fusing
from mcts_ray.actors.patience import answers
from mcts_ray.actors.pool import CALLS, DEATHS, Finished, Sent, Worker, rows
from mcts_ray.actors.spec import TRIES, Actor, Gone, first_line
from mcts_ray.actors.states import Batch, Key
from mcts_ray.actors.trainer import TrainerWorker
from mcts_ray.executor.backend import ActorsLost
from mcts_ray.executor.learning import drained
from mcts_ray.executor.schedule import Places
from mcts_ray.gain.choose import Transition
from mcts_ray.search.base import Work
from mcts_ray.search.lineage import origins

log = logging.getLogger(__name__)
REDONE = 8  # times that lost states are made again before a call, should more have been lost meanwhile
NEAR = 4  # times what a batch and its scores take: a search that ends sooner has everybody go in step
PAUSE = 0.2  # seconds between two attempts to write what could not be written, and two looks at the time while a denoiser is away
LONGEST = 60.0  # seconds between two attempts to have one back
SLICE = 0.5  # seconds after which a denoiser reports even if no unit has left, so that progress can be seen


class Working(Fusing):
    """The part of the tree manager that deals units, sends them, and has what comes back scored and told."""

    _trainer: Actor | None
    _learning: asyncio.Task | None
    _lessons: dict[str, list[Transition]]

    async def _loop(self, worker: Worker) -> None:
        try:
            while not (worker.leaving and worker.idle):
                await self._turn(worker)
            self._leave(worker)
        except Exception as error:  # a defect must not leave anybody waiting
            self._fail(error)

    async def _turn(self, worker: Worker) -> None:
        """Deal units, then do what there is to do; with nothing to do, wait for news."""
        worker.news.clear()
        if worker.trouble:
            raise worker.trouble
        if not worker.up and not worker.leaving and not await self._back(worker):
            return
        for other in self.workers:  # those that were given something when all were down
            if worker.up and other.pending and not other.up:
                self._move_on(other)
        async with worker.busy:
            worker.loose = len(self.workers) > 1 and not self._pressed(worker)
            if not worker.loose:
                await worker.quiet()
            if worker.leaving:
                self._move_on(worker)  # what it was given over a loss
                if not worker.up:
                    self._hand_over(worker)
            if not worker.catching_up or not (worker.out or worker.finished):
                await self._deal(worker)
            acted = await (self._loosely(worker) if worker.loose else self._in_step(worker))
        self._trim()
        await self._retire(worker)
        if not acted:
            longest = PAUSE if self.session.paused else 60.0
            news = asyncio.ensure_future(worker.news.wait())  # `wait_for` may forget that this loop is cancelled, where there is news too
            await asyncio.wait([news], timeout=min(longest, max(0.01, self.session.seconds_left())))
            news.cancel()

    async def _back(self, worker: Worker) -> bool:
        """Have a denoiser back; False where that has failed for now, or it is to leave. Raises ActorsLost where nobody comes back again and
        again. Searches that have no time left end meanwhile."""
        coming = worker.revive()
        while not worker.leaving and not (await asyncio.wait([coming], timeout=PAUSE))[0]:
            self._hand_over(worker)
            await self._retire(worker)
        until = time.monotonic() + min(LONGEST, 2**worker.failures)
        while not worker.up and not worker.leaving:
            if worker.failures >= TRIES and all(one.lost for one in self.workers):
                raise ActorsLost(f"no denoiser comes back: {first_line(worker.error)}")
            if time.monotonic() >= until:
                return False
            self._hand_over(worker)
            await self._retire(worker)
            await asyncio.sleep(PAUSE)
        return worker.up

    def _pressed(self, worker: Worker) -> bool:
        """Whether a search ends so soon that there may be no time for all that a loose denoiser has in hand, or it is not known yet how
        long that takes."""
        if not self.session.limited:
            return False
        known = worker.slowest and self.session.latent_seconds
        batch = (worker.step_seconds or worker.slowest) + worker.size * self.session.latent_seconds
        return not known or self.session.seconds_left() <= NEAR * batch + CALLS * SLICE

    async def _loosely(self, worker: Worker) -> bool:
        """Have what has left scored, and send what is to be sent; there is then nothing to do but to wait, unless that has failed and it is
        to be back."""
        if worker.finished and not worker.scoring:
            worker.scoring = True
            worker.spawn(self._scored(worker))
        while worker.wants_call:
            if not (sent := await self._send(worker)):
                return True  # to be tried again at once
            worker.spawn(self._receive(worker, sent))
        return not worker.up and not worker.leaving

    async def _scored(self, worker: Worker) -> None:
        try:
            await self._score(worker)
        finally:
            worker.scoring = False

    async def _in_step(self, worker: Worker) -> bool:
        """Score what has finished or step; whether there was anything to do. In a full engine the next call does not depend on what is
        told before it, so it need not wait for that."""
        calls = worker.wants_call
        full = len(worker.finished) >= worker.size
        scores = worker.finished and (worker.free or self.session.limited or full or worker.catching_up)
        if scores:
            worker.catching_up = False
            if worker.free or self.session.limited or not calls:
                await self._score(worker)
            else:
                worker.spawn(self._score(worker))
                sent = await self._send(worker)
                await worker.quiet()
                if sent and not worker.trouble:
                    await self._receive(worker, sent)
        elif calls and (sent := await self._send(worker)):
            await self._receive(worker, sent)
        return bool(scores or calls)

    # deal ----------------------------------------------------------------------------------------------------------

    async def _deal(self, dealer: Worker) -> None:
        """Ask for units until there is no room or nobody has more for now, and give each to a denoiser. What fused ones start from is
        made first."""
        places = Places((len(worker.out), worker.room, worker.size) for worker in self.workers)
        numbers = {worker: number for number, worker in enumerate(self.workers)} if places.free else {}
        works = self.session.take(places.free)
        for work in works:
            batch = work.parent and self.states.use((work.search, work.parent))
            held = batch and batch.holder and batch.generation == batch.holder.generation
            worker = self.workers[places.give(numbers.get(batch.holder) if held else None)]
            worker.give(work)
            if worker is not dealer:
                worker.news.set()
        if fused := [work for work in works if work.fuse]:
            await self._fuse(fused)

    # send and receive ----------------------------------------------------------------------------------------------

    async def _send(self, worker: Worker) -> Sent | None:
        """One call of the denoiser, for which states that are lost are made again; None where that has failed for now."""
        blamed: list[Work] = []
        try:
            for _ in range(REDONE):  # meanwhile it may be given more units
                lost = self._missing_of(worker)
                for id, nodes in lost.items():
                    blamed = [unit.work for unit in worker.ready if unit.work.search == id]
                    await self._redo(worker, self.running[id], nodes)
                if not lost:
                    break
        except Gone as gone:
            await self._gone(worker, Gone.refs(gone))
            return None
        except DEATHS:
            await self._lost(worker, blamed=blamed)
            return None
        if not worker.up:  # it died meanwhile, over something else
            return None
        return worker.send(self._elsewhere(worker), None if worker.catching_up else min(SLICE, self.session.seconds_left()))

    def _missing_of(self, worker: Worker) -> dict[str, list[str]]:
        """The nodes by search that units to be sent start from and whose states are lost."""
        works: dict[str, list[Work]] = {}
        for unit in worker.ready:
            works.setdefault(unit.work.search, []).append(unit.work)
        return {id: lost for id, of_search in works.items() if (lost := self._missing(id, of_search))}

    def _elsewhere(self, worker: Worker) -> list[Any]:
        """Refs to the states of parents of units to be sent that this denoiser does not hold itself."""
        parents = (self.states.use((unit.work.search, unit.work.parent)) for unit in worker.ready if unit.work.parent)
        here = worker, worker.generation
        return list(dict.fromkeys(batch.ref for batch in parents if batch and (batch.holder, batch.generation) != here))

    async def _receive(self, worker: Worker, sent: Sent) -> None:
        """The answer of the denoiser; units that leave latents then wait for their score, the others are told."""
        try:
            report, units = await worker.receive(sent)
        except Gone as gone:
            await self._gone(worker, Gone.refs(gone))
            return
        except DEATHS:
            await self._lost(worker, sent.generation)
            return
        for id in report.nfe.keys() & self.running.keys():
            self.running[id].nfe += report.nfe[id]
        keys = [(unit.work.search, node) for unit in units if not unit.walk.error for node in unit.work.keep]
        self.states.put(keys, Batch(sent.kept, worker, sent.generation, report.size))
        for unit in self.session.in_order(units):
            await self._take(worker, unit)
        midway = any(running.job.midway for running in self.running.values())
        worker.catching_up = worker.catching_up and midway and bool(worker.finished)

    async def _take(self, worker: Worker, unit: Finished) -> None:
        """A unit that has left: to be scored, to go once more where it has failed for the first time, or told."""
        if unit.rows:
            worker.finished.append(unit)
        elif again := self.session.again(unit.walk):
            worker.give(again)
            if again.fuse:
                await self._fuse([again])
        else:
            self.session.settle(unit.walk)

    # score ---------------------------------------------------------------------------------------------------------

    async def _score(self, worker: Worker) -> None:
        """Have finished units scored, and tell their outcomes in the order in which they went out."""
        groups: dict[str, list[Finished]] = {}  # before anything is told: what ends a search may have it forgotten
        for unit in self.session.portion(worker.finished, rows):
            groups.setdefault(self.running[unit.work.search].key, []).append(unit)
        for key, group in groups.items():
            try:
                verdicts = await worker.score(group, key, self.running[group[0].work.search].reward)
            except Displaced:
                return  # they wait until it can be beside its denoiser again, or for another one
            except Gone as gone:
                refs = Gone.refs(gone)
                lost = [unit for unit in group if unit.latents.hex() in refs]
                worker.finished = [unit for unit in worker.finished if unit not in lost]
                for unit in lost:
                    self._spent_in_vain(self.running[unit.work.search], unit.walk.cost.nfe)
                await self._send_again([unit.work for unit in lost], f"its latents were lost {TRIES} times")
                continue
            for unit, verdict in zip(group, verdicts, strict=True):
                worker.finished.remove(unit)
                running = self.running[unit.work.search]
                self.session.settle(unit.walk, verdict, running.forwards)
                if verdict.error:
                    self._fatal(running)
        for folder, transitions in drained(one.job for one in self.running.values()).items():
            self._lessons.setdefault(folder, []).extend(transitions)
        if self._lessons and (self._learning is None or self._learning.done()):
            self._learning = asyncio.create_task(self._learn())

    async def _learn(self) -> None:
        """Give transitions to the trainer, made when it is first needed, and what it makes of them to the denoisers."""
        self._trainer = self._trainer or Actor(TrainerWorker, num_cpus=0)
        while self._lessons:
            folder, transitions = self._lessons.popitem()
            try:
                version = await self._trainer.call("take", folder, transitions)
                if version:
                    await answers(worker.denoiser.call("install", folder, version) for worker in self.workers)
            except Exception:  # searches go on without it, by the versions they have
                log.exception("the IGE in %s has not learned from these transitions", folder)

    # let go --------------------------------------------------------------------------------------------------------

    def _trim(self) -> None:
        """Evict states that are over the limit, here and in the denoisers; whoever needs one later has it made again."""
        gone: dict[str, list[str]] = {}
        for id, node in self.states.trim(self._needed):
            gone.setdefault(id, []).append(node)
        for id, nodes in gone.items():
            self._free(id, nodes)

    def _needed(self) -> set[Key]:
        """The states that units in hand start from."""
        works: list[Work] = [work for worker in self.workers for work in worker.out.values()]
        return {(work.search, node) for work in works for node in origins(work)}

    def _free(self, id: str, nodes: list[str]) -> None:
        """Denoisers are to free the states of some nodes."""
        for worker in (worker for worker in self.workers if worker.up):
            worker.denoiser.handle.forget.remote(id, nodes)
