"""Random scenes, captions and renders for training: everything a recipe sees comes from here.

Captions of validation and test prompts, and the held-out colour-shape-relation combinations, never occur.
"""

from __future__ import annotations

import numpy as np

from ..grammar import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES
from ..layout import place_arrays
from ..prompts import captions, code, evaluation_codes, held_out
from ..render import Arrays


def random_scenes(n: int, rng: np.random.Generator, counts: tuple[float, ...] = (0.2, 0.4, 0.4)) -> Arrays:
    """Draw n placed scenes with captions allowed in training; `counts` are the shares of 1, 2, 3 objects.

    One in eight two-object scenes has no relation (the grammar's `and`).
    """
    count = rng.choice(np.arange(1, MAX_OBJECTS + 1), n, p=counts)
    exists = np.arange(MAX_OBJECTS)[None] < count[:, None]
    colour, shape, relation = _draw(n, exists, rng)
    while len(bad := np.flatnonzero(_forbidden(colour, shape, relation))):
        colour[bad], shape[bad], relation[bad] = _draw(len(bad), exists[bad], rng)
    xyr = place_arrays(count, relation, rng)
    return Arrays(colour, shape, *np.moveaxis(xyr, -1, 0), relation)


def crowded_scenes(n: int, rng: np.random.Generator, objects: int = 6) -> Arrays:
    """Scenes full of objects, overlaps allowed: more to learn per pixel for the autoencoder."""
    colour, shape = rng.integers(0, len(COLOURS), (n, objects)), rng.integers(0, len(SHAPES), (n, objects))
    x, y = rng.uniform(0.1, 0.9, (2, n, objects)).astype(np.float32)
    radius = rng.uniform(0.13, 0.2, (n, objects)).astype(np.float32)
    return Arrays(colour, shape, x, y, radius, np.full((n, objects - 1), -1))


def captions_of(scenes: Arrays) -> list[str]:
    return captions(scenes.colour_NO, scenes.shape_NO, scenes.relation_NR)


def _draw(n: int, exists: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    colour = np.where(exists, rng.integers(0, len(COLOURS), (n, MAX_OBJECTS)), -1)
    shape = np.where(exists, rng.integers(0, len(SHAPES), (n, MAX_OBJECTS)), -1)
    relation = np.where(exists[:, 1:], rng.integers(0, len(RELATIONS), (n, MAX_OBJECTS - 1)), -1)
    unrelated = (exists.sum(1) == 2) & (rng.random(n) < 0.125)
    relation[unrelated] = -1
    return colour, shape, relation


def _forbidden(colour: np.ndarray, shape: np.ndarray, relation: np.ndarray) -> np.ndarray:
    table = held_out()
    subject = table[colour[:, :-1], shape[:, :-1], relation] & (relation >= 0)
    return subject.any(1) | np.isin(code(colour, shape, relation), evaluation_codes())
