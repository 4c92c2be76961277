"""Weighted sums of rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcts_ray.reward.base import ImageReward, as_array


class WeightedSum:
    """R = sum_j w_j (r_j - c_j) / s_j.

    Center c_j and scale s_j are constants of each reward (its mean and standard deviation over typical images), not
    statistics of the running search: the same image always has the same reward, early or late, alone or in a batch. A
    reward that states none enters as it is (c = 0, s = 1).
    """

    def __init__(self, terms: Sequence[tuple[ImageReward, float]]) -> None:
        self.terms = tuple(terms)
        self.forwards = sum(getattr(reward, "forwards", 0) for reward, _ in self.terms)

    def __call__(self, images_NHWC: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Scores (N,) of uint8 images (N, H, W, 3). ValueError for a term without a score for each image."""
        total_N = np.zeros(len(prompts))
        for number, (reward, weight) in enumerate(self.terms, 1):
            center, scale = getattr(reward, "center", 0.0), getattr(reward, "scale", 1.0)
            score_N = as_array(reward(images_NHWC, prompts))
            if score_N.shape != total_N.shape:
                raise ValueError(f"term {number} of the sum returned shape {score_N.shape} for {len(prompts)} images")
            total_N += weight * (score_N - center) / scale
        return total_N
