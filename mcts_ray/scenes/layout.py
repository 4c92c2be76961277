"""Positions and sizes for scenes: rejection sampling of relative displacements, vectorised over scenes.

All lengths are in units of the image side. A relation holds in a layout when the displacement along its direction
exceeds the one across it by `CLEAR`, so that no rendered scene is a borderline case for the verifier.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .grammar import MAX_OBJECTS, RELATIONS, Scene

RADIUS = {1: (0.16, 0.26), 2: (0.145, 0.19), 3: (0.132, 0.15)}
GAP = 0.045
CLEAR = 0.06
BORDER = 0.02
# The direction from the first object of a relation to the second, for each of RELATIONS (y points down).
DIRECTION = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)


def place_arrays(count: np.ndarray, relation_NR: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sample (x, y, radius) of every object: float32 (N, O, 3).

    count: (N,) objects of each scene; relation_NR: index into RELATIONS, or -1 for a pair that has none (its
    displacement then takes any of the four directions).
    """
    out = np.zeros((len(count), MAX_OBJECTS, 3), np.float32)
    left = np.arange(len(count))
    while len(left):
        proposal, fits = _propose(count[left], relation_NR[left], rng)
        out[left[fits]] = proposal[fits]
        left = left[~fits]
    return out


def _propose(count: np.ndarray, relation_NR: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    n = len(count)
    low, high = np.array([RADIUS[c] for c in range(1, MAX_OBJECTS + 1)], np.float32)[count - 1].T
    radius = rng.uniform(low[:, None], high[:, None], (n, MAX_OBJECTS))
    exists = np.arange(MAX_OBJECTS)[None] < count[:, None]
    at = np.zeros((n, MAX_OBJECTS, 2))
    for j in range(1, MAX_OBJECTS):
        relation = np.where(relation_NR[:, j - 1] >= 0, relation_NR[:, j - 1], rng.integers(0, len(RELATIONS), n))
        along = rng.uniform(radius[:, j - 1] + radius[:, j] + GAP, 0.72)
        reach = along - CLEAR
        across = rng.uniform(-reach, reach)
        direction = DIRECTION[relation]
        at[:, j] = at[:, j - 1] + along[:, None] * direction + across[:, None] * direction[:, ::-1]
    low_edge = np.where(exists[..., None], at - radius[..., None], np.inf).min(1)
    high_edge = np.where(exists[..., None], at + radius[..., None], -np.inf).max(1)
    slack = 1 - 2 * BORDER - (high_edge - low_edge)
    fits = (slack >= 0).all(1)
    at += (BORDER - low_edge + rng.uniform(0, 1, (n, 2)) * np.maximum(slack, 0))[:, None]
    far = np.abs(at[:, 2] - at[:, 0]).max(1) >= radius[:, 0] + radius[:, 2] + GAP
    fits &= far | (count < MAX_OBJECTS)
    return np.concatenate([at, radius[..., None]], -1).astype(np.float32), fits


def place(scene: Scene, rng: np.random.Generator) -> Scene:
    """Lay out one scene so that its relations hold."""
    relation = np.full((1, MAX_OBJECTS - 1), -1)
    relation[0, : len(scene.relations)] = [RELATIONS.index(r) for r in scene.relations]
    xyr = place_arrays(np.array([len(scene.objects)]), relation, rng)[0]
    placed = (replace(o, x=float(x), y=float(y), radius=float(r)) for o, (x, y, r) in zip(scene.objects, xyr))
    return Scene(tuple(placed), scene.relations)
