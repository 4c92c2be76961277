"""The plots of an audit: drawn on any axis, so that the page has them as inline SVG and a benchmark as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcts_ray.audit.verdict import THRESHOLDS
from mcts_ray.compare.plots import COLOURS, Draw

Row = dict[str, Any]
_SHADE = COLOURS[3]


def colour(number: int) -> str:
    """Of the `number`-th step score."""
    return COLOURS[(number + 1) % len(COLOURS)]


def ranking(found: dict[str, Any]) -> Draw:
    """Rank correlation with the guide (solid) and gold (dashed) over the trajectory.

    Diamonds: the most that images finished with fresh noise would allow; shaded: trusted levels.
    """

    def draw(axis) -> None:
        for number, (name, one) in enumerate(found["scores"].items()):
            rows = one["levels"]
            _shade(axis, found["verdict"]["scores"][name], rows, number, len(found["scores"]))
            _line(axis, rows, "spearman", colour(number), label=f"{name}, guide")
            _line(axis, rows, "spearman_gold", colour(number), ls="--", label=f"{name}, gold")
        rows = next(iter(found["scores"].values()))["levels"]
        ceiling = [(row["share"], row["fresh_ceiling"]) for row in rows if row.get("fresh_ceiling") is not None]
        if ceiling:
            axis.plot(*zip(*ceiling), ls="", marker="D", ms=5, mfc="none", color=COLOURS[0], label="decided, fresh noise")
        axis.axhline(THRESHOLDS["spearman"], color=COLOURS[0], lw=0.8, ls=":")
        axis.set(xlabel="share of the trajectory done", ylabel="Spearman within a prompt", ylim=(min(-0.1, axis.get_ylim()[0]), 1.02))
        axis.legend(fontsize=7.5, frameon=False, loc="upper left")

    return draw


def pruning(found: dict[str, Any]) -> Draw:
    """How often the best sample is kept by halving (solid) and by quartering (dashed); dotted: what is asked for."""

    def draw(axis) -> None:
        for number, (name, one) in enumerate(found["scores"].items()):
            _line(axis, one["levels"], "kept_half", colour(number), label=f"{name}, better half")
            _line(axis, one["levels"], "kept_quarter", colour(number), ls="--", label=f"{name}, best quarter")
        axis.axhline(THRESHOLDS["kept_half"], color=COLOURS[0], lw=0.8, ls=":")
        axis.set(xlabel="share of the trajectory done", ylabel="best sample is kept", ylim=(0, 1.02))
        axis.legend(fontsize=7.5, frameon=False, loc="lower right")

    return draw


def certainty(found: dict[str, Any]) -> Draw:
    """Calibration error of pairs over the trajectory, against the guide; dotted: what is asked for."""

    def draw(axis) -> None:
        for number, (name, one) in enumerate(found["scores"].items()):
            _line(axis, one["levels"], "ece", colour(number), label=name)
        axis.axhline(THRESHOLDS["ece"], color=COLOURS[0], lw=0.8, ls=":")
        axis.set(xlabel="share of the trajectory done", ylabel="calibration error")
        axis.set_ylim(0, max(2 * THRESHOLDS["ece"], axis.get_ylim()[1]))
        axis.legend(fontsize=7.5, frameon=False)

    return draw


def siblings(found: dict[str, Any]) -> Draw:
    """Children of one state: rank correlation with the mean gold of their completions, and the ceiling."""

    def draw(axis) -> None:
        for number, (name, one) in enumerate(found["scores"].items()):
            rows = [row for row in one["siblings"] if row["spearman"] is not None]
            if rows:
                shift = 0.006 * (number - (len(found["scores"]) - 1) / 2)
                mean = [row["spearman"] for row in rows]
                error = [
                    [m - row["spearman_ci"][0] for m, row in zip(mean, rows)],
                    [row["spearman_ci"][1] - m for m, row in zip(mean, rows)],
                ]
                axis.errorbar([row["share"] + shift for row in rows], mean, error, fmt="o", capsize=3, color=colour(number), label=name)
        rows = [row for row in next(iter(found["scores"].values()))["siblings"] if row["ceiling_of_means"] is not None]
        axis.plot(
            [row["share"] for row in rows],
            [row["ceiling_of_means"] for row in rows],
            ls="",
            marker="D",
            ms=5,
            mfc="none",
            color=COLOURS[0],
            label="ceiling",
        )
        axis.axhline(0, color=COLOURS[0], lw=0.8, ls=":")
        axis.set(xlabel="share of the trajectory done", ylabel="Spearman among siblings, gold", xlim=(0, 1))
        axis.legend(fontsize=7.5, frameon=False)

    return draw


def optimisation(one: dict[str, Any]) -> Draw:
    """Gains of best-of-n over sqrt(KL): guide, gold with its fit, and what regression to the mean alone would leave."""

    def draw(axis) -> None:
        rows = one["curve"]
        d = [row["d"] for row in rows]
        for what, shade in (("guide", COLOURS[2]), ("gold", COLOURS[1])):
            mean, low, high = zip(*(row[what] for row in rows))
            axis.plot(d, mean, color=shade, marker="o", ms=3, lw=1.4, label=what)
            axis.fill_between(d, low, high, color=shade, alpha=0.15, lw=0)
        axis.plot(d, [x * (one["alpha"] - one["beta"] * x) for x in d], color=COLOURS[1], ls=":", lw=1, label="fit d(α − βd)")
        axis.plot(d, [row["expectation"] for row in rows], color=COLOURS[0], ls="--", lw=1.2, label="regression to the mean")
        top = axis.secondary_xaxis("top")
        shown = [row for row in rows if row["n"] in (1, 2, 4, 16, 64, 256)]
        top.set_xticks([row["d"] for row in shown], [str(row["n"]) for row in shown], fontsize=7.5)
        top.set_xlabel("best of n", fontsize=7.5)
        axis.set(xlabel="d = √KL (upper bound)", ylabel="gain, sd within a prompt")
        axis.legend(fontsize=7.5, frameon=False)

    return draw


def path_regret(found: dict[str, Any]) -> Draw:
    """What is lost against the best jump path: by score, blindly, and by single levels."""

    def draw(axis) -> None:
        scored = {name: one["paths"] for name, one in found["scores"].items() if one.get("paths")}
        first = next(iter(scored.values()))
        rows = [(name, paths["guide_lost"], paths["gold_lost"], colour(n)) for n, (name, paths) in enumerate(scored.items())]
        rows += [
            (label, first[f"guide_lost_{key}"], first[f"gold_lost_{key}"], COLOURS[0])
            for label, key in (("blindly", "blindly"), ("single levels", "by_single_levels"))
        ]
        for place, (_, guide, gold, shade) in enumerate(rows):
            for shift, (mean, low, high), alpha in ((-0.18, guide, 1.0), (0.18, gold, 0.5)):
                axis.barh(
                    place + shift,
                    mean,
                    0.32,
                    xerr=[[mean - low], [high - mean]],
                    color=shade,
                    alpha=alpha,
                    error_kw={"lw": 1, "capsize": 2, "ecolor": COLOURS[0]},
                )
        axis.set_yticks(range(len(rows)), [row[0] for row in rows])
        axis.invert_yaxis()
        axis.set(xlabel="lost against the best path: guide (full), gold (pale)")

    return draw


def _line(axis, rows: Sequence[Row], name: str, shade: str, **style) -> None:
    known = [row for row in rows if row[name] is not None]
    share = [row["share"] for row in known]
    axis.plot(share, [row[name] for row in known], color=shade, lw=1.5, **style)
    if f"{name}_ci" in rows[0]:
        axis.fill_between(
            share, [row[f"{name}_ci"][0] for row in known], [row[f"{name}_ci"][1] for row in known], color=shade, alpha=0.12, lw=0
        )


def _shade(axis, verdict: dict[str, Any], rows: Sequence[Row], number: int, count: int) -> None:
    """A band at the foot for the trusted levels of each score."""
    if verdict["from"] is None:
        return
    share = {row["level"]: row["share"] for row in rows}
    low, high = (0.0, 1.0) if count == 1 else (0.03 * number, 0.03 * (number + 1))
    shade = _SHADE if count == 1 else colour(number)
    axis.axvspan(share[verdict["from"]], share[verdict["to"]], low, high, color=shade, alpha=0.08 if count == 1 else 0.6, lw=0)
