"""Whose a store is: one service at a time, and quickly the next one where that has died."""

import asyncio
import subprocess
import threading
import time
import uuid
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.service import actor, lease
from mcts_ray.service.errors import Unavailable
from mcts_ray.service.jobs import Jobs
from mcts_ray.service.lease import InUse, Lease
from mcts_ray.service.observe import Meter
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore
from tests.service.asking import submit, until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "LOOK", 0.02)


@pytest.fixture(params=["path", "memory"])
def store(request, tmp_path):
    return JobStore({"path": str(tmp_path / "jobs"), "memory": f"memory://{uuid.uuid4().hex}"}[request.param])


def elsewhere(store, owner=None, **more):
    """The lease of a service on another machine."""
    other = Lease(store, owner)
    other.holder = other.holder.model_copy(update={"host": "far", "place": "elsewhere", **more})
    return other


def took(one):
    start = time.monotonic()
    one.take()
    return time.monotonic() - start


def test_a_store_in_use_is_refused_in_one_sentence(store):
    first, second = elsewhere(store), Lease(store)
    first.take()
    threading.Timer(0.1, first.renew).start()
    with pytest.raises(InUse, match=r"the store .* is in use by the service at far \(process \d+\) until [\d:]{8} UTC at least; end that"):
        second.take()
    first.release()
    assert took(second) < 1


def test_the_same_service_after_a_restart_has_it_at_once_and_the_old_process_no_more(store):
    old, new = elsewhere(store, "me"), Lease(store, "me")
    old.take()
    assert took(new) < 1
    with pytest.raises(InUse, match="was taken over by the service at"):
        old.renew()
    with pytest.raises(InUse):
        old.hold()
    old.release()  # what is not its own
    new.renew()


def test_that_of_a_dead_process_is_taken_at_once(store):
    dead = subprocess.Popen(["true"])
    dead.wait()
    first = Lease(store)
    first.holder = first.holder.model_copy(update={"pid": dead.pid})
    first.take()
    second = Lease(store)
    assert took(second) < 1
    second.release()
    reused = Lease(store)
    reused.holder = reused.holder.model_copy(update={"born": "another time"})
    reused.take()
    assert took(Lease(store)) < 1


def test_that_of_a_silent_machine_runs_out(store, monkeypatch):
    monkeypatch.setattr(lease, "LASTS", 0.4)
    first, second = elsewhere(store), Lease(store)
    first.take()
    assert took(second) < 5 and datetime.now(timezone.utc) >= first.holder.until
    time.sleep(0.5)
    second.hold()  # late, but nobody else has come
    second.release()
    with pytest.raises(InUse):
        second.hold()


def test_one_that_is_gone_after_its_time_is_lost(store, monkeypatch):
    """Another service may have come and ended since."""
    monkeypatch.setattr(lease, "LASTS", 0.1)
    one = Lease(store)
    one.take()
    store.remove(lease.NAME)
    time.sleep(0.2)
    with pytest.raises(InUse, match="was taken over from this service"):
        one.hold()


def test_a_second_service_does_not_begin(make, held, monkeypatch):
    monkeypatch.setattr("mcts_ray.service.life.RENEW", 0.05)
    service = make()
    id = submit(service).json()["id"]
    until(service, id, "running")
    with pytest.raises(InUse, match="is in use by the service"):
        asyncio.run(Jobs(Settings(), JobStore(service.store), held, {"scenes": resolve_model("scenes")}).start())
    assert len(held.begun) == 1


def test_a_service_that_has_lost_its_store_stops_and_writes_nothing(make, held, monkeypatch):
    monkeypatch.setattr("mcts_ray.service.life.RENEW", 0.05)
    service = make(max_running=1, retry_after=7)
    running, queued = (submit(service).json()["id"] for _ in range(2))
    until(service, running, "running")
    store = JobStore(service.store)
    records = store.load()
    other = elsewhere(store, service.jobs_object.lease.holder.owner)
    with service.jobs_object.lease._writing:  # not in the midst of a renewal, which would win
        other.take()
    deadline = time.monotonic() + 10
    while service.http.get("/healthz").status_code == 200:
        assert time.monotonic() < deadline
    held.go.set()
    for answer in (submit(service), service.http.get(f"/v1/searches/{running}"), service.http.delete(f"/v1/searches/{queued}")):
        assert answer.status_code == 503 and "was taken over by the service at far" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "7"
    service.close()
    assert store.load() == records and len(held.begun) == 1
    other.renew()
    other.release()
    service.open()


def test_an_actor_that_was_refused_takes_the_store_once_it_is_free(tmp_path, held, monkeypatch):
    monkeypatch.setattr(actor, "RayRunner", lambda settings: held)
    monkeypatch.setattr(actor, "Meter", lambda ray: Meter())
    monkeypatch.setattr(actor.logs, "set_up", lambda: None)
    monkeypatch.setattr(actor.ray, "get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: "me"))
    other = elsewhere(JobStore(tmp_path))
    other.take()

    async def go():
        threading.Timer(0.2, other.renew).start()
        jobs = actor.JobsActor(Settings(store=str(tmp_path)))
        with pytest.raises(InUse, match="is in use by the service at far"):
            await jobs.ready()
        with pytest.raises(Unavailable, match="is in use by the service at far"):
            await jobs.call("health", patience=0.1)
        other.release()
        assert (await jobs.call("health")).running == 0
        await jobs.close()

    asyncio.run(go())
