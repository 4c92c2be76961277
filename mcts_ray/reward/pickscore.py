"""PickScore, Kirstain et al. 2023 (arXiv 2305.01569): a CLIP ViT-H trained on which of two images people preferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcts_ray.reward.weights import Clip, find_clip, find_processor

if TYPE_CHECKING:
    from mcts_ray.reward.clip import Towers

NAME = "pickscore"
MODEL = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # of the CLIP that it was trained from


def find(source: str | None = None) -> Clip:
    """Where the weights are; ValueError if they are not there. A source without an image processor gets the published one."""
    return find_clip(NAME, source, PROCESSOR) if source else Clip(find_clip(NAME, MODEL).model, find_processor(NAME, PROCESSOR))


class PickScore:
    """exp(logit_scale) · cos(image, prompt); about 20 for an ordinary sample."""

    forwards = 1
    # Over 2 × 40,000 finished images of RealVisXL and FLUX for 200 prompts (tables of TTSnap, arXiv 2511.22242): means 20.9
    # and 21.3, standard deviations 1.38 and 1.44; within one prompt 0.6.
    center = 21.1
    scale = 1.4

    def __init__(self, towers: Towers) -> None:
        self.towers = towers

    @classmethod
    def load(cls, device: str, source: str | None = None) -> PickScore:
        """The published weights, or those of a folder or hub id. ValueError with one sentence if they cannot be loaded."""
        clip = find(source)
        from mcts_ray.reward.clip import load_clip

        return cls(load_clip(NAME, clip, device))

    def __call__(self, images_NHWC: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Scores (N,) of uint8 images (N, H, W, 3)."""
        return self.towers.logit_scale * self.towers.cosine(images_NHWC, prompts)
