"""Where the weights of a named reward lie, checked before torch is imported: in a folder, or in a repository of the hub.

A source is a folder or a hub id, as written after the `@` of `pickscore@FOLDER`. Every mistake is a ValueError of one sentence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mcts_ray.hub import HubError, NoSuchFile, find_hub_file, hub_file, is_hub_id


@dataclass(frozen=True)
class Clip:
    """Where a CLIP in transformers' layout lies: folder or hub id of its weights, and of its tokenizer and image processor."""

    model: str
    processor: str


@dataclass(frozen=True)
class Weights:
    """A folder or repository that a reward called `reward` takes its files from."""

    reward: str
    source: str

    def __post_init__(self) -> None:
        if not self.local and not is_hub_id(self.source):
            raise ValueError(f"reward {self.reward!r}: there is no folder {self.source}, and it is no hub id like owner/name")

    @property
    def local(self) -> bool:
        """Whether the source is a folder, which goes before a hub id of the same form."""
        return bool(self.source) and Path(self.source).expanduser().is_dir()

    @property
    def place(self) -> str:
        """The source as the model libraries take it."""
        return str(Path(self.source).expanduser()) if self.local else self.source

    def file(self, *names: str, download: bool = True) -> Path | None:
        """The first of these files that is there, None if none is; without `download` a file of the hub is only looked for."""
        for name in names:
            if self.local:
                path = Path(self.place, name)
                if path.is_file():
                    return path
            elif (path := self._on_hub(name, download)) is not None:
                return path
        return None

    def need(self, *names: str, download: bool = True) -> Path:
        """The same, for a file that must be there."""
        path = self.file(*names, download=download)
        if path is None:
            raise ValueError(f"reward {self.reward!r}: {self.source} has no {' or '.join(names)}")
        return path

    def _on_hub(self, name: str, download: bool) -> Path | None:
        try:
            if download:
                return hub_file(self.source, name, "reward")
            find_hub_file(self.source, name, "reward")
            return Path(name)
        except NoSuchFile:
            return None
        except HubError as error:
            raise ValueError(f"reward {self.reward!r}: {error}, as in {self.reward}@FOLDER") from None


def find_clip(reward: str, source: str, processor: str | None = None) -> Clip:
    """The CLIP of a source. What it lacks of tokenizer and image processor is taken from `processor`, if that is given.

    Reads one or two small files. ValueError if they are not there or say that the model is none.
    """
    weights = Weights(reward, source)
    path = weights.need("config.json")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"reward {reward!r}: config.json of {source} is not the configuration of a model") from None
    if kind != "clip":
        raise ValueError(f"reward {reward!r}: {source} is a model of type {kind}, not clip")
    if processor is None or weights.file("preprocessor_config.json"):
        return Clip(weights.place, weights.place)
    return Clip(weights.place, find_processor(reward, processor))


def find_processor(reward: str, source: str) -> str:
    """A source that holds at least an image processor."""
    weights = Weights(reward, source)
    weights.need("preprocessor_config.json")
    return weights.place


def local_files(source: str, endings: Sequence[str] = (".safetensors", ".bin", ".pt", ".pth")) -> list[Path]:
    """The weights in a folder; none for a hub id."""
    folder = Path(source).expanduser()
    return sorted(path for path in folder.rglob("*") if path.suffix in endings) if folder.is_dir() else []


def digest(files: Sequence[Path]) -> str:
    """What stands for the contents of files, as hex digits; a file that has not changed is read once."""
    stats = [file.stat() for file in files]
    return _digest(tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in zip(files, stats)))


@lru_cache(64)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for file, *_ in files:
        with open(file, "rb") as data:
            while block := data.read(2**24):
                digest.update(block)
    return digest.hexdigest()
