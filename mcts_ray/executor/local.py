"""The in-process executor: one engine, one decoder, one reward, many searches advancing together.

The loop is: ask every search in turn until the batch is full; one denoiser call; decode and reward what has finished,
in micro-batches; tell the outcomes in the order in which their units went out. Without `max_seconds` nothing depends on
timing, so two runs of the same searches are the same, node for node.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch

from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.engine import Engine, Walked
from mcts_ray.executor.base import Job, Progress
from mcts_ray.reward.base import Reward, Scored
from mcts_ray.search.base import Cost, Outcome, Work


class LocalExecutor:
    """Carries out searches with an engine (its batch size is the size of all batches), a decoder and a reward."""

    def __init__(self, engine: Engine, decoder: Decoder, reward: Reward, clock: Callable[[], float] = time.perf_counter):
        self.engine = engine
        self.decoder = decoder
        self.reward = reward
        self._clock = clock

    def run(self, jobs: Sequence[Job], on_progress: Callable[[Progress], None] | None = None) -> None:
        """Carry every search to its end; what was found is in the jobs.

        A search out of time is ended after the denoiser call under way: its finished latents are still decoded, its
        unfinished units are abandoned and booked. An exception, Ctrl-C included, ends all searches in the same way
        (without further decoding) and is passed on.
        """
        run = _Run(self, jobs, on_progress)
        try:
            run.loop()
        finally:
            run.close()


class _Run:
    """The state of one call of `LocalExecutor.run`."""

    def __init__(self, executor: LocalExecutor, jobs: Sequence[Job], on_progress: Callable[[Progress], None] | None):
        self.engine, self.decoder, self.reward = executor.engine, executor.decoder, executor.reward
        self.clock = executor._clock
        self.on_progress = on_progress
        self.jobs = {job.search.id: job for job in jobs}
        assert len(self.jobs) == len(jobs), "two searches have the same id"
        self.turn = deque(jobs)
        self.start = self.clock()
        self.started: dict[str, float] = {}
        self.order: dict[tuple[str, str], int] = {}
        self.finished: list[Walked] = []
        self.nfe_before = self.engine.nfe
        self.step_seconds = 0.0

    def loop(self) -> None:
        """Until every search is done."""
        self.retire()
        while self.turn:
            self.fill()
            if self.finished and (self.engine.free or len(self.finished) >= self.engine.batch_size):
                self.score()
            else:
                assert not self.engine.idle, "searches are not done but ask for nothing"
                self.step()
            self.retire()
            if self.on_progress:
                self.on_progress(self.progress())

    def fill(self) -> None:
        """Ask the searches in turn, one unit each, until the batch is full or nobody has more for now."""
        refused = 0
        while self.engine.free and refused < len(self.turn):
            job = self.turn[0]
            self.turn.rotate(-1)
            self.started.setdefault(job.search.id, self.clock())
            works = job.ask()
            refused = 0 if works else refused + 1
            for work in works:
                self.order[work.search, work.id] = len(self.order)
            self.engine.submit(works)

    def step(self) -> None:
        """One denoiser call; units without anything to decode are told at once, the others wait for `score`."""
        start = self.clock()
        walked = sorted(self.engine.step(), key=lambda w: self.order[w.work.search, w.work.id])
        self.step_seconds = self.clock() - start
        for unit in walked:
            if unit.to_decode:
                self.finished.append(unit)
            else:
                self.tell(unit.work, _cost(unit), error=unit.error)

    def score(self) -> None:
        """Decode and reward the finished units, and tell their outcomes in the order in which they went out."""
        finished = sorted(self.finished, key=lambda w: self.order[w.work.search, w.work.id])
        for _, units in groupby(finished, key=lambda unit: unit.to_decode[0].shape):
            units = list(units)
            images_NHWC = self.decoder.decode(torch.stack([latent for unit in units for latent in unit.to_decode]))
            prompts = [unit.work.setting.prompt for unit in units for _ in unit.to_decode]
            answered = iter(zip(images_NHWC, self.reward.score(images_NHWC, prompts), strict=True))
            for unit in units:
                self.finished.remove(unit)  # not before: what an interrupt finds here is still to be booked
                self.answer(unit, [next(answered) for _ in unit.to_decode])

    def answer(self, unit: Walked, answers: Sequence[tuple[np.ndarray, Scored]]) -> None:
        """Tell what became of a unit, given its decoded images and their scores: those of its step scores come first.

        A step score that could not be had is None; a finished image without a reward is a failed unit.
        """
        calls = sum(scored.calls for _, scored in answers)
        cost = _cost(unit, len(answers), calls, calls * self.reward.forwards)
        nodes = [edge.node for edge in unit.work.edges if edge.node in unit.work.scored]
        scores = tuple((node, scored.score) for node, (_, scored) in zip(nodes, answers))
        if unit.latent is None:
            self.tell(unit.work, cost, scores=scores)
        else:
            image_HWC, final = answers[-1]
            self.tell(unit.work, cost, final.score, final.error, scores, image_HWC)

    def tell(self, work: Work, cost: Cost, reward=None, error=None, scores=(), image_HWC: np.ndarray | None = None) -> None:
        """Set the clock of the search that asked for `work` and tell it what became of it."""
        job = self.jobs[work.search]
        job.search.tick(self.seconds(job))
        image_HWC = None if image_HWC is None else image_HWC.copy()
        outcome = Outcome(work.id, work.search, work.epoch, cost, reward, scores, error)
        job.tell(outcome, work.edges[-1].node, image_HWC)

    def retire(self) -> None:
        """Set all clocks; take out searches that are done, and those that would be out of time after one more call."""
        for job in tuple(self.turn):
            search, seconds = job.search, self.seconds(job)
            search.tick(seconds)
            if search.max_seconds is not None and seconds + self.step_seconds >= search.max_seconds:
                self.expire(job)
            if search.done:
                self.turn.remove(job)
                self.engine.drop(search.id)

    def expire(self, job: Job) -> None:
        """End a search whose time is over; images that only wait for their reward still count."""
        if any(unit.work.search == job.search.id for unit in self.finished):
            self.score()
        self.halt(job)

    def halt(self, job: Job) -> None:
        """Abandon the units in flight of one search and book what they had spent."""
        dropped = self.engine.drop(job.search.id)
        dropped += [unit for unit in self.finished if unit.work.search == job.search.id]
        self.finished = [unit for unit in self.finished if unit.work.search != job.search.id]
        if not job.search.done:
            job.halt([_cost(unit) for unit in dropped])

    def close(self) -> None:
        """After an exception: end what is still running."""
        for job in self.turn:
            job.search.tick(self.seconds(job))
            self.halt(job)

    def seconds(self, job: Job) -> float:
        """Wall time since the first ask of a search."""
        now = self.clock()
        return now - self.started.get(job.search.id, now)

    def progress(self) -> Progress:
        """Where the run stands."""
        searches = [job.search for job in self.jobs.values()]
        best = (search.best(1) for search in searches)
        return Progress(
            nfe=self.engine.nfe - self.nfe_before,
            budget=sum(search.budget for search in searches),
            seconds=self.clock() - self.start,
            best=tuple(found[0].reward if found else None for found in best),
            images=sum(len(search.finished) for search in searches),
            failed=sum(len(search.errors) for search in searches),
            running=len(self.turn),
        )


def _cost(unit: Walked, decodes: int = 0, reward_calls: int = 0, reward_forwards: int = 0) -> Cost:
    """What a unit has spent: its walk, and the decoding and rewarding of its image."""
    return Cost(
        nfe=unit.nfe,
        model_forwards=unit.forwards + reward_forwards,
        decodes=decodes,
        reward_calls=reward_calls,
        denoiser_seconds=unit.seconds,
    )
