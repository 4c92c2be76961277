"""The detached, named actor that holds the jobs of a service, and the way to it from every Serve replica.

Denoisers, rewards and the tree manager are made by it and end with it. Ray restarts it when its process dies; it then reads the
index and begins again what had not ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any
from weakref import WeakKeyDictionary

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mcts_ray import logs
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.searcher import Searcher
from mcts_ray.service.elastic import Elastic
from mcts_ray.service.errors import ServiceError, Unavailable
from mcts_ray.service.home import home, make_token
from mcts_ray.service.jobs import Jobs
from mcts_ray.service.observe import Meter
from mcts_ray.service.runner import SearcherRunner
from mcts_ray.service.settings import TOKEN, Settings
from mcts_ray.service.store import JobStore

log = logging.getLogger(__name__)
NAME, NAMESPACE = "mcts-ray", "mcts_ray"
PATIENCE = 60.0  # seconds that a call waits for the actor to be restarted


class RayRunner(SearcherRunner):
    """By actors on the cluster that this process is part of, as many denoisers as there is to do for where the settings let them grow."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.models, lambda model: _searcher(model, settings))
        self._most = settings.max_workers
        self._elastic: WeakKeyDictionary[Any, Elastic] = WeakKeyDictionary()

    def _look(self, backend: Any) -> dict[str, Any]:
        census = super()._look(backend)
        if self._most:
            elastic = self._elastic.setdefault(backend, Elastic(backend.workers, self._most))
            wanted = elastic.wanted(backend.workers, census)
            if wanted != backend.workers:
                log.info("%d denoisers instead of %d", wanted, backend.workers)
                backend.resize(wanted)
        return census


class JobsActor:
    """`Jobs` by actors of this cluster. folder: MCTS_RAY_HOME of who has started it; modules of user rewards are looked for in `cwd`."""

    def __init__(self, settings: Settings, folder: str | None = None, cwd: str | None = None) -> None:
        logs.set_up()
        if folder:
            os.environ["MCTS_RAY_HOME"] = folder
        if cwd and os.path.isdir(cwd):
            os.chdir(cwd)
        self.settings = settings
        self._jobs: asyncio.Task[Jobs] = asyncio.get_running_loop().create_task(self._open())

    def __repr__(self) -> str:
        return "Jobs"

    async def ready(self) -> None:
        """Once models are loaded and the index is read; ValueError if that cannot be."""
        await asyncio.shield(self._jobs)

    async def token(self) -> str | None:
        """What clients must bear; None: nothing."""
        return (os.environ.get(TOKEN) or make_token()) if self.settings.token else None

    async def call(self, method: str, *args: Any) -> Any:
        """A method of `Jobs`."""
        return await getattr(await asyncio.shield(self._jobs), method)(*args)

    async def _open(self) -> Jobs:
        settings = self.settings
        models = {name: resolve_model(name) for name in settings.models}
        store = JobStore(settings.store or home() / "jobs", home() / "spool")
        runner = RayRunner(settings)
        await asyncio.to_thread(runner.start)
        jobs = Jobs(settings, store, runner, models, Meter(ray=True))
        await jobs.start()
        return jobs


class RemoteJobs:
    """`Jobs` in the actor: the same calls, repeated while the actor is being restarted, except where that could do a thing twice."""

    ONCE = ("extend",)

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience

    def __getattr__(self, method: str):
        if not hasattr(Jobs, method):
            raise AttributeError(method)

        async def call(*args: Any) -> Any:
            return await self._call(method, *args)

        return call

    async def _call(self, method: str, *args: Any) -> Any:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return await handle().call.remote(method, *args)
            except RayTaskError as error:
                if isinstance(error.cause, ServiceError):
                    raise error.cause from None
                raise
            except (RayActorError, ValueError) as error:  # ValueError: no actor has this name now
                if method in self.ONCE or time.monotonic() > deadline:
                    raise Unavailable("the service is being restarted; try again", 5) from error
                await asyncio.sleep(0.5)


def handle() -> ray.actor.ActorHandle:
    """The actor; ValueError if there is none."""
    return ray.get_actor(NAME, namespace=NAMESPACE)


def start(settings: Settings, folder: str | None = None, cwd: str | None = None) -> ray.actor.ActorHandle:
    """The actor, made if there is none, on this node if it can be: the token and by default the jobs are here."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "scheduling_strategy": here}
    actor = ray.remote(JobsActor).options(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=10_000, **options)
    return actor.remote(settings, folder, cwd)


def _searcher(model: str, settings: Settings) -> Searcher:
    place = {"executor": "ray", "workers": settings.workers, "address": "local"}  # the cluster that this actor is in
    return Searcher.from_pretrained(model, settings.device, settings.dtype, **place)
