"""Rewards that guide a search: what they are, the named ones, weighted sums of them, and how they are found by name."""

from mcts_ray.reward.base import ImageReward, Reward, Scored
from mcts_ray.reward.resolve import (
    find_weights,
    parse_reward,
    resolve_reward,
    reward_name,
    with_absolute_folders,
)

__all__ = [
    "ImageReward",
    "Reward",
    "Scored",
    "find_weights",
    "parse_reward",
    "resolve_reward",
    "reward_name",
    "with_absolute_folders",
]
