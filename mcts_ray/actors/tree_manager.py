"""The tree manager: one asynchronous actor that holds many searches and keeps a pool of denoisers at work on them.

It does for several denoisers what `LocalExecutor` does with one engine, on the same `Session`: units are dealt until every
batch is full, and a loop for each denoiser has it step until some have left, has their latents scored, and tells the
outcomes. With one denoiser the order of asks and tells is the local one, so the tree is the same, node for node. One call
carries a batch; latents, kept states and images pass from actor to actor as object refs that the manager owns and never
reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mcts_ray import logs
from mcts_ray.actors.pool import DEATHS, Key, Worker
from mcts_ray.actors.spec import TRIES, Actor
from mcts_ray.actors.trainer import TrainerWorker
from mcts_ray.config import SearchConfig
from mcts_ray.executor.backend import Found, Plan, Task
from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.learning import drained
from mcts_ray.executor.session import Session, Walk, progress
from mcts_ray.gain.choose import Transition
from mcts_ray.search.base import Cost, Work
from mcts_ray.tree.weights import STATES

log = logging.getLogger(__name__)
SLICE = 0.5  # seconds after which a denoiser reports even if no unit has left, so that progress can be seen


@dataclass(eq=False)
class Running:
    """A search in hand and what its units need: the reward, by the key under which reward actors know it, with its network
    forwards per call, and the shape of its states. nfe: spent so far, units under way included."""

    job: Job
    key: str
    reward: Any
    forwards: int
    latent_shape: tuple[int, int, int]
    nfe: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class TreeManager:
    """Searches come with `submit` and go with `found`; in between `progress`, `wait` and `halt` speak of them by id."""

    def __init__(self, pool: Sequence[tuple[Actor, Actor]], fusion: Actor) -> None:
        logs.set_up()  # here, since nothing else runs in its process
        self.workers = [Worker(denoiser, reward) for denoiser, reward in pool]
        self.fusion = fusion
        self.session = Session()
        self.running: dict[str, Running] = {}
        self.states: dict[Key, tuple[Any, Worker, int]] = {}  # by node: ref to it and others, who made it in which life
        self.deaths = 0
        self._plans = 0
        self._news = asyncio.Event()
        self._loops: list[asyncio.Task] = []
        self._failure: Exception | None = None
        self._trainer: Actor | None = None
        self._learning: asyncio.Task | None = None

    def __repr__(self) -> str:
        return "TreeManager"

    # the outside ---------------------------------------------------------------------------------------------------

    async def plan(self, prompts: Sequence[str], config: SearchConfig, reward: Any) -> Plan:
        """The plan of a request, made by a denoiser; ValueError with a sentence if its model cannot do it."""
        self._plans += 1
        return await self.workers[0].denoiser.call("plan", f"{self._plans}-", prompts, config, reward)

    async def load(self, reward: Any) -> None:
        """Have a named reward made; ValueError if it cannot be. A callable is made with the searches that it is for."""
        if isinstance(reward, str):
            rewards = dict.fromkeys(worker.reward for worker in self.workers)
            await asyncio.gather(*(actor.call("load", reward, reward) for actor in rewards))

    async def submit(self, tasks: Sequence[Task], reward: Any, latent_shape: tuple[int, int, int], batch_size: int) -> None:
        """Begin searches. ValueError if the reward cannot be made."""
        key = tasks[0].search.id
        rewards = dict.fromkeys(worker.reward for worker in self.workers)
        forwards, *_ = await asyncio.gather(*(actor.call("load", key, reward) for actor in rewards))
        if not self.running:
            await asyncio.gather(*(worker.begin(batch_size) for worker in self.workers))
        jobs = [task.job() for task in tasks]
        self.session.add(jobs)
        self.running |= {job.search.id: Running(job, key, reward, forwards, latent_shape) for job in jobs}
        self._release()
        if self._failure or not self._loops:
            for loop in self._loops:
                loop.cancel()
            for worker in self.workers:
                worker.clear()
            self._failure = None
            self._loops = [asyncio.create_task(self._loop(worker)) for worker in self.workers]
        self._wake()

    async def wait(self, ids: Sequence[str]) -> None:
        """Until these searches have ended. Raises what stopped the manager, if anything did."""
        for id in ids:
            await self.running[id].ended.wait()
        if self._failure:
            raise self._failure

    async def progress(self, ids: Sequence[str]) -> Progress:
        """Where these searches stand."""
        running = [self.running[id] for id in ids]
        seconds = max(self.session.seconds(one.job) for one in running)
        return progress([one.job for one in running], sum(one.nfe for one in running), seconds)

    async def extend(self, id: str, nfe: int) -> bool:
        """Let a search spend more; False if it has ended or cannot use it."""
        running = self.running.get(id)
        given = running is not None and running.job.extend(nfe)
        self._wake()
        return given

    async def halt(self, ids: Sequence[str]) -> None:
        """End these searches now; what they have found stays."""
        for id in ids:
            await self._halt(self.running[id])
        self._release()

    async def found(self, ids: Sequence[str]) -> list[Found]:
        """What these searches have found; the manager forgets them. An image that is lost is left out."""
        answers = []
        for id in ids:
            job = self.running[id].job
            images = await asyncio.gather(*job.gallery.values(), return_exceptions=True)
            found = {node: image for node, image in zip(job.gallery, images) if not isinstance(image, BaseException)}
            answers.append(Found.of(job, found))
        for id in ids:
            self._forget(self.running.pop(id))
        return answers

    async def actors(self) -> dict[str, list[Any]]:
        """Handles of the actors that are at work now."""
        kinds = {"denoiser": [w.denoiser for w in self.workers], "reward": [w.reward for w in self.workers], "fusion": [self.fusion]}
        return {kind: list(dict.fromkeys(actor.handle for actor in actors)) for kind, actors in kinds.items()}

    async def census(self) -> dict[str, Any]:
        """What is in hand: searches, units out, waiting for their score, and that fit in all batches; how many deaths, duplicates
        dropped and units sent again there have been, and NFE by denoiser since it was begun."""
        out, finished = (sum(len(getattr(worker, what)) for worker in self.workers) for what in ("out", "finished"))
        spent = [worker.nfe.total() for worker in self.workers]
        room = sum(worker.size for worker in self.workers)
        counts = {"duplicates": self.session.duplicates, "replays": self.session.replays}
        census = {"searches": len(self.running), "out": out, "finished": finished, "deaths": self.deaths, "nfe": spent}
        return {**census, "room": room, **counts}

    # one loop for each denoiser ------------------------------------------------------------------------------------

    async def _loop(self, worker: Worker) -> None:
        try:
            while True:
                await self._turn(worker)
        except Exception as error:  # a defect, or a full disk, must not leave anybody waiting
            self._failure = error
            for running in self.running.values():
                running.job.stopping = True
                with contextlib.suppress(Exception):
                    self.session.halt(running.job)
                running.ended.set()
            self.session.turn.clear()

    async def _turn(self, worker: Worker) -> None:
        """Deal units, then score what has finished or step; with nothing to do, wait for news."""
        news = self._news
        async with worker.busy:
            await self._deal()
            if worker.finished and (worker.free or len(worker.finished) >= worker.size):
                await self._score(worker)
                idle = False
            elif worker.out:
                await self._advance(worker)
                idle = False
            else:
                idle = True
        await self._retire(worker)
        if idle:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(news.wait(), min(60.0, max(0.01, self.session.seconds_left())))

    async def _deal(self) -> None:
        """Ask for units until every batch is full or nobody has more for now; each goes to the denoiser with the fewest, of
        equal ones to the one that has its parent's state. What fused ones start from is made first."""
        fused: list[tuple[Worker, Work]] = []
        while any(worker.free for worker in self.workers) and (works := self.session.take(1)):
            work = works[0]
            _, holder, _ = self.states.get((work.search, work.parent), (None, None, 0))
            worker = min(self.workers, key=lambda one: (len(one.out), one is not holder))
            worker.give(work)
            if work.fuse:
                fused.append((worker, work))
            if not worker.busy.locked():
                self._wake()
        if fused:
            await self._fuse(fused)

    async def _fuse(self, fused: Sequence[tuple[Worker, Work]]) -> None:
        """Have the fusion actor make what units start from, or tell why it cannot; then they are ready to be sent."""
        words: dict[str, tuple[str | None, str | None]] = {}
        starts: dict[str, Any] = {}
        for shape in dict.fromkeys(self.running[work.search].latent_shape for _, work in fused):
            group = [work for _, work in fused if self.running[work.search].latent_shape == shape]
            told, made = await self.fusion.parts("fuse", 2, group, shape, self._particles(group))
            words |= told
            starts |= dict.fromkeys(told, made)
        for worker, work in fused:
            if (work.search, work.id) not in worker.out:
                continue  # its search has been ended meanwhile
            refused, fallback = words[work.id]
            if refused:
                worker.take_back(work)
                self.session.refuse(work, refused)
            else:
                worker.starts[work.id] = starts[work.id]
            if fallback:
                self.session.fall_back(work, fallback)
        self._wake()

    def _particles(self, works: Sequence[Work]) -> list[Any]:
        """Refs to the states that the fusion of these units reads, as far as they are there."""
        nodes = [(work.search, node) for work in works if work.fuse.mode in STATES for node in work.fuse.particles]
        return list(dict.fromkeys(self.states[key][0] for key in nodes if key in self.states))

    async def _advance(self, worker: Worker) -> None:
        """One call of the denoiser; units that leave latents then wait for their score, the others are told."""
        seconds = min(SLICE, self.session.seconds_left())
        try:
            spent, units, kept = await worker.advance(self._elsewhere(worker), seconds)
        except DEATHS:
            await self._lost(worker)
            return
        for id in spent.keys() & self.running.keys():
            self.running[id].nfe += spent[id]
        for unit in units:
            if not unit.walk.error:
                self.states |= {(unit.work.search, node): (kept, worker, worker.generation) for node in unit.work.keep}
        for unit in self.session.in_order(units):
            if unit.rows:
                worker.finished.append(unit)
            else:
                self.session.settle(unit.walk)
                self._wake()

    def _elsewhere(self, worker: Worker) -> list[Any]:
        """Refs to the states of pending units' parents that this denoiser does not hold itself."""
        here = (worker, worker.generation)
        parents = (self.states.get((work.search, work.parent)) for work in worker.pending)
        return list(dict.fromkeys(ref for ref, *holder in filter(None, parents) if tuple(holder) != here))

    async def _lost(self, worker: Worker) -> None:
        """The denoiser died: its units go out again, to it restarted or to its replacement."""
        self.deaths += 1
        works = self.session.reissue(await worker.revive())
        for work in (work for work in works if work.epoch >= TRIES):
            self.session.settle(Walk(work, Cost(), f"its denoiser died {TRIES} times"))
        again = [work for work in works if work.epoch < TRIES]
        for work in again:
            worker.give(work)
        await self._fuse([(worker, work) for work in again if work.fuse])

    async def _score(self, worker: Worker) -> None:
        """Have the finished units scored, and tell their outcomes in the order in which they went out."""
        units = self.session.in_order(worker.finished)
        for key in dict.fromkeys(self.running[unit.work.search].key for unit in units):
            group = [unit for unit in units if self.running[unit.work.search].key == key]
            verdicts = await worker.score(group, key, self.running[group[0].work.search].reward)
            for unit, verdict in zip(group, verdicts, strict=True):
                worker.finished.remove(unit)
                self.session.settle(unit.walk, verdict, self.running[unit.work.search].forwards)
        self._wake()
        if self._learning is None or self._learning.done():
            if lessons := drained(one.job for one in self.running.values()):
                self._learning = asyncio.create_task(self._learn(lessons))

    async def _learn(self, lessons: dict[str, list[Transition]]) -> None:
        """Give transitions to the trainer, made when it is first needed, and what it makes of them to the denoisers."""
        self._trainer = self._trainer or Actor(TrainerWorker, num_cpus=0)
        for folder, transitions in lessons.items():
            try:
                version = await self._trainer.call("take", folder, transitions)
                if version:
                    await asyncio.gather(*(worker.denoiser.call("install", folder, version) for worker in self.workers))
            except Exception:  # searches go on without it, by the versions they have
                log.exception("the IGE in %s has not learned from these transitions", folder)

    async def _retire(self, worker: Worker) -> None:
        """Set all clocks; end the searches that would be out of time after one more call, and let go of those that are done."""
        self.session.tick()
        for job in self.session.overdue(worker.step_seconds):
            await self._halt(self.running[job.search.id], score=True)
        self._release()

    async def _halt(self, running: Running, score: bool = False) -> None:
        """Let the calls under way return, then abandon the units in flight of one search and book what they had spent.

        With `score`, images that only wait for their reward still count.
        """
        job, id = running.job, running.job.search.id
        if job.stopping:
            await running.ended.wait()
            return
        job.stopping = True
        costs: list[Cost] = []
        for worker in self.workers:
            async with worker.busy:
                if score and any(unit.work.search == id for unit in worker.finished):
                    await self._score(worker)
                costs += await worker.drop(id)
        self.session.halt(job, costs)
        self._release()

    def _release(self) -> None:
        """Let go of states that are needed no more, and of the searches that are done."""
        for id, nodes in self.session.released():
            for worker in self.workers:
                worker.denoiser.handle.forget.remote(id, nodes)
            for node in nodes:
                self.states.pop((id, node), None)
        for job in self.session.release():
            id = job.search.id
            for worker in self.workers:
                worker.denoiser.handle.drop.remote(id)
            self.states = {key: state for key, state in self.states.items() if key[0] != id}
            self.running[id].ended.set()
            self._wake()

    def _forget(self, running: Running) -> None:
        """A search whose finds have been handed over."""
        self.session.forget(running.job.search.id)
        if running.job.observer:
            running.job.observer.close()
        if not any(one.key == running.key for one in self.running.values()):
            for worker in self.workers:
                worker.reward.handle.forget.remote(running.key)

    def _wake(self) -> None:
        """Something has been told or has come: whoever waits for work may find some."""
        self._news.set()
        self._news = asyncio.Event()
