"""Evaluated states that later work may start from, by search and node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

SIDE = 16  # of the largest map of features that is kept


@dataclass(frozen=True, eq=False)
class Kept:
    """The denoiser's answer at one node, enough for every child of it (x = alpha x0 + sigma eps).

    x0, eps: (C, H, W) fp32. m1: the x0 predicted at level `previous`, from which a deterministic edge led here
    (second-order moves need it); both None after a seed or an edge with phi > 0. features: of the search's tap, (C', h, w) fp32
    with h and w at most `SIDE`, or None.
    """

    level: int
    x0: torch.Tensor
    eps: torch.Tensor
    alpha: float
    sigma: float
    m1: torch.Tensor | None = None
    previous: int | None = None
    features: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in (self.x0, self.eps, self.m1, self.features) if tensor is not None)

    def cpu(self) -> Kept:
        """The same in the memory of the CPU."""
        tensors = {name: getattr(self, name) for name in ("x0", "eps", "m1", "features")}
        return replace(self, **{name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None})


class Store:
    """Kept states; `drop` frees all those of a search. limit: bytes that `trim` leaves, the most recently used; None: all stays."""

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.size = 0  # bytes
        self._kept: dict[tuple[str, str], Kept] = {}  # in the order of their last use

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, search: str, node: str, kept: Kept) -> None:
        """Keep one node's state, replacing an equal one from a repeated unit."""
        self._free((search, node))
        self._kept[search, node] = kept
        self.size += kept.size

    def get(self, search: str, node: str) -> Kept | None:
        """The node's state, or None if it was never kept or has been dropped."""
        kept = self._kept.pop((search, node), None)
        if kept is not None:
            self._kept[search, node] = kept
        return kept

    def forget(self, search: str, nodes: Iterable[str]) -> None:
        """Free the states of some nodes; those that are not here do not matter."""
        for node in nodes:
            self._free((search, node))

    def drop(self, search: str) -> None:
        """Free every state of a search."""
        for key in [key for key in self._kept if key[0] == search]:
            self._free(key)

    def trim(self, needed: Callable[[], set[tuple[str, str]]]) -> None:
        """Free what has not been used for longest and is not `needed` now, until no more than `limit` is there."""
        if self.limit is None or self.size <= self.limit:
            return
        spared = needed()
        for key in [key for key in self._kept if key not in spared]:
            if self.size <= self.limit:
                return
            self._free(key)

    def _free(self, key: tuple[str, str]) -> None:
        if kept := self._kept.pop(key, None):
            self.size -= kept.size
