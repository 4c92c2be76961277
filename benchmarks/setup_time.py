"""How long the README's two commands take in a clean clone with a new virtual environment, with the packages that pip
fetches from the index it is configured with.

    python -m benchmarks.setup_time
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT, bars, write


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    seconds, last = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for command in ("demo", "test"):
            clone = Path(folder) / command
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            began = time.monotonic()
            done = subprocess.run(["make", command], cwd=clone, capture_output=True, text=True)
            seconds[f"make {command}"] = round(time.monotonic() - began, 1)
            lines = done.stdout.strip().splitlines()
            last[f"make {command}"] = lines[-1] if lines and done.returncode == 0 else done.stderr[-400:]
            if done.returncode:
                raise SystemExit(f"make {command} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    bars("setup_time", {"seconds in a clean clone": seconds})
    write("setup_time", {"seconds": seconds, "last_line": last})


if __name__ == "__main__":
    main()
