"""Fusing sibling particles into one: rules that make signed weights of rewards, and the transport of their innovations.

This page imports no torch: a search needs the weights alone (`mcts_ray.fusion.weights`); tensors are the business of
`mcts_ray.fusion.innovation` and of `mcts_ray.fusion.fuser`, which executors call.
"""

from mcts_ray.fusion.weights import MODES, Refusal, Weights, fusion_weights

__all__ = ["MODES", "Refusal", "Weights", "fusion_weights"]
