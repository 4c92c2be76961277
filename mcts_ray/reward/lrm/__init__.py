"""The latent reward model (LRM, arXiv 2502.01051): a score S(x_t, t, prompt) of noisy latents from half a U-Net.

Importing the package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcts_ray.reward.lrm.scorer import LatentReward

__all__ = ["load"]


def load(source: str, adapter) -> LatentReward:
    """The step scorer in a folder, file or hub repository, ready for the states of `adapter`; see `mcts_ray.reward.lrm.scorer`."""
    from mcts_ray.reward.lrm.scorer import load_scorer

    return load_scorer(source, adapter)
