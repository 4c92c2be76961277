"""OpenAI's POST /v1/images/generations: one request that searches, waits, and brings the best images."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request
from pydantic import ValidationError

from mcts_ray.service.answers import IMAGES
from mcts_ray.service.errors import KINDS, Invalid, ServiceError, sentence
from mcts_ray.service.models import ENDED, ImageData, ImageProblem, ImageRequest, ImageResponse, Job

WAIT = 5.0  # seconds of one look at a job that is waited for
_abandoning: set[asyncio.Task] = set()  # a loop holds its tasks only weakly


class NoImages(ServiceError):
    """A search that has ended before it was done: 409 if it was cancelled, 422 if it has failed, since that would happen again."""

    def __init__(self, job: Job) -> None:
        super().__init__(_ending(job))
        self.status = 409 if job.status == "cancelled" else 422
        self.code = f"search_{job.status}"


def add_images(app: FastAPI, jobs: Any, guard: list) -> None:
    """Put the route into the application."""
    statuses = (401, 404, 409, 413, 422, 429, 503)
    errors: dict[int | str, dict[str, Any]] = {s: {"model": ImageProblem, "description": KINDS[s].__doc__} for s in statuses}

    @app.post(IMAGES, dependencies=guard, response_model_exclude_none=True, responses=errors)
    async def generate(body: ImageRequest, request: Request) -> ImageResponse:
        """Search, wait, and return the best images; a client that goes away ends its search."""
        try:
            search = body.search()
        except ValidationError as error:
            raise Invalid(sentence(error.errors())) from error
        except ValueError as error:
            raise Invalid(str(error)) from error
        job = await jobs.submit(search, f"own-{uuid.uuid4().hex}")
        try:
            job = await _ended(jobs, job, request)
        except asyncio.CancelledError:  # so Serve says that the client has gone
            _abandon(jobs, job.id)
            raise
        if job.status != "done":
            raise NoImages(job)
        form = body.response_format or "b64_json"
        data = [await _image(jobs, request, job.id, n, form) for n in range(1, len(job.result["images"]) + 1)]
        return ImageResponse(created=int(time.time()), data=data, search=job.id)


async def _ended(jobs: Any, job: Job, request: Request) -> Job:
    """The job once it has ended; one whose client goes away is cancelled."""
    version = 0
    while job.status not in ENDED:
        change = await jobs.change(job.id, version, WAIT)
        version, job = change.version, change.job
        if job.status not in ENDED and await request.is_disconnected():
            await jobs.cancel(job.id)
    return job


def _abandon(jobs: Any, id: str) -> None:
    """Cancel a job from a task that is itself being cancelled."""
    task = asyncio.get_running_loop().create_task(jobs.cancel(id))
    _abandoning.add(task)
    task.add_done_callback(_abandoning.discard)


async def _image(jobs: Any, request: Request, id: str, n: int, form: str) -> ImageData:
    if form == "url":
        return ImageData(url=str(request.base_url).rstrip("/") + f"/v1/searches/{id}/images/{n}")
    return ImageData(b64_json=base64.b64encode(await jobs.file(id, f"images/{n:02d}.png")).decode())


def _ending(job: Job) -> str:
    if job.status == "cancelled":
        return f"search {job.id} was cancelled before it was done; what it has found is kept at /v1/searches/{job.id}"
    return f"search {job.id} has failed ({job.error or 'without a reason'})"
