"""Rewards that guide a search: what they are, the named ones, weighted sums of them, and how they are found by name."""

from mcts_ray.reward.base import ImageReward, Reward, Scored
from mcts_ray.reward.resolve import parse_reward, resolve_reward, reward_name

__all__ = ["ImageReward", "Reward", "Scored", "parse_reward", "resolve_reward", "reward_name"]
