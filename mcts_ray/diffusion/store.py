"""Evaluated states that later work may start from, by search and node."""

from __future__ import annotations

from collections.abc import Iterable
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

    def cpu(self) -> Kept:
        """The same in the memory of the CPU."""
        tensors = {name: getattr(self, name) for name in ("x0", "eps", "m1", "features")}
        return replace(self, **{name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None})


class Store:
    """Kept states; `drop` frees all those of a search."""

    def __init__(self):
        self._searches: dict[str, dict[str, Kept]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._searches.values()))

    def put(self, search: str, node: str, kept: Kept) -> None:
        """Keep one node's state, replacing an equal one from a repeated unit."""
        self._searches.setdefault(search, {})[node] = kept

    def get(self, search: str, node: str) -> Kept | None:
        """The node's state, or None if it was never kept or has been dropped."""
        return self._searches.get(search, {}).get(node)

    def forget(self, search: str, nodes: Iterable[str]) -> None:
        """Free the states of some nodes; those that are not here do not matter."""
        for node in nodes:
            self._searches.get(search, {}).pop(node, None)

    def drop(self, search: str) -> None:
        """Free every state of a search."""
        self._searches.pop(search, None)
