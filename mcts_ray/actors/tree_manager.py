"""The tree manager: one asynchronous actor that holds many searches and keeps a pool of denoisers at work on them.

It does for several denoisers what `LocalExecutor` does with one engine, on the same `Session`; how is told in
`mcts_ray.actors.working`. With one denoiser the order of asks and tells is the local one, so the tree is the same, node for node.
One call carries a batch; latents, kept states and images pass from actor to actor as object refs that the manager owns and never
reads. Any of the actors may die: units go out again, states and images that are lost are made again by replay, and the manager
itself, restarted, goes on with what its archive and the journals of its searches say.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pickle
import secrets
from collections.abc import Sequence
from typing import Any

from mcts_ray import logs
from mcts_ray.actors.archive import Archive, Order
from mcts_ray.actors.entering import Entering
from mcts_ray.actors.patience import first
from mcts_ray.actors.pool import Worker, rows
from mcts_ray.actors.recovery import Running
from mcts_ray.actors.spec import Actor, look_in
from mcts_ray.actors.states import States
from mcts_ray.config import SearchConfig
from mcts_ray.executor.backend import ActorsLost, Found, Plan, Task
from mcts_ray.executor.base import Progress
from mcts_ray.executor.session import Session, progress
from mcts_ray.search.base import Cost

log = logging.getLogger(__name__)
LEARN = 30.0  # seconds for the trainer to take what a search has to teach
GARBAGE = (10_000, 20, 50)  # of Python's collector: by its own threshold a tenth of the manager's time goes into looking at trees that stay
POLL = 0.02  # seconds between two looks at a search that somebody else is ending


class TreeManager(Entering):
    """Searches come with `submit` and go with `found` and `forget`; in between `progress`, `wait` and `halt` speak of them by id.

    Every call may be repeated. pickled: (denoiser, reward) pairs, the fusion actor, folders of modules. folder: of orders, for a restart.
    cache: bytes that the states of all trees may take together.
    """

    def __init__(self, pickled: bytes, folder: str | None = None, cache: int | None = None) -> None:
        logs.set_up()  # here and in the workers, since nothing else runs in their processes
        gc.set_threshold(*GARBAGE)
        pool, fusion, paths = pickle.loads(pickled)
        look_in(paths)
        self.archive = Archive(folder)
        self._size, self._sizes = 1, {}
        self._first, gone = [denoiser for denoiser, _ in pool], self.archive.gone
        pool = [pair for place, pair in enumerate(pool) if place not in gone] or pool[:1]
        self.workers = [Worker(*pair, sizes=self._sizes) for pair in pool]
        self.fusion = fusion
        self.session = Session()
        self.running: dict[str, Running] = {}
        self.states, self.deaths = States(cache), 0
        self._name, self._plans = secrets.token_hex(4), 0
        self._loops: dict[Worker, asyncio.Task] = {}
        self._joining: dict[Actor, asyncio.Task] = {}
        self._failure: Exception | None = None
        self._unread: dict[str, Order] = {}
        self._rereading: asyncio.Task | None = None
        self._entering, self._expected = asyncio.Lock(), set()
        self._trainer: Actor | None = None
        self._learning: asyncio.Task | None = None
        self._lessons = {}
        self._opening = asyncio.get_running_loop().create_task(self._restore())

    def __repr__(self) -> str:
        return "TreeManager"

    # the outside ---------------------------------------------------------------------------------------------------

    async def plan(self, prompts: Sequence[str], config: SearchConfig, reward: Any, batch_size: int | str | None = None) -> Plan:
        """The plan of a request, made by a denoiser; ValueError with a sentence if its model cannot do it."""
        self._plans += 1
        prefix = f"{self._name}-{self._plans}-"
        worker = await first(_placed(worker) for worker in sorted(self.workers, key=lambda worker: not worker.up))
        return await worker.denoiser.call("plan", prefix, prompts, config, reward, batch_size)

    async def load(self, reward: Any) -> None:
        """Have a named reward made; ValueError if it cannot be. A callable is made with the searches that it is for."""
        if isinstance(reward, str):
            await self._load(reward, reward)

    async def submit(self, tasks: Sequence[Task], reward: Any, latent_shape: tuple[int, int, int], batch_size: int) -> None:
        """Begin searches, or go on with those whose journals hold something. ValueError if the reward cannot be made, or a journal is
        not that of its search."""
        await asyncio.shield(self._opening)
        key = reward if isinstance(reward, str) else tasks[0].search.id  # searches that name the same one have it scored together
        ids = {task.search.id for task in tasks}
        self._expected |= ids
        async with self._entering:
            fresh = [task for task in tasks if task.search.id not in self.running]  # the same call once more may find some, or all
            orders = [Order(task, key, reward, latent_shape, batch_size) for task in fresh]
            self.archive.keep(orders)
            try:
                if orders:
                    await self._enter(orders)
            except BaseException:
                for task in fresh:
                    self.archive.forget(task.search.id)
                raise
            finally:
                self._expected -= ids

    async def wait(self, ids: Sequence[str]) -> None:
        """Until these searches have ended. Raises what stopped the manager, if anything did."""
        await asyncio.shield(self._opening)
        for running in self._known(ids):
            await running.ended.wait()
        if self._failure:
            raise self._failure

    async def progress(self, ids: Sequence[str]) -> Progress:
        """Where these searches stand."""
        await asyncio.shield(self._opening)
        running = self._known(ids)
        seconds = max(self.session.seconds(one.job) for one in running)
        return progress([one.job for one in running], sum(one.nfe for one in running), seconds)

    async def extend(self, id: str, nfe: int) -> bool:
        """Let a search spend more; False if it has ended or cannot use it."""
        await asyncio.shield(self._opening)
        running = self.running.get(id)
        given = running is not None and id not in self._unread and running.job.extend(nfe)
        self._wake()
        return given

    async def halt(self, ids: Sequence[str]) -> None:
        """End these searches now; what they have found stays. One that is still being submitted does not begin."""
        await asyncio.shield(self._opening)
        for id in ids:
            self._expected.discard(id)
            if running := self.running.get(id):
                await self._halt(running)
        self._release()

    async def found(self, ids: Sequence[str]) -> list[Found]:
        """What these searches have found. Images that are lost are made again, and left out where that cannot be."""
        await asyncio.shield(self._opening)
        return [await self._found(running) for running in self._known(ids)]

    def _known(self, ids: Sequence[str]) -> list[Running]:
        """Searches by their ids. Raises ActorsLost for one of which an earlier process could keep nothing."""
        for id in ids:
            if id not in self.running:
                raise ActorsLost(f"the tree manager has died, and could not keep search {id} in {self.archive.place}")
        return [self.running[id] for id in ids]

    async def _found(self, running: Running) -> Found:
        job, images = running.job, {}
        for _ in range(2):
            got = await asyncio.gather(*job.gallery.values(), return_exceptions=True)
            images = {node: image for node, image in zip(job.gallery, got) if not isinstance(image, BaseException)}
            job.gallery = {node: ref for node, ref in job.gallery.items() if node in images}
            if not job.lost_images:
                break
            await self._images(running)
        return Found.of(job, images)

    async def forget(self, ids: Sequence[str]) -> None:
        """Searches whose finds have arrived. What they have to teach is handed to the trainer first, as nobody may be here later."""
        if self._learning and any(id in self.running and self.running[id].job.search.setting.ige_features for id in ids):
            await asyncio.wait([self._learning], timeout=LEARN)
        for id in ids:
            self.archive.forget(id)
            if id in self.running:
                self._forget(self.running.pop(id))

    async def actors(self, at_work: bool = False) -> dict[str, list[Any]]:
        """Handles of the actors by kind; with `at_work` of those that have a call to answer."""
        actors = {kind: [actor.handle for actor in some if actor.holding or not at_work] for kind, some in self._actors().items()}
        return {kind: list(dict.fromkeys(handles)) for kind, handles in actors.items()}

    def _actors(self) -> dict[str, list[Actor]]:
        trainer = [self._trainer] if self._trainer else []
        rewards = list(dict.fromkeys(worker.reward for worker in self.workers))
        return {"denoiser": [worker.denoiser for worker in self.workers], "reward": rewards, "fusion": [self.fusion], "trainer": trainer}

    async def census(self) -> dict[str, Any]:
        """What is in hand: searches, their NFE so far, their units in flight and how many more they may have, units out, waiting for
        their score, and that fit in all batches but those of denoisers that are lost; how many deaths of denoisers, duplicates dropped and
        units sent again there have been, NFE spent once more because of losses, by kind of actor the calls that ended with a death, and of
        each the calls answered since, by denoiser the NFE since it was begun and at most how many more it has spent in calls that it has
        not answered, how many such calls there are, denoisers that wait for room, states that are kept and how many were evicted."""
        await asyncio.shield(self._opening)
        out, finished = (sum(len(getattr(worker, what)) for worker in self.workers) for what in ("out", "finished"))
        jobs = [running.job for running in self.running.values()]
        counts = {"duplicates": self.session.duplicates, "replays": self.session.replays, "again": sum(job.again for job in jobs)}
        died = {kind: sum(actor.died for actor in actors) for kind, actors in self._actors().items()}
        answered = {kind: [actor.answered for actor in actors] for kind, actors in self._actors().items()}
        return {
            "searches": len(self.running),
            "spent": sum(running.nfe for running in self.running.values()),
            "in_flight": sum(job.search.in_flight for job in jobs),
            "waiting": sum(max(0, job.in_flight - job.search.in_flight) for job in jobs if not job.search.done),
            "out": out,
            "finished": finished,
            "deaths": self.deaths,
            "died": died,
            "answered": answered,
            "nfe": [worker.nfe.total() for worker in self.workers],
            "unreported": [worker.unreported for worker in self.workers],
            "room": sum(worker.size for worker in self.workers if not worker.lost),
            "joining": len(self._joining),
            "calls": sum(worker.calls for worker in self.workers),
            "states": len(self.states),
            "evicted": self.states.evicted,
            **counts,
        }

    # the end -------------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        self._failure = error
        for running in self.running.values():
            running.job.stopping = True
            with contextlib.suppress(Exception):
                self.session.halt(running.job)
            running.ended.set()
        self.session.clear()
        self._unread = {}

    async def _retire(self, worker: Worker) -> None:
        """Set all clocks; end the searches that would be out of time after the next call, of a denoiser that is down those that are so now,
        and let go of those that are done."""
        paused = self.session.paused
        self.session.tick()
        if paused and not self.session.paused:  # whoever has found nothing to do may find some now
            self._wake()
        if self.session.limited:
            margin = self.session.next_seconds(worker.finished, rows, worker.step_seconds) if worker.up else 0.0
            for job in self.session.overdue(margin):
                await self._halt(self.running[job.search.id])
        self._release()

    async def _halt(self, running: Running) -> None:
        """Let the calls under way return, then abandon the units in flight of one search and book what they had spent."""
        job, id = running.job, running.job.search.id
        if id in self._unread:
            self._end_unread(running)
            return
        if job.stopping:
            while not (job.search.done or running.ended.is_set()):  # that it is written down may take until there is storage
                await asyncio.sleep(POLL)
            return
        job.stopping = True
        costs: list[Cost] = []
        for worker in list(self.workers):
            async with worker.busy:
                await worker.quiet()
                costs += await worker.drop(id)
        self.session.halt(job, costs)
        self._release()

    def _release(self) -> None:
        """Let go of states that are needed no more, and of the searches that are done."""
        for id, nodes in self.session.released():
            self._free(id, nodes)
            for node in nodes:
                self.states.forget((id, node))
        for job in self.session.release():
            id = job.search.id
            for worker in self.workers:
                worker.denoiser.handle.drop.remote(id)
            self.states.drop_search(id)
            self.running[id].ended.set()
            self._wake()

    def _forget(self, running: Running) -> None:
        """A search whose finds have been handed over."""
        if running.job.search.id in self.session.jobs:
            self.session.forget(running.job.search.id)
        for worker in self.workers:
            worker.forget(running.job.search.id)
        self._fit()
        if running.job.observer:
            running.job.observer.close()
        if not any(one.key == running.key for one in self.running.values()):
            for worker in self.workers:
                worker.reward.handle.forget.remote(running.key)

    def _fit(self) -> None:
        """Denoisers are to have as much in hand as the largest batches of the searches that are here need."""
        self._size = max((running.batch_size for running in self.running.values()), default=self._size)
        for worker in self.workers:
            worker.fit(self._size)


async def _placed(worker: Worker) -> Worker:
    """A denoiser, once it has its place and can answer."""
    await worker.denoiser.call("place")
    return worker
