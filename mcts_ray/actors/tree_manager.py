"""The tree manager: one asynchronous actor that holds many searches and keeps a pool of denoisers at work on them.

It does for several denoisers what `LocalExecutor` does with one engine, on the same `Session`: a loop for each denoiser asks
for units until its batch is full, has it step until some have left, has their latents scored, and tells the outcomes. With
one denoiser the order of asks and tells is the local one, so the tree is the same, node for node. One call carries a
batch; latents, kept states and images pass from actor to actor as object refs that the manager owns and never reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError

from mcts_ray.actors.pool import DEATHS, TRIES, Finished, Key, Worker
from mcts_ray.actors.spec import Actor
from mcts_ray.config import SearchConfig
from mcts_ray.executor.backend import Found, Task
from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.session import Session, Walk, progress
from mcts_ray.search.base import Cost, Work

SLICE = 0.5  # seconds after which a denoiser reports even if no unit has left, so that progress can be seen


@dataclass(eq=False)
class Running:
    """A search in hand, and what its units need: the reward, its network forwards per call, and the shape of its states."""

    job: Job
    reward: Any
    forwards: int
    latent_shape: tuple[int, int, int]
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class TreeManager:
    """Searches come with `submit` and go with `found`; in between `progress`, `wait` and `halt` speak of them by id."""

    def __init__(self, pool: Sequence[tuple[Actor, Actor]], fusion: Actor) -> None:
        self.workers = [Worker(denoiser, reward) for denoiser, reward in pool]
        self.fusion = fusion
        self.session = Session()
        self.running: dict[str, Running] = {}
        self.states: dict[Key, tuple[Any, Worker, int]] = {}  # by node: ref to it and others, who made it in which life
        self.nfe = 0
        self.deaths = 0
        self._news = asyncio.Event()
        self._loops: list[asyncio.Task] = []
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        return "TreeManager"

    # the outside ---------------------------------------------------------------------------------------------------

    async def plan(self, prompts: Sequence[str], config: SearchConfig, reward: Any) -> Any:
        """The `Plan` of a request, made by a denoiser; ValueError with a sentence if its model cannot do it."""
        for _ in range(TRIES):
            denoiser = self.workers[0].denoiser
            try:
                return await denoiser.handle.plan.remote(prompts, config, reward)
            except RayActorError as error:
                failure = error
                await denoiser.revive()
        raise failure

    async def submit(self, tasks: Sequence[Task], reward: Any, latent_shape: tuple[int, int, int], batch_size: int) -> None:
        """Begin searches. ValueError if the reward cannot be made."""
        forwards, *_ = await asyncio.gather(*(worker.reward.handle.load.remote(reward) for worker in self.workers))
        if not self.session.turn:
            await asyncio.gather(*(worker.begin(batch_size) for worker in self.workers))
        jobs = [task.job() for task in tasks]
        self.running |= {job.search.id: Running(job, reward, forwards, latent_shape) for job in jobs}
        self.session.add(jobs)
        self._release()
        if not self._loops:
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
        jobs = [self.running[id].job for id in ids]
        return progress(jobs, self.nfe, max(self.session.seconds(job) for job in jobs))

    async def halt(self, ids: Sequence[str]) -> None:
        """End these searches now; what they have found stays."""
        for id in ids:
            await self._halt(self.running[id].job)
        self._release()

    async def found(self, ids: Sequence[str]) -> list[Found]:
        """What these searches have found; the manager forgets them."""
        answers = []
        for id in ids:
            job = self.running.pop(id).job
            del self.session.jobs[id]
            answers.append(Found.of(job, {node: await image for node, image in job.gallery.items()}))
            if job.observer:
                job.observer.close()
        return answers

    async def actors(self) -> dict[str, list[Any]]:
        """Handles of the actors that are at work now."""
        kinds = {"denoiser": [w.denoiser for w in self.workers], "reward": [w.reward for w in self.workers], "fusion": [self.fusion]}
        return {kind: list(dict.fromkeys(actor.handle for actor in actors)) for kind, actors in kinds.items()}

    async def census(self) -> dict[str, int]:
        """What is in hand: searches, units out, units waiting for their score, and how many deaths there have been."""
        out, finished = (sum(len(getattr(worker, what)) for worker in self.workers) for what in ("out", "finished"))
        return {"searches": len(self.session.turn), "out": out, "finished": finished, "deaths": self.deaths}

    # one loop for each denoiser ------------------------------------------------------------------------------------

    async def _loop(self, worker: Worker) -> None:
        try:
            while True:
                await self._turn(worker)
        except Exception as error:  # a defect must not leave anybody waiting
            self._failure = error
            for running in self.running.values():
                self.session.halt(running.job)
                running.ended.set()

    async def _turn(self, worker: Worker) -> None:
        """Fill the batch, then score what has finished or step; with nothing to do, wait for news."""
        news = self._news
        await self._fill(worker)
        if worker.finished and (worker.free or len(worker.finished) >= worker.size):
            await self._score(worker)
        elif worker.out:
            await self._advance(worker)
        else:
            await news.wait()
            return
        await self._retire(worker)

    async def _fill(self, worker: Worker) -> None:
        """Ask for units until the batch is full or nobody has more for now; fuse the noise of those that need it."""
        works = self.session.take(worker.free)
        refused, noise = await self._fuse([work for work in works if work.fuse])
        for work in works:
            if work.id in refused:
                self.session.refuse(work, refused[work.id])
                self._wake()
        worker.give([work for work in works if work.id not in refused and not self._ended(work)], noise)

    async def _fuse(self, works: Sequence[Work]) -> tuple[dict[str, str], dict[str, Any]]:
        """Refusals and fused noise by unit id, from the fusion actor."""
        refused: dict[str, str] = {}
        noise: dict[str, Any] = {}
        for shape in dict.fromkeys(self.running[work.search].latent_shape for work in works):
            group = [work for work in works if self.running[work.search].latent_shape == shape]
            words, made = await self._fused(group, shape)
            refused |= words
            noise |= made
        return refused, noise

    async def _fused(self, works: Sequence[Work], shape: tuple[int, int, int]) -> tuple[dict[str, str], dict[str, Any]]:
        while True:
            try:
                return await self.fusion.handle.fuse.remote(works, shape)
            except RayActorError:
                self.deaths += 1
                await self.fusion.revive()

    async def _advance(self, worker: Worker) -> None:
        """One call of the denoiser; units that leave latents then wait for their score, the others are told."""
        seconds = min(SLICE, self.session.seconds_left())
        try:
            spent, units, kept = await worker.advance(self._elsewhere(worker), seconds)
        except DEATHS:
            await self._lost(worker)
            return
        self.nfe += spent
        units = [unit for unit in units if not self._ended(unit.work)]
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
        works = await worker.revive()
        again = self.session.reissue(work for work in works if not self._ended(work))
        for work in (work for work in again if work.epoch >= TRIES):
            self.session.settle(Walk(work, Cost(), f"its denoiser died {TRIES} times"))
        survivors = [work for work in again if work.epoch < TRIES]
        refused, noise = await self._fuse([work for work in survivors if work.fuse])
        assert not refused, "what could be fused before can be fused again"
        worker.give(survivors, noise)
        self._wake()

    async def _score(self, worker: Worker) -> None:
        """Have the finished units scored, and tell their outcomes in the order in which they went out."""
        async with worker.scoring:
            units = self.session.in_order(worker.finished)
            worker.finished = []
            for reward in dict.fromkeys(self.running[unit.work.search].reward for unit in units):
                await self._score_with(worker, reward, [u for u in units if self.running[u.work.search].reward == reward])
        self._wake()

    async def _score_with(self, worker: Worker, reward: Any, units: Sequence[Finished]) -> None:
        for unit, verdict in zip(units, await worker.score(units, reward), strict=True):
            if not self._ended(unit.work):
                self.session.settle(unit.walk, verdict, self.running[unit.work.search].forwards)

    async def _retire(self, worker: Worker) -> None:
        """Set all clocks; end the searches that would be out of time after one more call, and let go of those that are done."""
        self.session.tick()
        for job in self.session.overdue(worker.step_seconds):
            for one in self.workers:
                if any(unit.work.search == job.search.id for unit in one.finished) or one.scoring.locked():
                    await self._score(one)  # images that only wait for their reward still count
            await self._halt(job)
        self._release()

    async def _halt(self, job: Job) -> None:
        """Abandon the units in flight of one search and book what they had spent."""
        id = job.search.id
        spent = [cost for worker in self.workers for cost in worker.forget(id)]
        dropped = await asyncio.gather(*(self._drop(worker, id) for worker in self.workers))
        self.session.halt(job, spent + [cost for costs in dropped for cost in costs])

    async def _drop(self, worker: Worker, id: str) -> list[Cost]:
        try:
            return await worker.denoiser.handle.drop.remote(id)
        except RayActorError:
            return []  # what a dead denoiser had spent is not known

    def _release(self) -> None:
        """Let go of the searches that are done."""
        for job in self.session.release():
            id = job.search.id
            for worker in self.workers:
                worker.forget(id)
                worker.denoiser.handle.drop.remote(id)
            self.states = {key: state for key, state in self.states.items() if key[0] != id}
            self.running[id].ended.set()

    def _ended(self, work: Work) -> bool:
        """Whether the search of a unit is over, so that nothing is to be told of it."""
        return work.search not in self.running or self.running[work.search].ended.is_set()

    def _wake(self) -> None:
        """Something has been told or has come: whoever waits for work may find some."""
        self._news.set()
        self._news = asyncio.Event()
