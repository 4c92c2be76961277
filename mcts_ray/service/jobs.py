"""The jobs of a service and their life cycle: queued, running, then done, failed or cancelled; an ended one may be begun again.

One event loop owns all state; searches run in threads and speak to it. A change is in the store before a client is told of it,
so a restart of everything finds the index as clients know it; jobs that had not ended are then begun again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial

from mcts_ray import __version__
from mcts_ray.diffusion.resolve import Model, image_size
from mcts_ray.executor.base import Progress
from mcts_ray.service.checks import check_budget, checked
from mcts_ray.service.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from mcts_ray.service.models import Best, Change, Health, Job, JobList, JobProgress, ModelInfo, ModelList, SearchRequest, Status
from mcts_ray.service.observe import Meter
from mcts_ray.service.runner import Cancelled, Ended, Lost, Runner
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore, Record

log = logging.getLogger(__name__)
CANCEL_WAIT = 15.0  # seconds that `cancel` waits for a search to hand over what it has found
REPORT = 2.0  # seconds between two looks at the tree managers


@dataclass(eq=False)
class Entry:
    """A job in hand. version: grows with every change; news: set at the next one."""

    record: Record
    version: int = 1
    progress: JobProgress | None = None
    best: Best | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    since: float = field(default_factory=time.monotonic)  # when it was queued
    busy: bool = False  # whether a thread has it
    losses: int = 0  # how often it was lost with its actors and had got nowhere, and the NFE that it has reached
    reached: int = 0

    def job(self) -> Job:
        cancelling = self.cancel.is_set() and not self.record.has_ended
        progress = _final(self.record) if self.record.has_ended else self.progress
        return self.record.job(progress=progress, cancelling=cancelling)

    def hopeless(self, attempts: int) -> bool:
        """Whether it was lost that often in a row without getting any further; to be asked once for each loss."""
        nfe = self.progress.nfe if self.progress else 0
        self.losses, self.reached = (1, nfe) if nfe > self.reached else (self.losses + 1, self.reached)
        return self.losses >= attempts

    def change(self) -> None:
        self.version += 1
        self.news.set()
        self.news = asyncio.Event()


class Jobs:
    """All jobs of a service. `start` before use; every method may be called from any task of one event loop.

    Methods raise the errors of `mcts_ray.service.errors`.
    """

    def __init__(
        self, settings: Settings, store: JobStore, runner: Runner, models: Mapping[str, Model], meter: Meter | None = None
    ) -> None:
        self.settings, self.store, self.runner, self.models = settings, store, runner, models
        self.meter = meter or Meter()
        self._entries: dict[str, Entry] = {}
        self._keys: dict[str, str] = {}
        self._queue: list[Entry] = []
        self._tasks: set[asyncio.Task] = set()
        self._running: set[Entry] = set()
        self._threads = ThreadPoolExecutor(settings.max_running, thread_name_prefix="search")
        self._closing = False

    async def start(self) -> None:
        """Read the index, queue what had not ended, and begin."""
        for record in await asyncio.to_thread(self.store.load):
            entry = self._entries[record.id] = Entry(record)
            if record.key:
                self._keys[record.key] = record.id
            if not record.has_ended:
                record.status = "queued"
                self._queue.append(entry)
        if self._queue:
            log.info("unfinished searches are begun again", extra={"jobs": len(self._queue)})
        self._tasks.add(asyncio.create_task(self._report()))
        self._fill()

    async def close(self) -> None:
        """Stop here; unfinished jobs stay unfinished in the index, and the next service goes on with them."""
        self._closing = True
        for entry in self._running:
            entry.cancel.set()
        for task in self._tasks:
            if task.get_name() == "report":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    # what clients ask for ------------------------------------------------------------------------------------------

    async def submit(self, request: SearchRequest, key: str | None = None) -> Job:
        """Queue a search. The same `key` again gives the same job, or Conflict if it asks for something else."""
        request = _valid(partial(checked, request, self.models, self.settings))
        if key in self._keys:
            entry = self._entries[self._keys[key]]
            if entry.record.digest != _digest(request):
                raise Conflict(f"idempotency key {key!r} was used for another search; choose a new one")
            async with entry.writing:  # not before it is in the store
                return entry.job()
        if len(self._queue) >= self.settings.max_queue:
            raise Busy(f"the queue is full ({self.settings.max_queue} searches); try again later", self.settings.retry_after)
        record = Record(id=uuid.uuid4().hex[:16], request=request, key=key, digest=_digest(request), created=_now())
        entry = Entry(record)
        self._entries[record.id] = entry
        self._queue.append(entry)
        if key:
            self._keys[key] = record.id
        try:
            await self._save(entry)
        except BaseException as error:
            self._queue.remove(entry)
            del self._entries[record.id]
            self._keys.pop(key, None)
            if isinstance(error, OSError):
                raise Unavailable(f"the store cannot be written ({error.strerror}); try again later", self.settings.retry_after) from error
            raise
        log.info("queued", extra={"job": record.id, "algorithm": request.algorithm, "budget": request.budget})
        self._fill()
        return entry.job()

    async def jobs(self, limit: int = 100, after: str | None = None, status: Status | None = None) -> JobList:
        """At most `limit` jobs, newest first, those after the job `after`."""
        found = [entry for entry in reversed(self._entries.values()) if status in (None, entry.record.status)]
        if after is not None:
            last = self._entry(after).record
            found = [entry for entry in found if (entry.record.created, entry.record.id) < (last.created, last.id)]
        page = found[:limit]
        return JobList(searches=[entry.job() for entry in page], next=page[-1].record.id if len(found) > limit else None)

    async def job(self, id: str) -> Job:
        """One job."""
        return self._entry(id).job()

    async def change(self, id: str, since: int = 0, timeout: float = 0.0) -> Change:
        """The state of a job once its version is beyond `since`, or after `timeout` seconds."""
        entry = self._entry(id)
        if entry.version <= since and not entry.record.has_ended:
            try:
                await asyncio.wait_for(entry.news.wait(), timeout)
            except asyncio.TimeoutError:
                pass
        return Change(version=entry.version, job=entry.job(), best=entry.best)

    async def cancel(self, id: str) -> Job:
        """End a job; what it has found is kept. An ended one is left as it is."""
        entry = self._entry(id)
        if not entry.record.has_ended:
            entry.cancel.set()
            entry.change()
            log.info("cancelled", extra={"job": id})
            if entry in self._queue and not entry.busy:
                self._queue.remove(entry)
                await self._end(entry, Ended("cancelled"))
            else:
                await self._until_ended(entry, CANCEL_WAIT)
        return entry.job()

    async def extend(self, id: str, nfe: int) -> Job:
        """Let a job spend more: a queued or running one at once, an ended one by beginning it again with the sum."""
        entry = self._entry(id)
        record = entry.record
        budget = record.request.budget + nfe
        _valid(partial(check_budget, budget, self.settings))
        if record.status == "done" and not nfe:
            raise Conflict(f"search {id} is done; there is nothing to resume, extend its budget by at least 1 NFE")
        ended = record.has_ended  # as the client found it: one that ends meanwhile has the budget already
        if record.status == "running":
            out = self.store.run_dir(id, record.run)
            if entry.cancel.is_set() or not (not nfe or await asyncio.to_thread(self.runner.extend, out, nfe)):
                raise Conflict(f"search {id} cannot take more budget now: it is beginning, about to end, or was planned whole (psp)")
        elif ended and len(self._queue) >= self.settings.max_queue:
            raise Busy(f"the queue is full ({self.settings.max_queue} searches); try again later", self.settings.retry_after)
        record.request = record.request.model_copy(update={"budget": record.request.budget + nfe})
        if ended:
            entry.losses = entry.reached = 0
            self._again(entry)
        await self._save(entry)
        entry.change()
        self._fill()
        return entry.job()

    async def file(self, id: str, name: str) -> bytes:
        """A file of the run directory: tree.json, report.html, or images/NN.png. NotFound if there is none (yet)."""
        record = self._entry(id).record
        data = await asyncio.to_thread(self.store.read, id, record.run, name) if record.has_ended else None
        if data is None:
            state = f"it is {record.status}, and has none" if record.has_ended else f"it is {record.status}; they come at its end"
            raise NotFound(f"search {id} has no {name}: {state}")
        return data

    async def served(self) -> ModelList:
        """The models."""
        sizes = {name: image_size(model) for name, model in self.models.items()}
        return ModelList(data=[ModelInfo(id=name, height=height, width=width) for name, (height, width) in sizes.items()])

    async def health(self) -> Health:
        """How much there is to do."""
        return Health(version=__version__, queued=len(self._queue), running=len(self._running))

    async def metrics(self) -> str:
        """In Prometheus' text format."""
        return self.meter.text()

    # the life cycle ------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begin queued jobs while there is room."""
        while not self._closing and self._queue and len(self._running) < self.settings.max_running:
            ready = next((entry for entry in self._queue if not entry.writing.locked()), None)
            if ready is None:
                break  # `submit` calls again once it is written
            self._queue.remove(ready)
            self._running.add(ready)
            ready.busy = True
            task = asyncio.create_task(self._carry_out(ready))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, entry: Entry) -> None:
        record = entry.record
        try:
            ended = await self._attempt(entry)
            if self._closing and ended and ended.status == "cancelled":
                return  # not the client's wish: the next service goes on with it
            if ended:
                await self._patiently(partial(self._end, entry, ended))
            else:
                self._again(entry)
                await self._patiently(partial(self._save, entry))
        except Exception:
            log.exception("a search could not be written down", extra={"job": record.id})
            record.status, record.error = "failed", "the service could not write this search to its store"
        finally:
            entry.busy = False
            self._running.discard(entry)
            entry.change()
            self._fill()

    async def _attempt(self, entry: Entry) -> Ended | None:
        """Carry out a job once; None if it was lost and is to be begun again."""
        record = entry.record
        record.status, record.attempt, record.started = "running", record.attempt + 1, record.started or _now()
        record.ended = record.error = record.result = entry.progress = entry.best = None
        if not record.run or not self.runner.goes_on(self.store.run_dir(record.id, record.run), record.request.budget):
            record.run += 1
        await self._patiently(partial(self._save, entry))
        entry.change()
        self.meter.queued_for(time.monotonic() - entry.since)
        log.info("running", extra={"job": record.id, "attempt": record.attempt})
        loop, out = asyncio.get_running_loop(), self.store.run_dir(record.id, record.run)
        notice = partial(_notice, entry.cancel, lambda progress: loop.call_soon_threadsafe(self._progress, entry, progress))
        try:
            ended = await loop.run_in_executor(self._threads, self.runner.run, record.request, out, notice)
        except Lost as error:
            log.warning("lost with its actors", extra={"job": record.id, "attempt": record.attempt, "reason": str(error)})
            if entry.cancel.is_set():
                return Ended("cancelled")
            return Ended("failed", error=str(error)) if entry.hopeless(self.settings.attempts) else None
        except Exception as error:  # of a model or a reward; the service goes on
            log.exception("a search has failed", extra={"job": record.id})
            return Ended("failed", error=f"{type(error).__name__}: {' '.join(str(error).split())}")
        return ended

    async def _end(self, entry: Entry, ended: Ended) -> None:
        """Everything of it into the store, the record last."""
        record = entry.record
        await asyncio.to_thread(self.store.publish, record.id, record.run)
        record.error, record.result = ended.error, ended.result and self._placed(record, ended.result)
        record.status, record.ended = ended.status, _now()
        await self._save(entry)
        self.meter.ended(ended, entry.progress and entry.progress.nfe)
        entry.change()
        log.info(ended.status, extra={"job": record.id, "attempt": record.attempt, "error": ended.error})

    def _again(self, entry: Entry) -> None:
        """Back into the queue."""
        entry.record.status, entry.record.ended = "queued", None
        entry.cancel, entry.since = threading.Event(), time.monotonic()
        self._queue.append(entry)

    def _placed(self, record: Record, result: dict) -> dict:
        """The result with paths into the store."""
        place = self.store.address(record.id, record.run)
        images = [f"{place}/images/{path.rpartition('/')[2]}" for path in result["images"]]
        return {**result, "run_dir": place, "images": images}

    def _progress(self, entry: Entry, progress: Progress) -> None:
        best = progress.best[0]
        seen = JobProgress(
            nfe=progress.nfe, budget=progress.budget, seconds=round(progress.seconds, 3), best=best, images=progress.images,
            failed=progress.failed, paused=progress.paused,
        )  # fmt: skip
        if seen == entry.progress or entry.record.status != "running":
            return
        self.meter.spent(progress.nfe - (entry.progress.nfe if entry.progress else 0))
        if best is not None and (entry.best is None or entry.best.reward != best) and progress.thumbnails:
            small = base64.b64encode(progress.thumbnails[0]).decode()
            entry.best = Best(reward=best, thumbnail=f"data:image/jpeg;base64,{small}")
        entry.progress = seen
        entry.change()

    async def _patiently(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write to the store; while it is full or cannot be written wait, unless the service ends."""
        while True:
            try:
                return await write()
            except OSError as error:
                if self._closing:
                    raise
                log.warning("paused: the store cannot be written", extra={"reason": str(error)})
                await asyncio.sleep(REPORT)

    async def _save(self, entry: Entry) -> None:
        """One write of a record at a time, so that none is overtaken by an older one."""
        async with entry.writing:
            await asyncio.to_thread(self.store.save, entry.record.model_copy())

    async def _until_ended(self, entry: Entry, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not entry.record.has_ended and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(entry.news.wait(), left)
            except asyncio.TimeoutError:
                return

    async def _report(self) -> None:
        asyncio.current_task().set_name("report")
        while True:
            try:
                censuses = await asyncio.to_thread(self.runner.census)
                self.meter.report(len(self._queue), len(self._running), censuses)
            except Exception as error:  # of a manager that is being replaced
                log.debug("no census", extra={"reason": str(error)})
            await asyncio.sleep(REPORT)

    def _entry(self, id: str) -> Entry:
        if id not in self._entries:
            raise NotFound(f"there is no search {id}")
        return self._entries[id]


def _final(record: Record) -> JobProgress | None:
    """Where a search stood at its end."""
    if record.result is None:
        return None
    ledger, budget = record.result["ledger"], record.request.budget
    seconds, best = round(ledger["seconds"], 3), record.result["reward"]["best"]
    return JobProgress(nfe=ledger["nfe"], budget=budget, seconds=seconds, best=best, images=ledger["decodes"])


def _notice(cancel: threading.Event, tell: Callable[[Progress], None], progress: Progress) -> None:
    """What a search says of itself, in its thread; a cancelled one is ended here."""
    tell(progress)
    if cancel.is_set():
        raise Cancelled


def _valid(check: Callable):
    try:
        return check()
    except ValueError as error:
        raise Invalid(" ".join(str(error).split())) from error


def _digest(request: SearchRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(timezone.utc)
