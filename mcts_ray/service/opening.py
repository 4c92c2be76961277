"""Something that takes a while to be there, and that is tried again until it is: a store may be away for a moment, or a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mcts_ray.service.errors import Unavailable

T = TypeVar("T")
log = logging.getLogger(__name__)
PAUSE, LONGEST = 1.0, 60.0  # seconds after the first failure; it doubles up to the longest


class Opening(Generic[T]):
    """What `open` returns, once it succeeds. To be made in a running event loop. told: errors whose sentence is for callers, too."""

    def __init__(self, open: Callable[[], Awaitable[T]], pause: float = PAUSE, told: type[Exception] | tuple = ()) -> None:
        self._open, self._pause, self._told = open, pause, told
        self._tried, self._trouble = asyncio.Event(), None
        self._task: asyncio.Task[T] = asyncio.get_running_loop().create_task(self._until_open())

    async def tried(self) -> None:
        """Until it is there, or has failed for the first time; raises why it is not there."""
        await self._tried.wait()
        if self._trouble:
            raise self._trouble

    async def get(self, patience: float) -> T:
        """It, or Unavailable after `patience` seconds."""
        done, _ = await asyncio.wait({self._task}, timeout=max(patience, 0.0))
        if not done or self._task.cancelled():
            raise Unavailable(str(self._trouble) if isinstance(self._trouble, self._told) else "the service is starting; try again", 5)
        return self._task.result()

    def now(self) -> T | None:
        """It, or None if it is not there."""
        return self._task.result() if self._task.done() and not self._task.cancelled() else None

    async def close(self) -> None:
        """Try no more. What is open stays open."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _until_open(self) -> T:
        pause = self._pause
        while True:
            try:
                found, self._trouble = await self._open(), None
                return found
            except Exception as error:
                self._trouble = error
                log.warning("the service cannot start and will try again", extra={"reason": str(error), "seconds": pause}, exc_info=True)
            finally:
                self._tried.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST)
