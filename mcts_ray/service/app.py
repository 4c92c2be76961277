"""The FastAPI application on any `Jobs`, in this process or behind a Ray actor. Stateless: any number of replicas may serve it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from mcts_ray import __version__
from mcts_ray.service.body import BodyLimit
from mcts_ray.service.errors import KINDS, Invalid, ServiceError, Unauthorised, sentence
from mcts_ray.service.events import events
from mcts_ray.service.models import (
    ENDED, ID, Extension, Health, ImageData, ImageRequest, ImageResponse, Job, JobList, ModelList, Problem, SearchRequest, Status,
)  # fmt: skip

WAIT = 5.0  # seconds of one look at a job that is waited for
_abandoning: set[asyncio.Task] = set()  # a loop holds its tasks only weakly
_bearer = HTTPBearer(auto_error=False, description="The token that `mcts-ray up` has put into MCTS_RAY_HOME.")
SearchId = Annotated[str, Path(pattern=ID, description="The id of a search.")]
Key = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, description="The same key again gives the same search.")
]


def make_app(jobs: Any, token: str | None, max_body: int = 64 * 1024) -> FastAPI:
    """The application. jobs: `Jobs`, or what passes its calls on; token: what clients must bear, None: nothing."""
    app = FastAPI(title="mcts-ray", version=__version__, description="Searches for the best images a compute budget can find.")
    guard = [Depends(_guard(token))]
    _searches(app, jobs, guard)
    _parts(app, jobs, guard)
    _images(app, jobs, guard)
    _about(app, jobs, guard)
    app.add_exception_handler(ServiceError, lambda _, error: _problem(error.status, str(error), error.retry_after))
    app.add_exception_handler(RequestValidationError, lambda _, error: _problem(422, sentence(error.errors())))
    app.add_exception_handler(HTTPException, lambda _, error: _problem(*_spoken(error), headers=error.headers))
    app.add_exception_handler(Exception, lambda _, error: _problem(500, f"the service has failed ({type(error).__name__}); see its log"))
    app.add_middleware(BodyLimit, limit=max_body)
    return app


def _searches(app: FastAPI, jobs: Any, guard: list) -> None:
    """Searches as a whole."""

    @app.post("/v1/searches", status_code=202, dependencies=guard, responses=_errors(401, 409, 413, 422, 429, 503))
    async def submit(request: SearchRequest, key: Key = None) -> Job:
        """Queue a search."""
        return await jobs.submit(request, key or f"own-{uuid.uuid4().hex}")  # so that a lost answer may be asked for again

    @app.get("/v1/searches", dependencies=guard, responses=_errors(401, 404, 422, 503))
    async def list_searches(
        limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
        after: Annotated[str | None, Query(pattern=ID, description="The id after which to go on.")] = None,
        status: Annotated[Status | None, Query(description="Only those in this state.")] = None,
    ) -> JobList:
        """Searches, the newest first."""
        return await jobs.jobs(limit, after, status)

    @app.get("/v1/searches/{id}", dependencies=guard, responses=_errors(401, 404, 422, 503))
    async def get_search(id: SearchId) -> Job:
        """One search."""
        return await jobs.job(id)

    @app.delete("/v1/searches/{id}", dependencies=guard, responses=_errors(401, 404, 422, 503))
    async def cancel(id: SearchId) -> Job:
        """End a search; what it has found is kept."""
        return await jobs.cancel(id)

    @app.post("/v1/searches/{id}/budget", dependencies=guard, responses=_errors(401, 404, 409, 413, 422, 429, 503))
    async def extend(id: SearchId, extension: Extension) -> Job:
        """Let a search spend more, or begin one again that has ended."""
        return await jobs.extend(id, extension.nfe)


def _parts(app: FastAPI, jobs: Any, guard: list) -> None:
    """What one search has to show."""
    stream = {
        200: {"description": "Server-sent events: progress, best, then done, failed or cancelled.", "content": {"text/event-stream": {}}}
    }

    @app.get(
        "/v1/searches/{id}/events", dependencies=guard, response_class=StreamingResponse, responses=stream | _errors(401, 404, 422, 503)
    )
    async def follow(id: SearchId) -> StreamingResponse:
        """Follow a search until it has ended."""
        await jobs.job(id)  # a 404 while there may still be one
        return StreamingResponse(
            events(jobs, id), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    @app.get(
        "/v1/searches/{id}/images/{n}",
        dependencies=guard,
        response_class=Response,
        responses=_file("image/png") | _errors(401, 404, 422, 503),
    )
    async def image(id: SearchId, n: Annotated[int, Path(ge=1, le=9999, description="1 is the best.")]) -> Response:
        """An image as PNG, with prompt, seed and scores in its metadata."""
        return Response(await jobs.file(id, f"images/{n:02d}.png"), media_type="image/png")

    @app.get(
        "/v1/searches/{id}/tree",
        dependencies=guard,
        response_class=Response,
        responses=_file("application/json") | _errors(401, 404, 422, 503),
    )
    async def tree(id: SearchId) -> Response:
        """Every node of the search."""
        return Response(await jobs.file(id, "tree.json"), media_type="application/json")

    @app.get(
        "/v1/searches/{id}/report",
        dependencies=guard,
        response_class=HTMLResponse,
        responses=_file("text/html") | _errors(401, 404, 422, 503),
    )
    async def report(id: SearchId) -> HTMLResponse:
        """The report for a reader."""
        return HTMLResponse(await jobs.file(id, "report.html"), headers={"Content-Security-Policy": "sandbox allow-scripts"})


def _images(app: FastAPI, jobs: Any, guard: list) -> None:
    """The images form of OpenAI."""

    @app.post(
        "/v1/images/generations", dependencies=guard, response_model_exclude_none=True, responses=_errors(401, 409, 413, 422, 429, 500, 503)
    )
    async def generate(body: ImageRequest, request: Request) -> ImageResponse:
        """Search, wait, and return the best images; a client that goes away ends its search."""
        try:
            search = body.search()
        except ValidationError as error:
            raise Invalid(sentence(error.errors())) from error
        job = await jobs.submit(search, f"own-{uuid.uuid4().hex}")
        try:
            job = await _ended(jobs, job, request)
        except asyncio.CancelledError:  # so Serve says that the client has gone
            _abandon(jobs, job.id)
            raise
        if job.status != "done":
            raise ServiceError(job.error or f"search {job.id} was {job.status}")
        data = [await _image(jobs, request, job.id, n, body.response_format) for n in range(1, len(job.result["images"]) + 1)]
        return ImageResponse(created=int(time.time()), data=data, search=job.id)


def _about(app: FastAPI, jobs: Any, guard: list) -> None:
    """The service itself."""

    @app.get("/v1/models", dependencies=guard, responses=_errors(401, 503))
    async def models() -> ModelList:
        """The models that are served."""
        return await jobs.served()

    @app.get("/healthz", responses={503: {"model": Problem, "description": KINDS[503].__doc__}})
    async def health() -> Health:
        """Whether the service is up; needs no token."""
        return await jobs.health()

    @app.get("/metrics", dependencies=guard, response_class=PlainTextResponse, responses=_errors(401, 503))
    async def metrics() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(await jobs.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


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


def _guard(token: str | None) -> Callable:
    async def guard(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if token and not (given and hmac.compare_digest(given.credentials.encode(), token.encode())):
            raise Unauthorised("this service wants its token as `Authorization: Bearer TOKEN`; `mcts-ray up` has put it into MCTS_RAY_HOME")

    return guard


def _problem(status: int, words: str, retry_after: int | None = None, headers: Any = None) -> JSONResponse:
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return JSONResponse(Problem(detail=words).model_dump(), status, headers)


def _spoken(error: HTTPException) -> tuple[int, str]:
    """The status and sentence of what the framework refuses by itself; its 400 is a body that cannot be decoded."""
    words = {
        400: (422, "the body is not valid JSON in UTF-8"),
        404: (404, "there is nothing at this address; see /docs"),
        405: (405, "this address does not take that method; see /docs"),
    }
    return words.get(error.status_code, (error.status_code, str(error.detail)))


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside its success."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}  # by name: on some routes success is no JSON
    return {status: {"content": content, "description": KINDS.get(status, ServiceError).__doc__} for status in statuses}


def _file(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "The file.", "content": {kind: {"schema": {"type": "string", "format": "binary"}}}}}
