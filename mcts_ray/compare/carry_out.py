"""A whole comparison: its searches and pools, then rows.csv, summary.json and page.html in its folder."""

from __future__ import annotations

from typing import Any

from mcts_ray.compare.design import Design, open_folder
from mcts_ray.compare.page import page
from mcts_ray.compare.pool import Pool, pools
from mcts_ray.compare.request import Comparison
from mcts_ray.compare.run import Report, gold_judge, run
from mcts_ray.compare.summary import summarise, write_csv
from mcts_ray.diffusion.device import resolve_device
from mcts_ray.report.run import versions, write_json
from mcts_ray.report.share import replacing
from mcts_ray.reward import resolve_reward
from mcts_ray.searcher import Searcher


def carry_out(comparison: Comparison, report: Report = lambda line: None) -> dict[str, Any]:
    """Do what is left to do and write the figures of all; returns the summary. Ctrl-C loses the group under way alone.

    Other processes may carry out the same one in the same folder: they share the work.
    """
    c = comparison
    open_folder(c.design, c.out)
    here = "auto" if c.executor == "ray" and c.device == "cuda" else c.device  # of workers, this machine may have none
    device = str(resolve_device(here))  # of the judge, in this process
    gold = gold_judge(c.design, device)
    where = {"executor": c.executor, "workers": c.workers, "address": c.address}
    with Searcher.from_pretrained(c.model, c.device, c.design.dtype, **where) as searcher:
        main, validation = _pools(c, searcher, gold, device, report)
        rows = run(c.design, searcher, gold, c.out, report)
    summary = {"design": _head(c.design), "versions": versions(), **summarise(c.design, rows, main, validation)}
    write_csv(c.out / "rows.csv", rows)
    write_json(c.out / "summary.json", summary)
    with replacing(c.out / "page.html") as partial:
        partial.write_text(page(summary), encoding="utf-8")
    return summary


def _pools(c: Comparison, searcher: Searcher, gold, device: str, report: Report) -> tuple[dict[str, list[Pool]], dict[str, list[Pool]]]:
    if not c.design.pool:
        return {}, {}
    guide = resolve_reward(c.design.reward, device)
    return pools(c.design, searcher, guide, gold, c.pools, report)


def _head(design: Design) -> dict[str, Any]:
    """The design without its prompts, which are in design.json and rows.csv."""
    head = design.to_dict()
    return {**head, "sets": {n: len(t) for n, t in head["sets"].items()}, "validation": {n: len(t) for n, t in head["validation"].items()}}
