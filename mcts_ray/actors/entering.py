"""How searches come into the hands of the tree manager: new ones, those whose journals hold something, and all of them after a restart.

Where, after a restart, the run directory of a search can be neither read nor written for now, the search is in hand as one that is paused,
and is begun as soon as it can be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcts_ray.actors.archive import Order
from mcts_ray.actors.patience import LATE, answers
from mcts_ray.actors.recovery import Running
from mcts_ray.actors.resizing import Resizing
from mcts_ray.actors.spec import first_line
from mcts_ray.actors.working import PAUSE
from mcts_ray.executor.base import Job

log = logging.getLogger(__name__)
GRACE = 1.0  # seconds for the other denoisers to begin once one has


@dataclass(eq=False)
class Unread:
    """The observer of a search that cannot be read yet, which writes nothing; `trouble` says why."""

    trouble: str

    def halted(self, *_: Any) -> None:
        """The search was ended all the same."""

    def close(self) -> None:
        """Nothing is open."""


class Entering(Resizing):
    """The part of the tree manager that takes searches in hand. unread: orders, by search, that wait for their run directory; entering:
    held by whoever takes searches in hand, since what has been recovered of one must not be taken for a leftover by the next; expected:
    searches that are being submitted and have not been ended meanwhile."""

    _unread: dict[str, Order]
    _rereading: asyncio.Task | None
    _entering: asyncio.Lock
    _expected: set[str]
    _failure: Exception | None

    async def _restore(self) -> None:
        """After a restart: every search that has not been handed over goes on, and denoisers that have come meanwhile come again."""
        denoisers = self.archive.denoisers
        if denoisers and len(self.workers) > denoisers:  # the others were about to leave
            self._resize(denoisers)
        if orders := self.archive.orders():
            log.warning("the tree manager goes on with %d searches", len(orders))
            async with self._entering:
                await self._enter(orders, restart=True)
            self._rereading = asyncio.create_task(self._reread())
        if denoisers:
            self._resize(denoisers)

    async def _enter(self, orders: Sequence[Order], restart: bool = False) -> None:
        """Take searches in hand; after a `restart` those that cannot be begun wait, or have ended."""
        forwards, refused = {}, {}
        for key, reward in {order.key: order.reward for order in orders}.items():
            try:
                forwards[key] = await self._load(key, reward)
            except Exception as error:  # after a restart it must not be the end of the others
                if not restart:
                    raise
                forwards[key], refused[key] = 0, first_line(error)
        self._sizes.update((order.latent_shape, order.batch_size) for order in orders)
        if not self.running:
            self._size = orders[0].batch_size
            for worker in self.workers:
                worker.rest(self._size)
            if coming := [worker.revive() for worker in self.workers if not worker.lost]:
                _, late = await asyncio.wait(coming, timeout=LATE, return_when=asyncio.FIRST_COMPLETED)
                if late:  # what comes later than this does so in its own loop, and finds work then
                    await asyncio.wait(late, timeout=GRACE)
        if not restart and not self._expected >= {order.task.search.id for order in orders}:
            raise RuntimeError("the searches were ended before they had begun")
        entering: list[Running] = []
        for order in orders:
            try:
                entering.append(_running(order, order.task.job(order.batch_size), forwards[order.key]))
            except (OSError, ValueError) as error:
                if not restart:
                    for observer in filter(None, (running.job.observer for running in entering)):
                        observer.close()
                    raise
                self._set_aside(order, forwards[order.key], error)
        await self._begin(entering)
        for running in entering:
            if running.key in refused and not running.job.search.done:
                running.job.cut = f"the search was ended early, since its reward cannot be loaded again: {refused[running.key]}"
                await self._halt(running)

    async def _load(self, key: str, reward: Any) -> int:
        """Have the reward actors make a reward; returns its network forwards per call. One that answers too late, or dies, makes it when it
        is to score."""
        forwards, *_ = await answers(actor.call("load", key, reward) for actor in dict.fromkeys(worker.reward for worker in self.workers))
        return forwards

    async def _begin(self, entering: Sequence[Running]) -> None:
        """Searches whose journals have been read."""
        self.session.add(running.job for running in entering)
        self.running |= {running.job.search.id: running for running in entering}
        self._fit()
        if self._failure or not self._loops:
            for loop in self._loops.values():
                loop.cancel()
            for worker in self.workers:
                worker.clear()
            self._failure, self._loops = None, {}
        for running in entering:
            running.nfe = running.job.search.ledger.nfe
            await self._recover(running)
        self._release()
        self._loops = self._loops or {worker: asyncio.create_task(self._loop(worker)) for worker in self.workers}
        self._wake()

    async def _recover(self, running: Running) -> None:
        """The images of a search that was begun elsewhere, and its units in flight, as far as they had got."""
        job = running.job
        units, job.recovered = job.recovered, []
        await self._images(running)
        if job.stopping or job.search.done:  # ended meanwhile
            return
        for unit in units:
            job.again += len(unit.sizes)
            worker = self._emptiest()
            worker.give(unit.work, unit.sizes)
            worker.catching_up = len(self.workers) == 1  # with more there is no order to keep
        if fused := [unit.work for unit in units if unit.work.fuse]:
            await self._fuse(fused)

    # what cannot be read -------------------------------------------------------------------------------------------

    def _set_aside(self, order: Order, forwards: int, error: Exception) -> None:
        """A search that cannot be begun: it waits for its storage, or has ended with this error."""
        task, id = order.task, order.task.search.id
        trouble = _trouble(order, error)
        running = _running(order, Job(task.search, task.in_flight, task.images, Unread(trouble or "")), forwards)
        self.running[id] = running
        if trouble:
            log.warning("paused: %s", trouble, extra={"search": id})
            self._unread[id] = order
        else:
            self._give_up(running, error)

    def _give_up(self, running: Running, error: Exception) -> None:
        """Its journal cannot be gone on with."""
        search = running.job.search
        log.error("search %s cannot go on (%s)", search.id, error, extra={"search": search.id})
        search.errors.append(str(error))
        self._end_unread(running)

    def _end_unread(self, running: Running) -> None:
        """A search that has not been begun ends."""
        self._unread.pop(running.job.search.id, None)
        self.session.halt(running.job)
        running.ended.set()

    async def _reread(self) -> None:
        """Try again and again to begin what waits for its storage."""
        try:
            while self._unread:
                await asyncio.sleep(PAUSE)
                async with self._entering:
                    for id in list(self._unread):
                        await self._read(id)
        except Exception as error:  # a defect must not leave anybody waiting
            self._fail(error)

    async def _read(self, id: str) -> None:
        """Begin one of them, if it can be read now and has not been ended meanwhile."""
        order, running = self._unread.get(id), self.running.get(id)
        if not order or not running:
            return
        try:
            running.job = order.task.job(order.batch_size)
        except (OSError, ValueError) as error:
            if trouble := _trouble(order, error):
                running.job.observer.trouble = trouble
            else:
                self._give_up(running, error)
            return
        del self._unread[id]
        await self._begin([running])


def _running(order: Order, job: Job, forwards: int) -> Running:
    return Running(job, order.key, order.reward, forwards, order.latent_shape, order.batch_size)


def _trouble(order: Order, error: Exception) -> str | None:
    """What to say of storage that gave this error; None where it is not to blame."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError):
        return None
    return f"run directory {order.task.run_dir} cannot be read or written ({cause.strerror}); the search goes on when it can"
