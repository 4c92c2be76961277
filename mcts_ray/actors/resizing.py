"""Denoisers that come and go while searches run.

A new one is *asked for*: an actor that the cluster has no room for stays pending, which is the demand that Ray's autoscaler answers, and
work goes on without it. One that is to go gets nothing more, ends the walks that it has begun, and leaves; its node may then go too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import ray

from mcts_ray.actors.archive import Archive
from mcts_ray.actors.beside import Beside
from mcts_ray.actors.pool import Worker
from mcts_ray.actors.spec import Actor
from mcts_ray.actors.working import Working


log = logging.getLogger(__name__)


class Resizing(Working):
    """The part of the tree manager that has more or fewer denoisers, of which those that are down go first, then the newest."""

    _joining: dict[Actor, asyncio.Task]
    _loops: dict[Worker, asyncio.Task]
    _size: int
    _sizes: dict[tuple[int, int, int], int]
    _opening: asyncio.Task
    _first: list[Actor]
    archive: Archive

    async def resize(self, denoisers: int) -> None:
        """Have so many, as soon as there is room for more, or those that are to go have ended what they do."""
        if denoisers < 1:
            raise ValueError(f"there must be at least one denoiser, not {denoisers}")
        await asyncio.shield(self._opening)
        self._resize(denoisers)
        self.archive.keep_denoisers(denoisers)

    def _resize(self, denoisers: int) -> None:
        staying = sorted((worker for worker in self.workers if not worker.leaving), key=lambda worker: not worker.up)
        for denoiser in list(self._joining)[max(0, denoisers - len(staying)) :]:
            self._joining.pop(denoiser).cancel()
            ray.kill(denoiser.handle, no_restart=True)
        for worker in staying[denoisers:]:
            worker.leaving = True
            self._move_on(worker)
            if not self._loops:
                self._leave(worker)
        for _ in range(denoisers - len(staying) - len(self._joining)):
            denoiser = self.workers[0].denoiser.another()
            self._joining[denoiser] = asyncio.create_task(self._join(denoiser))
        self._wake()

    async def _join(self, denoiser: Actor) -> None:
        """Wait until it has its place, and begin."""
        try:
            node, gpus, _ = await denoiser.call("place")
            reward = self.workers[0].reward
            reward = reward.beside(denoiser, node, gpus) if isinstance(reward, Beside) else reward
            worker = Worker(denoiser, reward, sizes=self._sizes)
            await worker.begin(self._size)
        except Exception:
            log.exception("a denoiser that was to join the others has failed")
            ray.kill(denoiser.handle, no_restart=True)
            self._joining.pop(denoiser, None)
            return
        if not self._joining.pop(denoiser, None):
            return
        for one in self.workers:
            one.catching_up = False  # with more than one there is no order to keep
        self.workers.append(worker)
        if self._loops:
            self._loops[worker] = asyncio.create_task(self._loop(worker))
        self._wake()

    def _leave(self, worker: Worker) -> None:
        """It has nothing more in hand: it goes, its loop with it, and its reward actor unless others have that too."""
        self.workers.remove(worker)
        self._loops.pop(worker, None)
        if worker.denoiser in self._first:
            self.archive.keep_gone(self._first.index(worker.denoiser))
        if worker.coming:  # or it would have a new one made
            worker.coming.cancel()
        for actor in {worker.denoiser, worker.reward} - {one.reward for one in self.workers}:
            with contextlib.suppress(Exception):
                ray.kill(actor.handle, no_restart=True)
        self._wake()
