"""The noise of a fused state: what its particles have drawn, drawn again from their ids and fused.

Innovations are exact functions of node ids (`mcts_ray.diffusion.noise`), so a fusion needs no stored latents, and the same
unit gives the same noise on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.fusion.weights import MODES, Refusal
from mcts_ray.search.base import Work


def fuse(work: Work, shape: tuple[int, int, int]) -> torch.Tensor | Refusal:
    """z* (C, H, W), fp32 on the CPU, that the first edge of `work` uses in place of its own noise; `shape` is (C, H, W)."""
    assert work.fuse is not None and work.fuse.mode in MODES, "not a unit that these rules fuse"
    return barycenter(draw(work.fuse.particles, shape), torch.tensor(work.fuse.weights))


def fuse_all(works: Iterable[Work], shapes: Iterable[tuple[int, int, int]]) -> list[torch.Tensor | Refusal]:
    """`fuse` of many units, one shape each."""
    return [fuse(work, shape) for work, shape in zip(works, shapes, strict=True)]
