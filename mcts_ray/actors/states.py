"""Where the states of the trees are: a cache of refs that the tree manager owns and never reads, the least recently used evicted first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mcts_ray.executor.schedule import least_used

Key = tuple[str, str]  # search and node


@dataclass(eq=False)
class Batch:
    """States behind one ref, which is all of them in memory: who has them, in which life, how many bytes, and which are still wanted.

    holder: the denoiser that made them in its store; None: nobody may rely on one, so that the ref is always sent.
    """

    ref: Any
    holder: Any
    generation: int
    size: int
    keys: set[Key] = field(default_factory=set)


class States:
    """Batches by the keys of their states. limit: bytes that they may take together, as far as no unit under way needs them."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.size = 0
        self.evicted = 0  # states
        self._of: dict[Key, Batch] = {}
        self._batches: dict[str, Batch] = {}  # by the hex of their refs, in the order of their last use

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: Key) -> bool:
        return key in self._of

    def get(self, key: Key) -> Batch | None:
        """Where a state is, if anywhere."""
        return self._of.get(key)

    def use(self, key: Key) -> Batch | None:
        """The same for somebody who is about to need it: it is then the last to be evicted."""
        if batch := self._of.get(key):
            self._batches[batch.ref.hex()] = self._batches.pop(batch.ref.hex())
        return batch

    def put(self, keys: Iterable[Key], batch: Batch) -> None:
        """States that have been made, perhaps once more."""
        for key in keys:
            self.forget(key)
            batch.keys.add(key)
            self._of[key] = batch
        if batch.keys:
            self._batches[batch.ref.hex()] = batch
            self.size += batch.size

    def forget(self, key: Key) -> None:
        """Nobody needs it any more."""
        if batch := self._of.pop(key, None):
            batch.keys.discard(key)
            if not batch.keys:
                del self._batches[batch.ref.hex()]
                self.size -= batch.size

    def drop_search(self, id: str) -> None:
        """All states of a search."""
        for key in [key for key in self._of if key[0] == id]:
            self.forget(key)

    def drop(self, refs: Iterable[str]) -> None:
        """What is behind these refs is lost."""
        for ref in refs:
            for key in list(self._batches[ref].keys) if ref in self._batches else ():
                self.forget(key)

    def trim(self, needed: Callable[[], set[Key]]) -> list[Key]:
        """Evict what is over the limit but for what is `needed`; returns the keys."""
        if self.limit is None or self.size <= self.limit:
            return []
        spared = needed()
        sizes = [(batch, batch.size) for batch in self._batches.values()]
        gone = [key for batch in least_used(sizes, self.limit, lambda one: not spared.isdisjoint(one.keys)) for key in batch.keys]
        for key in gone:
            self.forget(key)
        self.evicted += len(gone)
        return gone
