"""Recorded trajectories: what a value head would have read at states on the way, and the reward that the image got in the end.

    DIR/manifest.json               what the trajectories are, prompts, shards, states by level
    DIR/shard-00000.safetensors     the states of some prompts, fp16, sorted by prompt and level

Tensors of a shard, a row for each of its n states: `x`, `x0` and `tap.NAME` (maps, at most grid x grid), `log_snr`, `reward`, and
`prompt` (a row of `embeddings`), `level`, `trajectory`, `eta`. States of one prompt and level are a *group*: they differ in
trajectory only. Shards are mapped into memory and read as they are needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

MANIFEST = "manifest.json"
HELD_OUT = 0.1  # share of the prompts


@dataclass(frozen=True)
class Group:
    """States of one prompt (its number in the manifest) at one level: rows `start` to `stop` of a shard."""

    shard: int
    start: int
    stop: int
    prompt: int
    level: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Batch:
    """States of several groups, fp32 on one device. group: (B,) number of each state's group; the others as in `States`."""

    taps: Mapping[str, torch.Tensor]
    x: torch.Tensor
    x0: torch.Tensor
    log_snr: torch.Tensor
    embeddings: torch.Tensor
    reward: torch.Tensor
    group: torch.Tensor


class Trajectories:
    """What `collect` has written to a folder. ValueError for one that holds no trajectories."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if self.manifest is None or not self.manifest["shards"]:
            raise ValueError(f"{folder} holds no trajectories; make some with mcts_ray.reward.value.collect")

    @cached_property
    def shards(self) -> list[dict[str, torch.Tensor]]:
        """The tensors of every shard, mapped into memory."""
        names = [shard["file"] for shard in self.manifest["shards"]]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"{self.folder} lacks {missing[0]}, which its manifest names")
        return [load_file(self.folder / name) for name in names]

    @property
    def key(self) -> str:
        """What stands for the data."""
        return hashlib.blake2b(json.dumps(self.manifest, sort_keys=True).encode(), digest_size=8).hexdigest()

    @cached_property
    def groups(self) -> list[Group]:
        """All groups, shard by shard."""
        return [group for number, shard in enumerate(self.manifest["shards"]) for group in self._groups(number, shard["first"])]

    def _groups(self, number: int, first: int) -> Iterator[Group]:
        shard = self.shards[number]
        key_n = np.stack([shard["prompt"].numpy(), shard["level"].numpy()])
        cuts = [0, *(np.flatnonzero((np.diff(key_n) != 0).any(0)) + 1).tolist(), key_n.shape[1]]
        for start, stop in pairwise(cuts):
            yield Group(number, start, stop, first + int(key_n[0, start]), int(key_n[1, start]))

    def split(self) -> tuple[list[Group], list[Group]]:
        """Groups to train on, and those of a tenth of the prompts, which are held out; a prompt is on one side only, always the same."""
        texts = self.manifest["prompts"]
        there = sorted({group.prompt for group in self.groups}, key=lambda prompt: texts[prompt])
        if len({texts[prompt] for prompt in there}) < 2:
            raise ValueError(f"{self.folder} has trajectories of one prompt only; training holds prompts out and needs at least two")
        order = np.random.default_rng(0).permutation(len(there))
        held = {there[index] for index in order[: max(1, round(HELD_OUT * len(there)))]}
        return [g for g in self.groups if g.prompt not in held], [g for g in self.groups if g.prompt in held]

    def batch(self, groups: list[Group], device: torch.device | str = "cpu") -> Batch:
        """The states of some groups."""
        parts = [(self.shards[g.shard], slice(g.start, g.stop)) for g in groups]

        def rows(name: str) -> torch.Tensor:
            return torch.cat([shard[name][part] for shard, part in parts]).float().to(device)

        embedding_BLD = torch.cat([shard["embeddings"][shard["prompt"][part].long()] for shard, part in parts])
        sizes = torch.tensor([len(group) for group in groups])
        return Batch(
            {name: rows(f"tap.{name}") for name in self.manifest["taps"]},
            rows("x"),
            rows("x0"),
            rows("log_snr"),
            embedding_BLD.float().to(device),
            rows("reward"),
            torch.repeat_interleave(torch.arange(len(groups)), sizes).to(device),
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if it has none. ValueError for one that is no manifest."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if found["kind"] == "trajectories" else _refuse(file)
    except (ValueError, KeyError, TypeError):
        return _refuse(file)


def write_shard(folder: Path, manifest: dict[str, Any], first: int, tensors: Mapping[str, torch.Tensor], prompts: int) -> None:
    """Add a shard with the states of `prompts` prompts from number `first` on; a run that is cut off leaves no half of one."""
    name = f"shard-{len(manifest['shards']):05d}.safetensors"
    temporary = folder / f"{name}.tmp"
    save_file(dict(tensors), temporary)
    temporary.replace(folder / name)
    size, states = (folder / name).stat().st_size, len(tensors["reward"])
    manifest["shards"].append({"file": name, "first": first, "prompts": prompts, "states": states, "bytes": size})
    for level, count in zip(*np.unique(tensors["level"].numpy(), return_counts=True)):
        counts = manifest["counts"]
        counts[str(level)] = counts.get(str(level), 0) + int(count)
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replaced as a whole."""
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def _refuse(file: Path) -> None:
    raise ValueError(f"{file} is no manifest of trajectories; choose another folder")
