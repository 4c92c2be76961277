"""A whole audit: its measurements, then audit.json and audit.html in its folder, and a calibration if one is asked for."""

from __future__ import annotations

from typing import Any

from mcts_ray.audit.collect import Collector, Report
from mcts_ray.audit.design import FILE
from mcts_ray.audit.page import page
from mcts_ray.audit.request import Audit
from mcts_ray.audit.summary import summarise
from mcts_ray.compare.judge import as_reward
from mcts_ray.diffusion.device import resolve_device
from mcts_ray.report.folder import open_folder
from mcts_ray.report.run import versions, write_json
from mcts_ray.reward import resolve_reward
from mcts_ray.searcher import Searcher


def carry_out(audit: Audit, report: Report = lambda line: None) -> dict[str, Any]:
    """Do what is left to do and write the figures of all; returns those of audit.json. Ctrl-C loses the group under way alone."""
    design = audit.design
    device = str(resolve_device("auto" if audit.executor == "ray" else audit.device))  # of the judge, in this process
    gold = resolve_reward(as_reward(design.gold), device)
    where = {"executor": audit.executor, "workers": audit.workers, "address": audit.address}
    with Searcher.from_pretrained(audit.model, audit.device, design.dtype, **where) as searcher:
        for step in design.steps:  # that its network fits the model is seen before anything is measured
            searcher.backend.plan(list(design.texts[:1]), design.search(step), None)
        open_folder(design.to_dict(), audit.out, FILE, "an audit")
        data = Collector(design, searcher, gold, audit.out / "groups", report).collect()
    report("measured; working out the figures")
    found, calibrations = summarise(design, data)
    found = {"design": found.pop("design"), "versions": versions(), "verdict": found.pop("verdict"), **found}
    write_json(audit.out / "audit.json", found)
    (audit.out / "audit.html").write_text(page(found), encoding="utf-8")
    if audit.calibrate:
        calibrations[design.steps[0].name].save(audit.calibrate)
    return found
