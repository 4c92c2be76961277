"""Wall time that is neither denoiser nor decode and reward, and how many leaves one tree manager sustains.

    python -m benchmarks.overhead [--parts scenes,batch,manager] [--runs 5] [--budget 512] [--leaves 20000]

scenes: real searches with the scenes model by a Ray cluster of their own, one denoiser, and in this process. `outside`: of the wall time
of a search, from its first ask to its last tell, that in which neither the denoiser nor decoding and rewarding was at work: the union of
their calls is taken, so that work side by side hides no idle time. batch: emulated denoisers of 250 ms a batch (`benchmarks.emulated`),
two in a pool, and one alone, which goes in step; `outside`: of the time from a denoiser's first step to its last, that in which neither it
nor its reward actor was at work, the mean over denoisers. manager: emulated denoisers of batches of 32 that take no time, so that the
manager is what is waited for: leaves told each second, of sixteen jobs and of one, each with its journal; in best-of-n a leaf is one
call of a denoiser, in mcts up to four; `load`: CPU seconds of the manager each second, beside which all others need cores too. Medians
over the runs. `passed`: every row is as `wanted`; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import ray

from benchmarks.common import bars, write
from benchmarks.emulated import Emulated, best_of_n, cluster, cpu_seconds, mcts, union

PROMPT = "a red circle left of a blue square"
BATCH, SECONDS = 8, 0.25
DENOISERS = {"pool": 2, "alone": 1}  # by the end of a row's name
WIDE = 32  # samples of a batch that takes no time
SMALL = (4, 16, 16)  # of a latent, where its bytes are not what is measured
WANTED = {"scenes": 0.1, "batch": 0.01, "manager": 2000}  # `outside` at most, leaves each second at least


def scenes(runs: int, budget: int) -> dict[str, dict[str, float]]:
    """Of real searches, by algorithm and executor: the share of wall time outside, and NFE each second."""
    from mcts_ray import SearchConfig, Searcher

    rows = {}
    for executor in ("local", "ray"):
        with Searcher.from_pretrained("scenes", device="cpu", executor=executor) as searcher:
            _everywhere(searcher, watch)
            for algorithm in ("best-of-n", "mcts"):
                config = SearchConfig(algorithm=algorithm, budget=budget)
                searcher(PROMPT, config.model_copy(update={"budget": 64}))  # loads what is loaded on first use
                found = [_shares(searcher, config.model_copy(update={"seed": seed})) for seed in range(runs)]
                rows[f"{algorithm}, {executor}"] = {name: round(median(one[name] for one in found), 4) for name in found[0]}
    return rows


def _shares(searcher: Any, config: Any) -> dict[str, float]:
    _everywhere(searcher, watched)
    ledger = searcher(PROMPT, config).ledger
    busy = union([span for spans in _everywhere(searcher, watched) for span in spans])
    return {"outside": max(0.0, 1 - busy / ledger.seconds), "nfe_per_second": ledger.nfe / ledger.seconds, "seconds": ledger.seconds}


def _everywhere(searcher: Any, call: Callable[[Any], Any]) -> list[Any]:
    """What `call` gives in the processes of the denoiser and of the reward."""
    actors = getattr(searcher.backend, "_actors", None)
    return [ray.get(actor.handle.__ray_call__.remote(call)) for actor in actors[:2]] if actors else [call(None)]


def watch(_: Any) -> None:
    """From now on note in this process when a denoiser, or decoding and rewarding, is at work."""
    from mcts_ray.diffusion.denoiser import Denoiser
    from mcts_ray.executor.scoring import Scoring

    def noted(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            began = time.time()
            try:
                return method(*args, **options)
            finally:
                owner.spans.append((began, time.time()))

        setattr(owner, name, timed)

    for owner, names in ((Denoiser, ("denoise", "score", "gains")), (Scoring, ("answer",))):
        if not hasattr(owner, "spans"):
            owner.spans = []
            for name in names:
                noted(owner, name)


def watched(_: Any) -> list[tuple[float, float]]:
    """When something was at work in this process since the last call."""
    from mcts_ray.diffusion.denoiser import Denoiser
    from mcts_ray.executor.scoring import Scoring

    spans = [*Denoiser.spans, *Scoring.spans]
    Denoiser.spans.clear(), Scoring.spans.clear()
    return spans


def batch(runs: int, budget: int, seconds: float) -> dict[str, dict[str, float]]:
    """The share of time in which an emulated denoiser and its reward actor both wait, by job, of one denoiser and in a pool of two."""
    jobs: dict[str, Callable[[int], Sequence]] = {
        "16 jobs, walks of 8": lambda nfe: [best_of_n(f"s{at}", nfe // 16, 8) for at in range(16)],
        "16 jobs, leaves": lambda nfe: [best_of_n(f"s{at}", nfe // 16, 1) for at in range(16)],
        "1 job, mcts": lambda nfe: [mcts("s", nfe, 8)],
    }
    rows = {}
    for name, denoisers in DENOISERS.items():
        for label, make in jobs.items():
            shares = [_waiting(make(denoisers * budget), seconds, denoisers) for _ in range(runs)]
            rows[f"{label}, {name}"] = {"outside": round(median(shares), 4)}
    return rows


def _waiting(searches: Sequence, seconds: float, denoisers: int) -> float:
    """The mean over denoisers, each from its first step to its last."""
    with Emulated(denoisers, BATCH, seconds, reward_seconds=0.002, rewards=denoisers) as emulated:
        emulated.finish(emulated.submit(searches, in_flight=2 * BATCH * denoisers))
        both = [([span[:2] for span in seen["spans"]], scoring) for seen, scoring in zip(emulated.seen(), emulated.rewards_seen())]
    shares = []
    for steps, scoring in both:
        began, ended = steps[0][0], steps[-1][1]
        shares.append(1 - union([(max(a, began), min(b, ended)) for a, b in (*steps, *scoring)]) / (ended - began))
    return sum(shares) / len(shares)


def manager(runs: int, leaves: int, denoisers: int) -> dict[str, dict[str, float]]:
    """Units told each second where nothing else takes time."""
    jobs: dict[str, Callable[[], Sequence]] = {
        "16 jobs": lambda: [best_of_n(f"s{at}", leaves // 16, 1) for at in range(16)],
        "1 job": lambda: [best_of_n("s", leaves, 1)],
        "16 jobs, mcts": lambda: [mcts(f"s{at}", leaves // 12, 4) for at in range(16)],  # a leaf is 4/3 NFE there
        "1 job, mcts": lambda: [mcts("s", 4 * leaves // 3, 4)],
    }
    rows = {}
    for label, make in jobs.items():
        rates, loads = [], []
        for _ in range(runs):
            with Emulated(denoisers, WIDE, 0.0, 0.0, rewards=1, shape=SMALL) as emulated:
                cpu, start = cpu_seconds(emulated.manager), time.perf_counter()
                found = emulated.finish(emulated.submit(make(), in_flight=4 * denoisers * WIDE))
                seconds = time.perf_counter() - start
                rates.append(sum(len(one.finished) for one in found) / seconds)
                loads.append((cpu_seconds(emulated.manager) - cpu) / seconds)
        rows[label] = {"leaves_per_second": round(median(rates), 1), "load": round(median(loads), 3)}
    return rows


def judged(results: dict[str, Any]) -> bool:
    """Note in each row whether it is as wanted; whether all are."""
    for part, limit in WANTED.items():
        rows = results.get(part, {})
        for row in rows.get("rows", rows).values():
            row["holds"] = row["leaves_per_second"] >= limit if part == "manager" else row["outside"] <= limit
    parts = [results[part].get("rows", results[part]) for part in WANTED if part in results]
    return all(row["holds"] for rows in parts for row in rows.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="scenes,batch,manager")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--budget", type=int, default=512, help="NFE of a search of scenes, and of all emulated ones together")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of an emulated batch")
    parser.add_argument("--leaves", type=int, default=20_000)
    parser.add_argument("--denoisers", type=int, default=4, help="that keep the manager busy")
    parser.add_argument("--name", default="overhead", help="of the results file; -: only print")
    args = parser.parse_args()
    parts = args.parts.split(",")
    results: dict = {"runs": args.runs, "budget": args.budget}
    if "scenes" in parts:
        results["scenes"] = scenes(args.runs, args.budget)
    if {"batch", "manager"} & set(parts):
        with cluster():
            if "batch" in parts:
                results["batch"] = {"seconds": args.seconds, "size": BATCH, "rows": batch(args.runs, args.budget, args.seconds)}
            if "manager" in parts:
                about = {"leaves": args.leaves, "denoisers": args.denoisers, "size": WIDE}
                results["manager"] = {**about, "rows": manager(args.runs, args.leaves, args.denoisers)}
    results |= {"wanted": WANTED, "passed": judged(results)}
    if args.name == "-":
        print(results)
        return int(not results["passed"])
    write(args.name, results)
    panels, limits = {}, {}
    shares = ("scenes", "scenes: share of wall time outside"), ("batch", f"{args.seconds * 1000:.0f} ms a batch: the same")
    for part, title in shares:
        rows = results.get(part, {}).get("rows", results.get(part))
        if rows:
            panels[title], limits[title] = {name: row["outside"] for name, row in rows.items()}, [WANTED[part]]
    if "manager" in results:
        panels["leaves/s of one manager"] = {name: row["leaves_per_second"] for name, row in results["manager"]["rows"].items()}
        limits["leaves/s of one manager"] = [WANTED["manager"]]
    bars(args.name, panels, limits)
    return int(not results["passed"])


if __name__ == "__main__":
    sys.exit(main())
