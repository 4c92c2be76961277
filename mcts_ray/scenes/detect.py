"""What is in an image: segment, measure and classify every object, vectorised over a batch.

Suffixes: N images, H×W pixels, C channels, K objects found (over all images), P colours, G² patch points, M templates.

An object's outline is read from its *coverage*, the position of a pixel's colour between the ground and the object's
own colour, sampled on a grid scaled by the root of the object's area, and compared with such patches of rendered
shapes. Scale, position and a light blur thus drop out; what is neither shape resembles none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from .grammar import COLOURS, SHAPES
from .render import GROUND, PALETTE, SIDE, Arrays, render_arrays

SPECK = 12 / SIDE**2
MIN_SHAPE_CERTAINTY = 0.3
MAX_COLOUR_DISTANCE = 0.22
_GRID, _REACH = 20, 0.95
_DARK = 0.03  # a pixel whose colour is this close to the ground is ground
_CHUNK = 32  # images worked on at once: their intermediate arrays stay in the cache
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)
_TOWARD = PALETTE - GROUND


@dataclass(frozen=True)
class Found:
    """One object: nearest colour and shape (None where it resembles none), centre in units of the side, area in units
    of the image, and how far the outline favours its shape: 1 is a clean render, 0 a shapeless blob."""

    colour: str | None
    shape: str | None
    x: float
    y: float
    area: float
    certainty: float


def detect(image_NHWC: np.ndarray) -> list[list[Found]]:
    """Find the objects of each image (uint8, or float in [0, 1]), largest first. Specks under 12 pixels of 64² are
    no objects. Raises ValueError for another layout."""
    image = _as_float(image_NHWC)
    return [found for at in range(0, len(image), _CHUNK) for found in _detect_chunk(image[at : at + _CHUNK])]


def _detect_chunk(image: np.ndarray) -> list[list[Found]]:
    coverage_NHW = _coverage(image)
    label_NHW, count = ndimage.label(coverage_NHW > 0.5, _IN_PLANE)
    found: list[list[Found]] = [[] for _ in image]
    if not count:
        return found
    measures = _measure(label_NHW, coverage_NHW, image, count)
    keep = measures.area_K >= SPECK
    if not keep.any():
        return found
    measures = measures.only(keep)
    patch_KG = _patches(label_NHW, coverage_NHW, measures)
    shape_K, certainty_K = _classify(patch_KG)
    distance_KP = np.linalg.norm(measures.colour_KC[:, None] - PALETTE, axis=-1)
    colour_K = distance_KP.argmin(1)
    clear_K = distance_KP.min(1) <= MAX_COLOUR_DISTANCE
    for k in np.argsort(-measures.area_K, kind="stable"):
        found[measures.image_K[k]].append(
            Found(
                COLOURS[colour_K[k]] if clear_K[k] else None,
                SHAPES[shape_K[k]] if certainty_K[k] >= MIN_SHAPE_CERTAINTY else None,
                float(measures.x_K[k]),
                float(measures.y_K[k]),
                float(measures.area_K[k]),
                float(certainty_K[k]),
            )
        )
    return found


def _as_float(image: np.ndarray) -> np.ndarray:
    if image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(f"Images must be (N, H, W, 3) arrays; got shape {image.shape}.")
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)


def _coverage(image_NHWC: np.ndarray) -> np.ndarray:
    """How far each pixel lies from the ground toward the palette colour whose ray it is nearest to: (N, H, W)."""
    delta = image_NHWC - GROUND
    lit = np.einsum("nhwc,nhwc->nhw", delta, delta) > _DARK**2
    delta_LC = delta[lit]
    length2_P = (_TOWARD**2).sum(-1)
    dot_LP = delta_LC @ _TOWARD.T
    along_LP = np.clip(dot_LP / length2_P, 0, 1)
    off_LP = along_LP * (along_LP * length2_P - 2 * dot_LP)  # the squared distance to each ray, up to |delta|²
    coverage = np.zeros(lit.shape, np.float32)
    coverage[lit] = along_LP[np.arange(len(along_LP)), off_LP.argmin(-1)]
    return coverage


@dataclass(frozen=True)
class _Measures:
    label_K: np.ndarray
    image_K: np.ndarray
    x_K: np.ndarray
    y_K: np.ndarray
    area_K: np.ndarray
    colour_KC: np.ndarray

    def only(self, keep: np.ndarray) -> _Measures:
        return _Measures(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def _measure(label: np.ndarray, coverage: np.ndarray, image: np.ndarray, count: int) -> _Measures:
    """Area, centroid and the mean colour of the inner pixels of each labelled object."""
    n, y, x = np.nonzero(label)
    which, weight = label[n, y, x] - 1, coverage[n, y, x]
    total = np.bincount(which, weight, count)
    centre = [np.bincount(which, weight * (c + 0.5), count) / total for c in (x, y)]
    inner = weight**4
    inner_total = np.bincount(which, inner, count)
    pixel = image[n, y, x]
    colour = np.stack([np.bincount(which, inner * pixel[:, c], count) / inner_total for c in range(3)], -1)
    owner = np.zeros(count, int)
    owner[which] = n
    height, width = label.shape[1:]
    return _Measures(np.arange(1, count + 1), owner, centre[0] / width, centre[1] / height, total / (height * width), colour)


def _patches(label: np.ndarray, coverage: np.ndarray, m: _Measures) -> np.ndarray:
    """Coverage around each object on a grid of ±`_REACH` root areas, other objects blanked out: (K, G²)."""
    height, width = label.shape[1:]
    u = np.linspace(-_REACH, _REACH, _GRID)
    size = np.sqrt(m.area_K)[:, None]
    y = ((m.y_K[:, None] + size * u) * height - 0.5)[:, :, None]
    x = ((m.x_K[:, None] + size * u) * width - 0.5)[:, None, :]
    at = np.broadcast_arrays(m.image_K[:, None, None].astype(float), y, x)
    own = ndimage.map_coordinates(coverage, at, order=1, mode="constant")
    nearest = tuple(np.rint(a).astype(int) for a in at)
    inside = (nearest[1] >= 0) & (nearest[1] < height) & (nearest[2] >= 0) & (nearest[2] < width)
    there = label[nearest[0], np.clip(nearest[1], 0, height - 1), np.clip(nearest[2], 0, width - 1)]
    other = inside & (there > 0) & (there != m.label_K[:, None, None])
    return np.where(other, 0, own).reshape(len(m.x_K), -1).astype(np.float32)


def _classify(patch_KG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest shape and certainty (1 − d₁²/d₂²)(1 − d₁²/0.3 d₀²): d₁, d₂ the distances to the nearest and the second
    shape's templates, d₀² the mean squared distance between templates of different shapes."""
    template_MG, shape_M, spread = _templates()
    distance2_KM = (
        (patch_KG**2).sum(1)[:, None] - 2 * patch_KG @ template_MG.T + (template_MG**2).sum(1)[None]
    )
    by_shape_KS = np.stack([distance2_KM[:, shape_M == s].min(1) for s in range(len(SHAPES))], -1)
    first, second = np.sort(by_shape_KS, -1)[:, :2].T
    certainty = (1 - first / second) * np.clip(1 - first / (0.3 * spread), 0, 1)
    return by_shape_KS.argmin(1), certainty


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, float]:
    """Patches of every rendered shape at several sizes and blurs, averaged over sub-pixel positions, (M, G²); the
    shape of each; and the mean squared distance between templates of different shapes."""
    radii, offsets = (0.135, 0.165, 0.2, 0.25), np.array([0.0, 0.25, 0.5, 0.75]) / SIDE
    patches, shapes = [], []
    for s in range(len(SHAPES)):
        for radius in radii:
            oy, ox = (o.reshape(-1, 1) for o in np.meshgrid(offsets, offsets))
            n = len(ox)
            one = np.ones((n, 1), int)
            scene = Arrays(7 * one, s * one, 0.5 + ox, 0.5 + oy, radius * one, -np.ones((n, 0), int))
            image = render_arrays(scene)
            for sigma in (0, 1.0):
                blurred = ndimage.gaussian_filter(image, (0, sigma, sigma, 0)) if sigma else image
                coverage = _coverage(blurred)
                label, count = ndimage.label(coverage > 0.5, _IN_PLANE)
                patches.append(_patches(label, coverage, _measure(label, coverage, blurred, count)).mean(0))
                shapes.append(s)
    template, shape = np.stack(patches), np.array(shapes)
    pairs = ((template[:, None] - template[None]) ** 2).sum(-1)
    return template, shape, float(pairs[shape[:, None] != shape[None]].mean())
