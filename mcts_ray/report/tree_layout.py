"""Where the nodes of a tree lie when it is drawn: denoising levels across, one row for every leaf.

A node lies on the row of its best child, so the best path is a straight line on the top row, and every other branch leaves it
downwards. No two edges cross: the rows between a node and its last child hold that node's descendants only.
Everything is iterative, since a chain may be a thousand levels long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Key = tuple[bool, float]  # finished, value: the order of leaves
_NOTHING: Key = (False, float("-inf"))


@dataclass(frozen=True)
class Forest:
    """The nodes of tree.json by index, parents before children.

    parents: -1 for seeds. particles: of each fused node, those it was made from. keys: the best leaf at or below each node.
    """

    nodes: Sequence[dict[str, Any]]
    index: dict[str, int]
    parents: list[int]
    particles: dict[int, list[int]]
    leaves: list[int]
    keys: list[Key]

    def path(self, node: int) -> list[int]:
        """From a node up to its seed."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path


def forest(nodes: Sequence[dict[str, Any]]) -> Forest:
    """Read the nodes of tree.json; a particle that is not among them is left out."""
    index = {node["id"]: i for i, node in enumerate(nodes)}
    parents = [-1 if node["parent"] is None else index[node["parent"]] for node in nodes]
    fused = [i for i, node in enumerate(nodes) if node["action"] == "fuse"]
    particles = {i: [index[id] for id in nodes[i].get("particles", ()) if id in index] for i in fused}
    inner = set(parents)
    leaves = [i for i in range(len(nodes)) if i not in inner]
    keys = [_NOTHING] * len(nodes)
    for leaf in leaves:
        keys[leaf] = _key(nodes[leaf])
    for i in reversed(range(len(nodes))):
        if parents[i] >= 0:
            keys[parents[i]] = max(keys[parents[i]], keys[i])
    return Forest(nodes, index, parents, particles, leaves, keys)


def _key(leaf: dict[str, Any]) -> Key:
    value = leaf["value"]
    return _NOTHING if value is None else (leaf["level"] == 0, value)


def best_leaves(tree: Forest, n: int, also: Iterable[int] = ()) -> set[int]:
    """The nodes of a smaller tree: the paths to the `n` best leaves and to `also`, and the particles of nodes fused there."""
    ranked = sorted(tree.leaves, key=tree.keys.__getitem__, reverse=True)
    ends, shown = [*ranked[:n], *also], set()
    while ends:
        node = ends.pop()
        while node >= 0 and node not in shown:
            shown.add(node)
            ends.extend(tree.particles.get(node, ()))
            node = tree.parents[node]
    return shown


def rows(tree: Forest, shown: Iterable[int]) -> dict[int, int]:
    """The row of every node of `shown`, in drawing order (depth first, best first); `shown` holds the parents of its nodes."""
    children: dict[int, list[int]] = {}
    for node in sorted(shown):
        children.setdefault(tree.parents[node], []).append(node)
    for siblings in children.values():
        siblings.sort(key=tree.keys.__getitem__)  # worst first, as a stack wants them
    row_of: dict[int, int] = {}
    count, stack = 0, list(children.get(-1, ()))
    while stack:
        node = stack.pop()
        parent = tree.parents[node]
        if parent >= 0 and children[parent][-1] == node:
            row_of[node] = row_of[parent]
        else:
            row_of[node] = count
            count += 1
        stack.extend(children.get(node, ()))
    return row_of
