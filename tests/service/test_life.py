"""The life cycle of jobs where it is not straight: more budget, stores that cannot be written, and what was found before."""

import asyncio
import threading
import time

import pytest

from mcts_ray.service.entry import replaces
from mcts_ray.service.errors import Conflict, Invalid
from mcts_ray.service.runner import Lost
from tests.service.asking import ended, submit, until
from tests.service.cloud import CloudError


def together(service, *calls):
    """Calls of `Jobs` at the same time; what they return or raise."""

    async def go():
        return await asyncio.gather(*(getattr(service.jobs_object, name)(*args) for name, *args in calls), return_exceptions=True)

    return service.http.portal.call(go)


def on_disk(service, id):
    return next(record for record in service.jobs_object.store.load() if record.id == id)


def test_cancelling_what_waits_to_go_on_keeps_what_it_had_found(make, held):
    service = make(max_running=1)
    held.go.set()
    done = ended(service, submit(service, budget=60).json()["id"])
    held.go.clear()
    until(service, submit(service).json()["id"], "running")
    again = service.client.extend(done.id, 30)
    assert (again.status, again.result, again.progress.nfe) == ("queued", done.result, 60) and service.client.png(done.id) == b"\x89PNG"
    job = service.client.cancel(done.id)
    assert (job.status, job.budget, job.result) == ("cancelled", 90, done.result) and service.client.png(job.id) == b"\x89PNG"
    service.restart()
    assert service.client.job(done.id).result == done.result


@pytest.mark.parametrize("how", ["raises", "lost", "worse"])
def test_an_attempt_that_finds_nothing_better_leaves_what_was_found(service, held, how):
    held.go.set()
    done = ended(service, submit(service, budget=60).json()["id"])
    held.go.clear()
    if how == "raises":
        held.raises = [RuntimeError("out of memory")]
    held.loses, held.best = how == "lost", 0.4
    service.client.extend(done.id, 30)
    if how == "raises":
        job = ended(service, done.id)
        assert (job.status, job.error) == ("failed", "RuntimeError: out of memory")
    else:
        until(service, done.id, "running")
        assert service.client.job(done.id).result == done.result and service.client.tree(done.id) == {"nodes": []}
        job = service.client.cancel(done.id)
        assert job.status == "cancelled"
    assert [out.name for out in held.outs] == ["1", "2"] and job.result == done.result
    assert service.client.png(job.id) == b"\x89PNG" and job.result["run_dir"].endswith("/1")
    held.go.set()
    service.client.extend(done.id, 0)
    job = ended(service, done.id)
    assert job.status == "done" and job.result["run_dir"].endswith("/3") and job.result["reward"]["best"] == 0.4


def found(best, nfe=60):
    return {"reward": {"best": best}, "ledger": {"nfe": nfe}}


@pytest.mark.parametrize(
    ("new", "status", "earlier", "replaced"),
    [
        (None, "cancelled", found(0.1), False), (None, "failed", None, False), (found(0.1), "cancelled", None, True),
        (found(None), "failed", found(0.1), False), (found(0.1), "cancelled", found(0.2), False),
        (found(0.2), "cancelled", found(0.2), True), (found(0.1), "done", found(0.2), True), (found(0.1), "failed", found(None), True),
        (found(None, 0), "cancelled", found(None), False), (found(None), "cancelled", found(None, 30), True),
    ],
)  # fmt: skip
def test_what_goes_before_what(new, status, earlier, replaced):
    assert replaces(new, status, earlier) is replaced


def test_a_store_that_cannot_be_written_is_no_fault_of_the_service(make, held, monkeypatch):
    service = make(max_running=1, retry_after=7)
    held.go.set()
    done = submit(service, budget=60).json()["id"]
    ended(service, done)
    held.go.clear()
    running, queued = (submit(service, budget=60).json()["id"] for _ in range(2))
    until(service, running, "running")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("save", "read"):
            patch.setattr(service.jobs_object.store, name, full)
        answers = [service.http.post(f"/v1/searches/{id}/budget", json={"nfe": 30}) for id in (done, running, queued)]
        answers += [service.http.delete(f"/v1/searches/{queued}"), service.http.get(f"/v1/searches/{done}/tree"), submit(service, key="k")]
    for answer in answers:
        assert answer.status_code == 503 and answer.headers["retry-after"] == "7"
        assert answer.json()["detail"] == "the store cannot be read or written (No space left on device); try again later"
    assert [service.client.job(id).status for id in (done, running, queued)] == ["done", "running", "queued"]
    assert [service.client.job(id).budget for id in (done, running, queued)] == [60, 60, 60] and not held.extended
    assert not service.client.job(queued).cancelling and submit(service, key="k").status_code == 202
    assert service.client.cancel(queued).status == "cancelled"


def test_a_store_whose_errors_are_no_oserrors_is_waited_for(make, held, cloud, monkeypatch):
    """As those of botocore where nothing answers: of requests, of searches that end, and of the lease."""
    for name in ("RENEW", "REPORT"):
        monkeypatch.setattr(f"mcts_ray.service.life.{name}", 0.02)
    service = make(store=cloud.url, retry_after=7)
    id = submit(service, budget=60).json()["id"]
    until(service, id, "running")
    cloud.trouble(CloudError("Could not connect to the endpoint URL"))
    answer = submit(service)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "7"
    assert answer.json()["detail"] == "the store cannot be read or written (Could not connect to the endpoint URL); try again later"
    held.go.set()
    time.sleep(0.2)  # several renewals, and attempts to write down what has come of it
    assert service.client.job(id).status == "running"
    lease, deadline = service.jobs_object.lease, time.monotonic() + 10
    before = lease.holder.until
    cloud.trouble(None)
    job = ended(service, id)
    assert (job.status, job.attempt) == ("done", 1) and on_disk(service, id).status == "done"
    while lease.holder.until <= before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_extensions_at_once_are_all_had_and_stay_within_the_limit(make, held):
    service = make(max_budget=100)
    id = submit(service, budget=60).json()["id"]
    until(service, id, "running")
    answers = together(service, *[("extend", id, 15)] * 4)
    assert sorted(type(answer) is Invalid for answer in answers) == [False, False, True, True]
    assert service.client.job(id).budget == on_disk(service, id).request.budget == 90 and [nfe for _, nfe in held.extended] == [15, 15]


def test_extensions_at_once_begin_an_ended_search_once(service, held):
    held.go.set()
    id = submit(service, budget=60).json()["id"]
    ended(service, id)
    together(service, *[("extend", id, 15)] * 3)
    job = ended(service, id)
    assert (job.budget, job.attempt, held.begun[-1][1]) == (105, 2, 105)


@pytest.mark.parametrize("when", ["running", "done"])
def test_an_extension_while_a_change_is_written_is_not_lost(make, held, monkeypatch, when):
    service = make(max_running=1)
    store, saving = service.jobs_object.store, threading.Event()
    held.takes_more = when == "running"  # one that is over does not
    if when == "done":
        held.go.set()

    def slowly(record):
        if record.status == when:
            saving.set()
            time.sleep(0.2)
        type(store).save(store, record)

    monkeypatch.setattr(store, "save", slowly)
    id = submit(service, budget=60).json()["id"]
    assert saving.wait(5)
    (answer,) = together(service, ("extend", id, 30))
    if when == "done":
        assert isinstance(answer, Conflict)
        assert ended(service, id).budget == 60 and service.client.extend(id, 30).budget == 90
    held.go.set()
    job = ended(service, id)
    assert held.begun[-1][1] + sum(nfe for _, nfe in held.extended if held.takes_more) == job.budget == 90
    assert service.client.health().running == 0


@pytest.mark.parametrize("takes", [True, False])
def test_an_extension_while_a_search_ends_is_had_once_or_refused(service, held, monkeypatch, takes):
    id = submit(service, budget=60).json()["id"]
    until(service, id, "running")

    def extend(out, nfe):
        held.go.set()
        time.sleep(0.3)  # it ends meanwhile
        return takes

    monkeypatch.setattr(held, "extend", extend)
    (answer,) = together(service, ("extend", id, 30))
    assert takes != isinstance(answer, Conflict)
    job = ended(service, id)
    assert (job.status, job.attempt, job.budget) == ("done", 1, 90 if takes else 60) and on_disk(service, id).request.budget == job.budget


def test_the_metrics_count_what_a_journal_holds_once(service, held):
    """30 NFE were spent before the loss, 20 of which the journal holds: 40 more are needed."""
    held.go.set()
    held.keeps, held.held, held.raises, held.spends = True, 20, [Lost("an actor has died")], [30]
    ended(service, submit(service, budget=60).json()["id"])
    deadline = time.monotonic() + 10
    while "mcts_ray_nfe_total 70.0" not in (text := service.client.metrics()):
        assert time.monotonic() < deadline, text
