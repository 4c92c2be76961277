"""page.html: a comparison on one page that needs nothing else: for each prompt set plots and a table."""

from __future__ import annotations

from html import escape
from typing import Any

from mcts_ray.compare import plots
from mcts_ray.report.frame import frame

_ERRORS = ("reward_error", "search_error")
_HELD_AGAINST = (("first", ""), ("best", ", the best policy"))
PLOTS_CSS = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 18px; }
.plots h3 { margin: 0 0 4px; } .plot { width: 100%; height: auto; }
.figures td, .figures th { padding-right: 18px; text-align: right; white-space: nowrap; font-size: 13px; }
.figures td:first-child, .figures th:first-child { text-align: left; }
.figures tr.first td { border-top: 2px solid var(--edge); } .figures small { font-size: 11.5px; display: block; }
.scroll { overflow-x: auto; } dl.notes { margin: 0; font-size: 13.5px; }
dl.notes dt { font-weight: 620; } dl.notes dd { margin: 0 0 8px; color: var(--soft); }
@media (max-width: 600px) { .plots { grid-template-columns: 1fr; } }
"""


def page(summary: dict[str, Any]) -> str:
    """The whole page of a comparison."""
    sections = "".join(_set(name, one) for name, one in summary["sets"].items())
    return frame("Searches compared", f"{_head(summary)}{sections}{_notes(summary)}", css=PLOTS_CSS)


def _head(summary: dict[str, Any]) -> str:
    design = summary["design"]
    about = f"{escape(design['model'])} · guide {escape(design['reward'])} · gold {escape(design['gold'])} · T = {design['levels']}"
    prompts = ", ".join(f"{count} {escape(name)}" for name, count in design["sets"].items())
    tiles = {
        "arms": (len(design["arms"]), f"against {escape(summary['reference'])}"),
        "budgets": (", ".join(f"{times}×" for times in design["times"]), "multiples of T in NFE"),
        "prompts": (sum(design["sets"].values()), prompts),
        "seeds": (design["seeds"], "averaged within a prompt"),
    }
    html = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, (value, note) in tiles.items())
    return f'<header><p class="about">{about}</p><h1>Searches compared at equal cost</h1><dl class="tiles">{html}</dl></header>'


def _set(name: str, one: dict[str, Any]) -> str:
    rows, pool = one["rows"], one["pool"]
    drawn = {
        "Gold over NFE": plots.against_cost(rows, "gold", "nfe", pool),
        "Gold over time": plots.against_cost(rows, "gold", "busy_seconds"),
        "Guide over NFE": plots.against_cost(rows, "guide", "nfe"),
        "Gold on the way": plots.anytime(rows, 2, "gold"),
        "Guide on the way": plots.anytime(rows, 1, "guide"),
    }
    views = "".join(f"<div><h3>{title}</h3>{plots.svg(name + title, draw)}</div>" for title, draw in drawn.items())
    return f"""<section><h2>{escape(name)} <small>{one["prompts"]} prompts</small></h2>
{plots.key(rows, pool is not None)}<div class="plots">{views}</div></section>
<section><h2>{escape(name)} in numbers</h2>{_policies(pool)}<div class="scroll">{_table(rows, pool)}</div></section>"""


def _policies(pool: dict[str, Any] | None) -> str:
    """Which best-of-n the multipliers are held against."""
    if pool is None:
        return '<p class="key">no pool of finished samples was made, so there are no multipliers (--pool 128)</p>'
    first = pool["policies"][pool["first"]]
    best = "no best jump policy was chosen (--validation FILE)"
    if "best" in pool:
        best = f"the best jump policy is {escape(pool['best'])}"
    sd = f"sd within a prompt: gold {first['sd']['gold']:.3f}, guide {first['sd']['guide']:.3f}"
    return f'<p class="key"><span>{first["samples"]} samples per prompt and policy</span><span>{best}</span><span>{sd}</span></p>'


def _table(rows: list[dict[str, Any]], pool: dict[str, Any] | None) -> str:
    columns = ["search", "T", "gold", "difference", "pass", "guide", "NFE", "decodes", "forwards", "busy s", "diversity"]
    if pool:
        multipliers = [f"compute of best-of-n<small>{escape(pool[what])}{note}</small>" for what, note in _HELD_AGAINST if what in pool]
        columns[4:4] = ["in sd", *multipliers]
    columns += [what.replace("_", " ") for what in _ERRORS if any(what in row for row in rows)]
    columns += ["pruning"] if any("pruning" in row for row in rows) else []
    head = "".join(f"<th>{column}</th>" for column in columns)
    body, last = [], None
    for row in rows:
        kind = ' class="first"' if row["times"] != last else ""
        last = row["times"]
        body.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in _cells(row, pool, columns))}</tr>")
    return f'<table class="figures"><tr>{head}</tr>{"".join(body)}</table>'


def _cells(row: dict[str, Any], pool: dict[str, Any] | None, columns: list[str]) -> list[str]:
    difference = row.get("difference", {})
    failed = f"<small>{row['without_image']} without an image</small>" if row["without_image"] else ""
    failed += f"<small>{row['failed_units']:.1f} failed units a search</small>" if row["failed_units"] else ""
    cells = [escape(row["arm"]) + failed, f"{row['times']}×", _interval(row["gold"]), _interval(difference.get("gold"), "+.3f")]
    if pool:
        in_sd = (row.get("difference_sd") or {}).get("gold")
        cells.append("" if in_sd is None else f"{in_sd:+.2f}")
        cells += [_multiplier(row.get(f"multiplier_{what}")) for what, _ in _HELD_AGAINST if what in pool]
    cells += [_interval(row["passed"], ".2f"), _interval(row["guide"])]
    cells += [f"{row['nfe']:.0f}", f"{row['decodes']:.1f}", f"{row['model_forwards']:.0f}", f"{row['busy_seconds']:.2f}"]
    cells.append(_interval(row["diversity"]))
    cells += [_interval(row.get(what), "+.3f") for what in _ERRORS if what.replace("_", " ") in columns]
    return cells + [_counts(row.get("pruning", {}))] if "pruning" in columns else cells


def _interval(value: list[float] | None, form: str = ".3f") -> str:
    if value is None:
        return ""
    mean, low, high = (format(v, form) for v in value)
    return f"{mean}<small>{low} … {high}</small>"


def _multiplier(value: dict[str, Any] | None) -> str:
    return f"{escape(value['text'])} ×<small>{escape(value['low'])} … {escape(value['high'])}</small>" if value else ""


def _counts(pruning: dict[str, float]) -> str:
    """Counts of pruning, those that are not zero; a dash where all are."""
    return ", ".join(f"{what} {count:.3g}" for what, count in pruning.items() if count) or ("–" if pruning else "")


def _notes(summary: dict[str, Any]) -> str:
    notes = "".join(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>" for name, text in summary["meaning"].items())
    return f'<section><details><summary>What the figures mean</summary><dl class="notes">{notes}</dl></details></section>'
