"""What `mcts-ray search` costs on this machine beside the search itself: start, actors, wall time, memory.

    python -m benchmarks.search_time [--runs 5] [--budget 512]

Each run is the whole command with its own Ray cluster. `total`: wall time of the command. `search`: from the first ask to
the last tell, once the actors are up. `share`: of the search's wall time, what the denoiser and decoding and rewarding took.
`memory`: the proportional set size (PSS) of the command and every process it started, the largest of samples taken every
half second. Medians over the runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import matplotlib

from benchmarks.common import RESULTS, write

PROMPT = "a red circle left of a blue square"


def run(algorithm: str, budget: int, executor: str) -> dict[str, float]:
    """One command: its times, shares and memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mcts_ray", "search", PROMPT, "--budget", str(budget), "--json"]
        command += ["--algorithm", algorithm, "--executor", executor, "--out", f"{folder}/run"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        memory = Memory(process.pid)
        out, _ = process.communicate()
        total = time.perf_counter() - start
        memory.stop()
        assert process.returncode == 0, out
        ledger = json.loads(out)["ledger"]
        scoring = json.loads((Path(folder) / "run" / "job.json").read_text())["scoring_seconds"]
    seconds = ledger["seconds"]
    return {
        "total": total,
        "search": seconds,
        "denoiser": ledger["denoiser_seconds"] / seconds,
        "decode_and_reward": scoring / seconds,
        "share": (ledger["denoiser_seconds"] + scoring) / seconds,
        "nfe_per_second": ledger["nfe"] / seconds,
        "memory_gib": memory.most / 2**30,
    }


class Memory(threading.Thread):
    """Samples the PSS of a process and all below it until `stop`; `most` is the largest sum, in bytes."""

    def __init__(self, pid: int, every: float = 0.5) -> None:
        super().__init__(daemon=True)
        self.pid, self.every, self.most = pid, every, 0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(self.every):
            self.most = max(self.most, sum(map(_pss, _family(self.pid))))

    def stop(self) -> None:
        """Take no more samples."""
        self._ended.set()
        self.join()


def _family(pid: int) -> set[int]:
    """A process and everything below it."""
    parent = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, above in parent.items() if above in family}
    return family


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--algorithms", nargs="+", default=["best-of-n", "mcts"])
    args = parser.parse_args()
    rows = {}
    for algorithm in args.algorithms:
        for executor in ("ray", "local"):
            runs = [run(algorithm, args.budget, executor) for _ in range(args.runs)]
            rows[f"{algorithm}, {executor}"] = {name: round(median(r[name] for r in runs), 3) for name in runs[0]}
    write("search_time", {"prompt": PROMPT, "budget": args.budget, "runs": args.runs, "rows": rows})
    _plot(rows)


def _plot(rows: dict[str, dict[str, float]]) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 2.6), constrained_layout=True)
    names = list(rows)
    parts = {
        "start of the actors or the model": [r["total"] - r["search"] for r in rows.values()],
        "denoiser": [r["search"] * r["denoiser"] for r in rows.values()],
        "decode and reward": [r["search"] * r["decode_and_reward"] for r in rows.values()],
        "other": [r["search"] * max(0, 1 - r["share"]) for r in rows.values()],
    }
    left = [0.0] * len(names)
    for (label, values), colour in zip(parts.items(), ("#b8c4cc", "#2a6f97", "#e09f3e", "#c8553d"), strict=True):
        axis.barh(names, values, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, values)]
    axis.invert_yaxis()
    axis.set(xlabel="seconds")
    axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.4, 1.22), frameon=False)
    figure.savefig(RESULTS / "search_time.png", dpi=130)


if __name__ == "__main__":
    main()
