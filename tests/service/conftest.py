"""A service in this process: the real application and life cycle on a store in a temporary folder, with searches that are real but
tiny, or made up and under the control of the test."""

import asyncio
import threading
import time
import uuid
from functools import partial
from itertools import count
from types import SimpleNamespace

import fsspec
import pytest
from starlette.testclient import TestClient

from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.executor.base import Progress
from mcts_ray.report.run import write_json
from mcts_ray.service.app import make_app
from mcts_ray.service.client import Client
from mcts_ray.service.home import write_state
from mcts_ray.service.jobs import Jobs
from mcts_ray.service.runner import Cancelled, Ended, Lost
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore
from tests.service.cloud import Cloud

TOKEN = "a-token-that-is-long-enough"


class Held:
    """A runner whose searches wait, telling their progress, until the test lets them go; it writes what a search writes."""

    def __init__(self):
        self.go = threading.Event()
        self.raises = []  # one for each attempt, None: none
        self.spends = []  # NFE before each of them
        self.begun = []
        self.extended = []
        self.takes_more = True
        self.keeps = False  # whether unfinished searches go on in their directory
        self.held = 0  # NFE that their journals hold
        self.loses = False  # whether those that are cancelled are lost
        self.best = 0.5  # reward that its results tell of
        self.outs = []

    def start(self):
        pass

    def census(self):
        return [{"out": 2, "finished": 1, "room": 8, "duplicates": 1, "replays": 3, "deaths": 1}]

    def close(self):
        pass

    def goes_on(self, out, budget):
        return self.keeps and out.is_dir()

    def spent(self, out):
        return self.held if out.is_dir() else 0

    def found(self, out):
        return None

    def extend(self, out, nfe):
        self.extended.append((out, nfe))
        return self.takes_more

    def run(self, request, out, on_progress):
        self.begun.append((request.prompt, request.budget))
        self.outs.append(out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "job.json", {"status": "running"})
        status = "done"
        error = self.raises.pop(0) if self.raises else None
        if error:
            if self.spends:
                on_progress(Progress(self.spends.pop(0), request.budget, 0.1, (None,), 0, 0, 1))
            raise error
        try:
            for nfe in count(1):
                on_progress(Progress(min(nfe, request.budget), request.budget, nfe / 10, (0.5,), 1, 0, 1, (b"\xff\xd8jpeg",)))
                if self.go.wait(0.005):
                    break
        except Cancelled as error:
            if self.loses:
                raise Lost("an actor has died") from error
            status = "cancelled"
        (out / "images").mkdir(exist_ok=True)
        for name, data in {"images/01.png": b"\x89PNG", "tree.json": b'{"nodes": []}', "report.html": b"<html>"}.items():
            (out / name).write_bytes(data)
        result = {"run_dir": str(out), "prompt": request.prompt, "algorithm": request.algorithm, "model": request.model}
        result |= {"reward": {"name": request.reward, "best": self.best, "mean": 0.5}, "gold": None}
        result |= {"images": [str(out / "images" / "01.png")]}
        result |= {"ledger": {"nfe": request.budget, "decodes": 1, "seconds": 2.0}, "tree": {"nodes": 0}}
        return Ended(status, result, None, {"denoise": 1.5})


class Service:
    """The pieces of a service, and a client of it; `restart` ends it and starts another one on the same store."""

    def __init__(self, store, settings, runner, models):
        self.store, self.settings, self.runner, self.models = store, settings, runner, models
        self.open()

    def open(self):
        app = make_app(self, TOKEN, self.settings)
        self.jobs_object = Jobs(self.settings, JobStore(self.store), self.runner, self.models)
        self.http = TestClient(app, base_url="http://service", headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False)
        self.http.__enter__()
        self.http.portal.call(self.jobs_object.start)
        self.client = Client(http=self.http)

    def close(self):
        self.http.portal.call(self.jobs_object.close)
        self.http.__exit__(None, None, None)

    def restart(self):
        self.close()
        self.open()

    def __getattr__(self, name):
        return getattr(self.jobs_object, name)


@pytest.fixture
def held():
    return Held()


@pytest.fixture
def cloud(monkeypatch):
    """A file system that can be told to have a `trouble`, and the `url` of a store there."""
    fsspec.register_implementation("cloud", Cloud, clobber=True)
    monkeypatch.setattr(Cloud, "trouble", None)
    return SimpleNamespace(url=f"cloud://{uuid.uuid4().hex}/jobs", trouble=partial(setattr, Cloud, "trouble"))


@pytest.fixture
def make(tmp_path, held):
    """Make a service on `held`, with these settings."""
    made = []

    def make(runner=None, models=("scenes",), store=None, **settings):
        settings = Settings(models=models, **settings)
        service = Service(str(store or tmp_path / "store"), settings, runner or held, {name: resolve_model(name) for name in models})
        made.append(service)
        return service

    yield make
    held.go.set()
    for service in made:
        service.close()


@pytest.fixture
def service(make):
    return make()


@pytest.fixture
def live(make, monkeypatch, tmp_path):
    """A service on a real port, found as `mcts-ray up` leaves it; returns the pieces of it."""
    import socket

    import uvicorn

    service = make()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    app = make_app(Elsewhere(service), TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MCTS_RAY_URL", raising=False)
    monkeypatch.delenv("MCTS_RAY_TOKEN", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").touch(mode=0o600)
    (tmp_path / "home" / "token").write_text(TOKEN)
    write_state({"url": f"http://127.0.0.1:{port}", "address": "127.0.0.1:1", "session": None})
    while not server.started:
        time.sleep(0.01)
    yield service
    server.should_exit = True
    thread.join(5)


class Elsewhere:
    """`Jobs` that belong to another event loop, as an actor's do."""

    def __init__(self, service):
        self.service = service

    def __getattr__(self, name):
        async def call(*args):
            method = getattr(self.service.jobs_object, name)
            return await asyncio.to_thread(self.service.http.portal.call, method, *args)

        return call
