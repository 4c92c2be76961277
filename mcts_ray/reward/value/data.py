"""Recorded trajectories: what a value head would have read at states on the way, and the reward that the image got in the end.

    DIR/manifest.json               what the trajectories are, prompts, shards, states by level
    DIR/shard-00000.safetensors     the states of some prompts, fp16, sorted by prompt and level

Tensors of a shard, a row for each of its n states: `x`, `x0` and `tap.NAME` (maps, at most grid x grid), `log_snr`, `reward`, and
`prompt` (a row of `embeddings`), `level`, `trajectory`, `eta`. States of one prompt and level are a *group*: they differ in
trajectory only. Where the reward tells what it thinks of single words there is `verdict` (n, L, 5) too (`mcts_ray.reward.base`).
Shards are mapped into memory and read as they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mcts_ray.fitting import shards
from mcts_ray.fitting.shards import Shards, add_shard, write_manifest

KIND = "trajectories"
read_manifest = partial(shards.read_manifest, kind=KIND)


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
    """States of several groups, fp32 on one device. group: (B,) number of each state's group; verdict: (B, L, 5), what the reward
    thinks of the words of the final image's prompt, if it tells; the others as in `States`."""

    taps: Mapping[str, torch.Tensor]
    x: torch.Tensor
    x0: torch.Tensor
    log_snr: torch.Tensor
    embeddings: torch.Tensor
    reward: torch.Tensor
    group: torch.Tensor
    verdict: torch.Tensor | None = None


def joined(first: Batch, second: Batch) -> Batch:
    """Both as one batch; their groups must have different numbers, and both or none have verdicts."""
    taps = {name: torch.cat([first.taps[name], second.taps[name]]) for name in first.taps}
    pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(Batch) if f.name != "taps"]
    return Batch(taps, *(None if one is None else torch.cat([one, other]) for one, other in pairs))


class Trajectories(Shards):
    """What `collect` has written to a folder. ValueError for one that holds no trajectories."""

    kind, how = KIND, "`mcts-ray train reward --kind value --collect`"

    @cached_property
    def shards(self) -> list[dict[str, torch.Tensor]]:
        """The tensors of every shard, mapped into memory."""
        return self.read(load_file)

    @property
    def tells(self) -> bool:
        """Whether the reward has told what it thinks of single words."""
        return "verdict" in self.shards[0]

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
        held = self.held_out({group.prompt for group in self.groups})
        return [g for g in self.groups if g.prompt not in held], [g for g in self.groups if g.prompt in held]

    def texts(self, groups: list[Group]) -> tuple[list[str], torch.Tensor]:
        """The prompts of some groups, each once, and their embeddings (P, L, D)."""
        found = {group.prompt: group for group in groups}
        rows = ((self.shards[group.shard], group) for group in found.values())
        embeddings = [shard["embeddings"][int(shard["prompt"][group.start])] for shard, group in rows]
        return [self.manifest["prompts"][prompt] for prompt in found], torch.stack(embeddings).float()

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
            rows("verdict") if self.tells else None,
        )


def write_shard(folder: Path, manifest: dict[str, Any], first: int, tensors: Mapping[str, torch.Tensor], prompts: int) -> None:
    """Add a shard with the states of `prompts` prompts from number `first` on; a run that is cut off leaves no half of one."""
    about = {"first": first, "prompts": prompts, "states": len(tensors["reward"])}
    add_shard(folder, manifest, partial(save_file, dict(tensors)), about)
    for level, count in zip(*np.unique(tensors["level"].numpy(), return_counts=True)):
        counts = manifest["counts"]
        counts[str(level)] = counts.get(str(level), 0) + int(count)
    write_manifest(folder, manifest)
