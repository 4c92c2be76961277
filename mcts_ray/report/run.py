"""The run directory of one search: written while it runs, complete when it ends, readable without this package.

    job.json        the resolved configuration, the versions, what became of it
    journal.jsonl   append-only, flushed with every outcome: a header, then what was asked and told
    metrics.jsonl   the anytime curve: nfe, seconds and the best reward, a line for every finished image
    tree.json       every node: id, parent, level, action, visits, value
    report.html     all of it for a reader, self-contained
    scores.npz      with `record_scores`: scores [1, image, call] and final [1, image] of all finished images
    images/         the best images, best first, with prompt, seed, node and scores in the PNG metadata
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.PngImagePlugin import PngInfo

from mcts_ray import __version__
from mcts_ray.report.html import report
from mcts_ray.report.share import replacing
from mcts_ray.executor.base import Job
from mcts_ray.executor.record import PATIENCE, hold, line, read_journal
from mcts_ray.search.base import Search
from mcts_ray.search.journal import resumed

if TYPE_CHECKING:
    from mcts_ray.result import SearchResult

JOURNAL_VERSION = 1
_MARKS = ("job.json", "journal.jsonl", "tree.json", "metrics.jsonl", "report.html", "scores.npz", "images")


def check_free(path: Path) -> None:
    """Raise ValueError unless a run can be written to `path`: it can be made, and nothing of a run is there."""
    check_writable(path, "run directory")
    if any((path / mark).exists() for mark in _MARKS):
        raise ValueError(f"run directory {path} already holds a run; choose another one")


def check_writable(path: Path, what: str = "directory") -> None:
    """Raise ValueError unless the directory `path` is there or can be made, and takes files; leaves nothing behind."""
    try:
        parent = next(p for p in (path, *path.absolute().parents) if p.exists())
        os.rmdir(tempfile.mkdtemp(prefix=".mcts-ray-", dir=parent))  # a name of its own: other threads may look here too
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be written ({error.strerror})") from error


class RunDirectory:
    """The directory of one search: made before it runs, for a `Recorder` to write to; `finish` adds what is known at its end."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        """A directory that is there, and what its job.json says; `make` and `reopen` give one."""
        self.path, self.job = path, job

    @classmethod
    def make(cls, path: Path, job: dict[str, Any], header: dict[str, Any]) -> RunDirectory:
        """A new one. `job`: what job.json says; `header`: the first line of the journal. ValueError if it cannot be written."""
        check_free(path)
        try:
            (path / "images").mkdir(parents=True)
            with open(path / "journal.jsonl", "xb") as file:
                file.write(line({"type": "header", "version": JOURNAL_VERSION, **header}))
            (path / "metrics.jsonl").touch(exist_ok=False)
        except OSError as error:
            raise ValueError(f"run directory {path} cannot be written ({error.strerror})") from error
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        run = cls(path, {**job, "status": "running", "started": now, "versions": versions()})
        write_json(path / "job.json", run.job)
        return run

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """That of a search that was stopped, or of one that has ended. ValueError if there is none, or a search is writing to it."""
        if not path.is_dir():
            raise ValueError(f"there is no run directory {path}")
        try:
            job = json.loads((path / "job.json").read_text(encoding="utf-8"))
            fields = [job[name] for name in ("prompt", "model", "device", "dtype", "config", "status")]
            with open(path / "journal.jsonl", "rb+") as file:
                hold(file.fileno(), path, PATIENCE)
        except OSError as error:
            raise ValueError(f"{path} is no run directory that can be resumed ({error.filename}: {error.strerror})") from error
        except (KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(f"{path} is no run directory that can be resumed: its job.json is not that of a search") from None
        assert len(fields) == 6
        return cls(path, job)

    def check(self, search: Search, budget: int) -> None:
        """ValueError, and nothing is written, unless the journal is that of this fresh search, which may spend `budget` in all."""
        records = read_journal(self.path)[1]
        Job(deepcopy(search), 1).recover(records, 1, budget)

    def resume(self, search: str, header: dict[str, Any]) -> None:
        """Go on with it as the search of this id. ValueError if it cannot be written, or `header`, what the journal would begin with,
        is that of another search."""
        there, _, length = read_journal(self.path)
        changed = [name for name, value in header["setting"].items() if there.get("setting", {}).get(name) != value]
        if changed:
            raise ValueError(f"run directory {self.path} is of a search with another {', '.join(changed)}; it cannot be resumed here")
        ended = ("errors", "result", "scoring_seconds", "refusals")
        job = {name: value for name, value in self.job.items() if name not in ended}
        self.job = {**job, "status": "running", "resumed": job.get("resumed", 0) + 1, "versions": versions()}
        try:
            os.truncate(self.path / "journal.jsonl", length)
            with open(self.path / "journal.jsonl", "ab") as file:
                file.write(line(resumed(search)))
            write_json(self.path / "job.json", self.job)
        except OSError as error:
            raise ValueError(f"run directory {self.path} cannot be written ({error.strerror})") from error

    def finish(self, result: SearchResult, status: str) -> None:
        """Write the images, the tree, the report and the end of job.json."""
        for rank, (image, path) in enumerate(zip(result.images, image_paths(self.path, result), strict=True)):
            info = PngInfo()
            for name, value in image_metadata(result, rank).items():
                info.add_text(name, str(value))
            image.save(path, pnginfo=info)
        write_json(self.path / "tree.json", result.tree)
        if result.config.record_scores and result.finished:
            np.savez_compressed(self.path / "scores.npz", **score_table(result))
        (self.path / "report.html").write_text(report(result), encoding="utf-8")
        end = {"status": status, "errors": list(result.errors), "result": summary(result)}
        end |= {"scoring_seconds": round(result.scoring_seconds, 3), "refusals": dict(result.refusals)}
        write_json(self.path / "job.json", {**self.job, **end})


def score_table(result: SearchResult) -> dict[str, np.ndarray]:
    """The arrays of scores.npz: a row for each finished image, along the calls on its path; NaN where there is no score.

    Of a path that was sent back up (dfs) the states that its last way down passed through, one at each level. A path that has
    fewer calls than the longest ends in NaN.
    """
    level = {node["id"]: node["level"] for node in result.tree["nodes"]}
    parent = {node["id"]: node["parent"] for node in result.tree["nodes"]}
    rows = []
    for candidate in result.finished:
        path, node = [], parent[candidate.node]
        while node is not None:
            if not path or level[node] > level[path[-1]]:
                path.append(node)
            node = parent[node]
        rows.append([result.scores.get(node, np.nan) for node in reversed(path)])
    calls = max(map(len, rows))
    scores = np.array([row + [np.nan] * (calls - len(row)) for row in rows])
    return {"scores": scores[None], "final": np.array([[candidate.reward for candidate in result.finished]])}


def image_paths(run_dir: Path, result: SearchResult) -> list[Path]:
    """Where the images of a run lie, best first."""
    return [run_dir / "images" / f"{rank:02d}.png" for rank in range(1, len(result.images) + 1)]


def image_metadata(result: SearchResult, rank: int) -> dict[str, Any]:
    """What the metadata of the PNG of image `rank` (0: the best) says."""
    candidate = result.candidates[rank]
    metadata = {
        "prompt": result.prompt,
        "negative_prompt": result.config.negative_prompt,
        "seed": result.config.seed,
        "node": candidate.node,
        "reward": candidate.reward,
        "reward_name": result.config.reward,
        "model": result.model,
        "algorithm": result.config.algorithm,
        "nfe": candidate.nfe,
    }
    if result.verdicts:
        metadata |= dict(zip(("gold", "pass"), result.verdicts[rank], strict=True))
    return metadata


def summary(result: SearchResult) -> dict[str, Any]:
    """The object that `search --json` prints for one prompt."""
    run_dir = result.run_dir
    return {
        "run_dir": str(run_dir) if run_dir else None,
        "prompt": result.prompt,
        "algorithm": result.config.algorithm,
        "model": result.model,
        "reward": {"name": result.config.reward, "best": result.best and result.best.reward, "mean": result.mean_reward},
        "gold": result.gold,
        "images": [str(path) for path in image_paths(run_dir, result)] if run_dir else [],
        "ledger": result.ledger.to_dict(),
        "tree": tree_summary(result.tree["nodes"]),
        **({"pruning": dict(result.pruning)} if result.pruning else {}),
        **({"notes": list(result.notes)} if result.notes else {}),
    }


def tree_summary(nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Size and shape of a tree whose nodes come parents first; a seed has depth 0."""
    depth: dict[str | None, int] = {None: -1}  # the parent of seeds
    jumps: dict[str, int] = {}
    for node in nodes:
        depth[node["id"]] = depth[node["parent"]] + 1
        if node["action"].startswith("jump "):
            k = node["action"].removeprefix("jump ")
            jumps[k] = jumps.get(k, 0) + 1
    fused = sum(node["action"] == "fuse" for node in nodes)
    jumps = dict(sorted(jumps.items(), key=lambda item: int(item[0])))
    return {"nodes": len(nodes), "max_depth": max(0, *depth.values()), "jumps": jumps, "fused": fused}


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide about the numbers."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers", "ray", "pot", "numpy")}
    return {"mcts_ray": __version__, "python": python_version(), **libraries}


def write_json(path: Path, value: Any) -> None:
    """Replace a file at once, so that no reader ever sees half of it."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
