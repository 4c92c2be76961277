"""How every node of a search was made, so that a state that is lost can be made again. Neither torch nor Ray.

A unit draws all of its noise from node ids, so walking it once more from its parent gives the same states. A parent that is
lost too is made again first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from mcts_ray.search.base import Work
from mcts_ray.tree.weights import STATES


@dataclass(frozen=True)
class Again:
    """The beginning of a unit, to be walked again. sizes: how many samples each of its denoiser calls had at first, as far as that
    is known: on a CPU the last digits of an answer depend on it."""

    work: Work
    sizes: tuple[int, ...] = ()


class Lineage:
    """The units of one search by the nodes that they make. sizes: of their denoiser calls, by unit, where they are known; released:
    nodes whose states the search needs no more."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Work, int]] = {}
        self.released: set[str] = set()
        self.sizes: Mapping[str, tuple[int, ...]] = {}

    def add(self, work: Work) -> None:
        """A unit that has been asked for."""
        for place, edge in enumerate(work.edges):
            self._made[edge.node] = work, place

    def lost(self, work: Work, have: Callable[[str], bool]) -> list[str]:
        """The nodes that a unit starts from whose states should be there and are not."""
        return [node for node in origins(work) if not have(node) and (node == work.parent or node not in self.released)]

    def again(self, nodes: Iterable[str], have: Callable[[str], bool]) -> list[list[Again]]:
        """What is to be walked so that the states of `nodes` are there, given those that `have` knows: units of the first list, then
        those of the second, which start from them, and so on. A node at level 0 leaves the latent of its image."""
        reach: dict[str, int] = {}  # by unit, the last edge that is needed
        depth: dict[str, int] = {}
        works: dict[str, Work] = {}

        def need(node: str) -> int:
            """The generation in which a node is made; 0 if it is there."""
            if have(node):
                return 0
            work, place = self._made[node]
            reach[work.id] = max(place, reach.get(work.id, 0))
            if work.id not in depth:
                works[work.id] = work
                depth[work.id] = 1 + max(map(need, origins(work)), default=0)
            return depth[work.id]

        for node in nodes:
            need(node)
        generations: list[list[Again]] = [[] for _ in range(max(depth.values(), default=0))]
        for id, work in works.items():
            sizes = self.sizes.get(id, ())
            generations[depth[id] - 1].append(Again(_beginning(work, reach[id]), sizes))
        return generations


def origins(work: Work) -> list[str]:
    """The nodes whose states a unit starts from: its parent, and particles that are fused by more than their noise."""
    parent = [] if work.parent is None else [work.parent]
    return [*parent, *(work.fuse.particles if work.fuse and work.fuse.mode in STATES else ())]


def _beginning(work: Work, last: int) -> Work:
    """A unit up to its edge `last`, whose states are kept and not judged."""
    edges = work.edges[: last + 1]
    keep = {*work.keep, edges[-1].node}
    kept = tuple(edge.node for edge in edges if edge.node in keep and edge.level > 0)
    return replace(work, edges=edges, keep=kept, scored=(), setting=replace(work.setting, ige_model=None))
