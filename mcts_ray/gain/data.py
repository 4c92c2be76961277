"""Recorded transitions on disk, what an IGE is trained on.

    DIR/manifest.json               what they are, prompts, shards, states by level and jump
    DIR/shard-00000.safetensors     the states of some prompts

Tensors of a shard, a row for each of its n states: `features` (n, F) fp16, `key` (n,) int64, which no two states share, and the fields
of `mcts_ray.gain.targets.Transitions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from mcts_ray.gain.targets import Transitions

MANIFEST = "manifest.json"
HELD_OUT = 0.1  # share of the prompts
FIELDS = tuple(each.name for each in fields(Transitions))


class Recorded:
    """What `mcts_ray.gain.collect` has written to a folder. ValueError for one that holds no transitions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if self.manifest is None or not self.manifest["shards"]:
            raise ValueError(f"{folder} holds no transitions; make some with `mcts-ray train gain --collect`")

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        names = [shard["file"] for shard in self.manifest["shards"]]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"{self.folder} lacks {missing[0]}, which its manifest names")
        shards = [load_file(self.folder / name) for name in names]
        tensors = {name: np.concatenate([shard[name] for shard in shards]) for name in ("features", "key", *FIELDS)}
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

    @property
    def key(self) -> str:
        """What stands for the data."""
        return hashlib.blake2b(json.dumps(self.manifest, sort_keys=True).encode(), digest_size=8).hexdigest()

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and those of a tenth of the prompts, which are held out; a prompt is on one side only, always the same."""
        texts, prompt_N = self.manifest["prompts"], self.transitions.prompt
        there = sorted(set(prompt_N.tolist()), key=lambda prompt: texts[prompt])
        if len(there) < 2:
            raise ValueError(f"{self.folder} has transitions of one prompt only; training holds prompts out and needs at least two")
        order = np.random.default_rng(0).permutation(len(there))
        held = [there[index] for index in order[: max(1, round(HELD_OUT * len(there)))]]
        out_N = np.isin(prompt_N, held)
        return np.flatnonzero(~out_N), np.flatnonzero(out_N)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if it has none. ValueError for one that is no manifest."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["kind"] == "transitions":
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{file} is no manifest of transitions; choose another folder")


def write_shard(folder: Path, manifest: dict[str, Any], tensors: Mapping[str, np.ndarray], prompts: int, nfe: int) -> None:
    """Add a shard with the states of the next `prompts` prompts, which cost `nfe`; a run that is cut off leaves no half of one."""
    name = f"shard-{len(manifest['shards']):05d}.safetensors"
    temporary = folder / f"{name}.tmp"
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, temporary)
    temporary.replace(folder / name)
    size, states = (folder / name).stat().st_size, len(tensors["key"])
    manifest["shards"].append({"file": name, "prompts": prompts, "states": states, "bytes": size, "nfe": nfe})
    for level in np.unique(tensors["level"]).tolist():
        made_K = np.isfinite(tensors["reward"][tensors["level"] == level]).any(2).sum(0).tolist()
        before = manifest["counts"].get(str(level), [0] * len(made_K))
        manifest["counts"][str(level)] = [old + new for old, new in zip(before, made_K)]
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
