"""Renders in place of generated images, for pairs of many more captions of scenes than a generator has time for.

Shapes: P captions; N images of each; H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mcts_ray.reward.base import finite_scores
from mcts_ray.reward.resolve import resolve_reward
from mcts_ray.scenes.grammar import parse
from mcts_ray.scenes.render import to_arrays
from mcts_ray.scenes.train.corrupt import corrupt
from mcts_ray.scenes.train.data import captions_of, random_scenes
from mcts_ray.scenes.train.scorer import COUNTS, soil

FURTHER = (30_000, 7)  # how many are drawn of the captions that prompts of scenes go on with, and their seed


def captions(count: int, seed: int) -> list[str]:
    """`count` captions that training may see."""
    return captions_of(random_scenes(count, np.random.default_rng([seed, 21]), COUNTS))


def further_prompts(known: Sequence[str]) -> list[str]:
    """About 21,000 captions that training may see beyond those `known`, each once, always the same."""
    there = set(known)
    return [text for text in dict.fromkeys(captions(*FURTHER)) if text not in there]


class Renderer:
    """Renders scenes with facts of their caption wrong or right, soiled as those that the scorer learnt from, and has them scored.

    Called like a `Sampler`: by the reward too, never by the facts, so that pairs say what the guide says.
    """

    def __init__(self, reward: str, device: str) -> None:
        self._reward = resolve_reward(reward, device)

    def __call__(self, prompts: Sequence[str], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` images of each caption, uint8 (P, N, H, W, 3), and their scores (P, N), NaN where there is none.

        ValueError if there is none at all.
        """
        key = hashlib.blake2b("\n".join(prompts).encode(), digest_size=8).digest()
        rng = np.random.default_rng([seed, 22, int.from_bytes(key, "big")])
        texts = [prompt for prompt in prompts for _ in range(count)]
        scenes = corrupt(to_arrays([parse(text) for text in texts]), rng)
        images_NHWC = (soil(scenes, rng) * 255 + 0.5).astype(np.uint8)
        scores = finite_scores(self._reward.score(images_NHWC, texts))
        return images_NHWC.reshape(len(prompts), count, *images_NHWC.shape[1:]), scores.reshape(len(prompts), count)
