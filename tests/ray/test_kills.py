"""Random kills of actors and a node while they hold work. On a cluster of its own, in another process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_five_random_kills(tmp_path):
    """One of each kind but the trainer, on a cluster of three nodes; `benchmarks/chaos.py` says what it checks."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MCTS_RAY_"))}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kinds = "denoiser,reward,fusion,manager,node"
    command = [sys.executable, "-m", "benchmarks.chaos", "--kinds", kinds, "--kills", "5", "--least", "1"]
    command += ["--budget", "1000", "--name", "-"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '"passed": true' in done.stdout
    assert '"kills": 5' in done.stdout and '"failed_units": 0' in done.stdout
