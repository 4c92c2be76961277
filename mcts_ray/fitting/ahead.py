"""Batches made in the background while the network learns from the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """`make(number)` for numbers that mostly follow each other: the next one is made in the background.

    kept: how many numbers back what was made is kept; what lies further back is made again if it is asked for. threads: of torch in the
    background; None for its own choice.
    """

    def __init__(self, make: Callable[[int], Made], *, kept: int = 0, threads: int | None = None) -> None:
        self._make, self._kept = make, kept
        self._made: dict[int, Future[Made]] = {}
        # a thread of Python has a number of OpenMP threads of its own
        self._worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads if threads else None, initargs=(threads,) if threads else ())

    def __call__(self, number: int) -> Made:
        for wanted in (number, number + 1):
            if wanted not in self._made:
                self._made[wanted] = self._worker.submit(self._make, wanted)
        made, oldest = self._made[number], max(self._made) - 1 - self._kept
        self._made = {key: value for key, value in self._made.items() if key >= oldest}
        return made.result()
