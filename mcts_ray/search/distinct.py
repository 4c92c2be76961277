"""Which of a tree's finished images count as different.

Two images are as different as the level at which their paths parted is high: at high levels fresh noise changes the
layout, at low ones only detail, and paths that part without noise (other jumps, phi = 0) give the same image again.
So images are told apart by where noise was drawn on their way, twice:

    family   the last noise drawn at a parent above T/2 (or the seed): images of one family share their layout
    branch   the last noise drawn at all: images of one branch are the same image, differently discretised

The best n are the best of each family first; only if there are fewer families than n, the next best branches follow.
"""

from __future__ import annotations

from collections.abc import Iterable

from mcts_ray.search.base import Candidate
from mcts_ray.tree.node import Node


class Families:
    """Family and branch of every finished image of a tree of T `levels`."""

    def __init__(self, levels: int) -> None:
        self.half = levels / 2
        self._of: dict[str, tuple[str, str]] = {}

    def add(self, leaf: Node) -> None:
        """Note the family and branch of a finished image."""
        self._of[leaf.id] = (_origin(leaf, self.half), _origin(leaf, 0))

    def best(self, finished: Iterable[Candidate], n: int) -> list[Candidate]:
        """At most `n` candidates of different families, then of different branches, by reward; of equal ones the earlier.

        An image that has once left the best n never comes back, so its pixels need not be kept.
        """
        ranked = sorted(finished, key=lambda candidate: -candidate.reward)
        first, others = _firsts(ranked, lambda c: self._of[c.node][0])
        second, _ = _firsts(others, lambda c: self._of[c.node][1], {self._of[c.node][1] for c in first})
        chosen = [*first[:n], *second[: max(0, n - len(first))]]
        return sorted(chosen, key=lambda candidate: -candidate.reward)


def _origin(leaf: Node, above: float) -> str:
    """The id of the last state on the path to `leaf` that was made with noise from a parent above level `above`, or its seed.

    Fused noise is noise like any other; k = 0 marks seeds, fused ones too.
    """
    node = leaf
    while node.k and not (node.phi > 0 and node.level + node.k > above):
        node = node.parent
    return node.id


def _firsts(ranked: list[Candidate], key, taken: Iterable[str] = ()) -> tuple[list[Candidate], list[Candidate]]:
    """The first candidate of every group, and the rest."""
    seen, firsts, rest = set(taken), [], []
    for candidate in ranked:
        group = key(candidate)
        (rest if group in seen else firsts).append(candidate)
        seen.add(group)
    return firsts, rest
