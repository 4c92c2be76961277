"""The plots of a comparison as inline SVG, in the colours of the page around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ("#8a99a6", "#d9480f", "#2a7fb8", "#3c9d6b", "#a85cc0", "#c99a1b", "#d1548a", "#5f6fd0", "#7a8b2f", "#2aa3a3")
_INK = "#010203"  # stands for the text colour of the page
_STYLE = {
    "svg.fonttype": "none", "font.size": 9.5, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor"), _INK),
}  # fmt: skip
Draw = Callable[[Any], None]


def svg(name: str, draw: Draw, size: tuple[float, float] = (5.4, 3.5)) -> str:
    """One plot as <svg>; `name` keeps its ids apart from those of others on the page."""
    with plt.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axis = plt.subplots(figsize=size, constrained_layout=True)
        draw(axis)
        axis.grid(alpha=0.15)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    drawn = text.getvalue()
    drawn = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="plot" role="img"', drawn[drawn.index("<svg") :], count=1)
    return drawn.replace(_INK, "currentColor")


def against_cost(rows: Sequence[dict[str, Any]], what: str, cost: str, pool: dict[str, Any] | None = None) -> Draw:
    """A score of every arm over its cost, log axis, with intervals; dashed: exact best-of-n of the pools, if given."""

    def draw(axis) -> None:
        arms = _by_arm(rows)
        for number, (label, own) in enumerate(arms.items()):
            points = [(row[cost], *row[what]) for row in own if row[what]]
            if not points:
                continue
            x, mean, low, high = zip(*points)
            error = [[m - a for m, a in zip(mean, low)], [b - m for m, b in zip(mean, high)]]
            aside = 1.012 ** (number - (len(arms) - 1) / 2) if cost == "nfe" else 1.0  # so that intervals do not hide each other
            shift = [v * aside for v in x]
            style = {"ls": ":", "marker": "D", "ms": 4} if own[0]["oracle"] else {"ls": "-", "marker": "o", "ms": 5}
            axis.errorbar(shift, mean, error, color=_colour(number, arms), capsize=2.5, lw=1.4, elinewidth=1, **style)
        for number, (label, n, means) in enumerate(_pool_lines(pool)):
            axis.plot(n, means, color=_INK, ls=(0, (4, 2 + number)), lw=1, alpha=0.65)
            axis.annotate(label, (n[-1], means[-1]), (3, 0), textcoords="offset points", fontsize=7.5, va="center", annotation_clip=False)
        axis.set_xscale("log")
        _plain_ticks(axis, [row[cost] for row in rows] + [n for _, x, _ in _pool_lines(pool) for n in x])
        axis.set(xlabel={"nfe": "NFE", "busy_seconds": "busy seconds per search"}[cost], ylabel=what)

    return draw


def anytime(rows: Sequence[dict[str, Any]], column: int, what: str) -> Draw:
    """The best image so far over NFE, at the largest budget; column 1: guide, 2: gold."""

    def draw(axis) -> None:
        largest = max(row["times"] for row in rows)
        seen = []
        arms = _by_arm(rows)
        for number, row in enumerate(r for r in rows if r["times"] == largest):
            points = [(point[0], point[column]) for point in row["curve"] if point[column] is not None]
            if points:
                seen += [point[0] for point in points]
                axis.step(*zip(*points), where="post", color=_colour(number, arms), lw=1.5, ls=":" if row["oracle"] else "-")
        axis.set_xscale("log")
        _plain_ticks(axis, seen)
        axis.set(xlabel=f"NFE spent, of {largest} T", ylabel=f"{what} of the best so far")

    return draw


def key(rows: Sequence[dict[str, Any]], pool: bool) -> str:
    """What the colours mean, in HTML."""
    from html import escape

    arms = _by_arm(rows)
    lines = []
    for number, (label, own) in enumerate(arms.items()):
        lines.append((f"3px {'dotted' if own[0]['oracle'] else 'solid'} {_colour(number, arms)}", label))
    if pool:
        lines.append(("1.5px dashed currentColor", "exact best-of-n of a pool, by jump policy"))
    parts = [f'<span><i style="border-top:{line};width:20px"></i> {escape(label)}</span>' for line, label in lines]
    return f'<p class="key">{"".join(parts)}</p>'


def _by_arm(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    return arms


def _pool_lines(pool: dict[str, Any] | None) -> list[tuple[str, list[float], list[float]]]:
    if not pool:
        return []
    return [(label, [p[0] for p in one["best_of_n"]], [p[1] for p in one["best_of_n"]]) for label, one in pool["policies"].items()]


def _colour(number: int, arms: dict[str, list[dict[str, Any]]]) -> str:
    """An arm's own colour; an oracle arm has that of the arm that it goes with."""
    labels = list(arms)
    plain = labels[number].removesuffix(" (oracle)")
    return COLOURS[(labels.index(plain) if plain in arms else number) % len(COLOURS)]


def _plain_ticks(axis, values: Sequence[float]) -> None:
    """1-2-5 ticks with plain numbers on a log axis."""
    known = [v for v in values if v > 0]
    if not known:
        return
    low, high = min(known), max(known)
    steps = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    ticks = [m * 10.0**e for e in range(-6, 8) for m in steps if low / 1.3 <= m * 10.0**e <= high * 1.3]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
