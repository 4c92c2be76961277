"""Pairs of latents made noisy at equal level, and the Bradley-Terry loss of their scores.

Shapes: P pairs, their 2 P states as [first of each pair..., second...]; N distinct images; C, H, W latent; T levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mcts_ray.diffusion.levels import Levels
from mcts_ray.reward.lrm.model import LatentRewardModel
from mcts_ray.reward.lrm.pairs import Pairs
from mcts_ray.reward.lrm.words import Words


@dataclass(frozen=True, eq=False)
class Data:
    """Pairs with their latents latent_NCHW (N distinct images), the levels that they are compared at, and where to compute."""

    pairs: Pairs
    latent_NCHW: np.ndarray
    levels: Levels
    words: Words
    device: torch.device

    def states(self, pair_P: np.ndarray, level_P: np.ndarray, generator: torch.Generator | None = None):
        """Noisy states (2 P, C, H, W) and their time steps: both of a pair at one level, each with noise of its own, drawn on the CPU."""
        index = self.pairs.image_P2[pair_P].T.reshape(-1)
        x0 = torch.from_numpy(np.asarray(self.latent_NCHW[index], np.float32))
        x, t = self.levels.diffused(x0, np.tile(level_P, 2).tolist(), generator)
        return x.to(self.device), t.to(self.device)

    def scores(self, model: LatentRewardModel, pair_P: np.ndarray, level_P: np.ndarray, generator: torch.Generator | None = None):
        """Scores (P, 2) of both images of each pair; every prompt is encoded once."""
        x, t = self.states(pair_P, level_P, generator)
        distinct, row_P = np.unique(self.pairs.prompt_P[pair_P], return_inverse=True)
        ids = [ids.to(self.device) for ids in self.words([*(self.pairs.prompts[i] for i in distinct), ""])]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            text = model.encode(*ids)
            both = torch.from_numpy(np.tile(row_P, 2)).to(self.device)
            score = model(x, t, text.rows(both), text.rows(slice(-1, None)))
        return score.float().view(2, -1).T


def bradley_terry(score_P2: torch.Tensor, label_P: torch.Tensor) -> torch.Tensor:
    """Cross entropy (P,) of "the first is better" with probability softmax(s)_0, less the label's own entropy for ties.

    label 1, 0.5 (a tie) or 0; a perfect tie costs 0 (ln 2 is taken off), a sure and right preference too.
    """
    log_P2 = score_P2.log_softmax(1)
    loss_P = -(label_P * log_P2[:, 0] + (1 - label_P) * log_P2[:, 1])
    return loss_P - (label_P == 0.5) * math.log(2)


def ranked_right(score_P2: torch.Tensor, label_P: torch.Tensor) -> torch.Tensor:
    """bool (P,): whether the better one has the higher score; false for ties."""
    return (score_P2[:, 0] - score_P2[:, 1]) * (label_P - 0.5) > 0
