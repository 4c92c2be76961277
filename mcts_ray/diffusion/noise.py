"""Counter-based noise: what a node draws depends on its id alone, never on the batch, the device or the order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch


def draw(node_ids: Sequence[str], shape: tuple[int, ...]) -> torch.Tensor:
    """N(0, I) noise per node: fp32 on the CPU, shape (len(node_ids), *shape).

    Each id keys its own Philox4x64 stream (Salmon et al. 2011). Its raw words, whose sequence numpy never changes, become
    normals by Box-Muller in float64, one word (two 32-bit uniforms) per pair.
    """
    count = math.prod(shape)
    pairs = (count + 1) // 2
    words_BP = np.empty((len(node_ids), pairs), dtype=np.uint64)
    for row, node in zip(words_BP, node_ids, strict=True):
        row[:] = np.random.Philox(key=_key(node)).random_raw(pairs)
    radius_BP = np.sqrt(-2 * np.log(((words_BP >> np.uint64(32)) + 0.5) / 2**32))
    angle_BP = 2 * np.pi * ((words_BP & np.uint64(0xFFFFFFFF)) / 2**32)
    normal_B2P = np.stack([radius_BP * np.cos(angle_BP), radius_BP * np.sin(angle_BP)], axis=1)
    flat = normal_B2P.reshape(len(node_ids), 2 * pairs)[:, :count].astype(np.float32)
    return torch.from_numpy(flat.reshape(len(node_ids), *shape))


def _key(node_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(node_id.encode(), digest_size=16).digest(), "little")
