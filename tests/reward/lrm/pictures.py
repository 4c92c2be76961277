"""Small images and pair files of every format."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int, height: int = 32, width: int = 32, light: float = 0.5) -> bytes:
    """A noisy image around a grey level."""
    noise = np.random.default_rng(seed).normal(255 * light, 30, (height, width, 3))
    data = BytesIO()
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(data, "PNG")
    return data.getvalue()


def write_folder(folder: Path, rows: list[tuple[str, bytes, bytes, float]]) -> Path:
    """Rows (prompt, image_0, image_1, label_0) as a folder with a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (prompt, first, second, label) in enumerate(rows):
        better, worse = (first, second) if label >= 0.5 else (second, first)
        for name, data in (("better", better), ("worse", worse)):
            (folder / f"{number}-{name}.png").write_bytes(data)
        names = {"better": f"{number}-better.png", "worse": f"{number}-worse.png"}
        lines.append(json.dumps({"prompt": prompt, **names, "tie": label == 0.5}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_parquet(path: Path, rows: list[tuple], names=("prompt", "image_0", "image_1", "label_0"), **options) -> Path:
    """Rows as a Parquet file with columns of these names. options: of `pyarrow.parquet.write_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(column) for name, column in zip(names, zip(*rows))}), path, **options)
    return path


def light_pairs(count: int = 24) -> list[tuple[str, bytes, bytes, float]]:
    """Pairs of a dark and a light image, the light one better, with a tie of two dark ones for every sixth."""
    rows = []
    for i in range(count):
        dark, light = png(2 * i, light=0.1), png(2 * i + 1, light=0.9)
        prompt = f"picture {'abcdef'[i % 6]}"
        rows.append((prompt, dark, png(1000 + i, light=0.1), 0.5) if i % 6 == 5 else (prompt, dark, light, 0.0))
    return rows
