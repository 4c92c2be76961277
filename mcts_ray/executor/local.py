"""The in-process executor: one engine, one decoder, one reward, many searches advancing together.

The loop is: ask every search in turn until the batch is full; one denoiser call; decode and reward what has finished,
in micro-batches; tell the outcomes in the order in which their units went out. Without `max_seconds` nothing depends on
timing, so two runs of the same searches are the same, node for node.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.engine import Engine, Walked
from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.learning import Learning, drained
from mcts_ray.executor.redo import redo
from mcts_ray.executor.scoring import Scoring, thumbnail
from mcts_ray.executor.session import Session, Verdict, Walk, progress
from mcts_ray.fusion.fuser import Start, start_of
from mcts_ray.reward.base import Reward
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import Refusal

log = logging.getLogger(__name__)
PAUSE = 0.2  # seconds between two attempts to write what could not be written


class LocalExecutor:
    """Carries out searches with an engine (its batch size is the size of all batches), a decoder and a reward."""

    def __init__(self, engine: Engine, decoder: Decoder, reward: Reward, clock: Callable[[], float] = time.perf_counter):
        self.engine = engine
        self.scoring = Scoring(decoder, reward)
        self._clock = clock

    def run(self, jobs: Sequence[Job], on_progress: Callable[[Progress], None] | None = None) -> None:
        """Carry every search to its end; what was found is in the jobs.

        A search is ended when the next denoiser call, or the next score, would take longer than it has time: what is still under
        way or waits for its score is abandoned and booked. An exception, Ctrl-C included, ends all searches in the same way
        (without further decoding) and is passed on.
        """
        run = _Run(self.engine, self.scoring, Session(jobs, self._clock), on_progress)
        try:
            run.loop()
        finally:
            run.close()


class _Run:
    """The state of one call of `LocalExecutor.run`."""

    def __init__(self, engine: Engine, scoring: Scoring, session: Session, on_progress: Callable[[Progress], None] | None):
        self.engine, self.scoring, self.session, self.on_progress = engine, scoring, session, on_progress
        self.jobs = list(session.jobs.values())
        self.start = session.clock()
        self.finished: list[Walked] = []
        self.nfe_before = engine.nfe - sum(job.search.ledger.nfe for job in self.jobs)
        self.step_seconds = 0.0
        self.learning = Learning()

    def loop(self) -> None:
        """Until every search is done."""
        self.recover()
        self.retire()
        while self.session.turn:
            self.fill()
            if self.finished and (self.engine.free or self.session.limited or len(self.finished) >= self.engine.batch_size):
                self.score()
            elif not self.engine.idle:
                self.step()
            elif self.session.paused:
                time.sleep(PAUSE)
            self.retire()
            if self.on_progress:
                self.on_progress(progress(self.jobs, self.engine.nfe - self.nfe_before, self.session.clock() - self.start))

    def recover(self) -> None:
        """Take up what another process has left in flight, as far as it had got there, and have its images back."""
        for job in self.jobs:
            if nodes := job.lost_images:
                self.redo(job, nodes)
        units = [unit for job in self.jobs for unit in job.recovered]
        going, noise, states = self.starts([unit.work for unit in units])
        walked = self.engine.resume([unit for unit in units if unit.work in going], noise, states)
        for job in self.jobs:
            job.again += sum(len(unit.sizes) for unit in job.recovered)
            job.recovered = []
        self.take(walked)
        if self.finished and any(job.midway for job in self.jobs):
            self.score()

    def redo(self, job: Job, nodes: Sequence[str]) -> None:
        """Make lost states of a search again; at level 0, its images."""
        generations = job.lineage.again(nodes, partial(self.has, job.search.id))
        walked = redo(self.engine, generations)
        job.again += sum(unit.nfe for unit in walked)
        images = [unit for unit in walked if unit.latent is not None]
        for unit in images:
            image = self.scoring.decoder.decode(unit.latent[None])[0]
            node = unit.work.edges[-1].node
            job.gallery[node], job.thumbnails[node] = image.copy(), thumbnail(image)

    def fill(self) -> None:
        """Ask for units until the batch is full or nobody has more for now."""
        works = self.session.take(self.engine.free)
        going, noise, states = self.starts(works)
        self.engine.submit(going, noise, states)
        busy = works or not self.engine.idle or self.finished
        assert busy or self.session.paused, "searches are not done but ask for nothing"

    def starts(self, works: Sequence[Work]) -> tuple[list[Work], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The units that can go, and what those begin with that are fused, by their first nodes: noises, and whole states (C, H, W).
        States that they start from and that are lost are made again; those that cannot be fused are told."""
        lost: dict[str, list[str]] = {}
        for work in works:
            if nodes := self.session.jobs[work.search].lineage.lost(work, partial(self.has, work.search)):
                lost.setdefault(work.search, []).extend(nodes)
        for id, nodes in lost.items():
            self.redo(self.session.jobs[id], nodes)
        fused = {work: self.fuse(work) for work in works if work.fuse}
        for work, start in fused.items():
            if isinstance(start, Refusal):
                self.session.refuse(work, start.value)
            else:
                self.session.fused(work, start.said)
        going = [work for work in works if not isinstance(fused.get(work), Refusal)]
        starts = [(work.edges[0].node, fused[work]) for work in going if work.fuse]
        noise, states = ({node: start.tensor for node, start in starts if start.whole == whole} for whole in (False, True))
        return going, noise, states

    def has(self, search: str, node: str) -> bool:
        """Whether the state of a node is here."""
        return self.engine.store.get(search, node) is not None

    def fuse(self, work: Work) -> Start | Refusal:
        """What a fused unit starts from, or why there is nothing."""
        shape = self.engine.denoiser.adapter.latent_shape(work.setting.height, work.setting.width)
        kept = {node: self.engine.store.get(work.search, node) for node in work.fuse.particles}
        return start_of(work, shape, {node: state for node, state in kept.items() if state is not None}, self.engine.denoiser.device)

    def step(self) -> None:
        """One denoiser call; units without anything to decode are told at once, the others wait for `score`."""
        start = self.session.clock()
        walked = self.engine.step()
        self.step_seconds = self.session.clock() - start
        self.take(walked)

    def take(self, walked: Sequence[Walked]) -> None:
        """Units that have left the engine: to be scored, told, or, where one has failed for the first time, walked once more."""
        for unit in self.session.in_order(walked):
            if unit.to_decode:
                self.finished.append(unit)
            elif again := self.session.again(_walk(unit)):
                self.engine.submit(*self.starts([again]))
            else:
                self.session.settle(_walk(unit))

    def score(self) -> None:
        """Decode and reward finished units, and tell their outcomes in the order in which they went out."""
        units = self.session.portion(self.finished, _latents)
        prompts = [unit.work.setting.prompt for unit in units for _ in unit.to_decode]
        start = self.session.clock()
        answers = self.scoring.answer([latent for unit in units for latent in unit.to_decode], prompts)
        seconds = (self.session.clock() - start) / len(answers)
        each = iter(answers)
        for unit in units:
            self.finished.remove(unit)  # not before: what an interrupt finds here is still to be booked
            mine = [next(each) for _ in unit.to_decode]
            image = None if unit.latent is None else mine[-1].image_HWC.copy()
            small = b"" if image is None else thumbnail(image)
            verdict = Verdict([answer.scored for answer in mine], image, small, seconds * len(mine))
            self.session.settle(_walk(unit), verdict, self.scoring.reward.forwards)
        self.learn()

    def learn(self) -> None:
        """Have the IGE learn from the searches that let it; they go on with what it has learned."""
        for folder, transitions in drained(self.jobs).items():
            try:
                if version := self.learning.take(folder, transitions):
                    self.engine.denoiser.install(folder, version)
            except Exception:  # searches go on without it, by the versions they have
                log.exception("the IGE in %s has not learned from these transitions", folder)

    def retire(self) -> None:
        """Set all clocks; take out searches that are done, and those that would be out of time after the next call."""
        self.session.tick()
        for job in self.session.overdue(self.session.next_seconds(self.finished, _latents, self.step_seconds)):
            self.halt(job)
        for id, nodes in self.session.released():
            self.engine.store.forget(id, nodes)
        self.engine.trim()
        for job in self.session.release():
            self.engine.drop(job.search.id)

    def halt(self, job: Job) -> None:
        """Abandon the units in flight of one search and book what they had spent."""
        id = job.search.id
        dropped = [*self.engine.drop(id), *(unit for unit in self.finished if unit.work.search == id)]
        self.finished = [unit for unit in self.finished if unit.work.search != id]
        self.session.halt(job, [unit.cost for unit in dropped])

    def close(self) -> None:
        """After an exception: end what is still running."""
        for job in self.session.turn:
            self.halt(job)


def _latents(unit: Walked) -> int:
    """How many latents of a unit are to be scored."""
    return len(unit.to_decode)


def _walk(unit: Walked) -> Walk:
    """A unit without its tensors."""
    return Walk(unit.work, unit.cost, unit.error, unit.scores, unit.gains)
