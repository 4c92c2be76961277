"""A value head: the mean and the variance of the final image's reward, read from features that the generator has computed anyway.

Importing the package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcts_ray.reward.value.head import ValueHead

__all__ = ["load"]


def load(source: str, adapter) -> ValueHead:
    """The step scorer in a folder, for the states of `adapter`; see `mcts_ray.reward.value.head`."""
    from mcts_ray.reward.value.head import load_head

    return load_head(source, adapter)
