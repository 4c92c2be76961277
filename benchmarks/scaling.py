"""How NFE/s grow with the denoisers of one tree manager: emulated GPUs, and real ones.

    python -m benchmarks.scaling [--denoisers 1 4 16 64] [--steps 128] [--real 1 2] [--model scenes] [--device cpu]

Emulated denoisers (`benchmarks.emulated`: batches of 8, 250 ms each, no torch) under the real tree manager, pool and journals, and mcts on
trees of 8 levels: sixteen jobs, and one. All together spend `steps` batches for every denoiser, one job at least 8,192 NFE: at 128 steps it
has 16,384 on 16 denoisers and 65,536 on 64. A search lets an eighth of its NFE be in flight, so small budgets alone cannot fill many denoisers.
`efficiency`: NFE/s over those of denoisers whose batches are always full and follow each other without a gap, from `RAMP` seconds after
the first step until 85 % of the budget is spent, that is while there is enough to do; `whole`: the same from the submission of the jobs
to the arrival of their finds, beginning and end included. `fill`: of the slots of all batches, the share that had something to do.
`stretch`: how much longer than it should a batch took, which is the machine's doing. `load`: CPU seconds of the manager each second.
`passed`: the efficiency is as `wanted` wherever that says something; otherwise the exit code is 1.

real: `--real` denoisers on a cluster of their own or at `--address`, sixteen best-of-n searches, NFE/s over those of the first row.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from benchmarks.common import bars, write
from benchmarks.emulated import Emulated, cluster, cpu_seconds, mcts

BATCH, SECONDS, LEVELS = 8, 0.25, 8
RAMP, MOST = 2.0, 0.85
LEAST = 8192  # NFE of a job that is alone
WANTED = {16: 0.95, 64: 0.90}  # of `efficiency`, by denoisers


def emulated(denoisers: int, jobs: int, steps: int, seconds: float) -> dict[str, float]:
    """One row."""
    budget = max(LEAST if jobs == 1 else 0, steps * BATCH * denoisers // jobs)
    with Emulated(denoisers, BATCH, seconds) as pool:
        cpu, start = cpu_seconds(pool.manager), time.time()
        found = pool.finish(pool.submit([mcts(f"s{at}", budget, LEVELS) for at in range(jobs)], max(1, budget // 8)))
        ended, cpu = time.time(), cpu_seconds(pool.manager) - cpu
        seen = [span for one in pool.seen() for span in one["spans"]]
    nfe = sum(one.ledger.nfe for one in found)
    assert nfe == sum(count for _, _, count in seen) and nfe > jobs * (budget - LEVELS) and not any(one.errors for one in found)
    ideal = denoisers * BATCH / seconds
    return {
        "denoisers": denoisers,
        "jobs": jobs,
        "budget": budget,
        "efficiency": round(_sustained(seen, nfe) / ideal, 4),
        "whole": round(nfe / (ended - start) / ideal, 4),
        "fill": round(nfe / (BATCH * len(seen)), 4),
        "stretch": round(sum(b - a for a, b, _ in seen) / (seconds * len(seen)), 4),
        "nfe_per_second": round(nfe / (ended - start), 1),
        "leaves_per_second": round(sum(len(one.finished) for one in found) / (ended - start), 1),
        "load": round(cpu / (ended - start), 3),
    }


def _sustained(spans: list[tuple[float, float, int]], nfe: int) -> float:
    """NFE/s while there is enough to do. spans: of the steps of all denoisers, with the samples that each had."""
    begin, end, spent = min(began for began, _, _ in spans) + RAMP, 0.0, 0
    for _, ended, count in sorted(spans, key=lambda span: span[1]):
        spent += count
        if spent >= MOST * nfe:
            end = ended
            break
    if end - begin < 1.0:
        return float("nan")  # too short to say
    within = sum(count * max(0.0, min(b, end) - max(a, begin)) / (b - a) for a, b, count in spans)
    return within / (end - begin)


def real(workers: list[int], model: str, device: str, address: str | None, steps: int) -> list[dict[str, float]]:
    """Rows of real denoisers."""
    from mcts_ray import SearchConfig, Searcher
    from mcts_ray.scenes import prompts

    rows: list[dict[str, float]] = []
    for count in workers:
        with Searcher.from_pretrained(model, device=device, executor="ray", workers=count, address=address) as searcher:
            texts = prompts("hard", "validation")[:16]
            config = SearchConfig(algorithm="best-of-n", images=1, reward="jpeg", in_flight=16 * count)
            searcher.many(texts, config.model_copy(update={"budget": 2 * config.levels}))  # loads what is loaded on first use
            budget = max(2, steps * count // 8) * config.levels
            start = time.perf_counter()
            results = searcher.many(texts, config.model_copy(update={"budget": budget}))
            seconds = time.perf_counter() - start
            rate = sum(result.ledger.nfe for result in results) / seconds
        first = rows[0]["nfe_per_second"] / rows[0]["denoisers"] if rows else rate / count
        rows.append({"denoisers": count, "nfe_per_second": round(rate, 1), "efficiency": round(rate / count / first, 4)})
    return rows


def judged(rows: list[dict[str, Any]]) -> bool:
    """Note in each emulated row of which something is wanted whether it holds; whether all do."""
    asked = [row for row in rows if row["denoisers"] in WANTED]
    for row in asked:
        row["holds"] = row["efficiency"] >= WANTED[row["denoisers"]]
    return all(row["holds"] for row in asked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoisers", type=int, nargs="*", default=[1, 4, 16, 64], help="emulated ones")
    parser.add_argument("--jobs", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--steps", type=int, default=128, help="batches of each denoiser")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of an emulated batch")
    parser.add_argument("--real", type=int, nargs="*", default=[1, 2], help="real denoisers; none: only emulated ones")
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--address", help="of a cluster for the real ones")
    parser.add_argument("--name", default="scaling")
    args = parser.parse_args()
    results: dict[str, Any] = {"batch": BATCH, "seconds": args.seconds, "steps": args.steps, "wanted": WANTED, "emulated": [], "real": []}
    with cluster():
        for jobs in args.jobs:
            for count in args.denoisers:
                results["emulated"].append(row := emulated(count, jobs, args.steps, args.seconds))
                print(f"{count} denoisers, {jobs} jobs: efficiency {row['efficiency']}, whole {row['whole']}", flush=True)
    if args.real:
        results["real"] = real(args.real, args.model, args.device, args.address, args.steps)
    results["passed"] = judged(results["emulated"])
    write(args.name, results)
    panels = {}
    for jobs in args.jobs:
        label = "one job" if jobs == 1 else f"{jobs} jobs"
        rows = [row for row in results["emulated"] if row["jobs"] == jobs]
        if rows:
            panels[f"{label}: efficiency"] = {f"{row['denoisers']} denoisers": row["efficiency"] for row in rows}
            panels[f"{label}: whole run"] = {f"{row['denoisers']} denoisers": row["whole"] for row in rows}
    if results["real"]:
        panels["real: efficiency"] = {f"{row['denoisers']} denoisers": row["efficiency"] for row in results["real"]}
    bars(args.name, panels, {title: [0.9, 0.95] for title in panels})
    return int(not results["passed"])


if __name__ == "__main__":
    sys.exit(main())
