"""`Client` and `AsyncClient`: the same calls, and what they make of refusals and of a service that is away."""

import asyncio
import inspect

import httpx2
import pytest

import mcts_ray
from mcts_ray import AsyncClient, Client, SearchConfig
from mcts_ray.service.errors import Busy, Conflict, Invalid, NotFound, Unauthorised

PROMPT = "a red circle left of a blue square"


def test_both_clients_have_the_same_methods():
    def methods(kind):
        public = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
        return {name: list(inspect.signature(value).parameters) for name, value in public.items()}

    assert methods(Client) == methods(AsyncClient)
    assert {"Client", "AsyncClient"} <= set(mcts_ray.__all__) and mcts_ray.Client is Client


def test_the_configuration_arrives_as_it_was_given(service):
    config = SearchConfig(algorithm="mcts", budget=90, jumps=(1, 2), prune=("stages",), seed=3)
    job = service.client.submit(PROMPT, config, key="k")
    request = service.jobs_object._entries[job.id].record.request
    assert request.config().model_dump() == {**config.model_dump(), "reward": "scenes"}
    assert service.client.submit(PROMPT, config, key="k").id == job.id
    assert service.client.submit(PROMPT, config.model_dump(exclude_unset=True), key="k").id == job.id


def test_refusals_are_raised_as_what_they_are(make):
    service = make(max_running=1, max_queue=1, retry_after=3)
    with pytest.raises(NotFound, match="there is no search abc"):
        service.client.job("abc")
    for id in ("", "../../etc", "a b"):
        with pytest.raises(NotFound, match="there is no search"):
            service.client.job(id)
    with pytest.raises(Invalid, match="nfe: input should be greater than or equal to 0"):
        service.client.extend("abc", -4)
    with pytest.raises(Invalid, match="there is no field 'budgets'"):
        service.client.submit(PROMPT, {"budgets": 60})
    with pytest.raises(Invalid, match="outside the scenes grammar"):
        service.client.submit("a cat")
    with pytest.raises(Invalid, match="prompt"):
        service.client.submit("")
    service.client.submit(PROMPT, key="k")
    with pytest.raises(Conflict, match="another search"):
        service.client.submit(PROMPT, SearchConfig(seed=1), key="k")
    with pytest.raises(Busy, match="queue is full") as busy:
        for _ in range(3):
            service.client.submit(PROMPT)
    assert busy.value.retry_after == 3
    service.http.headers["Authorization"] = "Bearer wrong"
    with pytest.raises(Unauthorised):
        service.client.models()


def test_the_async_client_does_the_same(live, held):
    async def use():
        async with AsyncClient() as client:
            jobs = await asyncio.gather(*(client.submit(PROMPT, SearchConfig(seed=seed)) for seed in range(5)))
            seen = []

            def on_event(event):
                seen.append(event)
                if event.name == "progress":
                    held.go.set()  # they cannot end before this

            ended = await asyncio.gather(*(client.wait(job.id, on_event) for job in jobs))
            listed = [job.id async for job in client.jobs("done", limit=4)]
            again = await client.extend(jobs[0].id, 30)
            await client.wait(again.id)
            parts = await client.png(again.id), await client.tree(again.id), await client.report(again.id), await client.metrics()
            with pytest.raises(NotFound):
                [event async for event in client.events("abc")]
            return ended, seen, listed, parts, await client.health(), await client.models(), await client.cancel(again.id)

    ended, seen, listed, parts, health, models, cancelled = asyncio.run(use())
    assert {job.status for job in ended} == {"done"} and len(listed) == 4 and cancelled.status == "done" and cancelled.attempt == 2
    assert {"progress", "best", "done"} == {event.name for event in seen}
    assert parts[:3] == (b"\x89PNG", {"nodes": []}, "<html>") and "mcts_ray_nfe_total" in parts[3]
    assert health.running == 0 and models.data[0].id == "scenes"


def test_events_come_while_the_search_runs(live, held):
    with Client() as client:
        job = client.submit(PROMPT)
        for event in client.events(job.id):
            if event.name == "progress":
                assert not held.go.is_set() or event.data.nfe > 0
                held.go.set()  # it cannot end before this
        assert event.name == "done" and event.data.id == job.id


def test_waiting_outlives_a_service_that_goes_away():
    """Two connections break, in the first event and before any; the third tells the end."""
    done = '{"id": "a", "status": "done", "prompt": "p", "model": "m", "algorithm": "x", "budget": 1, "created": "2026-01-01T00:00:00Z"}'
    calls = []

    def handler(request):
        calls.append(request.url.path)
        if len(calls) == 1:
            raise httpx2.ReadError("gone", request=request)
        if len(calls) == 2:
            return httpx2.Response(503, json={"detail": "the service is being restarted"})
        return httpx2.Response(200, text=f": hello\n\nid: 1\nevent: done\ndata: {done}\n\n")

    client = Client(http=httpx2.Client(base_url="http://service", transport=httpx2.MockTransport(handler)))
    assert client.wait("a").status == "done" and calls == ["/v1/searches/a/events"] * 3


def test_a_search_that_is_quiet_for_long_is_waited_for(monkeypatch):
    """Every connection breaks after a comment, which says that the service is there all the same."""
    monkeypatch.setattr("mcts_ray.service.client.PATIENCE", 0.6)
    done = '{"id": "a", "status": "done", "prompt": "p", "model": "m", "algorithm": "x", "budget": 1, "created": "2026-01-01T00:00:00Z"}'
    calls = []

    def stream(request):
        calls.append(request)
        if len(calls) == 4:
            yield f"id: 1\nevent: done\ndata: {done}\n\n".encode()
        else:
            yield b": still there\n\n"
            raise httpx2.ReadTimeout("quiet", request=request)

    handler = httpx2.MockTransport(lambda request: httpx2.Response(200, content=stream(request)))
    assert Client(http=httpx2.Client(base_url="http://service", transport=handler)).wait("a").status == "done" and len(calls) == 4


def test_nobody_there():
    with Client("http://127.0.0.1:1", "token") as client, pytest.raises(ConnectionError, match="no service answers at http://127.0.0.1:1"):
        client.health()
