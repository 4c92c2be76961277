"""The FastAPI application on any `Jobs`, in this process or behind a Ray actor. Stateless: any number of replicas may serve it."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from mcts_ray import __version__
from mcts_ray.service.answers import refusal
from mcts_ray.service.body import BodyLimit
from mcts_ray.service.document import narrow
from mcts_ray.service.errors import KINDS, ServiceError, field, sentence
from mcts_ray.service.events import events
from mcts_ray.service.guard import Guard
from mcts_ray.service.images import add_images
from mcts_ray.service.models import ID, Extension, Health, Job, JobList, ModelList, Problem, SearchRequest, Status
from mcts_ray.service.settings import Settings

HEALTH = "/healthz"
NODE = {"type": "object", "required": ["id", "parent", "level", "visits"]}
TREE = {"type": "object", "required": ["nodes"], "properties": {"nodes": {"type": "array", "items": NODE}}}
_bearer = HTTPBearer(auto_error=False, description="The token that `mcts-ray up` has put into MCTS_RAY_HOME.")
SearchId = Annotated[str, Path(pattern=ID, description="The id of a search.")]
Key = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, description="The same key again gives the same search.")
]


def make_app(jobs: Any, token: str | None, settings: Settings = Settings()) -> FastAPI:
    """The application. jobs: `Jobs`, or what passes its calls on; token: what clients must bear, None: nothing."""
    app = FastAPI(title="mcts-ray", version=__version__, description="Searches for the best images a compute budget can find.")
    guard = [Depends(_bearer)]  # for the document; `Guard` is before it
    _searches(app, jobs, guard)
    _parts(app, jobs, guard)
    add_images(app, jobs, guard)
    _about(app, jobs, guard)
    app.add_exception_handler(ServiceError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _spoken)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(BodyLimit, limit=settings.max_body)
    if token:
        app.add_middleware(Guard, token=token, open_to_all={HEALTH, app.openapi_url, app.docs_url, app.redoc_url})
    narrow(app, settings)
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
    words = "Server-sent events: progress, best, then done, failed or cancelled."
    stream = {200: {"description": words, "content": {"text/event-stream": {}}}}  # no schema of 3.1 speaks of single events

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
        responses=_file("application/json", TREE) | _errors(401, 404, 422, 503),
    )
    async def tree(id: SearchId) -> Response:
        """Every node of the search."""
        return Response(await jobs.file(id, "tree.json"), media_type="application/json")

    @app.get(
        "/v1/searches/{id}/report",
        dependencies=guard,
        response_class=HTMLResponse,
        responses=_file("text/html", {"type": "string"}) | _errors(401, 404, 422, 503),
    )
    async def report(id: SearchId) -> HTMLResponse:
        """The report for a reader."""
        return HTMLResponse(await jobs.file(id, "report.html"), headers={"Content-Security-Policy": "sandbox allow-scripts"})


def _about(app: FastAPI, jobs: Any, guard: list) -> None:
    """The service itself."""

    @app.get("/v1/models", dependencies=guard, responses=_errors(401, 503))
    async def models() -> ModelList:
        """The models that are served."""
        return await jobs.served()

    @app.get(HEALTH, responses={503: {"model": Problem, "description": KINDS[503].__doc__}})
    async def health() -> Health:
        """Whether the service is up; needs no token."""
        return await jobs.health()

    @app.get("/metrics", dependencies=guard, response_class=PlainTextResponse, responses=_errors(401, 503))
    async def metrics() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(await jobs.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _refused(request: Request, error: ServiceError) -> Response:
    code = getattr(error, "code", None)
    return refusal(request.scope["path"], error.status, str(error), code=code, retry_after=error.retry_after)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    errors = error.errors()
    return refusal(request.scope["path"], 422, sentence(errors), param=field(errors[0]) or None)


async def _spoken(request: Request, error: HTTPException) -> Response:
    """What the framework refuses by itself; its 400 is a body that cannot be decoded."""
    words = {
        400: (422, "the body is not valid JSON in UTF-8"),
        404: (404, "there is nothing at this address; see /docs"),
        405: (405, "this address does not take that method; see /docs"),
    }
    status, sentence = words.get(error.status_code, (error.status_code, str(error.detail)))
    return refusal(request.scope["path"], status, sentence, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return refusal(request.scope["path"], 500, f"the service has failed ({type(error).__name__}); see its log")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer beside its success."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}  # by name: on some routes success is no JSON
    return {status: {"content": content, "description": KINDS.get(status, ServiceError).__doc__} for status in statuses}


def _file(kind: str, schema: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """A file as the answer. schema: None: of bytes."""
    return {200: {"description": "The file.", "content": {kind: {"schema": schema or {"type": "string", "format": "binary"}}}}}
