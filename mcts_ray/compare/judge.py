"""What judges images that a search has returned: the gold judge, and how far the images are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

VERIFIER = "verifier"
DIVERSITY = "mean pairwise root mean square distance of pixels in [0, 1]"


def verifier(images_NHWC: np.ndarray, prompts: Sequence[str]) -> list[float]:
    """The exact verifier of scenes as a reward: the share of facts that hold. For gold and oracle arms alone."""
    from mcts_ray.scenes import verify_batch

    return [score for score, _, _ in verify_batch(images_NHWC, prompts)]


def as_reward(gold: str) -> str:
    """The reward that stands for a gold judge: "verifier", or the name of any reward."""
    return f"{__name__}:verifier" if gold == VERIFIER else gold


def diversity(images: Sequence[np.ndarray]) -> float | None:
    """`DIVERSITY` of images (H, W, 3) uint8; None of fewer than two."""
    pixels = [np.asarray(image, np.float32) / 255 for image in images]
    distances = [float(np.sqrt(((a - b) ** 2).mean())) for a, b in combinations(pixels, 2)]
    return sum(distances) / len(distances) if distances else None
