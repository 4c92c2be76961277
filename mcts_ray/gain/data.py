"""Recorded transitions on disk, what an IGE is trained on.

    DIR/manifest.json               what they are, prompts, shards, states by level and jump
    DIR/shard-00000.safetensors     the states of some prompts

Tensors of a shard, a row for each of its n states: `features` (n, F) fp16, `key` (n,) int64, which no two states share, and the fields
of `mcts_ray.gain.targets.Transitions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mcts_ray.fitting import shards
from mcts_ray.fitting.shards import MANIFEST, Shards
from mcts_ray.gain.targets import Transitions
from mcts_ray.report.share import replacing

KIND = "transitions"
FIELDS = tuple(each.name for each in fields(Transitions))
read_manifest = partial(shards.read_manifest, kind=KIND)


class Recorded(Shards):
    """What `mcts_ray.gain.collect` has written to a folder. ValueError for one that holds no transitions."""

    kind, how = KIND, "`mcts-ray train gain --collect`"

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        parts = self.read(load_file)
        tensors = {name: np.concatenate([part[name] for part in parts]) for name in ("features", "key", *FIELDS)}
        _, first = np.unique(tensors["key"], return_index=True)
        return {name: tensor[np.sort(first)] for name, tensor in tensors.items()}

    @property
    def features(self) -> np.ndarray:
        """(n, F) fp16."""
        return self._tensors["features"]

    @cached_property
    def transitions(self) -> Transitions:
        """All states, each once."""
        whole = {name: self._tensors[name] for name in FIELDS}
        return Transitions(**{name: tensor.astype(np.int64 if tensor.dtype.kind == "i" else np.float64) for name, tensor in whole.items()})

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and those of a tenth of the prompts, which are held out; a prompt is on one side only, always the same."""
        prompt_N = self.transitions.prompt
        out_N = np.isin(prompt_N, list(self.held_out(set(prompt_N.tolist()))))
        return np.flatnonzero(~out_N), np.flatnonzero(out_N)


def write_shard(file: Path, tensors: Mapping[str, np.ndarray], prompts: int, nfe: int) -> None:
    """The states of some prompts, which cost `nfe`; a run that is cut off leaves no half of a shard."""
    about = {"prompts": prompts, "states": len(tensors["key"]), "nfe": nfe}
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with replacing(file) as unfinished:
        save_file(arrays, unfinished, {name: str(number) for name, number in about.items()})


def write_manifest(folder: Path, manifest: Mapping[str, Any], files: Iterable[Path]) -> dict[str, Any]:
    """Enter the shards that are there, with counts of their states by level and jump; returns what was written. Several processes may."""
    entries, counts = [], {}
    for file in files:
        with safe_open(file, "np") as shard:
            about = {name: int(number) for name, number in shard.metadata().items()}
            level_n, made_nK = shard.get_tensor("level"), np.isfinite(shard.get_tensor("reward")).any(2)
        entries.append({"file": file.name, "bytes": file.stat().st_size, **about})
        for level in np.unique(level_n).tolist():
            counts[level] = counts.get(level, 0) + made_nK[level_n == level].sum(0)
    found = {**manifest, "shards": entries, "counts": {str(level): made_K.tolist() for level, made_K in sorted(counts.items())}}
    with replacing(folder / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found
