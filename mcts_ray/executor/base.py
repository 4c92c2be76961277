"""What goes into an executor and what can be seen of it, the same for every executor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcts_ray.search.base import Cost, Outcome, Search, Work

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Told of every event of one search in the order in which it happens, so that it can be written down."""

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
    """

    search: Search
    in_flight: int
    images: int = 1
    observer: Observer | None = None
    gallery: dict[str, Any] = field(default_factory=dict)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    scoring_seconds: float = 0.0
    stopping: bool = False

    @property
    def first(self) -> str | None:
        """The node of the image that was finished first."""
        return self.search.finished[0].node if self.search.finished else None

    def ask(self) -> list[Work]:
        """One unit, if the search has one and may have one more in flight, and is not about to be ended (`stopping`)."""
        works = self.search.ask(1) if self.search.in_flight < self.in_flight and not self.stopping else []
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
        keep = {self.first, *(candidate.node for candidate in self.search.best(self.images))}
        self.gallery = {node: image for node, image in self.gallery.items() if node in keep}
        return told

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

    thumbnails: per search a small JPEG of the best image, empty if there is none.
    """

    nfe: int
    budget: int
    seconds: float
    best: tuple[float | None, ...]
    images: int
    failed: int
    running: int
    thumbnails: tuple[bytes, ...] = ()
