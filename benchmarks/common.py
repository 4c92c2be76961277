"""What every benchmark shares: where results go, what each file says of its origin, and intervals."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from mcts_ray.compare.figures import interval as interval  # what the studies import from here

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("torch", "diffusers", "transformers", "ray", "pot", "numpy")


def origin() -> dict:
    """Command, commit, date, cores, device and library versions: at the head of each results file."""
    import torch

    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "mcts_ray", "benchmarks/*.py")
    return {
        "command": "python -m " + " ".join([f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit or None,
        "changed": [line[3:] for line in changed.splitlines()],  # files that were not as in the commit
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in LIBRARIES},
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.rstrip()


def write(name: str, results: dict) -> Path:
    """Write `benchmarks/results/NAME.json` with its origin first, print it, and return the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({**origin(), **results}, indent=2)
    path.write_text(text + "\n")
    print(text)
    return path


def bars(name: str, panels: dict[str, dict[str, float | tuple[float, float, float]]], limits: dict[str, list[float]] | None = None) -> None:
    """Draw `benchmarks/results/NAME.png`: a panel of horizontal bars for each title, by label.

    A value is a number, or (mean, low, high); `limits`: dashed lines in a panel, what was asked for.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = max(len(values) for values in panels.values())
    size = (4.6 * len(panels), 1.1 + 0.3 * rows)
    figure, axes = plt.subplots(1, len(panels), figsize=size, constrained_layout=True, squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        triples = [value if isinstance(value, (tuple, list)) else (value,) * 3 for value in values.values()]
        mean, low, high = np.array(triples, float).T
        axis.barh(list(values), mean, xerr=[mean - low, high - mean], color="#2a6f97", ecolor="#333", height=0.6)
        for limit in (limits or {}).get(title, ()):
            axis.axvline(limit, color="#c8553d", ls="--", lw=1)
        for place, (value, end) in enumerate(zip(mean, high)):
            axis.annotate(f" {value:.3g}", (end, place), va="center", fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
    figure.savefig(RESULTS / f"{name}.png", dpi=130)
    plt.close(figure)
