"""What the tree manager does about losses: units go out again, and states and images that are gone are made again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcts_ray.actors.pool import DEATHS, Worker
from mcts_ray.actors.spec import TRIES, Gone
from mcts_ray.actors.states import Batch, States
from mcts_ray.executor.base import Job
from mcts_ray.executor.session import Session, Walk
from mcts_ray.search.base import Cost, Work
from mcts_ray.search.lineage import origins

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Running:
    """A search in hand and what its units need: the reward, by the key under which reward actors know it, with its network
    forwards per call, the shape of its states, and the size of its batches. nfe: spent so far, units under way included. fatal: units that
    have failed with the actors that had them; ending: the task that ends it for that."""

    job: Job
    key: str
    reward: Any
    forwards: int
    latent_shape: tuple[int, int, int]
    batch_size: int
    nfe: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    fatal: int = 0
    ending: asyncio.Task | None = None


class Recovery:
    """The part of the tree manager that mends. states: refs to the states of all trees, and who made them in which life."""

    workers: list[Worker]
    session: Session
    running: dict[str, Running]
    states: States
    deaths: int
    _halt: Callable[[Running], Coroutine[Any, Any, None]]

    def _emptiest(self, beside: Worker | None = None) -> Worker:
        """The denoiser with the fewest units, of equal ones `beside`; one that is dead, or about to go, only where there is no other."""
        return min(self.workers, key=lambda one: (not one.up, one.leaving, len(one.out), one is not beside))

    def _missing(self, id: str, works: Sequence[Work]) -> list[str]:
        """The nodes of a search that units start from and whose states are lost."""
        lineage = self.running[id].job.lineage
        return list(dict.fromkeys(node for work in works for node in lineage.lost(work, lambda node: (id, node) in self.states)))

    async def _redo(self, worker: Worker, running: Running, nodes: Sequence[str]) -> tuple[list[str], Any]:
        """Have a denoiser make lost states again; of nodes at level 0 it returns the nodes, and a ref to their latents."""
        id = running.job.search.id
        generations = running.job.lineage.again(nodes, lambda node: (id, node) in self.states)
        units = [unit for generation in generations for unit in generation]
        needed = (self.states.use((id, node)) for unit in units for node in origins(unit.work))
        refs = list(dict.fromkeys(batch.ref for batch in needed if batch))
        nfe, images, size, kept, latents = await worker.redo(generations, refs)
        running.job.again += nfe
        keys = [(id, node) for unit in units for node in unit.work.keep]
        self.states.put(keys, Batch(kept, None, 0, size))  # some it may have been told to free meanwhile
        return images, latents

    async def _again(self, running: Running, nodes: Sequence[str]) -> tuple[list[str], Any] | None:
        """`_redo` by any denoiser that lives; None where several have died over it."""
        for _ in range(TRIES):
            worker = self._emptiest()
            if not worker.up:  # all are down: whichever comes back first
                await asyncio.wait([one.revive() for one in self.workers], return_when=asyncio.FIRST_COMPLETED)
                worker = self._emptiest()
            if not worker.up:
                continue
            try:
                return await self._redo(worker, running, nodes)
            except Gone as gone:
                self.states.drop(Gone.refs(gone))
            except DEATHS:
                await self._lost(worker)
        return None

    async def _images(self, running: Running) -> None:
        """Make the images of a search again that are lost."""
        nodes = running.job.lost_images
        made = await self._again(running, nodes) if nodes else None
        if not made:
            return
        nodes, latents = made
        try:
            small, images = await self._emptiest().show(latents, len(nodes))
        except DEATHS as error:  # they are left out, or asked for once more at the end
            log.warning("images could not be made again (%s)", error, extra={"search": running.job.search.id})
            return
        running.job.gallery |= dict(zip(nodes, images))
        running.job.thumbnails |= dict(zip(nodes, small))

    async def _gone(self, worker: Worker, refs: set[str]) -> None:
        """What units were to start from is lost; they stay, and it is made again."""
        log.warning("%r has not found %d objects that its units start from; they are made again", worker.denoiser, len(refs))
        self.states.drop(refs)
        fused = [unit.work for unit in worker.pending if unit.work.id in worker.starts and worker.starts[unit.work.id].hex() in refs]
        for work in fused:
            del worker.starts[work.id]
        if fused:
            await self._fuse(fused)

    def _hand_over(self, worker: Worker) -> None:
        """What a denoiser that is down had walked is scored by another one's reward actor, unless that is under way."""
        other = self._emptiest()
        if worker.finished and not worker.scoring and other.up and other is not worker:
            other.finished += worker.finished
            worker.finished = []
            other.news.set()

    async def _lost(self, worker: Worker, generation: int | None = None, blamed: Collection[Work] = ()) -> None:
        """The denoiser died, in this life, perhaps over what these waiting units need: its units go out again, to others if there are any;
        it comes back meanwhile."""
        if not worker.up or generation not in (None, worker.generation):
            return
        self.deaths += 1
        works, inside = worker.fall(blamed)
        self._move_on(worker)
        for id in inside.keys() & self.running.keys():
            self._spent_in_vain(self.running[id], inside[id])
        await self._send_again(works, f"its denoiser died {TRIES} times; its log says of what")

    def _move_on(self, worker: Worker) -> None:
        """What it has not been sent yet goes to others, but for units of searches that are being ended, which these may have dropped."""
        units, worker.pending = worker.pending, []
        for unit in units:
            del worker.out[unit.work.search, unit.work.id]
        for unit in units:
            start = worker.starts.pop(unit.work.id, None)
            running = self.running.get(unit.work.search)
            if not running or running.job.stopping:
                continue
            other = self._emptiest()
            other.give(unit.work, unit.sizes)
            other.news.set()
            if start:
                other.starts[unit.work.id] = start

    @staticmethod
    def _spent_in_vain(running: Running, nfe: int) -> None:
        """What units had spent that are to be walked once more."""
        running.nfe -= nfe
        running.job.again += nfe

    async def _send_again(self, works: Sequence[Work], why: str) -> None:
        """Lost units go out again; those that have been lost too often fail."""
        works = self.session.reissue(works)
        for work in (work for work in works if work.epoch >= TRIES):
            self._failed(work, why)
        again = [work for work in works if work.epoch < TRIES]
        for work in again:
            self._emptiest().give(work)
        self._wake()
        if fused := [work for work in again if work.fuse]:
            await self._fuse(fused)

    def _failed(self, work: Work, why: str) -> None:
        """A unit has failed with the denoisers that had it. As that costs nothing of the budget, a search of which hardly a unit does
        anything else would never end: it is ended, and so is one whose reward actor is lost again and again."""
        self.session.settle(Walk(work, Cost(), why))
        self._fatal(self.running[work.search])

    def _fatal(self, running: Running) -> None:
        """One more of its units has failed with an actor."""
        running.fatal += 1
        if running.fatal >= max(TRIES, len(running.job.search.finished)) and not running.ending:
            running.job.cut = f"the search was ended early, since {running.fatal} of its units had failed with the actors that had them"
            running.ending = asyncio.create_task(self._halt(running))

    def _wake(self) -> None:
        """Something has come, or has changed for all: whoever waits for work may find some."""
        for worker in self.workers:
            worker.news.set()
