"""Scored images made noisy again: states for a value head that are new in every batch.

    x = alpha_i z + sigma_i eps,   z an image's latent, i a level, eps fresh noise

is where a trajectory with full noise (eta = 1) that ends in the image may have passed, if the generator is a good model of its own images.
Recorded trajectories are few, and a network soon knows them by heart; here the same image is never seen twice in the same state.
A state costs one call of the generator, whose feature maps are read as they are in a search.

Legend: B states, C x H x W latent, N images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.resolve import image_size, resolve_model
from mcts_ray.reward.base import Reward
from mcts_ray.reward.lrm.collect import scored
from mcts_ray.reward.lrm.latents import encoded
from mcts_ray.reward.lrm.pairs import digest, read_pairs
from mcts_ray.reward.resolve import resolve_reward
from mcts_ray.reward.value.data import Batch, Trajectories
from mcts_ray.reward.value.record import noted
from mcts_ray.search import Setting

JUDGED = 64  # prompts whose images the reward is asked about together


@dataclass(frozen=True)
class Images:
    """The images of a prompt: their numbers among all (n,), scores (n,), and what the reward thinks of the words (n, L, 5), if it tells."""

    prompt: str
    index: np.ndarray
    scores: np.ndarray
    verdict: np.ndarray | None


class Renoised:
    """The images and scores in a folder of `mcts-ray train reward --kind lrm --collect`, without those of the prompts `left_out`.

    known: the trajectories beside which they are learned from, whose levels, guidance, taps and grid they take. Latents are kept in
    `out`. Raises ValueError for a folder that holds no such images, images that another reward has scored, or held-out prompts alone.
    """

    def __init__(self, folder: Path, known: Trajectories, left_out: Collection[str], out: Path, device: torch.device) -> None:
        facts = known.manifest
        records = scored(folder, model=facts["model"], reward=facts["reward"])
        pairs = read_pairs(folder)
        model = resolve_model(facts["model"])
        pipe = load_pipeline(model, str(device))
        self._denoiser, self._facts, self._size = Denoiser(make_adapter(pipe)), facts, image_size(model)
        self._latent_NCHW = encoded(pairs, pipe.vae, self._size, out)
        place = {name: index for index, name in enumerate(pairs.images)}
        self.reward, tokens = resolve_reward(facts["reward"], str(device)), facts["text"][0]
        kept = [record for record in records if record["prompt"] not in left_out and len(record["images"]) > 1]
        self._prompts: list[Images] = []
        for at in range(0, len(kept), JUDGED):
            some = kept[at : at + JUDGED]
            for record, verdict in zip(some, _verdicts(self.reward, folder, some, tokens), strict=True):
                index = np.array([place.get(digest((folder / file).read_bytes()), -1) for file in record["images"]])
                if index.min() < 0:
                    same = "the same `mcts-ray train reward --kind lrm --collect`"
                    raise ValueError(f"the collection in {folder} was cut off; go on with {same}")
                self._prompts.append(Images(record["prompt"], index, np.array(record["scores"]), verdict))
        if not self._prompts:
            raise ValueError(f"all prompts of the images in {folder} are held out; make images of others too")

    def __len__(self) -> int:
        return len(self._prompts)

    def texts(self, limit: int) -> tuple[list[str], torch.Tensor]:
        """At most `limit` prompts and their embeddings (P, L, D)."""
        prompts = [images.prompt for images in self._prompts[:: max(1, len(self) // limit)][:limit]]
        return prompts, torch.stack([self._denoiser.prompts.get(prompt).embedding for prompt in prompts]).float().clone()

    def batch(self, rng: np.random.Generator, groups: int, first: int = 0, noise: torch.Generator | None = None) -> Batch:
        """States of `groups` prompts, all images of a prompt at one level; groups are numbered from `first`. noise: torch's own if None."""
        T = self._facts["levels"]
        chosen = [self._prompts[index] for index in rng.choice(len(self._prompts), groups)]
        sizes = [len(images.index) for images in chosen]
        level_B = np.repeat(rng.integers(1, T + 1, groups), sizes).tolist()
        index_B = np.concatenate([images.index for images in chosen])
        latent_BCHW = torch.from_numpy(np.asarray(self._latent_NCHW[index_B], np.float32))
        x_BCHW, _ = self._denoiser.levels(T).diffused(latent_BCHW, level_B, noise)
        size = {"height": self._size[0], "width": self._size[1]}
        options = {"guidance": self._facts["guidance"], "levels": T, **size}
        settings = [Setting(images.prompt, **options) for images in chosen for _ in images.index]
        told = None if chosen[0].verdict is None else np.concatenate([images.verdict for images in chosen])
        scores_B = np.concatenate([images.scores for images in chosen])
        return self._read(x_BCHW.to(self._denoiser.device), level_B, settings, scores_B, told, sizes, first)

    def _read(self, x_BCHW, level_B, settings, scores, told, sizes, first) -> Batch:
        """What the generator's call at these states gives, as trajectories have it: maps on their grid, rounded to fp16."""
        taps = tuple(self._facts["taps"])
        prediction = self._denoiser.denoise(x_BCHW, level_B, settings, taps)
        part = noted(x_BCHW, prediction.x0, prediction.taps, taps, self._facts["grid"])
        rows = {name: value.float().clone() for name, value in part.items()}
        embeddings = [self._denoiser.prompts.get(setting.prompt).embedding for setting in settings]
        return Batch(
            {name: rows[f"tap.{name}"] for name in taps},
            rows["x"],
            rows["x0"],
            self._denoiser.levels(self._facts["levels"]).log_snr_L[level_B].float().to(x_BCHW.device),
            torch.stack(embeddings).float().clone(),
            torch.from_numpy(scores).float().to(x_BCHW.device),
            torch.repeat_interleave(torch.arange(first, first + len(sizes)), torch.tensor(sizes)).to(x_BCHW.device),
            None if told is None else torch.from_numpy(told).float().to(x_BCHW.device),
        )


def _verdicts(reward: Reward, folder: Path, records: Sequence[dict], tokens: int) -> list[np.ndarray | None]:
    """What a reward thinks of the words, (n, L, 5) for each record, if it tells; without an image read if it does not."""
    if not hasattr(reward.function, "verdicts"):
        return [None] * len(records)
    images_NHWC = np.stack([np.asarray(Image.open(folder / file).convert("RGB")) for record in records for file in record["images"]])
    prompts = [record["prompt"] for record in records for _ in record["images"]]
    cuts = np.cumsum([len(record["images"]) for record in records])[:-1]
    return np.split(reward.verdicts(images_NHWC, prompts, tokens), cuts)
