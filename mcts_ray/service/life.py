"""The life cycle of the jobs of a service: queued, running, then done, failed or cancelled; an ended one may be begun again.

One event loop owns all state; searches run in threads and speak to it. A change is in the store before a client is told of it,
so a restart of everything finds the index as clients know it; jobs that had not ended are then begun again. What was found stays until
something better has been.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from mcts_ray.diffusion.resolve import Model
from mcts_ray.executor.base import Progress
from mcts_ray.service.entry import Entry, replaces
from mcts_ray.service.lease import RENEW, InUse, Lease
from mcts_ray.service.models import SearchRequest
from mcts_ray.service.observe import Meter
from mcts_ray.service.runner import Cancelled, Ended, Lost, Runner
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore, Record

log = logging.getLogger(__name__)
REPORT = 2.0  # seconds between two looks at the tree managers
KEEP = 30.0  # seconds between two looks at the journals of running searches, which may have to go on elsewhere


class LifeCycle:
    """Carries out jobs. lease: of the store, which no other service may then use; None: a new one."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        runner: Runner,
        models: Mapping[str, Model],
        meter: Meter | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.settings, self.store, self.runner, self.models = settings, store, runner, models
        self.meter = meter or Meter()
        self.lease = lease or Lease(store)
        self._entries: dict[str, Entry] = {}
        self._keys: dict[str, str] = {}
        self._queue: list[Entry] = []
        self._tasks: set[asyncio.Task] = set()
        self._running: set[Entry] = set()
        self._threads = ThreadPoolExecutor(settings.max_running, thread_name_prefix="search")
        self._watches: list[asyncio.Task] = []
        self._closing = False

    async def start(self) -> None:
        """Read the index, queue what had not ended, and begin. InUse if another service has the store."""
        await asyncio.to_thread(self.lease.take)
        try:
            records = await asyncio.to_thread(self.store.load)
        except BaseException:
            await asyncio.to_thread(self.lease.release)
            raise
        for record in records:
            entry = self._entries[record.id] = Entry(record)
            if record.key:
                self._keys[record.key] = record.id
            if not record.has_ended:
                record.status = "queued"
                self._queue.append(entry)
        if self._queue:
            log.info("unfinished searches are begun again", extra={"jobs": len(self._queue)})
        self._watches = [asyncio.create_task(watch()) for watch in (self._report, self._renew)]
        self._fill()

    async def close(self) -> None:
        """Stop here; unfinished jobs stay unfinished in the index, and the next service goes on with them."""
        self._stop()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, *self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)
        with suppress(OSError):
            await asyncio.to_thread(self.lease.release)

    def _stop(self) -> None:
        """Begin nothing more, and end what runs."""
        self._closing = True
        for entry in self._running:
            entry.cancel.set()

    def _fill(self) -> None:
        """Begin queued jobs while there is room."""
        while not self._closing and self._queue and len(self._running) < self.settings.max_running:
            ready = next((entry for entry in self._queue if not entry.writing.locked()), None)
            if ready is None:
                break  # who writes it calls again
            self._queue.remove(ready)
            self._running.add(ready)
            task = asyncio.create_task(self._carry_out(ready))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, entry: Entry) -> None:
        id = entry.record.id
        try:
            ended = await self._attempt(entry)
            if self._closing and ended and ended.status == "cancelled":  # not the client's wish: the next service goes on with it
                with suppress(OSError, InUse):
                    await self._write(self.store.keep, id, entry.record.run)
            elif ended:
                await self._patiently(partial(self._end, entry, ended))
            else:
                await self._patiently(partial(self._again, entry))
        except Exception:
            log.exception("a search could not be written down", extra={"job": id})
            failed = {"status": "failed", "error": "the service could not write this search to its store"}
            entry.record = entry.record.model_copy(update=failed)
        finally:
            self._running.discard(entry)
            entry.change()
            self._fill()

    async def _attempt(self, entry: Entry) -> Ended | None:
        """Carry out a job once; None if it was lost and is to be begun again."""
        request, out = await self._patiently(partial(self._begin, entry))
        loop, about = asyncio.get_running_loop(), {"job": entry.record.id, "attempt": entry.record.attempt}
        log.info("running", extra=about)
        notice = partial(_notice, entry.cancel, lambda progress: loop.call_soon_threadsafe(self._progress, entry, progress))
        search = loop.run_in_executor(self._threads, self.runner.run, request, out, notice)
        try:
            await self._until_over(entry, search)
            return await search
        except Lost as error:
            log.warning("lost with its actors", extra={**about, "reason": str(error)})
            if entry.cancel.is_set():
                return Ended("cancelled")
            return Ended("failed", error=str(error)) if entry.hopeless(self.settings.attempts) else None
        except Exception as error:  # of a model or a reward; the service goes on
            log.exception("a search has failed", extra={"job": entry.record.id})
            return Ended("failed", error=f"{type(error).__name__}: {' '.join(str(error).split())}")

    async def _begin(self, entry: Entry) -> tuple[SearchRequest, Path]:
        """Let it be running; returns what is to be carried out, and where."""
        async with entry.turn:  # so that no extension comes between
            record = entry.record
            run = await asyncio.to_thread(self._run_of, record)
            out = self.store.run_dir(record.id, run)
            spent = await asyncio.to_thread(self.runner.spent, out)
            begun = {"status": "running", "attempt": record.attempt + 1, "started": record.started or now(), "run": run}
            await self._update(entry, **begun, ended=None, error=None)
            entry.begin(spent)
            self.meter.queued_for(time.monotonic() - entry.since)
            return entry.record.request, out

    def _run_of(self, record: Record) -> int:
        """The run directory of the next attempt: the last one if it can go on there, or another one. One that holds what was found is
        left as it is."""
        goes_on = record.run > 0 and self.runner.goes_on(self.store.here(record.id, record.run), record.request.budget)
        if goes_on and record.run != record.found:
            return record.run
        return self.store.next_run(record.id, record.run, goes_on)

    async def _until_over(self, entry: Entry, search: asyncio.Future) -> None:
        while not search.done():
            try:
                await self._write(self.store.keep, entry.record.id, entry.record.run)
            except (OSError, InUse) as error:
                log.warning("a journal could not be put into the store", extra={"job": entry.record.id, "reason": str(error)})
            await asyncio.wait([search], timeout=KEEP)

    async def _end(self, entry: Entry, ended: Ended) -> None:
        """Everything of it into the store, the record last. What an earlier attempt has found is kept unless this one has something for it.
        """
        record, result = entry.record, ended.result
        if record.run != record.found:
            result = result or await asyncio.to_thread(self.runner.found, self.store.here(record.id, record.run))
            await self._write(self.store.publish, record.id, record.run)
        new = {"status": ended.status, "error": ended.error, "ended": now()}
        if replaces(result, ended.status, record.result):
            new |= {"result": self._placed(record, result), "found": record.run}
        await self._update(entry, **new)
        self.meter.ended(ended, entry.counted)
        entry.change()
        log.info(ended.status, extra={"job": record.id, "attempt": record.attempt, "error": ended.error})

    async def _again(self, entry: Entry, **more: Any) -> None:
        """Back into the queue."""
        await self._update(entry, status="queued", ended=None, **more)
        entry.since = time.monotonic()
        self._queue.append(entry)

    def _placed(self, record: Record, result: dict) -> dict:
        """The result with paths into the store."""
        place = self.store.address(record.id, record.run)
        images = [f"{place}/images/{path.rpartition('/')[2]}" for path in result["images"]]
        return {**result, "run_dir": place, "images": images}

    def _progress(self, entry: Entry, progress: Progress) -> None:
        self.meter.spent(entry.tell(progress))

    async def _patiently(self, write: Callable[[], Awaitable[Any]]) -> Any:
        """Write to the store; while it is full or cannot be written wait, unless the service ends."""
        while True:
            try:
                return await write()
            except OSError as error:
                if self._closing:
                    raise
                log.warning("paused: the store cannot be written", extra={"reason": str(error)})
                await asyncio.sleep(REPORT)

    async def _update(self, entry: Entry, **new: Any) -> None:
        """Change a record, in the store first; one at a time, so that none is overtaken by an older one."""
        async with entry.writing:
            record = entry.record.model_copy(update=new)
            await self._write(self.store.save, record)
            entry.record = record

    async def _write(self, write: Callable[..., None], *args: Any) -> None:
        """Write to the store in a thread, while it is this service's."""

        def held() -> None:
            self.lease.hold()
            write(*args)

        await asyncio.to_thread(held)

    async def _report(self) -> None:
        while True:
            try:
                censuses = await asyncio.to_thread(self.runner.census)
                self.meter.report(len(self._queue), len(self._running), censuses)
            except Exception as error:  # of a manager that is being replaced
                log.debug("no census", extra={"reason": str(error)})
            await asyncio.sleep(REPORT)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            try:
                await asyncio.to_thread(self.lease.renew)
            except InUse as error:
                log.error("the service has ended", extra={"reason": str(error)})
                return self._stop()
            except OSError as error:
                log.warning("the lease of the store cannot be renewed", extra={"reason": str(error)})


def _notice(cancel: threading.Event, tell: Callable[[Progress], None], progress: Progress) -> None:
    """What a search says of itself, in its thread; a cancelled one is ended here."""
    tell(progress)
    if cancel.is_set():
        raise Cancelled


def now() -> datetime:
    """In UTC."""
    return datetime.now(timezone.utc)
