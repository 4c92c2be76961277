"""Executors carry out the units that searches ask for. `LocalExecutor`, in this process, is the specification."""

from mcts_ray.executor.base import Job, Observer, Progress

__all__ = ["Job", "Observer", "Progress"]
