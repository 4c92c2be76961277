"""Executors carry out the units that searches ask for. `LocalExecutor`, in this process, is the specification."""

from mcts_ray.executor.base import Job, Observer, Progress
from mcts_ray.executor.local import LocalExecutor

__all__ = ["Job", "LocalExecutor", "Observer", "Progress"]
