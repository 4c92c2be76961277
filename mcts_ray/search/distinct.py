"""Which of a tree's finished images count as different.

Two images are as different as the level at which their paths parted is high: at high levels fresh noise changes the
layout, at low ones only detail, and paths that part without noise (other jumps, phi = 0) give the same image again.
So images are told apart by where noise was drawn on their way, twice:

    family   the last noise drawn at a parent above T/2 (or the seed): images of one family share their layout
    branch   the last noise drawn at all: images of one branch are the same image, differently discretised

The best n are the best of each family first; only if there are fewer families than n, the next best branches follow.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from mcts_ray.search.base import Candidate
from mcts_ray.tree.node import Node


class Families:
    """Family and branch of every finished image of a tree of T `levels`."""

    def __init__(self, levels: int) -> None:
        self.half = levels / 2
        self._of: dict[str, tuple[str, str]] = {}
        self._seen = 0  # candidates that are in the rankings
        self._families, self._branches = _Ranking(), _Ranking()

    def add(self, leaf: Node) -> None:
        """Note the family and branch of a finished image."""
        self._of[leaf.id] = (_origin(leaf, self.half), _origin(leaf, 0))

    def best(self, finished: Sequence[Candidate], n: int) -> list[Candidate]:
        """At most `n` candidates of different families, then of different branches, by reward; of equal ones the earlier. `finished` is
        always the same list, which has grown.

        An image that has once left the best n never comes back, so its pixels need not be kept.
        """
        for place in range(self._seen, len(finished)):
            family, branch = self._of[finished[place].node]
            self._families.add(family, finished[place].reward, place)
            self._branches.add(branch, finished[place].reward, place)
        self._seen = len(finished)
        places = self._families.first(n)
        if len(places) < n:
            taken = {self._of[finished[place].node][1] for place in places}
            others = (place for place in self._branches if self._of[finished[place].node][1] not in taken)
            places += [place for place, _ in zip(others, range(n - len(places)))]
        return [finished[place] for place in sorted(places, key=lambda place: (-finished[place].reward, place))]


class _Ranking:
    """The best place of every group, best first; of equal ones the earlier."""

    def __init__(self) -> None:
        self._ranked: list[tuple[float, int]] = []
        self._of: dict[str, tuple[float, int]] = {}

    def __iter__(self) -> Iterator[int]:
        return (place for _, place in self._ranked)

    def add(self, group: str, reward: float, place: int) -> None:
        """One more in a group, later than all before."""
        entry, before = (-reward, place), self._of.get(group)
        if before is not None and before < entry:
            return
        if before is not None:
            del self._ranked[bisect_left(self._ranked, before)]
        self._of[group] = entry
        insort(self._ranked, entry)

    def first(self, n: int) -> list[int]:
        """The places of the best n groups."""
        return [place for _, place in self._ranked[:n]]


def _origin(leaf: Node, above: float) -> str:
    """The id of the last state on the path to `leaf` that was made with noise from a parent above level `above`, or its seed.

    Fused noise is noise like any other; k = 0 marks seeds, fused ones too.
    """
    node = leaf
    while node.k and not (node.phi > 0 and node.level + node.k > above):
        node = node.parent
    return node.id
