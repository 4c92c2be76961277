"""The jobs of a service, as clients ask for them: submitted, looked at, extended, cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any

from mcts_ray import __version__
from mcts_ray.diffusion.resolve import image_size
from mcts_ray.service.checks import check_budget, checked, reward_of
from mcts_ray.service.entry import Entry
from mcts_ray.service.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from mcts_ray.service.lease import InUse
from mcts_ray.service.life import LifeCycle, now
from mcts_ray.service.models import Change, Health, Job, JobList, ModelInfo, ModelList, SearchRequest, Status
from mcts_ray.service.runner import Ended
from mcts_ray.service.store import Record

log = logging.getLogger(__name__)
CANCEL_WAIT = 15.0  # seconds that `cancel` waits for a search to hand over what it has found


def _answer(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """What clients ask for; where the store cannot be read or written, or is another service's by now, they are told to come again."""

    @wraps(method)
    async def answer(self: Jobs, *args: Any, **named: Any) -> Any:
        try:
            self.lease.check()
            answer = await method(self, *args, **named)
            self.lease.check()  # what has happened since may be another service's doing
            return answer
        except InUse as error:
            raise Unavailable(str(error), self.settings.retry_after) from error
        except OSError as error:
            words = f"the store cannot be read or written ({error.strerror or error}); try again later"
            raise Unavailable(words, self.settings.retry_after) from error

    return answer


class Jobs(LifeCycle):
    """All jobs of a service, as clients may ask for them. `start` before use; every method may be called from any task of one event loop.

    Methods raise the errors of `mcts_ray.service.errors`.
    """

    @_answer
    async def submit(self, request: SearchRequest, key: str | None = None) -> Job:
        """Queue a search. The same `key` again gives the same job, or Conflict if it asks for something else."""
        request = _valid(partial(checked, request, self.models, self.settings))
        while entry := self._entries.get(self._keys.get(key, "")):
            if entry.record.digest != _digest(request):
                raise Conflict(f"idempotency key {key!r} was used for another search; choose a new one")
            async with entry.writing:  # not before it is in the store
                pass
            if self._entries.get(entry.record.id) is entry:
                return entry.job()
        self._check_queue()
        record = Record(id=uuid.uuid4().hex[:16], request=request, key=key, digest=_digest(request), created=now())
        entry = self._entries[record.id] = Entry(record)
        self._queue.append(entry)
        if key:
            self._keys[key] = record.id
        try:
            await self._update(entry)
        except BaseException:
            self._queue.remove(entry)
            del self._entries[record.id]
            self._keys.pop(key, None)
            raise
        log.info("queued", extra={"job": record.id, "algorithm": request.algorithm, "budget": request.budget})
        self._fill()
        return entry.job()

    @_answer
    async def jobs(self, limit: int = 100, after: str | None = None, status: Status | None = None) -> JobList:
        """At most `limit` jobs, newest first, those after the job `after`."""
        found = [entry for entry in reversed(self._entries.values()) if status in (None, entry.record.status)]
        if after is not None:
            last = self._entry(after).record
            found = [entry for entry in found if (entry.record.created, entry.record.id) < (last.created, last.id)]
        page = found[:limit]
        return JobList(searches=[entry.job() for entry in page], next=page[-1].record.id if len(found) > limit else None)

    @_answer
    async def job(self, id: str) -> Job:
        """One job."""
        return self._entry(id).job()

    @_answer
    async def change(self, id: str, since: int = 0, timeout: float = 0.0) -> Change:
        """The state of a job once its version is beyond `since`, or after `timeout` seconds."""
        entry = self._entry(id)
        if entry.version <= since and not entry.record.has_ended:
            try:
                await asyncio.wait_for(entry.news.wait(), timeout)
            except asyncio.TimeoutError:
                pass
        return Change(version=entry.version, job=entry.job(), best=entry.best)

    @_answer
    async def cancel(self, id: str) -> Job:
        """End a job; what it has found is kept. An ended one is left as it is."""
        entry = self._entry(id)
        if not entry.record.has_ended:
            entry.cancel.set()
            entry.change()
            log.info("cancelled", extra={"job": id})
            async with entry.turn:
                if entry in self._queue:
                    await self._drop(entry)
            await self._until_ended(entry, CANCEL_WAIT)
        return entry.job()

    @_answer
    async def extend(self, id: str, nfe: int) -> Job:
        """Let a job spend more: a queued or running one at once, an ended one by going on with it."""
        entry = self._entry(id)
        async with entry.turn:  # of two at once, the second finds what the first has left
            record = entry.record
            request = record.request.model_copy(update={"budget": record.request.budget + nfe})
            _valid(partial(check_budget, request.budget, self.settings))
            if record.status == "done" and not nfe:
                raise Conflict(f"search {id} is done; there is nothing to resume, extend its budget by at least 1 NFE")
            if record.has_ended:
                self._check_queue()
                await self._again(entry, request=request)
                entry.cancel, entry.losses, entry.reached, entry.progress = threading.Event(), 0, 0, None
            elif record.status == "running" or entry.cancel.is_set():
                await self._extend_running(entry, request, nfe)
            else:
                await self._update(entry, request=request)
        entry.change()
        self._fill()
        return entry.job()

    @_answer
    async def file(self, id: str, name: str) -> bytes:
        """A file of the run directory: tree.json, report.html, or images/NN.png. NotFound if there is none (yet)."""
        record = self._entry(id).record
        place = record.found or (record.run if record.has_ended else 0)
        data = await asyncio.to_thread(self.store.read, id, place, name) if place else None
        if data is None:
            state = f"it is {record.status}, and has none" if record.has_ended else f"it is {record.status}; they come at its end"
            raise NotFound(f"search {id} has no {name}: {state}")
        return data

    async def served(self) -> ModelList:
        """The models."""
        found = {name: (*image_size(model), reward_of(name, self.settings)) for name, model in self.models.items()}
        return ModelList(data=[ModelInfo(id=name, height=h, width=w, reward=reward) for name, (h, w, reward) in found.items()])

    @_answer
    async def health(self) -> Health:
        """How much there is to do."""
        return Health(version=__version__, queued=len(self._queue), running=len(self._running))

    async def metrics(self) -> str:
        """In Prometheus' text format."""
        return self.meter.text()

    async def _drop(self, entry: Entry) -> None:
        """End a queued job; it stays in its place if that cannot be written."""
        place = self._queue.index(entry)
        self._queue.remove(entry)
        try:
            await self._end(entry, Ended("cancelled"))
        except BaseException:
            self._queue.insert(place, entry)
            entry.cancel.clear()
            self._fill()
            raise

    async def _extend_running(self, entry: Entry, request: SearchRequest, nfe: int) -> None:
        """First the record, so that no crash loses what the search was given; Conflict, and the record as it was, if it takes nothing."""
        record, taken = entry.record, False
        if record.status == "running" and not entry.cancel.is_set():
            await self._update(entry, request=request)
            try:
                taken = not nfe or await asyncio.to_thread(self.runner.extend, self.store.run_dir(record.id, record.run), nfe)
            finally:
                if not taken:
                    with suppress(OSError):
                        await self._update(entry, request=record.request)
        if not taken:
            raise Conflict(f"search {record.id} cannot take more budget now: it is beginning, about to end, or was planned whole (psp)")

    async def _until_ended(self, entry: Entry, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not entry.record.has_ended and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(entry.news.wait(), left)
            except asyncio.TimeoutError:
                return

    def _check_queue(self) -> None:
        if len(self._queue) >= self.settings.max_queue:
            raise Busy(f"the queue is full ({self.settings.max_queue} searches); try again later", self.settings.retry_after)

    def _entry(self, id: str) -> Entry:
        if id not in self._entries:
            raise NotFound(f"there is no search {id}")
        return self._entries[id]


def _valid(check: Callable):
    try:
        return check()
    except ValueError as error:
        raise Invalid(" ".join(str(error).split())) from error


def _digest(request: SearchRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()
