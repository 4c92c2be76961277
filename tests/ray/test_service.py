"""The jobs actor on a real cluster, behind the application; and, slow, the whole of it from `up` to `down`, with deaths."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from mcts_ray import Client, SearchConfig
from mcts_ray.service import actor
from mcts_ray.service.app import make_app
from mcts_ray.service.errors import NotFound, ServiceError, Unavailable
from mcts_ray.service.settings import Settings

pytestmark = pytest.mark.slow  # clusters and actors of its own


ROOT = Path(__file__).parents[2]
SMALL = SearchConfig(levels=4, budget=24, reward="jpeg", images=2)


@pytest.fixture(scope="module")
def service(cluster, tiny_folder, tmp_path_factory):
    """A client of the application on the actor; the actor itself is on the cluster that all tests share."""
    home = tmp_path_factory.mktemp("home")
    jobs = actor.start(Settings(models=(str(tiny_folder),), device="cpu", store=str(home / "jobs")), str(home), str(home))
    cluster.get(jobs.ready.remote(), timeout=120)
    token = cluster.get(jobs.token.remote())
    assert token == (home / "token").read_text()
    app = make_app(actor.RemoteJobs(), token)
    with TestClient(app, base_url="http://service", headers={"Authorization": f"Bearer {token}"}) as http:
        yield Client(http=http)
    jobs = actor.handle()
    cluster.get(jobs.close.remote())
    cluster.kill(jobs)


def test_searches_by_the_actor(service):
    jobs = [service.submit("a cat", SMALL.model_copy(update={"seed": seed})) for seed in range(3)]
    ended = [service.wait(job.id) for job in jobs]
    assert [job.status for job in ended] == ["done"] * 3 and all(job.result["ledger"]["nfe"] == 24 for job in ended)
    assert Path(ended[0].result["run_dir"], "journal.jsonl").is_file() and service.image(jobs[0].id).size == (32, 32)
    with pytest.raises(NotFound, match="there is no search abc"):
        service.job("abc")


def test_extending_and_cancelling_reach_the_tree_manager(service):
    long = service.submit("a cat", SMALL.model_copy(update={"budget": 10_000, "in_flight": 1}))
    deadline = time.monotonic() + 60
    while not ((now := service.job(long.id)).progress and now.progress.images) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.extend(long.id, 40).budget == 10_040
    job = service.cancel(long.id)
    assert job.status == "cancelled" and job.result["images"] and job.result["ledger"]["nfe"] < 10_000
    journal = Path(job.result["run_dir"], "journal.jsonl").read_text()
    assert '"type":"extend","nfe":40' in journal


def test_the_actor_is_restarted_and_goes_on(cluster, service):
    """Its process, and with it the tree manager, are killed while a search runs."""
    done = service.wait(service.submit("a cat", SMALL).id)
    job = service.submit("a cat", SMALL.model_copy(update={"budget": 400, "in_flight": 1}))
    while service.job(job.id).status == "queued":
        time.sleep(0.05)
    cluster.kill(actor.handle(), no_restart=False)
    assert service.wait(job.id).status == "done"
    assert service.job(job.id).attempt == 2 and service.job(done.id) == done


def test_a_deployment_with_other_settings_has_the_actor_take_them(cluster, service):
    """By two replicas at once, while a search runs, which goes on."""
    old = actor.handle()
    settings = cluster.get(old.settings.remote())
    job = service.submit("a cat", SMALL.model_copy(update={"budget": 400, "in_flight": 1}))
    while service.job(job.id).status == "queued":
        time.sleep(0.05)
    folder = str(Path(settings.store).parent)

    async def deploy(settings):
        return await asyncio.gather(*(actor.start_with(settings, folder, folder) for _ in range(2)))

    assert {jobs._actor_id for jobs in asyncio.run(deploy(settings))} == {old._actor_id}  # the same ones change nothing
    made = asyncio.run(deploy(settings.model_copy(update={"max_budget": 1000})))
    assert {jobs._actor_id for jobs in made} == {actor.handle()._actor_id} != {old._actor_id}
    with pytest.raises(ServiceError, match="1000"):
        service.submit("a cat", SMALL.model_copy(update={"budget": 1001}))
    assert service.wait(job.id).status == "done" and service.job(job.id).attempt == 2


@pytest.fixture
def other_name(cluster, monkeypatch):
    monkeypatch.setattr(actor, "NAME", "another")
    yield
    with contextlib.suppress(ValueError):
        cluster.kill(actor.handle())


def test_a_service_that_cannot_start_says_so_and_tries_again(cluster, other_name, monkeypatch, tiny_folder, tmp_path):
    """Its store is away for a moment."""
    monkeypatch.setattr(actor, "HEALTH", 0.5)
    store = tmp_path / "away"
    store.touch()
    jobs = actor.start(Settings(models=(str(tiny_folder),), device="cpu", store=str(store / "jobs")), str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="the store .*away/jobs cannot be used"):
        cluster.get(jobs.ready.remote(), timeout=120)
    with pytest.raises(ValueError):
        actor.start(Settings(), new=True)
    calls, start = actor.RemoteJobs(patience=1.0), time.monotonic()
    for call in (calls.health, calls.served):
        with pytest.raises(Unavailable, match="the service is starting") as refused:
            asyncio.run(call())
        assert refused.value.retry_after
    assert time.monotonic() - start < 10
    store.unlink()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(Unavailable):
            assert asyncio.run(calls.health()).status == "ok"
            break
    else:
        raise AssertionError("it is never up")
    cluster.get(jobs.ready.remote())
    cluster.get(jobs.close.remote())


def test_a_flood_is_refused():
    from mcts_ray.service.serve import Front

    assert 0 < Front.max_queued_requests <= 1000 and Front._deployment_config.backpressure_config.retry_after_s


@pytest.fixture
def home(tmp_path):
    """A user of his own, whose clusters end with the test."""
    tmp = Path("/tmp") / f"ms{os.getpid()}"  # short: Ray puts sockets there
    tmp.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MCTS_RAY_"))}
    env = {"HOME": str(tmp_path), "RAY_TMPDIR": str(tmp), "MCTS_RAY_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    yield {**kept, **env, "PYTHONPATH": str(ROOT)}
    for pid, line in commands():
        if str(tmp) in line:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def commands():
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(entry.parent.name), entry.read_text().replace("\0", " ")


def kill(home, name):
    """Kill the processes of this user's cluster whose title begins so; returns how many there were."""
    count = 0
    for pid, line in commands():
        with contextlib.suppress(OSError):
            mine = f"RAY_TMPDIR={home['RAY_TMPDIR']}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if mine and line.startswith(name):
                os.kill(pid, signal.SIGKILL)
                count += 1
    return count


def logged(home, message):
    """What the actors of this user's cluster have logged."""
    for file in Path(home["RAY_TMPDIR"]).glob("ray/session_latest/logs/worker-*.err"):
        for line in file.read_text().splitlines():
            if line.startswith('{"time"') and json.loads(line)["message"] == message:
                yield json.loads(line)


def mcts_ray(home, *arguments, timeout=300):
    command = [sys.executable, "-m", "mcts_ray", *map(str, arguments)]
    done = subprocess.run(command, cwd=home["HOME"], env=home, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_from_up_to_down_with_deaths_and_a_restart_of_everything(home, tiny_folder):
    code, out, err = mcts_ray(home, "up", "--models", tiny_folder, "--gpus", 0, "--json")
    assert code == 0, err
    url, address = json.loads(out)["url"], json.loads(out)["address"]
    token = Path(home["HOME"], ".ray", "auth_token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert lists_nodes(home, address, RAY_AUTH_MODE="token") and not lists_nodes(home, address, RAY_AUTH_MODE="disabled")
    config = SMALL.model_copy(update={"budget": 400, "in_flight": 1})
    with Client(url, Path(home["MCTS_RAY_HOME"], "token").read_text()) as client:
        ids = [client.submit("a cat", config.model_copy(update={"seed": seed})).id for seed in range(20)]
        spent = 0
        for name in ("ray::ServeReplica:mcts-ray", "ray::DenoiserWorker", "ray::TreeManager"):
            spent = gets_on(client, ids, spent)
            assert kill(home, name) == 1
        jobs = [client.wait(id) for id in ids]
        assert {job.status for job in jobs} == {"done"} and all(job.result["ledger"]["nfe"] == 400 for job in jobs)
        assert sorted(job.id for job in client.jobs()) == sorted(ids)
        again = {line["search"] for line in logged(home, "unit sent again") if line["work"] and line["epoch"]}
        begun = {line["search"]: Path(line["run"]).parent.name for line in logged(home, "search begun")}
        assert again and {begun[search] for search in again} <= set(ids)  # what the tree manager logs can be read, and by job
        long = client.submit("a cat", config.model_copy(update={"budget": 4000})).id
    assert mcts_ray(home, "down")[0] == 0 and not [line for _, line in commands() if home["RAY_TMPDIR"] in line]
    assert mcts_ray(home, "status")[0] == 2
    code, out, err = mcts_ray(home, "up", "--models", tiny_folder, "--gpus", 0, "--json")
    assert code == 0, err
    code, out, err = mcts_ray(home, "watch", long, "--json")
    assert code == 0 and json.loads(out)["status"] == "done", err
    assert len(json.loads(mcts_ray(home, "jobs", "--limit", 100, "--json")[1])) == 21
    assert mcts_ray(home, "down")[0] == 0


def lists_nodes(home, address, **env):
    """Whether the cluster lets a process with this environment in."""
    command = [sys.executable, "-c", f"import ray; ray.init({address!r}); print(len(ray.nodes()))"]
    done = subprocess.run(command, cwd=home["HOME"], env={**home, **env}, capture_output=True, text=True, timeout=120)
    return done.returncode == 0 and done.stdout == "1\n"


def gets_on(client, ids, spent, seconds=180):
    """Wait until searches have spent 100 NFE more, here and there while the service is back after a death; returns what they have."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, ServiceError):
            now = sum(job.progress.nfe for job in map(client.job, ids) if job.progress)
            if now >= spent + 100:
                return now
        time.sleep(0.2)
    raise AssertionError(f"the searches do not get on beyond {spent} NFE")


@pytest.mark.slow
def test_on_a_cluster_that_is_there_it_leaves_nothing_behind(home, tiny_folder, tmp_path):
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--port", "0", "--num-cpus", "2", "--include-dashboard", "false"]
    assert subprocess.run(ray, env=home, capture_output=True, timeout=120).returncode == 0
    mine = {**home, "MCTS_RAY_TOKEN": "the-token-of-this-operator"}
    code, out, err = mcts_ray(mine, "up", "--models", tiny_folder, "--gpus", 0, "--json")
    assert code == 0 and json.loads(out)["session"] is None and err == "", err
    state = json.loads(out)
    with Client(state["url"], mine["MCTS_RAY_TOKEN"]) as client:  # not what is in the environment of the cluster
        assert client.models().data
    assert mcts_ray(home, "jobs")[0] == 0  # clients find it in the home
    assert mcts_ray(home, "up")[0] == 2  # there is one
    stranger = {**home, "MCTS_RAY_HOME": str(tmp_path / "elsewhere")}
    code, _, err = mcts_ray(stranger, "up", "--models", tiny_folder, "--gpus", 0)
    assert code == 2 and f"`mcts-ray down --address {state['address']}`" in err
    assert mcts_ray(home, "status")[0] == 0  # it lives on
    code, out, err = mcts_ray(stranger, "down", "--address", state["address"], "--json")
    assert code == 0 and json.loads(out) == {"down": True, "url": state["url"]}, err
    assert mcts_ray(home, "status")[0] == 1
    code, _, err = mcts_ray(stranger, "down", "--address", state["address"])
    assert code == 2 and "no service runs on the Ray cluster at" in err
    assert mcts_ray(home, "down")[0] == 0 and mcts_ray(home, "status")[0] == 2
    deadline = time.monotonic() + 20
    while kinds(home) & {"JobsActor", "TreeManager", "DenoiserWorker"} and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not kinds(home) & {"JobsActor", "TreeManager", "DenoiserWorker", "ServeReplica"}
    assert any("raylet" in line for _, line in commands() if home["RAY_TMPDIR"] in line)


def kinds(home):
    """What actors there are of this user's clusters."""
    found = set()
    for pid, line in commands():
        with contextlib.suppress(OSError):
            if line.startswith("ray::") and home["RAY_TMPDIR"].encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(line.removeprefix("ray::").split(":")[0].split(".")[0].split()[0])
    return found


def test_the_proxy_knows_only_what_jobs_can_do():
    with pytest.raises(AttributeError):
        actor.RemoteJobs().nothing
