"""The images of pairs as latents: encoded once by the generator's autoencoder, and kept on disk.

Shapes: N distinct images; C, H, W latent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mcts_ray.diffusion.adapters.vae import scaled
from mcts_ray.report.share import replacing
from mcts_ray.reward.lrm.pairs import Pairs, decode, digest, rows

COUNT = ".count"  # how many images are in an unfinished file
KEPT = 256  # images after which that is noted
PIXELS = 2**18  # per call of the encoder: one image of 512 x 512, 64 of 64 x 64


def encoded(pairs: Pairs, vae, size: tuple[int, int], folder: Path, report: Callable[[int], None] | None = None) -> np.ndarray:
    """Latents (N, C, H, W) in fp16, scaled as the U-Net sees them: the mode of the posterior. A memory map of a file in `folder`.

    size: (height, width) in pixels that images are brought to, the shorter side first and then cut about the centre.
    report: called with the number of images encoded. The file's name tells images, autoencoder and size apart from others. Where a call
    was cut off, the next one goes on.
    """
    path = folder / f"latents-{_key(pairs, vae, size)}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        _encode_all(pairs, vae, size, partial, report)
        partial.replace(path)
        path.with_suffix(COUNT).unlink()
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def _encode_all(pairs: Pairs, vae, size: tuple[int, int], path: Path, report: Callable[[int], None] | None) -> None:
    batch, count = max(1, PIXELS // (size[0] * size[1])), path.with_suffix(COUNT)
    done = int(count.read_text()) if path.exists() and count.exists() else 0
    out, images = np.load(path, mmap_mode="r+") if done else None, _distinct(pairs, size, done)
    while done < len(pairs.images):
        images_NHWC = np.stack([image for _, image in zip(range(batch), images)])
        latent_NCHW = encode(vae, torch.from_numpy(images_NHWC)).half().cpu().numpy()
        if out is None:
            out = np.lib.format.open_memmap(path, "w+", np.float16, (len(pairs.images), *latent_NCHW.shape[1:]))
        out[done : done + len(latent_NCHW)] = latent_NCHW
        done += len(latent_NCHW)
        if done >= len(pairs.images) or done // KEPT > (done - len(latent_NCHW)) // KEPT:
            out.flush()
            with replacing(count) as unfinished:
                unfinished.write_text(str(done))
        if report:
            report(done)


def encode(vae, images_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images as scaled latents (N, C, H, W) fp32."""
    x_NCHW = images_NHWC.to(vae.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
    return scaled(vae, vae.encode(x_NCHW).latent_dist.mode().float())


def _distinct(pairs: Pairs, size: tuple[int, int], first: int) -> Iterator[np.ndarray]:
    """Every image once, in the order of `pairs.images`, from number `first` on."""
    seen = set(pairs.images[:first])
    for row in rows(pairs.path):
        for data in row.images:
            name = digest(data)
            if name not in seen:
                seen.add(name)
                yield np.asarray(_fitted(decode(data, row.where), size))


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at (height, width): as it is if it fits, else scaled to cover it and cut about the centre."""
    height, width = size
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    covering = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))), Image.Resampling.LANCZOS)
    left, top = (covering.width - width) // 2, (covering.height - height) // 2
    return covering.crop((left, top, left + width, top + height))


def _key(pairs: Pairs, vae, size: tuple[int, int]) -> str:
    key = hashlib.blake2b("\n".join([*pairs.images, str(size)]).encode(), digest_size=8)
    for weight in vae.parameters():
        key.update(weight.detach().float().cpu().numpy().tobytes())
    return key.hexdigest()
