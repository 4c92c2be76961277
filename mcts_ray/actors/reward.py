"""The reward actor: decodes latents and scores the images, whole batches at a time."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mcts_ray import logs
from mcts_ray.actors.spec import Gone, ends_unless, fetched, look_in, see_only, users_modules
from mcts_ray.diffusion.resolve import Model

if TYPE_CHECKING:
    from mcts_ray.executor.scoring import Scoring

IDLE = 2  # rewards by name that stay loaded without a search


class UnknownReward(RuntimeError):
    """The actor has been restarted since the reward was loaded."""


class RewardWorker:
    """An autoencoder, and the rewards of the searches in hand by key; all loaded on first use.

    paths: where a user's reward module may lie; gpus: ids of the GPUs to see, those of the denoiser that it shares one with.
    """

    def __init__(
        self, model: Model, device: str, dtype: str, threads: int | None = None, paths: Sequence[str] = (), gpus: Sequence[str] = ()
    ) -> None:
        logs.set_up()
        self.model, self.device, self.dtype, self.threads = model, device, dtype, threads
        see_only(gpus)
        look_in(paths)
        self._scoring: dict[str, Scoring] = {}
        self._named: dict[str, Scoring] = {}

    def __repr__(self) -> str:
        return f"Reward({self.model.name})"

    def load(self, key: str, reward: Any) -> int:
        """Make a reward (its text, or a callable) and know it as `key`; returns network sample-forwards per call. ValueError if
        it cannot be made."""
        from mcts_ray.executor.scoring import Scoring
        from mcts_ray.reward import resolve_reward

        scoring = self._named.get(reward) if isinstance(reward, str) else None
        if scoring is None:
            with users_modules():
                scoring = Scoring(self._decoder, resolve_reward(reward, self.device))
        if isinstance(reward, str):
            self._named = {text: one for text, one in self._named.items() if text != reward} | {reward: scoring}
        self._scoring[key] = scoring
        return scoring.reward.forwards

    def forget(self, key: str) -> None:
        """Its search has gone. Of the rewards by name that nobody needs now, those loaded last stay for the next search."""
        self._scoring.pop(key, None)
        in_use = {id(one) for one in self._scoring.values()}
        idle = [text for text, one in self._named.items() if id(one) not in in_use]
        for text in idle[: max(0, len(idle) - IDLE)]:
            del self._named[text]

    @ends_unless(UnknownReward, Gone)
    def score(self, packed: bytes, refs: Sequence[Any]) -> list:
        """Decode and score the latents `batches[b][i]` for (b, i) in `picks`; `refs` are to the batches, lists of (C, H, W) fp32.
        packed: key, picks, prompts and wanted, pickled.

        Returns the answers (`Scored`), the thumbnails of `wanted` (places in `picks`) and the seconds it took, then, each as an
        object of its own, the wanted images (H, W, 3) uint8. Raises UnknownReward if `key` has gone with an earlier process, Gone if
        batches are lost; anything else ends this process.
        """
        key, picks, prompts, wanted = pickle.loads(packed)
        if key not in self._scoring:
            raise UnknownReward(key)
        import torch

        from mcts_ray.executor.scoring import thumbnail

        batches: list[list[np.ndarray]] = fetched(refs)
        start = time.perf_counter()
        answers = self._scoring[key].answer([torch.from_numpy(batches[b][i].copy()) for b, i in picks], prompts)
        images = [answers[place].image_HWC.copy() for place in wanted]
        thumbnails = [thumbnail(image) for image in images]
        stats = [answer.scored for answer in answers], thumbnails, time.perf_counter() - start
        return [stats, *images] if images else stats

    @ends_unless()
    def show(self, latents: Sequence[np.ndarray]) -> list:
        """The thumbnails of latents, decoded, then, each as an object of its own, their images (H, W, 3) uint8."""
        import torch

        from mcts_ray.executor.scoring import thumbnail

        images = [self._decoder.decode(torch.from_numpy(latent.copy())[None])[0].copy() for latent in latents]
        return [[thumbnail(image) for image in images], *images]

    @cached_property
    def _decoder(self):
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        from mcts_ray.diffusion.adapters.vae import VaeAdapter
        from mcts_ray.diffusion.decode import Decoder
        from mcts_ray.diffusion.load import load_vae, resolve_device, resolve_dtype

        device = resolve_device(self.device)
        return Decoder(VaeAdapter(load_vae(self.model, device, resolve_dtype(self.dtype, device)), self.model.is_xl))
