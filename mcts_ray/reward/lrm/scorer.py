"""The latent reward model as a step score of searches."""

from __future__ import annotations

from functools import lru_cache

import torch

from mcts_ray.diffusion.memory import Slices
from mcts_ray.reward.lrm.files import read
from mcts_ray.reward.lrm.layout import find
from mcts_ray.reward.lrm.model import LatentRewardModel, Text
from mcts_ray.reward.lrm.words import Words
from mcts_ray.reward.step import States


def load_scorer(source: str, adapter) -> LatentReward:
    """The model in `source` (see `layout.find`) on the device and in the precision of `adapter`'s U-Net.

    Raises ValueError with one sentence for a source that is not there, lacks a file, or does not fit the generator's latents.
    """
    layout = find(source)
    model = read(layout, adapter.pipe)
    words = Words.choose(model, adapter.pipe, layout.folder)
    return LatentReward(model.to(adapter.device, adapter.unet.dtype), words)


class LatentReward:
    """A `StepScorer`: S(x_t, t, prompt) by a network of its own, each state at the time step at which the generator saw it.

    Raw scores of different levels are not comparable: training compares states of one level only.
    """

    taps: tuple[str, ...] = ()

    def __init__(self, model: LatentRewardModel, words: Words, prompts: int = 256) -> None:
        self.model = model.eval()
        self.words = words
        self.forwards = model.forwards
        self.device = model.logit_scale.device
        self._dtype = model.visual_projection.weight.dtype
        self._text = lru_cache(prompts)(self._encode)
        self._slices = Slices()

    @torch.no_grad()
    def score(self, states: States) -> torch.Tensor:
        """Raw scores (B,) fp32."""
        text, empty = Text.cat([self._text(prompt) for prompt in states.prompts]), self._text("")

        def task(part: slice) -> torch.Tensor:
            return self.model(states.x[part].to(self._dtype), states.t[part], text.rows(part), empty)

        return torch.cat(self._slices.run(len(states.prompts), task)).float()

    @torch.no_grad()
    def _encode(self, prompt: str) -> Text:
        """One prompt, one row."""
        return self.model.encode(*(ids.to(self.device) for ids in self.words([prompt])))
