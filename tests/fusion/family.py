"""Siblings made up for the tests of fusion: states x_i = mu + s z_i of known noise, with predictions in which a blob moves.

    python side: `work(mode)` is the unit that fuses them, `kept()` the states by name that a store would hold
"""

from __future__ import annotations

import torch
from torch.nn.functional import adaptive_avg_pool2d

from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.store import SIDE, Kept
from mcts_ray.search.base import Edge, Fuse, Setting, Work
from mcts_ray.tree.weights import fusion_weights

NAMES = ("a", "b", "c", "d", "e", "f")
REWARDS = [0.3, 0.7, 0.1, 0.45, 0.6, 0.52]
ALPHA, SIGMA, S = 0.8, 0.6, 0.35
MODES = ("innovation", "signed", "ensemble", "x0_transport", "features", "decoder", "mean", "slerp", "fresh")


def weights(mode="innovation", rewards=REWARDS):
    return fusion_weights(mode, rewards).a


def work(mode, names=NAMES, a=None, draw=0, folder=None):
    fuse = Fuse(mode, tuple(names), tuple(weights(mode) if a is None else a), draw)
    setting = Setting("a red circle", tap="up.0", fuse_model=folder)
    return Work("w", "s", setting, "p", "fuse", (Edge("n", 5, 0.4),), ("n",), fuse=fuse)


def blob(shape, row, column, height=3.0):
    """One bright blob at a place, in shares of the sides; the height differs by channel."""
    C, H, W = shape
    y, x = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
    spot = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 0.02)
    return height * spot * torch.linspace(1, -0.5, C)[:, None, None]


def kept(names=NAMES, shape=(4, 8, 8), apart=0.5, dtype=torch.float32):
    """The states by name; the blob of the i-th lies `apart` times its place in the row along the diagonal."""
    mu = blob(shape, 0.5, 0.5) * ALPHA
    states = {}
    for i, (name, z) in enumerate(zip(names, draw(names, shape), strict=True)):
        place = 0.25 + apart * i / max(1, len(names) - 1)
        x0 = blob(shape, place, 1 - place)
        eps = (mu + S * z - ALPHA * x0) / SIGMA
        features = adaptive_avg_pool2d(torch.cat([x0, x0.flip(0) ** 2]), [min(SIDE, side) for side in shape[1:]])
        states[name] = Kept(5, x0.to(dtype), eps.to(dtype), ALPHA, SIGMA, features=features.to(dtype))
    return states
