"""Preference pairs for training: Parquet, or a folder with a manifest. No torch.

Parquet (one file, or a folder of them): columns `prompt`, `image_0`, `image_1` (encoded images, as bytes or as the struct
{bytes, path} of `datasets`) and `label_0` (1: the first is better, 0: the second, 0.5: a tie); or Pick-a-Pic's names for them,
`caption`, `jpg_0`, `jpg_1`, `label_0`.
Folder: `manifest.jsonl` with lines {"prompt", "better", "worse", "tie"}: two image files, relative to the folder, and true if
neither is better.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mcts_ray.reward.lrm.layout import reason

NAMES = (("prompt", "image_0", "image_1", "label_0"), ("caption", "jpg_0", "jpg_1", "label_0"))
BATCH = 64  # rows of a Parquet file in memory at once


@dataclass(frozen=True)
class Row:
    """One pair as it lies in a file: encoded images, the share of the preference that is the first one's, and where it lies."""

    prompt: str
    images: tuple[bytes, bytes]
    label: float
    where: str


@dataclass(frozen=True)
class Pairs:
    """All pairs of a file or folder, without the images themselves.

    prompts: distinct prompts. images: digests of distinct images, in the order of their first appearance. Per pair, P of them:
    prompt_P, the prompt's index; image_P2, the images' indices; label_P in {1, 0.5, 0}; weight_P = 1 / pairs of its prompt.
    """

    path: Path
    prompts: tuple[str, ...]
    images: tuple[str, ...]
    prompt_P: np.ndarray
    image_P2: np.ndarray
    label_P: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt_P)

    @property
    def weight_P(self) -> np.ndarray:
        """A prompt with many pairs counts as much as one with few."""
        return 1 / np.bincount(self.prompt_P, minlength=len(self.prompts))[self.prompt_P]

    @property
    def fingerprint(self) -> str:
        """Tells these pairs from others, wherever they lie."""
        digest = hashlib.blake2b("\n".join([*self.prompts, *self.images]).encode(), digest_size=8)
        for array in (self.prompt_P, self.image_P2, self.label_P):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_pairs(path: Path) -> Pairs:
    """The pairs of a Parquet file, a folder of them, or a folder with a manifest.

    Reads every image once. ValueError with one sentence, naming the row, for one that is incomplete or has a missing image.
    """
    prompts: dict[str, int] = {}
    images: dict[str, int] = {}
    found = []
    for row in rows(path):
        pair = [images.setdefault(digest(data), len(images)) for data in row.images]
        found.append((prompts.setdefault(row.prompt, len(prompts)), *pair, row.label))
    if not found:
        raise ValueError(f"{path} holds no pairs")
    prompt, first, second, label = zip(*found)
    image_P2 = np.stack([first, second], 1).astype(np.int64)
    return Pairs(path, tuple(prompts), tuple(images), np.array(prompt), image_P2, np.array(label, np.float32))


def rows(path: Path) -> Iterator[Row]:
    """The pairs one after the other; ValueError as in `read_pairs`."""
    if not path.exists():
        raise ValueError(f"there are no pairs at {path}: neither a Parquet file nor a folder")
    if (path / "manifest.jsonl").is_file():
        return _manifest(path)
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"the folder {path} has neither manifest.jsonl nor a Parquet file")
    return (row for file in files for row in _parquet(file))


def digest(data: bytes) -> str:
    """Names an image by its bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def decode(data: bytes, where: str) -> Image.Image:
    """The RGB image in `data`; ValueError naming the row if there is none."""
    try:
        return Image.open(BytesIO(data)).convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{where} has an image that cannot be read ({type(error).__name__})") from None


def _manifest(folder: Path) -> Iterator[Row]:
    file = folder / "manifest.jsonl"
    read = lru_cache(64)(lambda name: (folder / name).read_bytes())  # an image comes again in the next pairs of its prompt
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # other separators may be in a prompt
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as text in UTF-8 ({type(error).__name__})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number} of {file}"
        record = _record(line, where)
        data = tuple(_file(read, record[name], where) for name in ("better", "worse"))
        yield Row(record["prompt"], data, 0.5 if record.get("tie", False) else 1.0, where)


def _record(line: str, where: str) -> dict:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("prompt", "better", "worse")):
        raise ValueError(f'{where} is no pair; write {{"prompt": ..., "better": FILE, "worse": FILE, "tie": true or false}}')
    if not record["prompt"].strip() or not isinstance(record.get("tie", False), bool):
        raise ValueError(f"{where} needs a prompt that is not empty, and a tie that is true or false")
    return record


def _file(read: Callable[[str], bytes], name: str, where: str) -> bytes:
    try:
        data = read(name)
    except OSError as error:
        raise ValueError(f"{where} names the image {name}, which cannot be read ({error.strerror})") from None
    except ValueError as error:  # a name with a NUL
        raise ValueError(f"{where} names the image {name!r}, which can be no file's name ({error})") from None
    return _checked(data, where)


def _checked(data: bytes, where: str) -> bytes:
    """The same bytes if their header is an image's."""
    try:
        Image.open(BytesIO(data)).close()
    except Exception:
        raise ValueError(f"{where} has an image that is none") from None
    return data


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file} is no Parquet file: {reason(error)}") from None
    present = table.schema_arrow.names
    columns = next((names for names in NAMES if set(names) <= set(present)), None)
    if columns is None:
        raise ValueError(f"{file} has the columns {', '.join(present)}; it needs {', '.join(NAMES[0])}, or {', '.join(NAMES[1])}")
    number = 0
    try:
        for batch in table.iter_batches(BATCH, columns=list(columns)):
            for values in batch.to_pylist():
                number += 1
                yield _row([values[name] for name in columns], columns, f"row {number} of {file}")
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged behind row {number}: {reason(error)}") from None


def _row(values: list, columns: tuple[str, ...], where: str) -> Row:
    prompt, first, second, label = values
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where} has no {columns[0]}")
    if label not in (0, 0.5, 1):
        raise ValueError(f"{where} has the {columns[3]} {label}; it must be 1, 0.5 (a tie) or 0")
    images = []
    for value, name in ((first, columns[1]), (second, columns[2])):
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes) or not value:
            raise ValueError(f"{where} has no {name}")
        images.append(_checked(value, where))
    return Row(prompt, (images[0], images[1]), float(label), where)
