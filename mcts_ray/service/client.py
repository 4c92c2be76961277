"""`Client` and `AsyncClient`: the HTTP API of a service as Python methods.

    with Client() as client:                       # URL and token as `mcts-ray up` has left them, or MCTS_RAY_URL and MCTS_RAY_TOKEN
        job = client.submit("a red circle left of a blue square", SearchConfig(algorithm="mcts", budget=512))
        job = client.wait(job.id)
        image = client.image(job.id, 1)

Methods raise the errors of `mcts_ray.service.errors` for what the service refuses, and ConnectionError where none answers.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import httpx2 as httpx
from PIL import Image
from pydantic import BaseModel, ValidationError

from mcts_ray.config import SearchConfig
from mcts_ray.service.errors import KINDS, Invalid, NotFound, ServiceError, Unavailable, sentence
from mcts_ray.service.home import find_service
from mcts_ray.service.models import ENDED, ID, Best, Extension, Health, Job, JobList, JobProgress, ModelList, SearchRequest, Status

T = TypeVar("T")
TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # seconds; streams send something every 15
PATIENCE = 90.0  # seconds that `wait` gives a service to be back
_EVENTS: dict[str, type[BaseModel]] = {"progress": JobProgress, "best": Best, **dict.fromkeys(ENDED, Job)}


class Event(NamedTuple):
    """An event of a search: progress (JobProgress), best (Best), or done, failed, cancelled (Job)."""

    name: str
    data: Any


@dataclass(frozen=True)
class _Call:
    """A request and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], Any]
    json: Any = None
    params: dict[str, Any] | None = None
    headers: dict[str, str] | None = None

    def request(self) -> dict[str, Any]:
        return {"json": self.json, "params": self.params, "headers": self.headers}


class _Api:
    """Every call of the API, once for both clients; `_call` sends it, and returns what its answer says or a coroutine that does."""

    def submit(
        self, prompt: str, config: SearchConfig | dict[str, Any] | None = None, model: str | None = None, key: str | None = None
    ) -> Job:
        """Queue a search; the same idempotency `key` again gives the same one. config: also the fields alone, as JSON has them."""
        return self._call(_submission(prompt, config, model, key))

    def job(self, id: str) -> Job:
        """One search."""
        return self._call(_Call("GET", f"{_search(id)}", _model(Job)))

    def cancel(self, id: str) -> Job:
        """End a search; what it has found is kept."""
        return self._call(_Call("DELETE", f"{_search(id)}", _model(Job)))

    def extend(self, id: str, nfe: int) -> Job:
        """Let a search spend `nfe` more; one that has ended is begun again."""
        return self._call(_Call("POST", f"{_search(id)}/budget", _model(Job), _made(Extension, nfe=nfe).model_dump()))

    def resume(self, id: str) -> Job:
        """Begin a search again that was cancelled or has failed."""
        return self.extend(id, 0)

    def image(self, id: str, n: int = 1) -> Image.Image:
        """An image of a search that has ended; 1 is the best."""
        return self._call(_Call("GET", f"{_search(id)}/images/{n}", lambda answer: Image.open(io.BytesIO(answer.content))))

    def png(self, id: str, n: int = 1) -> bytes:
        """The same as the file it is, with its metadata."""
        return self._call(_Call("GET", f"{_search(id)}/images/{n}", lambda answer: answer.content))

    def tree(self, id: str) -> dict[str, Any]:
        """Every node of a search that has ended."""
        return self._call(_Call("GET", f"{_search(id)}/tree", lambda answer: answer.json()))

    def report(self, id: str) -> str:
        """The HTML report of a search that has ended."""
        return self._call(_Call("GET", f"{_search(id)}/report", lambda answer: answer.text))

    def models(self) -> ModelList:
        """The models that are served."""
        return self._call(_Call("GET", "/v1/models", _model(ModelList)))

    def health(self) -> Health:
        """Whether the service is up, and how much it has to do."""
        return self._call(_Call("GET", "/healthz", _model(Health)))

    def metrics(self) -> str:
        """In Prometheus' text format."""
        return self._call(_Call("GET", "/metrics", lambda answer: answer.text))


class Client(_Api):
    """A service, spoken to one call at a time. url, token: None: those of `find_service`. http: an httpx2 client to use instead."""

    def __init__(self, url: str | None = None, token: str | None = None, *, http: httpx.Client | None = None) -> None:
        self._http = http or httpx.Client(**_where(url, token), timeout=TIMEOUT)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def jobs(self, status: Status | None = None, limit: int | None = None) -> Iterator[Job]:
        """Searches, the newest first; at most `limit`."""
        after, left = None, float("inf") if limit is None else limit
        while left > 0:
            page: JobList = self._call(_page(left, after, status))
            yield from page.searches
            after, left = page.next, left - len(page.searches)
            if after is None:
                return

    def events(self, id: str) -> Iterator[Event]:
        """What happens to a search until it has ended; breaks off with an error if the service does."""
        yield from filter(None, self._signs(id))

    def wait(self, id: str, on_event: Callable[[Event], None] | None = None) -> Job:
        """Until a search has ended; outlives restarts of the service."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                for event in self._signs(id):
                    deadline = time.monotonic() + PATIENCE
                    if event and on_event:
                        on_event(event)
                    if event and isinstance(event.data, Job):
                        return event.data
            except (ConnectionError, Unavailable):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def _signs(self, id: str) -> Iterator[Event | None]:
        """Signs of life of a search: its events, and None for those without one."""
        with _connecting(), self._http.stream("GET", f"{_search(id)}/events") as answer:
            if answer.is_error:
                answer.read()
                _refuse(answer)
            yield from _parse(answer.iter_lines())

    def _call(self, call: _Call) -> Any:
        with _connecting():
            answer = self._http.request(call.method, call.path, **call.request())
        return call.read(_refuse(answer))


class AsyncClient(_Api):
    """The same, many calls at a time: what `Client` returns is awaited here, and `jobs` and `events` are read with `async for`."""

    def __init__(self, url: str | None = None, token: str | None = None, *, http: httpx.AsyncClient | None = None) -> None:
        self._http = http or httpx.AsyncClient(**_where(url, token), timeout=TIMEOUT, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client`."""
        await self._http.aclose()

    async def jobs(self, status: Status | None = None, limit: int | None = None) -> AsyncIterator[Job]:
        """See `Client`."""
        after, left = None, float("inf") if limit is None else limit
        while left > 0:
            page: JobList = await self._call(_page(left, after, status))
            for job in page.searches:
                yield job
            after, left = page.next, left - len(page.searches)
            if after is None:
                return

    async def events(self, id: str) -> AsyncIterator[Event]:
        """See `Client`."""
        async for event in self._signs(id):
            if event:
                yield event

    async def wait(self, id: str, on_event: Callable[[Event], None] | None = None) -> Job:
        """See `Client`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                async for event in self._signs(id):
                    deadline = time.monotonic() + PATIENCE
                    if event and on_event:
                        on_event(event)
                    if event and isinstance(event.data, Job):
                        return event.data
            except (ConnectionError, Unavailable):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    async def _signs(self, id: str) -> AsyncIterator[Event | None]:
        with _connecting():
            async with self._http.stream("GET", f"{_search(id)}/events") as answer:
                if answer.is_error:
                    await answer.aread()
                    _refuse(answer)
                lines: list[str] = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if not line:
                        for event in _parse(iter(lines)):
                            yield event
                        lines = []

    async def _call(self, call: _Call) -> Any:
        with _connecting():
            answer = await self._http.request(call.method, call.path, **call.request())
        return call.read(_refuse(answer))

    if TYPE_CHECKING:

        async def submit(
            self, prompt: str, config: SearchConfig | dict[str, Any] | None = None, model: str | None = None, key: str | None = None
        ) -> Job: ...
        async def job(self, id: str) -> Job: ...
        async def cancel(self, id: str) -> Job: ...
        async def extend(self, id: str, nfe: int) -> Job: ...
        async def resume(self, id: str) -> Job: ...
        async def image(self, id: str, n: int = 1) -> Image.Image: ...
        async def png(self, id: str, n: int = 1) -> bytes: ...
        async def tree(self, id: str) -> dict[str, Any]: ...
        async def report(self, id: str) -> str: ...
        async def models(self) -> ModelList: ...
        async def health(self) -> Health: ...
        async def metrics(self) -> str: ...


class _connecting:
    """What the network raises becomes a ConnectionError of one sentence."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, _) -> None:
        if isinstance(error, httpx.TransportError):
            try:
                where = f"at {error.request.url.copy_with(path='/', query=None)}"
            except RuntimeError:
                where = "there"
            raise ConnectionError(f"no service answers {where} ({str(error) or type(error).__name__})") from error


def _submission(prompt: str, config: SearchConfig | dict[str, Any] | None, model: str | None, key: str | None) -> _Call:
    values = config.model_dump(exclude_unset=True, mode="json") if isinstance(config, SearchConfig) else dict(config or {})
    request = _made(SearchRequest, prompt=prompt, model=model, **values)
    body = request.model_dump(exclude_unset=True, exclude_none=True, mode="json")
    return _Call("POST", "/v1/searches", _model(Job), body, headers={"Idempotency-Key": key or uuid.uuid4().hex})


def _made(kind: type[T], **fields: Any) -> T:
    """A body of a request; Invalid with a sentence if it cannot be."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise Invalid(sentence(error.errors())) from error


def _search(id: str) -> str:
    """The path of a search. NotFound for what is no id."""
    if not re.fullmatch(ID, id):
        raise NotFound(f"there is no search {id!r}")
    return f"/v1/searches/{id}"


def _page(left: float, after: str | None, status: str | None) -> _Call:
    params = {"limit": int(min(left, 1000)), "after": after, "status": status}
    return _Call("GET", "/v1/searches", _model(JobList), params={name: value for name, value in params.items() if value is not None})


def _where(url: str | None, token: str | None) -> dict[str, Any]:
    if url is None:
        url, known = find_service()
        token = token or known
    return {"base_url": url, "headers": {"Authorization": f"Bearer {token}"} if token else {}}


def _model(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda answer: kind.model_validate_json(answer.content)


def _refuse(answer: httpx.Response) -> httpx.Response:
    """The answer, or the error that it is."""
    if answer.is_error:
        try:
            words = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            words = f"the service answered {answer.status_code}"
        after = answer.headers.get("retry-after", "")
        raise KINDS.get(answer.status_code, ServiceError)(words, int(after) if after.isdecimal() else None)
    return answer


def _parse(lines: Iterator[str]) -> Iterator[Event | None]:
    """The events in the lines of a stream; None for a comment, which says that the service is still there."""
    name, data = "", ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and name:
            if name == "error":
                raise Unavailable(data)
            yield Event(name, _EVENTS[name].model_validate(json.loads(data)))
            name = data = ""
        elif not line:
            yield None
