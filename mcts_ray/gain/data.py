"""Recorded transitions on disk, what an IGE is trained on.

    DIR/manifest.json               what they are, prompts, shards, states by level and jump
    DIR/shard-00000.safetensors     the states of some prompts

Tensors of a shard, a row for each of its n states: `features` (n, F) fp16, `key` (n,) int64, which no two states share, and the fields
of `mcts_ray.gain.targets.Transitions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from mcts_ray.fitting import shards
from mcts_ray.fitting.shards import Shards, add_shard, write_manifest
from mcts_ray.gain.targets import Transitions

KIND = "transitions"
FIELDS = tuple(each.name for each in fields(Transitions))
read_manifest = partial(shards.read_manifest, kind=KIND)


class Recorded(Shards):
    """What `mcts_ray.gain.collect` has written to a folder. ValueError for one that holds no transitions."""

    kind, how = KIND, "`mcts-ray train gain --collect`"

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        parts = [load_file(file) for file in self.files]
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


def write_shard(folder: Path, manifest: dict[str, Any], tensors: Mapping[str, np.ndarray], prompts: int, nfe: int) -> None:
    """Add a shard with the states of the next `prompts` prompts, which cost `nfe`; a run that is cut off leaves no half of one."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    about = {"prompts": prompts, "states": len(tensors["key"]), "nfe": nfe}
    add_shard(folder, manifest, partial(save_file, arrays), about)
    for level in np.unique(tensors["level"]).tolist():
        made_K = np.isfinite(tensors["reward"][tensors["level"] == level]).any(2).sum(0).tolist()
        before = manifest["counts"].get(str(level), [0] * len(made_K))
        manifest["counts"][str(level)] = [old + new for old, new in zip(before, made_K)]
    write_manifest(folder, manifest)
