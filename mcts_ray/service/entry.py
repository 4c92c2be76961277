"""A job in hand: its record, how far it is, and whose turn it is to change it."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from mcts_ray.executor.base import Progress
from mcts_ray.service.models import Best, Job, JobProgress
from mcts_ray.service.store import Record


@dataclass(eq=False)
class Entry:
    """A job in hand. version: grows with every change; news: set at the next one. `record` is what the store has, and is replaced once
    the store has another.

    turn: held while a client changes the job, and while it is begun; writing: while a record is being written.
    """

    record: Record
    version: int = 1
    progress: JobProgress | None = None
    best: Best | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    since: float = field(default_factory=time.monotonic)  # when it was queued
    losses: int = 0  # how often it was lost with its actors and had got nowhere, and the NFE that it has reached
    reached: int = 0
    counted: int = 0  # NFE that the metrics know of, those that its journal began with included

    def job(self) -> Job:
        cancelling = self.cancel.is_set() and not self.record.has_ended
        progress = (None if self.record.has_ended else self.progress) or _final(self.record)
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

    def begin(self, spent: int) -> None:
        """It runs, from a journal that holds `spent` NFE."""
        self.progress = self.best = None
        self.counted = spent
        self.change()

    def tell(self, progress: Progress) -> int:
        """Take in what its search says; returns the NFE that the metrics do not know of."""
        best = progress.best[0]
        seen = JobProgress(
            nfe=progress.nfe, budget=progress.budget, seconds=round(progress.seconds, 3), best=best, images=progress.images,
            failed=progress.failed, paused=progress.paused,
        )  # fmt: skip
        if seen == self.progress or self.record.status != "running":
            return 0
        if best is not None and (self.best is None or self.best.reward != best) and progress.thumbnails:
            small = base64.b64encode(progress.thumbnails[0]).decode()
            self.best = Best(reward=best, thumbnail=f"data:image/jpeg;base64,{small}")
        self.progress = seen
        self.change()
        before, self.counted = self.counted, max(self.counted, seen.nfe)
        return self.counted - before


def replaces(result: dict[str, Any] | None, status: str, earlier: dict[str, Any] | None) -> bool:
    """Whether what an attempt that ended as `status` has found goes before what an earlier one had: where it was carried out whole, or
    is no worse."""
    if result is None or earlier is None or status == "done":
        return result is not None
    best, before = result["reward"]["best"], earlier["reward"]["best"]
    if before is None:  # neither has an image, perhaps: then that which knows what has been spent
        return best is not None or result["ledger"]["nfe"] >= earlier["ledger"]["nfe"]
    return best is not None and best >= before


def _final(record: Record) -> JobProgress | None:
    """Where a search stood at its end."""
    if record.result is None:
        return None
    ledger, budget = record.result["ledger"], record.request.budget
    seconds, best = round(ledger["seconds"], 3), record.result["reward"]["best"]
    return JobProgress(nfe=ledger["nfe"], budget=budget, seconds=seconds, best=best, images=ledger["decodes"])
