"""Running a batch in slices that fit: out of memory halves the slice and tries again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

R = TypeVar("R")


class Slices:
    """Runs work over a batch in slices of at most `limit` samples, and remembers a limit that memory has forced."""

    def __init__(self, limit: int | None = None):
        self.limit = limit

    def run(self, count: int, task: Callable[[slice], R]) -> list[R]:
        """`task` over consecutive slices of range(count), in order.

        Raises torch.OutOfMemoryError only when a single sample does not fit.
        """
        results: list[R] = []
        start = 0
        while start < count:
            size = min(self.limit or count, count - start)
            result = self._attempt(task, slice(start, start + size), size)
            if result:
                results += result
                start += size
            else:
                self.limit = size // 2
                torch.cuda.empty_cache()
        return results

    @staticmethod
    def _attempt(task: Callable[[slice], R], part: slice, size: int) -> list[R]:
        """[result], or [] when out of memory; returning ends the frames that still hold the tensors of the failed try."""
        try:
            return [task(part)]
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise torch.OutOfMemoryError(
                    "out of memory with a single image; use a smaller height and width, or bf16 or fp16"
                ) from error
            return []
