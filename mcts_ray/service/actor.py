"""The detached, named actor that holds the jobs of a service, and the way to it from every Serve replica.

Denoisers, rewards and the tree manager are made by it and end with it. Ray restarts it when its process dies; it then reads the
index and begins again what had not ended. While it cannot, as where the store is away, it tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any
from weakref import WeakKeyDictionary

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mcts_ray import logs
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.searcher import Searcher
from mcts_ray.service.elastic import Elastic
from mcts_ray.service.errors import ServiceError, Unavailable
from mcts_ray.service.home import given_token, home, make_token
from mcts_ray.service.jobs import Jobs
from mcts_ray.service.lease import InUse, Lease
from mcts_ray.service.observe import Meter
from mcts_ray.service.opening import Opening
from mcts_ray.service.runner import SearcherRunner
from mcts_ray.service.settings import TOKEN, Settings
from mcts_ray.service.store import JobStore

log = logging.getLogger(__name__)
NAME, NAMESPACE = "mcts-ray", "mcts_ray"
PATIENCE = 45.0  # seconds that a call waits for the actor to be restarted, and for models to be loaded; clients wait 60
HEALTH = 5.0  # the same of a call that asks for the health of the service
STOP = 20.0  # seconds for running searches to be let go


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
    """`Jobs` by actors of this cluster. folder: MCTS_RAY_HOME of who has started it; modules of user rewards are looked for in `cwd`,
    where `mcts-ray up` was called, which has put the token into the home."""

    def __init__(self, settings: Settings, folder: str | None = None, cwd: str | None = None) -> None:
        logs.set_up()
        if folder:
            os.environ["MCTS_RAY_HOME"] = folder
        if cwd:
            os.environ.pop(TOKEN, None)  # of the node, not of who has called `up`
            if os.path.isdir(cwd):
                os.chdir(cwd)
        self._settings = settings
        self._jobs = Opening(self._open, told=InUse)

    def __repr__(self) -> str:
        return "Jobs"

    async def settings(self) -> Settings:
        """Those that it was made with."""
        return self._settings

    async def ready(self) -> None:
        """Once models are loaded and the index is read, or that was tried in vain, whose error this raises."""
        await self._jobs.tried()

    async def token(self) -> str | None:
        """What clients must bear; None: nothing. ValueError for one that is too short to protect anything."""
        return (given_token() or make_token()) if self._settings.token else None

    async def call(self, method: str, *args: Any, patience: float = PATIENCE) -> Any:
        """A method of `Jobs`; Unavailable if they are not there within `patience` seconds."""
        return await getattr(await self._jobs.get(patience), method)(*args)

    async def close(self) -> None:
        """Stop here; what has not ended goes on in the next one."""
        await self._jobs.close()
        if jobs := self._jobs.now():
            await jobs.close()

    async def _open(self) -> Jobs:
        settings = self._settings
        models = {name: await asyncio.to_thread(resolve_model, name) for name in settings.models}
        store = await asyncio.to_thread(JobStore, settings.store or home() / "jobs", home() / "spool")
        lease = Lease(store, ray.get_runtime_context().get_actor_id())  # which Ray gives it again when it restarts it
        await asyncio.to_thread(lease.take)  # before models are loaded in vain
        runner = RayRunner(settings)
        jobs = Jobs(settings, store, runner, models, Meter(ray=True), lease)
        try:
            await asyncio.to_thread(runner.start)
            await jobs.start()
        except BaseException:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(lease.release)  # whoever is next need not wait until it runs out
            await asyncio.to_thread(runner.close)  # the next attempt makes actors of its own
            raise
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
        deadline = time.monotonic() + (min(HEALTH, self.patience) if method == "health" else self.patience)
        while True:
            try:
                return await self._once(method, args, deadline - time.monotonic())
            except RayTaskError as error:
                if isinstance(error.cause, ServiceError):
                    raise error.cause from None
                raise
            except (RayActorError, ValueError) as error:  # ValueError: no actor has this name now
                if method in self.ONCE or time.monotonic() > deadline:
                    raise Unavailable("the service is being restarted; try again", 5) from error
                await asyncio.sleep(0.5)

    async def _once(self, method: str, args: tuple, left: float) -> Any:
        answer = handle().call.remote(method, *args, patience=left)
        if method != "health":
            return await answer
        try:
            return await asyncio.wait_for(answer, left + 1.0)  # one whose process is only just being made says nothing at all
        except asyncio.TimeoutError as error:
            raise Unavailable("the service is starting; try again", 5) from error


def handle() -> ray.actor.ActorHandle:
    """The actor; ValueError if there is none."""
    return ray.get_actor(NAME, namespace=NAMESPACE)


def start(settings: Settings, folder: str | None = None, cwd: str | None = None, new: bool = False) -> ray.actor.ActorHandle:
    """The actor, made if there is none, on this node if it can be: the token and by default the jobs are here.

    new: ValueError if there is one.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": not new, "scheduling_strategy": here}
    actor = ray.remote(JobsActor).options(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=10_000, **options)
    return actor.remote(settings, folder, cwd)


async def start_with(settings: Settings, folder: str | None = None, cwd: str | None = None) -> ray.actor.ActorHandle:
    """The actor with these settings: one that has others is ended, and a new one goes on with what it had not ended.

    Several may do this at once: each ends only the one whose settings it has seen, and one of them makes the new one.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            jobs = start(settings, folder, cwd)
            if await jobs.settings.remote() == settings:
                return jobs
        except (RayActorError, ValueError):  # it is ending, or is being restarted
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
            continue
        await _end(jobs)


async def _end(jobs: ray.actor.ActorHandle) -> None:
    with contextlib.suppress(RayError, asyncio.TimeoutError):
        await asyncio.wait_for(jobs.close.remote(), STOP)
    ray.kill(jobs, no_restart=True)


def _searcher(model: str, settings: Settings) -> Searcher:
    place = {"executor": "ray", "workers": settings.workers, "address": "local"}  # the cluster that this actor is in
    return Searcher.from_pretrained(model, settings.device, settings.dtype, **place)
