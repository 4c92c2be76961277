"""A search as server-sent events: `progress`, `best` with a thumbnail whenever there is a better image, and at the end its status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

from mcts_ray.service.errors import ServiceError

BEAT = 15.0  # seconds after which a comment keeps the connection alive


async def events(jobs: Any, id: str) -> AsyncIterator[str]:
    """The stream, from how things stand now to the end of the search; each event carries its version as id."""
    version, best, seen = 0, None, None
    while True:
        try:
            change = await jobs.change(id, version, BEAT)
        except ServiceError as error:
            yield f"event: error\ndata: {error}\n\n"
            return
        if change.version == version and not change.job.has_ended:
            yield ": still there\n\n"
            continue
        version = change.version
        if change.best and change.best != best:
            best = change.best
            yield _event("best", version, best)
        if change.job.has_ended:
            yield _event(change.job.status, version, change.job)
            return
        if change.job.progress and change.job.progress != seen:
            seen = change.job.progress
            yield _event("progress", version, seen)


def _event(name: str, version: int, data: BaseModel) -> str:
    return f"id: {version}\nevent: {name}\ndata: {data.model_dump_json()}\n\n"
