"""What a tree manager was asked to carry out, kept in a folder, so that it goes on by itself when its process has died."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle

from mcts_ray.executor.backend import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """A search as it was submitted: fresh, with the reward that it needs and the `key` under which reward actors know it, the shape
    (C, H, W) of its states, and the size of the batches."""

    task: Task
    key: str
    reward: Any
    latent_shape: tuple[int, int, int]
    batch_size: int


class Archive:
    """Orders by the ids of their searches. folder: only its owner can write there; None: nothing is kept."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder and Path(folder)

    @property
    def place(self) -> str:
        """Where orders are kept, in words."""
        return f"folder {self._folder}" if self._folder else "memory alone"

    def keep(self, orders: Iterable[Order]) -> None:
        """Keep orders until they are forgotten. Where that cannot be, they are lost with the process."""
        if not self._folder:
            return
        try:
            for order in orders:
                partial = self._path(order.task.search.id, ".partial")
                partial.write_bytes(cloudpickle.dumps(order))
                partial.replace(self._path(order.task.search.id))
        except OSError as error:
            log.warning("searches could not be kept in %s (%s)", self._folder, error)

    def orders(self) -> list[Order]:
        """Those that are kept, the oldest first; one that cannot be read any more is left out."""
        paths, orders = self._folder.glob("*.order") if self._folder else (), []
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
            try:
                orders.append(cloudpickle.loads(path.read_bytes()))
            except Exception as error:  # whatever a user's class raises
                log.error("the order %s of a search cannot be read (%s)", path.name, error)
        return orders

    def forget(self, id: str) -> None:
        """A search whose finds have been handed over."""
        if self._folder:
            with contextlib.suppress(OSError):
                self._path(id).unlink()

    def keep_denoisers(self, count: int) -> None:
        """How many denoisers there are to be, where that has changed since the beginning."""
        if self._folder:
            with contextlib.suppress(OSError):
                (self._folder / "denoisers").write_text(str(count), encoding="utf-8")

    @property
    def denoisers(self) -> int | None:
        """That number; None if it has not changed."""
        try:
            return int((self._folder / "denoisers").read_text(encoding="utf-8")) if self._folder else None
        except (OSError, ValueError):
            return None

    def keep_gone(self, place: int) -> None:
        """That of the denoisers that there were at first the one at `place` has left."""
        if self._folder:
            with contextlib.suppress(OSError):
                (self._folder / f"{place}.gone").touch()

    @property
    def gone(self) -> set[int]:
        """The places of those."""
        return {int(path.stem) for path in self._folder.glob("*.gone")} if self._folder else set()

    def _path(self, id: str, ending: str = ".order") -> Path:
        return self._folder / f"{id}{ending}"
