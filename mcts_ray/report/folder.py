"""Folders of work that goes on where it was cut off: each holds one design, and refuses another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcts_ray.report.run import write_json


def open_folder(design: dict[str, Any], out: Path, file: str, what: str) -> None:
    """Make `out` the folder of a design, or see that it is already. ValueError for one that holds something else."""
    check_folder(design, out, file, what)
    try:
        (out / "groups").mkdir(parents=True, exist_ok=True)
        write_json(out / file, design)
    except OSError as error:
        raise ValueError(f"{what.split()[-1]} folder {out} cannot be written ({error.strerror})") from error


def check_folder(design: dict[str, Any], out: Path, file: str, what: str) -> None:
    """ValueError unless `out` is empty, not there, or holds this very design in `file`; `what`: "a comparison" or "an audit"."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        there = json.loads((out / file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"folder {out} holds something else than {what}; choose another one") from None
    changed = [name for name in design if not isinstance(there, dict) or there.get(name) != design[name]]
    if changed:
        raise ValueError(f"folder {out} holds {what} of another design ({', '.join(changed)} differ); choose another one")
