"""CLIPScore, Hessel et al. 2021 (arXiv 2104.08718): how well an image fits its prompt, by a CLIP as OpenAI published it.

The formula is the paper's. The model is ViT-L/14, as is usual for generated images, not the paper's ViT-B/32
(`clipscore@openai/clip-vit-base-patch32`), and prompts go in as they are, without the paper's "A photo depicts".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcts_ray.reward.weights import Clip, find_clip

if TYPE_CHECKING:
    from mcts_ray.reward.clip import Towers

NAME = "clipscore"
MODEL = "openai/clip-vit-large-patch14"
W = 2.5


def find(source: str | None = None) -> Clip:
    """Where the weights are; ValueError if they are not there."""
    return find_clip(NAME, source or MODEL, MODEL)


class ClipScore:
    """w · max(cos(image, prompt), 0) with w = 2.5, section 3 of the paper."""

    forwards = 1
    # Rough, from no table: the cosine of ViT-L/14 lies around .26 with a spread of about .03 for images that fit their prompts.
    center = 0.65
    scale = 0.08

    def __init__(self, towers: Towers) -> None:
        self.towers = towers

    @classmethod
    def load(cls, device: str, source: str | None = None) -> ClipScore:
        """OpenAI's weights, or those of a folder or hub id. ValueError with one sentence if they cannot be loaded."""
        clip = find(source)
        from mcts_ray.reward.clip import load_clip

        return cls(load_clip(NAME, clip, device))

    def __call__(self, images_NHWC: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Scores (N,) of uint8 images (N, H, W, 3)."""
        return W * np.maximum(self.towers.cosine(images_NHWC, prompts), 0)
