"""What a reward is, and how one is asked so that a bad answer costs one image and not the search.

Legend: N images, H x W pixels, C = 3 channels, L tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

VERDICT = 5  # numbers that a reward may tell of a word


class ImageReward(Protocol):
    """Any callable from images and their prompts to one number each, higher is better.

    Optional attributes: `forwards`, network sample-forwards per image (default 0; booked as `model_forwards`), and
    `center` and `scale`, by which a weighted sum makes rewards of different units comparable (default 0 and 1), and
    `verdicts(images_NHWC, prompts)`, an array (N, L, 5) of what it thinks of the single words, for a value head to learn from: for each
    token of the *generator's* text encoder the probability that what it states is shown, 1 where it states something, x and y in
    [-1, 1] of the place that it speaks of, and 1 where it speaks of a place, and
    `reading(prompts)`, what a `Reading` has, of a reward that is itself a network whose words look at patches and that has `verdicts`,
    for a value head to begin with.
    """

    def __call__(self, images_NHWC: np.ndarray, prompts: list[str]) -> Sequence[float]:
        """Scores (N,) of uint8 images (N, H, W, 3)."""


@dataclass(frozen=True)
class Reading:
    """How a reward reads N prompts of L tokens of the generator, and with which weights (`mcts_ray.reward.value.network`).

    parts: state dicts by the name of the part of a `ValueNetwork` that is to begin with them. word (N, L, W): what its words are before
    they look. counts (N, L): 1 where a word counts for the score, else 0. relates (N, L): 1 where it speaks of how two others are placed
    to each other, and between (N, 2, L): of which two.
    """

    parts: Mapping[str, Mapping[str, torch.Tensor]]
    word: torch.Tensor
    counts: torch.Tensor
    relates: torch.Tensor
    between: torch.Tensor


@dataclass(frozen=True)
class Scored:
    """The answer for one image: its score, or why there is none, and how many calls it took."""

    score: float | None
    error: str | None
    calls: int


@dataclass(frozen=True)
class Reward:
    """A reward with the name it was asked for by."""

    name: str
    function: ImageReward

    @property
    def forwards(self) -> int:
        """Network sample-forwards that one call spends on one image."""
        return getattr(self.function, "forwards", 0)

    def reading(self, prompts: Sequence[str]) -> Reading | None:
        """How it reads these prompts; None where it lends nothing. ValueError where that fails."""
        if not hasattr(self.function, "reading"):
            return None
        try:
            return Reading(*self.function.reading(prompts))
        except Exception as error:  # a user's function may raise anything
            raise ValueError(f"the reading of reward {self.name!r} raised {type(error).__name__}: {error}") from error

    def verdicts(self, images_NHWC: np.ndarray, prompts: list[str], tokens: int) -> np.ndarray | None:
        """What it thinks of single words, float16 (N, `tokens`, 5); None where it does not tell, or not by as many tokens.

        ValueError for verdicts that cannot be learned from.
        """
        if not hasattr(self.function, "verdicts"):
            return None
        try:
            told_NLV = np.asarray(self.function.verdicts(images_NHWC, prompts), np.float16)
        except Exception as error:  # a user's function may raise anything
            raise ValueError(f"the verdicts of reward {self.name!r} raised {type(error).__name__}: {error}") from error
        if told_NLV.ndim != 3 or told_NLV.shape[::2] != (len(prompts), VERDICT) or not np.isfinite(told_NLV).all():
            wanted = f"finite numbers of shape ({len(prompts)}, tokens, {VERDICT})"
            raise ValueError(f"the verdicts of reward {self.name!r} must be {wanted}, got shape {told_NLV.shape}")
        return told_NLV if told_NLV.shape[1] == tokens else None

    def score(self, images_NHWC: np.ndarray, prompts: list[str]) -> list[Scored]:
        """Score a batch. An image without a finite score is tried once more, alone; then it has failed.

        An exception of the whole batch is treated the same way, so one image that makes a reward raise fails alone.
        """
        first = self._try(images_NHWC, prompts)
        scored = []
        for index, (score, _) in enumerate(first):
            calls = 1
            error = None
            if score is None:
                (score, error), calls = self._try(images_NHWC[index : index + 1], prompts[index : index + 1])[0], 2
            scored.append(Scored(score, error, calls))
        return scored

    def _try(self, images_NHWC: np.ndarray, prompts: list[str]) -> list[tuple[float | None, str | None]]:
        """One call: a score or an error for each image."""
        try:
            scores_N = as_array(self.function(images_NHWC, prompts))
        except Exception as error:  # a user's function may raise anything
            return [(None, f"reward {self.name!r} raised {type(error).__name__}: {error}")] * len(prompts)
        if scores_N.shape != (len(prompts),):
            shape = f"reward {self.name!r} returned shape {scores_N.shape} for {len(prompts)} images"
            return [(None, shape)] * len(prompts)
        return [
            (float(score), None) if np.isfinite(score) else (None, f"reward {self.name!r} returned {score}")
            for score in scores_N
        ]


def finite_scores(scored: Sequence[Scored]) -> np.ndarray:
    """Scores (N,), NaN where there is none; ValueError with the last reason if there is not one."""
    if scored and all(one.score is None for one in scored):
        raise ValueError(f"none of {len(scored)} images has a score: {scored[-1].error}")
    return np.array([np.nan if one.score is None else one.score for one in scored])


def as_array(scores: Sequence[float]) -> np.ndarray:
    """Numbers, an array or a tensor on any device as a float64 array."""
    if hasattr(scores, "detach"):
        scores = scores.detach().cpu().tolist()
    return np.asarray(scores, dtype=np.float64)
