"""audit.html: the verdict in words, the plots it rests on, and every figure, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from mcts_ray.audit import plots
from mcts_ray.audit.verdict import at_share, trusted
from mcts_ray.compare.page import PLOTS_CSS
from mcts_ray.compare.plots import Draw, svg
from mcts_ray.report.frame import frame

_CSS = (
    PLOTS_CSS
    + """
.verdict h3 { margin: 14px 0 4px; } .verdict ul { margin: 4px 0 0; padding-left: 20px; } .verdict li { margin: 3px 0; }
.verdict .sum { font-size: 17px; font-weight: 620; margin: 0 0 2px; }
.plots p { color: var(--soft); font-size: 13px; } tr.trusted td:first-child { color: var(--good); font-weight: 620; }
"""
)
_LEVEL = (  # column, figure, its note
    ("level", "level", ""), ("done", "share", ".0%"), ("Spearman, guide", "spearman", ".2f"), ("Spearman, gold", "spearman_gold", ".2f"),
    ("Kendall, guide", "kendall", ".2f"), ("pairs right, guide", "accuracy", ".2f"), ("pairs right, gold", "accuracy_gold", ".2f"),
    ("calibration error", "ece", ".3f"), ("best in half", "kept_half", ".2f"), ("best in quarter", "kept_quarter", ".2f"),
    ("1 of 4, sd", "pick_of_4", ".2f"), ("R²", "r2", ".2f"), ("R² within", "r2_within", ".2f"), ("spread", "spread", ".3g"),
    ("decided, fresh noise", "fresh_ceiling", ".2f"),
)  # fmt: skip
_SIBLING = (
    ("level", "level", ""), ("done", "share", ".0%"), ("Spearman, gold", "spearman", ".2f"), ("parents", "parents", ""),
    ("ICC, gold", "icc", ".2f"), ("ceiling, one", "ceiling", ".2f"), ("ceiling, mean", "ceiling_of_means", ".2f"),
    ("of ceiling", "of_ceiling", ".0%"), ("Spearman, guide", "spearman_guide", ".2f"), ("ICC, guide", "icc_guide", ".2f"),
    ("ceiling, mean, guide", "ceiling_of_means_guide", ".2f"), ("of ceiling, guide", "of_ceiling_guide", ".0%"),
)  # fmt: skip
Columns = Sequence[tuple[str, str, str]]


def page(found: dict[str, Any]) -> str:
    """The whole page of an audit."""
    tables = "".join(_tables(name, one) for name, one in found["scores"].items())
    return frame("Audit of step scores", f"{_head(found)}{_verdict(found['verdict'])}{_plots(found)}{tables}{_notes(found)}", css=_CSS)


def _head(found: dict[str, Any]) -> str:
    design = found["design"]
    about = f"{escape(design['model'])} · guide {escape(design['reward'])} · gold {escape(design['gold'])} · T = {design['levels']}"
    names = ", ".join(map(escape, found["scores"]))
    levels = next(iter(found["scores"].values()))["levels"]
    quarter, half = (at_share(levels, share) for share in (0.25, 0.5))
    first = escape(next(iter(found["scores"])))
    tiles = {
        "Spearman at 25 %": (_plain(quarter["spearman"]), f"{first}, with the guide; gold {_plain(quarter['spearman_gold'])}"),
        "Spearman at 50 %": (_plain(half["spearman"]), f"{first}, with the guide; gold {_plain(half['spearman_gold'])}"),
        "guide with gold": (_plain(found["guide_and_gold"]["spearman"]), "Spearman of finished images"),
        "measured": (design["texts"], f"{escape(design['source'])} prompts × {design['trajectories']} trajectories"),
    }
    html = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, (value, note) in tiles.items())
    return f'<header><p class="about">{about}</p><h1>Can {names} be trusted?</h1><dl class="tiles">{html}</dl></header>'


def _verdict(verdict: dict[str, Any]) -> str:
    parts = [f'<p class="sum">{escape(one["sum"])}</p>' for one in verdict["scores"].values()]
    for name, one in verdict["scores"].items():
        parts.append(f"<h3>{escape(name)}</h3>{_list(one['sentences'])}")
    parts.append(f"<h3>Guide and gold</h3>{_list(verdict['guide'])}")
    return f'<section class="verdict"><h2>Verdict</h2>{"".join(parts)}</section>'


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _plots(found: dict[str, Any]) -> str:
    drawn: dict[str, tuple[Draw, str]] = {
        "Does it rank trajectories?": (
            plots.ranking(found),
            "Solid: with the guide, dashed: with gold, shaded: trusted. Diamonds: the most that finishing with fresh noise would allow.",
        ),
        "When is it safe to prune?": (plots.pruning(found), "How often the sample that ends best is still there."),
        "Does it know how sure it is?": (
            plots.certainty(found),
            "Of pairs, after a temperature for each level; below the dotted line it does.",
        ),
    }
    if any(one["siblings"] for one in found["scores"].values()):
        drawn["Does it rank children of one state?"] = (
            plots.siblings(found),
            "What a tree asks of it, against the mean gold of several completions.",
        )
    if found["over_optimisation"]:
        drawn["Does more search spoil gold?"] = (
            plots.optimisation(found["over_optimisation"]), "Gold below the dashed line: the guide is exploited, not only weak.",
        )  # fmt: skip
    if any(one.get("paths") for one in found["scores"].values()):
        drawn["Does it choose the right path?"] = (plots.path_regret(found), "On trees small enough to know every jump path.")
    views = "".join(f"<div><h3>{title}</h3>{svg(title, draw)}<p>{note}</p></div>" for title, (draw, note) in drawn.items())
    return f'<section><h2>What it rests on</h2><div class="plots">{views}</div></section>'


def _tables(name: str, one: dict[str, Any]) -> str:
    tables = f'<h3>by level <small>coloured: trusted</small></h3><div class="scroll">{_table(one["levels"], _LEVEL)}</div>'
    if one["siblings"]:
        tables += f'<h3>children of one state</h3><div class="scroll">{_table(one["siblings"], _SIBLING)}</div>'
    return f"<section><details><summary>{escape(name)} in numbers</summary>{tables}</details></section>"


def _table(rows: Sequence[dict[str, Any]], columns: Columns) -> str:
    shown = [column for column in columns if any(row.get(column[1]) is not None for row in rows)]
    head = "".join(f"<th>{title}</th>" for title, _, _ in shown)
    body = "".join(f"<tr{_kind(row)}>{''.join(f'<td>{_cell(row, name, form)}</td>' for _, name, form in shown)}</tr>" for row in rows)
    return f'<table class="figures"><tr>{head}</tr>{body}</table>'


def _kind(row: dict[str, Any]) -> str:
    return ' class="trusted"' if "ece" in row and trusted(row) else ""


def _cell(row: dict[str, Any], name: str, form: str) -> str:
    if row.get(name) is None:
        return ""
    interval = row.get(f"{name}_ci")
    return format(row[name], form) + (f"<small>{interval[0]:.2f} … {interval[1]:.2f}</small>" if interval else "")


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _notes(found: dict[str, Any]) -> str:
    notes = "".join(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>" for name, text in found["meaning"].items())
    limits = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["verdict"]["thresholds"].items())
    notes += f"<dt>thresholds of the verdict</dt><dd>{escape(limits)}</dd>"
    return f'<section><details><summary>What the figures mean</summary><dl class="notes">{notes}</dl></details></section>'
