"""Plain samples of a generator with their rewards, by the engine that searches use.

Shapes: P prompts; N images of each; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.resolve import Model
from mcts_ray.reward.base import finite_scores
from mcts_ray.reward.resolve import resolve_reward
from mcts_ray.search.base import Edge, Setting, Work
from mcts_ray.search.ids import child_id, jump_id


class Sampler:
    """A generator and a reward. Trajectories are deterministic (phi = 0) and visit all `levels`; every image has a noise of its own."""

    def __init__(self, model: Model, reward: str, device: str, levels: int, guidance: float, height: int, width: int) -> None:
        adapter = make_adapter(load_pipeline(model, device))
        self._engine = Engine(Denoiser(adapter))
        self._decoder = Decoder(adapter)
        self._reward = resolve_reward(reward, str(adapter.device))
        self._setting = {"guidance": guidance, "levels": levels, "height": height, "width": width}

    def __call__(self, prompts: Sequence[str], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` images of each prompt, uint8 (P, N, H, W, 3), and their scores (P, N), NaN where there is none.

        ValueError if there is none at all. A sample that fails, as one that is not finite, has a black image and no score. An image hangs
        on `seed`, its prompt and its number alone.
        """
        ids = [f"{seed}/{prompt}/{n}" for prompt in prompts for n in range(count)]
        texts = [prompt for prompt in prompts for _ in range(count)]
        self._engine.submit(map(self._work, texts, ids))
        latents: dict[str, torch.Tensor | None] = {}
        failed = None
        while not self._engine.idle:
            for walked in self._engine.step():
                latents[walked.work.id] = walked.latent
                failed = walked.error or failed
        there = [place for place, id in enumerate(ids) if latents[id] is not None]
        if not there:
            raise ValueError(f"all {len(ids)} samples failed; the last one: {failed}")
        made_NHWC = self._decoder.decode(torch.stack([latents[ids[place]] for place in there]))
        images_NHWC, scores = np.zeros((len(ids), *made_NHWC.shape[1:]), np.uint8), np.full(len(ids), np.nan)
        images_NHWC[there], scores[there] = made_NHWC, finite_scores(self._reward.score(made_NHWC, [texts[place] for place in there]))
        shape = (len(prompts), count)
        return images_NHWC.reshape(*shape, *images_NHWC.shape[1:]), scores.reshape(shape)

    def _work(self, prompt: str, id: str) -> Work:
        setting = Setting(prompt, **self._setting)
        edges = [Edge(child_id(id, "seed"), setting.levels)]
        for level in range(setting.levels - 1, -1, -1):
            edges.append(Edge(jump_id(edges[-1].node, 1), level))
        return Work(id, "pairs", setting, None, "seed", tuple(edges))
