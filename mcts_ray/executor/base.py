"""What goes into an executor and what can be seen of it, the same for every executor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcts_ray.executor.standing import standing
from mcts_ray.search.base import Cost, Outcome, Search, Work
from mcts_ray.search.journal import effective, replay
from mcts_ray.search.lineage import Again, Lineage

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Told of every event of one search in the order in which it happens, so that it can be written down.

    It may have a `trouble`, the sentence that says why nothing can be written at present, and then has a `flush` that tries again.
    """

    def asked(self, search: Search, works: Sequence[Work]) -> None:
        """Units went out."""

    def reissued(self, search: Search, work: Work) -> None:
        """A lost unit went out again."""

    def told(self, search: Search, outcome: Outcome) -> None:
        """An outcome came back and has been applied."""

    def extended(self, search: Search, nfe: int) -> None:
        """The search may spend more."""

    def halted(self, search: Search, costs: Sequence[Cost]) -> None:
        """The search was ended with units in flight, which had spent `costs`."""


@dataclass(eq=False)
class Job:
    """A search to carry out, with at most `in_flight` units out at once.

    `gallery` holds finished images (H, W, 3) uint8 by node, or what stands for them in another process: the `images` best
    so far, and the first one. `thumbnails` holds a small JPEG of every finished image. `scoring_seconds`: busy time of
    decoding and rewarding, its share of each batch.

    Of a search that goes on where another process stopped, `recovered` are the units that were in flight there, which nobody
    carries out yet; `midway`: it stopped while outcomes were told, so these are told before anything is asked. `again`: NFE spent
    once more because of losses; they are in no ledger. `cut`: why it was ended before its budget was spent, if it was for a fault.
    """

    search: Search
    in_flight: int
    images: int = 1
    observer: Observer | None = None
    gallery: dict[str, Any] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    scoring_seconds: float = 0.0
    stopping: bool = False
    lineage: Lineage = field(default_factory=Lineage)
    recovered: list[Again] = field(default_factory=list)
    midway: bool = False
    again: int = 0
    cut: str | None = None

    @property
    def paused(self) -> str | None:
        """Why nothing is asked for at present, in a sentence; None if that is not so."""
        return getattr(self.observer, "trouble", None)

    @property
    def lost_images(self) -> list[str]:
        """Nodes of images that should be in the gallery and are not."""
        wanted = dict.fromkeys([*(candidate.node for candidate in self.search.best(self.images)), *filter(None, [self.first])])
        return [node for node in wanted if node not in self.gallery]

    @property
    def first(self) -> str | None:
        """The node of the image that was finished first."""
        return self.search.finished[0].node if self.search.finished else None

    def ask(self) -> list[Work]:
        """One unit, if the search has one and may have one more in flight, and is not about to be ended (`stopping`)."""
        ready = self.search.in_flight < self.in_flight and not self.stopping and not self.paused
        works = self.search.ask(1) if ready else []
        for work in works:
            self.lineage.add(work)
        if works and self.observer:
            self.observer.asked(self.search, works)
        return works

    def tell(self, outcome: Outcome, node: str, image: Any = None, thumbnail: bytes = b"") -> bool:
        """Pass an outcome on, and keep its image if it is among the best; False if it came late or twice.

        The image is put down first, so that Ctrl-C at any point leaves no candidate without its image.
        """
        if image is not None:
            self.gallery[node] = image
            if outcome.reward is not None:
                self.thumbnails[node] = thumbnail
        told = self.search.tell(outcome)
        if told and outcome.error:
            log.info("unit failed", extra={"search": outcome.search, "work": outcome.work, "error": outcome.error})
        if told and self.observer:
            self.observer.told(self.search, outcome)
        if image is not None:
            keep = {self.first, *(candidate.node for candidate in self.search.best(self.images))}
            self.gallery = {node: image for node, image in self.gallery.items() if node in keep}
        return told

    def recover(self, records: Sequence[dict], batch_size: int, budget: int = 0) -> None:
        """Bring the fresh search to where its journal ends, and let it spend `budget` in all if that is more than it had.

        `batch_size`: of the engine it had. ValueError if the journal is not that of this search, or it cannot spend more.
        """
        spent = max((record.get("seconds", 0.0) for record in records), default=0.0)  # also by units that are walked again
        records = effective(records, self.search.id)
        replay(self.search, records, self._replayed)
        self.search.tick(max(spent, self.search.ledger.seconds))
        self._released()
        self.search.transitions()  # a trainer has had them
        if (more := budget - self.search.budget) > 0:
            if not self.search.extendable:
                raise ValueError("this search cannot be given more budget: it was planned whole by the one that it had")
            self.search.extend(more)
            if self.observer:
                self.observer.extended(self.search, more)
        stood = standing(records, batch_size, self.search.setting.score_decodes)
        self.lineage.sizes = stood.sizes
        if not self.search.done:
            self.recovered = [Again(work, stood.sizes.get(work.id, ())) for work in self.search.out()]
            self.midway = stood.midway

    def _replayed(self, work: Work) -> None:
        self._released()
        self.lineage.add(work)

    def _released(self) -> None:
        self.lineage.released.update(self.search.released())

    def reissue(self, work: Work) -> Work:
        """A lost unit, to be sent out again under a new epoch."""
        again = self.search.reissue(work.id)
        log.info("unit sent again", extra={"search": work.search, "work": work.id, "epoch": again.epoch})
        if self.observer:
            self.observer.reissued(self.search, again)
        return again

    def extend(self, nfe: int) -> bool:
        """Let the search spend more; False if it has ended or cannot use it."""
        if self.search.done or self.stopping or not self.search.extendable:
            return False
        self.search.extend(nfe)
        if self.observer:
            self.observer.extended(self.search, nfe)
        return True

    def halt(self, costs: Sequence[Cost]) -> None:
        """End the search now and book what its units in flight had spent."""
        self.search.halt(costs)
        if self.observer:
            self.observer.halted(self.search, costs)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, over all of its searches; `nfe` counts units under way too, `best` is per search.

    thumbnails: per search a small JPEG of the best image, empty if there is none. paused: why a search waits, None if none does.
    """

    nfe: int
    budget: int
    seconds: float
    best: tuple[float | None, ...]
    images: int
    failed: int
    running: int
    thumbnails: tuple[bytes, ...] = ()
    paused: str | None = None
