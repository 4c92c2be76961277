"""A tree as inline SVG: levels from T (left) to 0 (right), a row for every leaf, the best on top (`tree_layout`).

Nodes and edges carry the index of their node (`data-n`), by which page.js finds what it tells of them in `node_data`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate

from mcts_ray.report.curve import whole_ticks
from mcts_ray.report.tree_layout import Forest, rows

WIDTH = 1030
SHADES = 12
_LEFT, _RIGHT = 20, 190  # the right margin holds thumbnails and rewards
_THUMB, _ROW, _THIN_ROW, _TOP = 32, 38, 18, 8
_VIRIDIS = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#dde318")
_FIELDS = ("level", "action", "visits", "value", "phi", "score", "id")
_FUSED = ("cosine", "ess", "fallback")


class Scale:
    """Colours of values: viridis between the 5th percentile, so that a bad outlier costs no contrast, and the maximum."""

    def __init__(self, values: Iterable[float]) -> None:
        ordered = sorted(values) or [0.0]
        self.low, self.high = ordered[len(ordered) // 20], ordered[-1]
        self.clipped = self.low > ordered[0]

    def shade(self, value: float | None) -> str:
        """The CSS class of a value: v0 to v11, or none if it is not known."""
        if value is None:
            return "none"
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 1.0
        return f"v{min(SHADES - 1, max(0, int(share * SHADES)))}"


def shades_css() -> str:
    """The rules of the classes v0 to v11, and of the bar in the key."""
    colours = [_viridis(i / (SHADES - 1)) for i in range(SHADES)]
    rules = "".join(f".v{i}{{fill:{colour}}}" for i, colour in enumerate(colours))
    return f"{rules}.scale{{background:linear-gradient(90deg,{','.join(colours)})}}"


def _viridis(share: float) -> str:
    at = share * (len(_VIRIDIS) - 1)
    i = min(int(at), len(_VIRIDIS) - 2)
    a, b = (bytes.fromhex(colour[1:]) for colour in _VIRIDIS[i : i + 2])
    return "#" + bytes(round(p + (at - i) * (q - p)) for p, q in zip(a, b)).hex()


class Drawing:
    """What every view of one tree shares.

    thumbnails: the nodes that have one. badges: words beside leaves. best: the leaf whose path is highlighted.
    """

    def __init__(
        self, tree: Forest, levels: int, thumbnails: Iterable[int] = (), badges: Mapping[int, str] = {}, best: int | None = None
    ) -> None:
        self.tree = tree
        self.levels = max([levels, *(node["level"] for node in tree.nodes)])
        self.thumbnails = frozenset(thumbnails)
        self.badges = badges
        self.best = frozenset(() if best is None else tree.path(best))
        self.scale = Scale(node["value"] for node in tree.nodes if node["value"] is not None)
        self._step = (WIDTH - _LEFT - _RIGHT) / self.levels
        self._radius = min(3.4, max(0.7, self._step * 0.22))

    def axis(self) -> str:
        """The axis of levels, which stays in place while the tree is scrolled."""
        labels = "".join(f'<text class="tick" x="{self.x(t)}" y="16">{t}</text>' for t in whole_ticks(self.levels))
        return f'<svg class="levels" width="{WIDTH}" height="24">{labels}<text x="{self.x(0) + 12}" y="16">level</text></svg>'

    def view(self, shown: Iterable[int]) -> str:
        """An <svg> of the nodes `shown`, a set that holds the parents of its nodes."""
        row_of = rows(self.tree, shown)
        y = self._heights(row_of)
        height = max(y.values(), default=0) + _ROW // 2 + _TOP
        grid = "".join(f"M{self.x(t)} 0V{height}" for t in whole_ticks(self.levels))
        edges = (self._edge(node, y) for node in row_of)
        fused = (self._arcs(node, y) for node in row_of if node in self.tree.particles)
        nodes = (self._node(node, y[node]) for node in row_of)
        last = {row: node for node, row in row_of.items()}
        leaves = (self._leaf(node, y[node]) for node in last.values())
        parts = (f'<path class="grid" d="{grid}"/>', *edges, *fused, *nodes, *leaves)
        kind = "tree dense" if self._radius < 1.5 else "tree"
        size = f'width="{WIDTH}" height="{height}"'
        return f'<svg class="{kind}" {size} role="img" aria-label="search tree">{"".join(parts)}</svg>'

    def x(self, level: float) -> float:
        """Pixels from the left."""
        return round(_LEFT + (self.levels - level) * self._step, 1)

    def _heights(self, row_of: Mapping[int, int]) -> dict[int, int]:
        """The middle of every node's row; a row without a thumbnail is thin."""
        thick = {row for node, row in row_of.items() if node in self.thumbnails}
        sizes = [_ROW if row in thick else _THIN_ROW for row in range(len(set(row_of.values())))]
        ends = list(accumulate(sizes))
        return {node: _TOP + ends[row] - sizes[row] // 2 for node, row in row_of.items()}

    def _edge(self, node: int, y: Mapping[int, int]) -> str:
        """From the parent down to the row of the node, then across; with the jump size, where it is a new one."""
        parent = self.tree.parents[node]
        if parent < 0:
            return ""
        level, above = self.tree.nodes[node]["level"], self.tree.nodes[parent]["level"]
        x, end, y0, y1 = self.x(above), self.x(level), y[parent], y[node]
        bend = round(min(6, (end - x) / 2), 1)
        down = f"V{y1 - bend}q0 {bend} {bend} {bend}" if y1 > y0 else ""
        kind = ' class="best"' if node in self.best else ""
        path = f'<path{kind} d="M{x} {y0}{down}H{end}" data-n="{node}"/>'
        if above - level == self._size(parent) or end - x < 12:
            return path
        return f'{path}<text class="k" x="{(x + bend + end) / 2:.1f}" y="{y1 - 4}">{above - level}</text>'

    def _size(self, node: int) -> int:
        """The levels jumped to reach a node; 1, which needs no label, for a seed."""
        parent = self.tree.parents[node]
        return self.tree.nodes[parent]["level"] - self.tree.nodes[node]["level"] if parent >= 0 else 1

    def _arcs(self, node: int, y: Mapping[int, int]) -> str:
        """From the particles of a fused node to it."""
        x, bulge = self.x(self.tree.nodes[node]["level"]), min(22, self._step * 0.8)
        ends = [(self.x(self.tree.nodes[p]["level"]), y[p]) for p in self.tree.particles[node]]
        arcs = "".join(f"M{px} {py}C{px + bulge:.1f} {py} {x + bulge:.1f} {y[node]} {x} {y[node]}" for px, py in ends)
        return f'<path class="fusion" d="{arcs}" data-f="{node}"/>' if arcs else ""

    def _node(self, node: int, y: int) -> str:
        """A dot, larger with more visits; a diamond if fused."""
        facts = self.tree.nodes[node]
        shade, x = self.scale.shade(facts["value"]), self.x(facts["level"])
        radius = round(min(7.0, self._radius * (1 + 0.3 * math.log2(max(1, facts["visits"])))), 1)
        if node in self.tree.particles:
            r = max(6.0, radius + 2)
            return f'<path class="fused {shade}" d="M{x - r:.1f} {y}l{r} {-r} {r} {r} {-r} {r}z" data-n="{node}"/>'
        return f'<circle class="{shade}" cx="{x}" cy="{y}" r="{radius}" data-n="{node}"/>'

    def _leaf(self, node: int, y: int) -> str:
        """The thumbnail and the reward of a finished image."""
        facts, x = self.tree.nodes[node], self.x(0) + 12
        if facts["level"] > 0 or facts["value"] is None:
            return ""
        image = f'<use href="#t{node}" x="{x}" y="{y - _THUMB // 2}" data-n="{node}"/>' if node in self.thumbnails else ""
        badge = f' <tspan class="badge">{self.badges[node]}</tspan>' if node in self.badges else ""
        left = x + _THUMB + 8 if self.thumbnails else x
        return f'{image}<text class="reward" x="{left}" y="{y + 4}">{facts["value"]:.4f}{badge}</text>'


def thumbnail(node: int, uri: str) -> str:
    """The definition that a leaf's <use> refers to."""
    return f'<image id="t{node}" width="{_THUMB}" height="{_THUMB}" href="{uri}"/>'


def node_data(tree: Forest) -> list[list]:
    """What the page can tell of each node: parent, then `_FIELDS`; for fused nodes also what is said of them, and the particles."""
    return [
        [parent, *_told(map(node.get, _FIELDS)), *([*_told(map(node.get, _FUSED)), tree.particles[i]] if i in tree.particles else [])]
        for i, (node, parent) in enumerate(zip(tree.nodes, tree.parents))
    ]


def _told(values: Iterable) -> list:
    return [round(value, 5) if isinstance(value, float) else value for value in values]
