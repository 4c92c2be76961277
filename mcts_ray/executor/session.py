"""The searches that an executor carries out together: whose turn it is, what is out, how long it has taken.

Neither torch nor Ray: the executor in this process and the tree manager drive the same object, so that they ask and tell
in the same order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.schedule import Shares
from mcts_ray.gain.choose import Gains
from mcts_ray.reward.base import Scored
from mcts_ray.search.base import Cost, Outcome, Work
from mcts_ray.tree.weights import Fused


@dataclass(frozen=True)
class Walk:
    """A unit that a denoiser is done with, without its tensors: what it has spent, why it failed if it did, and what was made beside
    the denoiser: step scores by node, and what jumps gain."""

    work: Work
    cost: Cost
    error: str | None = None
    scores: tuple[tuple[str, float | None], ...] = ()
    gains: tuple[Gains, ...] = ()


@dataclass(frozen=True, eq=False)
class Verdict:
    """What decoding and rewarding the latents of a unit gave.

    answers: of its step scores in the order of the walk, then of its finished image if it has one. image: the finished image,
    or whatever stands for it in another process, with its thumbnail. seconds: busy time, its share of the batch.
    """

    answers: Sequence[Scored] = ()
    image: Any = None
    thumbnail: bytes = b""
    seconds: float = 0.0
    error: str | None = None


class Session:
    """Asks searches in turn, tells their outcomes, keeps their clocks, and lets those that are done go."""

    def __init__(self, jobs: Iterable[Job] = (), clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.turn: deque[Job] = deque()
        self.shares = Shares()
        self._started: dict[str, float] = {}
        self._order: dict[tuple[str, str], int] = {}
        self._fused: dict[tuple[str, str], Fused] = {}
        self._failed: dict[tuple[str, str], Cost] = {}
        self._count = 0
        self.latent_seconds = 0.0  # of decoding and rewarding one latent, the last time
        self.duplicates = 0  # outcomes that came late or twice
        self.replays = 0  # units that were lost and went out again
        self.add(jobs)

    def add(self, jobs: Iterable[Job]) -> None:
        """More searches, behind those that are there."""
        for job in jobs:
            assert job.search.id not in self.jobs, "two searches have the same id"
            self.jobs[job.search.id] = job
            self.turn.append(job)
            self.shares.enter(job.search.id)
            self._number(unit.work for unit in job.recovered)
            if job.search.ledger.seconds or job.recovered:
                self._started[job.search.id] = self.clock() - job.search.ledger.seconds

    def take(self, room: int) -> list[Work]:
        """At most `room` new units, of searches that have had least so far, until there is no room or nobody has more for now."""
        works: list[Work] = []

        def ask(id: str) -> int | None:
            self._started.setdefault(id, self.clock())
            asked = self.jobs[id].ask()
            self._number(asked)
            works.extend(asked)
            return asked[0].nfe if asked else None

        self.shares.deal(room, ask)
        return works

    def _number(self, works: Iterable[Work]) -> None:
        for work in works:
            self._order[work.search, work.id] = self._count
            self._count += 1

    def in_order(self, units: Iterable[Any]) -> list[Any]:
        """Units (anything with a `work`) in the order in which they went out."""
        return sorted(units, key=lambda unit: self._order.get((unit.work.search, unit.work.id), -1))

    def again(self, walk: Walk) -> Work | None:
        """A unit that has failed, once more; None if it is the second time, it has not failed, or its search is at its end. What the
        first try has spent is booked with the second, but for its NFE, of which the budget knows nothing."""
        key = walk.work.search, walk.work.id
        if walk.error is None or key in self._failed:
            return None
        again = next(iter(self.reissue([walk.work])), None)
        if again:
            self._failed[key] = walk.cost
        return again

    def settle(self, walk: Walk, verdict: Verdict = Verdict(), forwards: int = 0) -> None:
        """Tell what became of a unit, given what decoding and rewarding its latents gave; `forwards`: network sample-forwards of
        one reward call. A step score that could not be had is None; a finished image without a reward is a failed unit.
        """
        work, answers = walk.work, verdict.answers
        calls = sum(answer.calls for answer in answers)
        spent = replace(
            walk.cost,
            decodes=len(answers),
            reward_calls=walk.cost.reward_calls + calls,
            model_forwards=walk.cost.model_forwards + calls * forwards,
            fusions=int(work.fuse is not None),
        )
        if failed := self._failed.pop((work.search, work.id), None):
            forwards, seconds = spent.model_forwards + failed.model_forwards, spent.denoiser_seconds + failed.denoiser_seconds
            spent = replace(spent, model_forwards=forwards, denoiser_seconds=seconds)
            self.jobs[work.search].again += failed.nfe
        decoded = [edge.node for edge in work.edges if edge.node in work.scored and work.setting.score_decodes]
        scores = (*walk.scores, *((node, answer.score) for node, answer in zip(decoded, answers)))
        final = answers[-1] if answers and work.terminal else Scored(None, None, 0)
        error = walk.error or verdict.error or final.error
        fused = vars(self._fused.pop((work.search, work.id), Fused()))
        outcome = Outcome(work.id, work.search, work.epoch, spent, final.score, scores, error, gains=walk.gains, **fused)
        self.jobs[work.search].scoring_seconds += verdict.seconds
        if answers:
            self.latent_seconds = verdict.seconds / len(answers)
        self._tell(work, outcome, verdict.image, verdict.thumbnail)

    def refuse(self, work: Work, reason: str) -> None:
        """Tell that the particles of a unit could not be fused."""
        self._tell(work, Outcome(work.id, work.search, work.epoch, Cost(), refused=reason))

    def fused(self, work: Work, said: Fused) -> None:
        """Note how the particles of a unit were fused; its outcome will say so."""
        self._fused[work.search, work.id] = said

    def _tell(self, work: Work, outcome: Outcome, image: Any = None, thumbnail: bytes = b"") -> None:
        job = self.jobs[work.search]
        job.search.tick(self.seconds(job))
        self._order.pop((work.search, work.id), None)
        self.duplicates += not job.tell(outcome, work.edges[-1].node, image, thumbnail)

    def reissue(self, works: Iterable[Work]) -> list[Work]:
        """Lost units, to be sent out again; those of searches that have ended meanwhile, or are being ended, are left out."""
        jobs = self.jobs
        running = [work for work in works if not (jobs[work.search].search.done or jobs[work.search].stopping)]
        self.replays += len(running)
        return [self.jobs[work.search].reissue(work) for work in running]

    def tick(self) -> None:
        """Set the clocks of all searches; what could not be written down is tried again."""
        for job in self.turn:
            job.search.tick(self.seconds(job))
            if job.paused:
                job.observer.flush()

    @property
    def paused(self) -> bool:
        """Whether a search waits until it can be written down."""
        return any(job.paused for job in self.turn)

    @property
    def limited(self) -> bool:
        """Whether a search has to end in time."""
        return any(job.search.max_seconds is not None for job in self.turn)

    def portion(self, units: Iterable[Any], latents: Callable[[Any], int]) -> list[Any]:
        """Of finished units, in the order in which they went out, those to score next: all, or as many as there is time for, at
        least one. `latents`: of a unit, how many are to be scored."""
        units = self.in_order(units)
        if not self.limited:
            return units
        room = self.seconds_left() / self.latent_seconds if self.latent_seconds else 0
        return units[: max(1, sum(total <= room for total in accumulate(map(latents, units))))]

    def next_seconds(self, units: Iterable[Any], latents: Callable[[Any], int], step_seconds: float) -> float:
        """How long the next thing will take: to score the first of the finished units, or one denoiser call and a latent of it."""
        first = self.in_order(units)[:1]
        return self.latent_seconds * latents(first[0]) if first else step_seconds + self.latent_seconds

    def overdue(self, margin: float) -> list[Job]:
        """Searches that would be out of time after `margin` more seconds."""
        limited = [job for job in self.turn if job.search.max_seconds is not None]
        return [job for job in limited if not job.search.done and self.seconds(job) + margin >= job.search.max_seconds]

    def seconds_left(self) -> float:
        """Until the first search is out of time; infinite if none has a limit."""
        limited = [job for job in self.turn if job.search.max_seconds is not None]
        return min((job.search.max_seconds - self.seconds(job) for job in limited), default=float("inf"))

    def halt(self, job: Job, costs: Iterable[Cost] = ()) -> None:
        """End a search now; `costs`: what its units in flight have spent."""
        job.search.tick(self.seconds(job))
        if not job.search.done:
            job.halt(list(costs))

    def release(self) -> list[Job]:
        """Take the searches that are done, and written down, out of the turn, and return them."""
        done = [job for job in self.turn if job.search.done and not job.paused]
        for job in done:
            self._out_of_turn(job)
        return done

    def clear(self) -> None:
        """Nobody is in turn any more."""
        for job in list(self.turn):
            self._out_of_turn(job)

    def _out_of_turn(self, job: Job) -> None:
        self.turn.remove(job)
        self.shares.leave(job.search.id)

    def released(self) -> list[tuple[str, list[str]]]:
        """Nodes whose states the running searches need no more, by search."""
        named = [(job.search.id, job.search.released()) for job in self.turn]
        for id, nodes in named:
            self.jobs[id].lineage.released.update(nodes)
        return [(id, nodes) for id, nodes in named if nodes]

    def forget(self, id: str) -> None:
        """A search that has been released is not spoken of any more."""
        job = self.jobs.pop(id)
        assert job.search.done or job not in self.turn, "a search was forgotten while it runs"
        if job in self.turn:  # ended before it could be written down
            self._out_of_turn(job)
        self._started.pop(id, None)
        self._order = {key: place for key, place in self._order.items() if key[0] != id}
        self._fused = {key: said for key, said in self._fused.items() if key[0] != id}
        self._failed = {key: cost for key, cost in self._failed.items() if key[0] != id}

    def seconds(self, job: Job) -> float:
        """Wall time since the first ask of a search."""
        now = self.clock()
        return now - self._started.get(job.search.id, now)


def progress(jobs: Sequence[Job], nfe: int, seconds: float) -> Progress:
    """Where `jobs` stand; `nfe` counts units under way too."""
    searches = [job.search for job in jobs]
    best = [search.best(1) for search in searches]
    return Progress(
        nfe=nfe,
        budget=sum(search.budget for search in searches),
        seconds=seconds,
        best=tuple(found[0].reward if found else None for found in best),
        images=sum(len(search.finished) for search in searches),
        failed=sum(len(search.errors) for search in searches),
        running=sum(not search.done for search in searches),
        thumbnails=tuple(job.thumbnails.get(found[0].node, b"") if found else b"" for job, found in zip(jobs, best)),
        paused=next((job.paused for job in jobs if job.paused), None),
    )
