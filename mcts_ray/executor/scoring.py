"""From finished latents to scores and images: decode, reward, thumbnail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from mcts_ray.diffusion.decode import Decoder
from mcts_ray.reward.base import Reward, Scored

THUMBNAIL = 64  # pixels of the longer side


class Answer(NamedTuple):
    """What became of one latent: its score, and its image (H, W, 3) uint8."""

    scored: Scored
    image_HWC: np.ndarray


class Scoring:
    """A decoder and a reward."""

    def __init__(self, decoder: Decoder, reward: Reward) -> None:
        self.decoder = decoder
        self.reward = reward

    def answer(self, latents: Sequence[torch.Tensor], prompts: Sequence[str]) -> list[Answer]:
        """Decode and reward latents (C, H, W), runs of equal shape together; the order is kept."""
        answers: list[Answer] = []
        for _, group in groupby(zip(latents, prompts, strict=True), key=lambda pair: pair[0].shape):
            answers += self._answer(*zip(*group))
        return answers

    def _answer(self, latents: Sequence[torch.Tensor], prompts: Sequence[str]) -> Iterator[Answer]:
        images_NHWC = self.decoder.decode(torch.stack(list(latents)))
        return map(Answer, self.reward.score(images_NHWC, list(prompts)), images_NHWC)


def thumbnail(image_HWC: np.ndarray) -> bytes:
    """A small JPEG of an image."""
    image = Image.fromarray(image_HWC)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = BytesIO()
    image.save(data, "JPEG", quality=80)
    return data.getvalue()
