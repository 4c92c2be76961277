"""What a search hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mcts_ray.config import SearchConfig
from mcts_ray.search.base import Candidate, Ledger


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found and what it cost.

    images: the best finished images, best first, with their `candidates`.
    first: the image that was finished first, which is what one would have had without a search.
    verdicts: of each image gold and pass, the verifier's share of facts that hold and whether all do; empty outside scenes.
    tree: {"nodes": [...]}, as in tree.json. config: with all defaults filled in.
    finished: every finished image in the order in which they came, from which the anytime curve follows.
    thumbnails: a small JPEG of each of them, by node. refusals: how often a fusion was refused, by reason.
    scoring_seconds: busy time of decoding and rewarding, beside the ledger's `denoiser_seconds`.
    scores: with `record_scores` the step score of every evaluated state that has one, by node.
    pruning: counts of what each rule of `prune` has done (`mcts_ray.tree.prune.Pruner.counts`), and particles retired; empty without.
    notes: sentences on how the search went, such as a jump policy that had to fall back.
    """

    prompt: str
    model: str
    config: SearchConfig
    images: list[Image.Image]
    candidates: list[Candidate]
    first: Image.Image | None
    mean_reward: float | None
    verdicts: tuple[tuple[float, bool], ...]
    ledger: Ledger
    tree: dict[str, Any]
    errors: tuple[str, ...] = ()
    run_dir: Path | None = None
    finished: tuple[Candidate, ...] = ()
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    scoring_seconds: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    pruning: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The candidate of `images[0]`."""
        return self.candidates[0] if self.candidates else None

    @property
    def gold(self) -> float | None:
        """Gold of `images[0]`, or None."""
        return self.verdicts[0][0] if self.verdicts else None

    @property
    def passed(self) -> bool | None:
        """Whether all facts hold in `images[0]`, or None."""
        return self.verdicts[0][1] if self.verdicts else None

    @property
    def failure(self) -> str | None:
        """Why there is no image, or None if there is one."""
        if self.images:
            return None
        if self.errors:
            return f"no image was finished for {self.prompt!r}: {len(self.errors)} units failed, the first because {self.errors[0]}"
        return f"no image was finished for {self.prompt!r} before the search was ended after {self.ledger.seconds:.1f} seconds"


class SearchFailed(RuntimeError):
    """A search ended without a single finished image."""


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a search; `results` hold what had been found."""

    def __init__(self, results: list[SearchResult]):
        super().__init__("the search was interrupted")
        self.results = results
