"""The vectorised renderer: anti-aliased coloured shapes on a dark ground.

Shape suffixes: N scenes, O objects of a scene (padded to 3), H×W pixels, C colour channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .grammar import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, Scene
from .layout import place

SIDE = 64
GROUND = np.array([26, 28, 36], np.float32) / 255
PALETTE = np.array(
    [
        [226, 48, 48],
        [46, 180, 74],
        [52, 92, 236],
        [246, 222, 54],
        [158, 62, 214],
        [58, 214, 226],
        [250, 140, 32],
        [245, 245, 245],
    ],
    np.float32,
) / 255


@dataclass(frozen=True)
class Arrays:
    """A batch of placed scenes. colour, shape: int (N, O), -1 where there is no object; x, y, radius: float (N, O), in
    units of the image side; relation: int (N, O - 1), -1 where there is none."""

    colour_NO: np.ndarray
    shape_NO: np.ndarray
    x_NO: np.ndarray
    y_NO: np.ndarray
    radius_NO: np.ndarray
    relation_NR: np.ndarray

    def __len__(self) -> int:
        return len(self.colour_NO)

    def rows(self, index: np.ndarray) -> Arrays:
        """The scenes at `index`."""
        return Arrays(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def to_arrays(scenes: Sequence[Scene]) -> Arrays:
    """Pack placed scenes into padded arrays."""
    n = len(scenes)
    colour, shape = np.full((n, MAX_OBJECTS), -1), np.full((n, MAX_OBJECTS), -1)
    place_NO3 = np.zeros((n, MAX_OBJECTS, 3), np.float32)
    relation = np.full((n, MAX_OBJECTS - 1), -1)
    for i, scene in enumerate(scenes):
        for j, o in enumerate(scene.objects):
            colour[i, j], shape[i, j] = COLOURS.index(o.colour), SHAPES.index(o.shape)
            place_NO3[i, j] = o.x, o.y, o.radius
        for j, name in enumerate(scene.relations):
            relation[i, j] = RELATIONS.index(name)
    return Arrays(colour, shape, *np.moveaxis(place_NO3, -1, 0), relation)


def _circle(dx, dy, r):
    return np.hypot(dx, dy) - 0.95 * r


def _square(dx, dy, r):
    return np.maximum(np.abs(dx), np.abs(dy)) - 0.82 * r


def _triangle(dx, dy, r):
    return np.maximum((1.7 * np.abs(dx) - (dy + 0.95 * r)) / 1.972, dy - 0.75 * r)


def _ring(dx, dy, r):
    return np.abs(np.hypot(dx, dy) - 0.74 * r) - 0.26 * r


def _cross(dx, dy, r):
    ax, ay, arm, reach = np.abs(dx), np.abs(dy), 0.3 * r, 0.95 * r
    return np.minimum(np.maximum(ax - arm, ay - reach), np.maximum(ax - reach, ay - arm))


def _diamond(dx, dy, r):
    return (np.abs(dx) + np.abs(dy) - 1.05 * r) / 1.414


# Signed distance (negative inside) for each of SHAPES, in the unit of its arguments. Every shape fits the square of
# half-side `r` (the diamond's tips stand out by a twentieth).
SIGNED_DISTANCE = (_circle, _square, _triangle, _ring, _cross, _diamond)


def coverage(arrays: Arrays, side: int = SIDE) -> np.ndarray:
    """Share of every pixel that every object covers, float32 (N, O, H, W), from the distance to the pixel's centre."""
    grid = (np.arange(side, dtype=np.float32) + 0.5) / side
    alpha_NOHW = np.zeros((*arrays.shape_NO.shape, side, side), np.float32)
    for s, distance in enumerate(SIGNED_DISTANCE):
        which = arrays.shape_NO == s
        x, y, r = (a[which].astype(np.float32)[:, None, None] for a in (arrays.x_NO, arrays.y_NO, arrays.radius_NO))
        alpha_NOHW[which] = np.clip(0.5 - distance(grid[None, None] - x, grid[None, :, None] - y, r) * side, 0, 1)
    return alpha_NOHW


def render_arrays(arrays: Arrays, side: int = SIDE) -> np.ndarray:
    """Render to float32 (N, H, W, C) in [0, 1]."""
    image = np.broadcast_to(GROUND, (len(arrays), side, side, 3)).copy()
    alpha_NOHW = coverage(arrays, side)
    for j in range(arrays.colour_NO.shape[1]):
        alpha = alpha_NOHW[:, j, :, :, None]
        image += alpha * (PALETTE[arrays.colour_NO[:, j]][:, None, None] - image)
    return image


def render(scene: Scene | Sequence[Scene], side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Render one scene to uint8 (H, W, 3), or a sequence of them to (N, H, W, 3).

    A scene without positions (as `parse` returns) is laid out first, by `seed`.
    """
    single = isinstance(scene, Scene)
    rng = np.random.default_rng(seed)
    scenes = [s if s.placed else place(s, rng) for s in ([scene] if single else scene)]
    image = (render_arrays(to_arrays(scenes), side) * 255 + 0.5).astype(np.uint8)
    return image[0] if single else image
