"""Where searches are carried out: the face that `Searcher` sees of this process or of a Ray cluster.

No torch: these objects travel between processes of which only some need it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mcts_ray.config import SearchConfig
from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.record import Recorder, read_journal
from mcts_ray.reward.base import ImageReward
from mcts_ray.search.base import Candidate, Ledger, Search

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be carried out: the resolved configuration, a fresh search for each prompt, and where it will run.

    latent_shape: (C, H, W) of all states. batch_size: samples per denoiser call. log_snr: ln(alpha^2 / sigma^2) of the levels 0 ... T.
    notes: what the user should know of what was chosen for him.
    """

    config: SearchConfig
    searches: tuple[Search, ...]
    latent_shape: tuple[int, int, int]
    device: str
    dtype: str
    batch_size: int
    log_snr: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A fresh search, how many of its units may be out at once, how many images to keep, and where to write it down.

    budget: NFE that it may spend in all, where it is taken up from a journal and is to be given more than it had.
    """

    search: Search
    in_flight: int
    images: int
    run_dir: Path | None = None
    budget: int = 0

    def moved(self) -> Task:
        """The same for another process on this machine, whose working directory is another."""
        return replace(self, run_dir=self.run_dir and self.run_dir.absolute())

    def job(self, batch_size: int = 1) -> Job:
        """The task begun, in this process; where its journal holds more than a header, taken up where that ends. `batch_size`: of the
        engines. ValueError if the journal is another search's."""
        job = Job(self.search, self.in_flight, self.images, Recorder(self.run_dir) if self.run_dir else None)
        if self.run_dir:
            try:
                _, records, length = read_journal(self.run_dir)
                os.truncate(self.run_dir / "journal.jsonl", length)
                job.recover(records, batch_size, self.budget)
            except Exception:  # this process may try once more
                job.observer.close()
                raise
        log.info("search begun", extra={"search": self.search.id, "run": self.run_dir and str(self.run_dir)})
        return job


@dataclass(frozen=True)
class Found:
    """What is left of a search: everything a result is made of.

    first: the node of the image that was finished first. gallery: images (H, W, 3) uint8 by node, of `best` and `first`.
    scores: recorded step scores by node. pruning: counts of what the rules of pruning have done; empty without.
    notes: what the user should know of how it went.
    """

    best: tuple[Candidate, ...]
    finished: tuple[Candidate, ...]
    first: str | None
    gallery: Mapping[str, np.ndarray]
    thumbnails: Mapping[str, bytes]
    ledger: Ledger
    nodes: list[dict[str, Any]]
    errors: tuple[str, ...]
    refusals: Mapping[str, int]
    scoring_seconds: float
    scores: Mapping[str, float]
    pruning: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, job: Job, gallery: Mapping[str, np.ndarray]) -> Found:
        """What a job has found so far; an image that is not in `gallery` is lost."""
        search = job.search
        again = job.again and f"{job.again} NFE were spent once more after losses, or for states that are not kept"
        return cls(
            best=tuple(candidate for candidate in search.best(job.images) if candidate.node in gallery),
            finished=tuple(search.finished),
            first=job.first if job.first in gallery else None,
            gallery=gallery,
            thumbnails=job.thumbnails,
            ledger=search.ledger,
            nodes=search.nodes(),
            errors=tuple(search.errors),
            refusals=dict(search.refusals),
            scoring_seconds=job.scoring_seconds,
            scores=search.scores,
            pruning=search.pruning,
            notes=(*search.notes, *filter(None, [job.cut, again])),
        )


class Run(NamedTuple):
    """How carrying out tasks ended: what each has found, and the exception that ended them early, Ctrl-C included."""

    found: list[Found]
    error: BaseException | None


class ActorsLost(RuntimeError):
    """Actors have died, or were let go, and what they held with them; a run directory holds what it did, and can be resumed."""


class Backend(Protocol):
    """Plans requests and carries them out."""

    def plan(self, prompts: Sequence[str], config: SearchConfig, reward: str | ImageReward | None) -> Plan:
        """The plan of a request; ValueError with a sentence if the model cannot do it."""

    def run(
        self,
        tasks: Sequence[Task],
        plan: Plan,
        reward: str | ImageReward,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        """Carry out tasks made from one plan; never raises for what happens on the way."""

    def close(self) -> None:
        """Let go of what it holds."""
