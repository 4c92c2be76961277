"""Recorded data in a folder: safetensors shards, named by a manifest that is replaced as a whole.

    DIR/manifest.json               `kind`, `prompts`, `shards` and what else the data are
    DIR/shard-00000.safetensors     what was recorded for some prompts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

MANIFEST = "manifest.json"
HELD_OUT = 0.1  # share of the prompts


class Shards:
    """What a collection has written to a folder. `kind` names the data, `how` says how to make some.

    ValueError for a folder that holds none.
    """

    kind: str
    how: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder, self.kind)
        if self.manifest is None or not self.manifest["shards"]:
            raise ValueError(f"{folder} holds no {self.kind}; make some with {self.how}")

    @property
    def files(self) -> list[Path]:
        """The shards; ValueError if one is missing."""
        names = [shard["file"] for shard in self.manifest["shards"]]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"{self.folder} lacks {missing[0]}, which its manifest names")
        return [self.folder / name for name in names]

    def read(self, load: Callable[[Path], Any]) -> list[Any]:
        """What `load` makes of each shard; ValueError for one that is not whole."""
        found = []
        for file in self.files:
            try:
                found.append(load(file))
            except SafetensorError as error:
                how = "put it back as it was, or collect into another folder"
                raise ValueError(f"{file} is no shard that can be read ({error}); {how}") from None
        return found

    @property
    def key(self) -> str:
        """What stands for the data."""
        return hashlib.blake2b(json.dumps(self.manifest, sort_keys=True).encode(), digest_size=8).hexdigest()

    def held_out(self, prompts: Collection[int]) -> set[int]:
        """A tenth of these prompts (their numbers in the manifest), the same for every seed. ValueError unless two have other words."""
        texts = self.manifest["prompts"]
        there = sorted(prompts, key=lambda prompt: texts[prompt])
        if len({texts[prompt] for prompt in there}) < 2:
            raise ValueError(f"{self.folder} has {self.kind} of one prompt only; training holds prompts out and needs at least two")
        order = np.random.default_rng(0).permutation(len(there))
        return {there[index] for index in order[: max(1, round(HELD_OUT * len(there)))]}


def read_manifest(folder: Path, kind: str) -> dict[str, Any] | None:
    """The manifest of a folder; None if it has none. ValueError for one that is no manifest of this kind."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["kind"] == kind and {"prompts", "shards"} <= found.keys():
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{file} is no manifest of {kind}; choose another folder")


def add_shard(folder: Path, manifest: dict[str, Any], write: Callable[[Path], None], about: dict[str, Any]) -> None:
    """`write` the next shard and enter it with what it is `about`; a run that is cut off leaves no half of one."""
    name = f"shard-{len(manifest['shards']):05d}.safetensors"
    temporary = folder / f"{name}.tmp"
    write(temporary)
    temporary.replace(folder / name)
    manifest["shards"].append({"file": name, "bytes": (folder / name).stat().st_size, **about})


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replaced as a whole."""
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
