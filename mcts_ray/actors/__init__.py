"""Searches carried out by Ray actors. With `service`, the only part of the package that imports Ray."""

from mcts_ray.actors.backend import RayBackend

__all__ = ["RayBackend"]
