"""The run directory of a search brought to this machine through the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcts_ray.report.run import check_free

if TYPE_CHECKING:
    from mcts_ray.service.client import Client
    from mcts_ray.service.models import Job


def fetch(client: Client, job: Job, folder: Path) -> dict[str, Any]:
    """Write images, tree.json, report.html and result.json into `folder`; returns the result with the paths there.

    Files of the same search that are there already are written anew. ValueError if the folder holds another run.
    """
    if not (folder / "result.json").is_file():
        check_free(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(1, len(job.result["images"]) + 1):
        paths.append(folder / "images" / f"{n:02d}.png")
        paths[-1].write_bytes(client.png(job.id, n))
    (folder / "tree.json").write_text(json.dumps(client.tree(job.id), indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(client.report(job.id), encoding="utf-8")
    found = {**job.result, "run_dir": str(folder), "images": [str(path) for path in paths]}
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found
