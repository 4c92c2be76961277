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

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("torch", "diffusers", "transformers", "ray", "pot", "numpy")


def origin() -> dict:
    """Command, commit, date, cores, device and library versions: at the head of each results file."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": "python -m " + " ".join([f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or None,
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in LIBRARIES},
    }


def write(name: str, results: dict) -> Path:
    """Write `benchmarks/results/NAME.json` with its origin first, print it, and return the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({**origin(), **results}, indent=2)
    path.write_text(text + "\n")
    print(text)
    return path


def interval(value_P: np.ndarray, draws: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over prompts with a 95 % bootstrap interval (prompts resampled): (mean, low, high)."""
    rng = np.random.default_rng(seed)
    means = value_P[rng.integers(0, len(value_P), (draws, len(value_P)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return tuple(round(float(v), 4) for v in (value_P.mean(), low, high))
