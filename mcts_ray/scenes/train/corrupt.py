"""Hard negatives for the scorer: scenes in which a known number of the caption's facts is wrong, by construction."""

from __future__ import annotations

import numpy as np

from ..grammar import COLOURS, RELATIONS, SHAPES
from ..layout import place_arrays
from ..render import Arrays

KINDS = ("colour", "shape", "relation", "missing", "extra")
HOW_MANY = (0.25, 0.3, 0.2, 0.15, 0.1)  # shares of scenes with 0, 1, ... attempts to make a fact wrong
EXTRA_RADIUS = (0.1, 0.15)


def corrupt(caption: Arrays, rng: np.random.Generator) -> tuple[Arrays, np.ndarray]:
    """Scenes to render for the captions of `caption`, and the share of the caption's facts that hold in each: (N,).

    Facts are counted as the verifier states them (two for each object, one for each relation, and nothing else), but
    from the edit itself, never from an image.
    """
    n, most = caption.colour_NO.shape
    count = (caption.shape_NO >= 0).sum(1)
    colour, shape, relation = caption.colour_NO.copy(), caption.shape_NO.copy(), caption.relation_NR.copy()
    colour_ok, shape_ok = caption.shape_NO >= 0, caption.shape_NO >= 0
    relation_ok = caption.relation_NR >= 0
    colour_ok, shape_ok, relation_ok = colour_ok.copy(), shape_ok.copy(), relation_ok.copy()
    extra, missing = np.zeros(n, bool), np.zeros((n, most), bool)
    attempts = rng.choice(len(HOW_MANY), n, p=HOW_MANY)
    for attempt in range(len(HOW_MANY) - 1):
        kind = rng.choice(len(KINDS), n, p=(0.26, 0.29, 0.23, 0.12, 0.1))
        which = rng.integers(0, count)
        for i in np.flatnonzero(attempts > attempt):
            j, k = which[i], KINDS[kind[i]]
            if k == "colour":
                colour[i, j], colour_ok[i, j] = _other(colour[i, j], caption.colour_NO[i, j], len(COLOURS), rng), False
            elif k == "shape":
                shape[i, j], shape_ok[i, j] = _other(shape[i, j], caption.shape_NO[i, j], len(SHAPES), rng), False
            elif k == "relation" and j > 0 and caption.relation_NR[i, j - 1] >= 0:
                wrong = _other(relation[i, j - 1], caption.relation_NR[i, j - 1], len(RELATIONS), rng)
                relation[i, j - 1], relation_ok[i, j - 1] = wrong, False
            elif k == "missing" and count[i] > 1:
                missing[i, j] = True
            elif k == "extra":
                extra[i] = True
    colour_ok &= ~missing
    shape_ok &= ~missing
    relation_ok &= ~(missing[:, 1:] | missing[:, :-1])
    xyr = place_arrays(count, relation, rng)
    shape[missing] = -1
    facts = 2 * count + (caption.relation_NR >= 0).sum(1) + 1
    held = colour_ok.sum(1) + shape_ok.sum(1) + relation_ok.sum(1) + ~extra
    scene = with_extra(Arrays(colour, shape, *np.moveaxis(xyr, -1, 0), relation), extra, rng)
    return scene, (held / facts).astype(np.float32)


def _other(now: int, right: int, options: int, rng: np.random.Generator) -> int:
    return int(rng.choice([v for v in range(options) if v not in (now, right)]))


def with_extra(scene: Arrays, extra: np.ndarray, rng: np.random.Generator, tries: int = 24) -> Arrays:
    """Append one more object where `extra` says so, at the try that is farthest from the others."""
    n = len(scene)
    radius = rng.uniform(*EXTRA_RADIUS, n)
    at = rng.uniform(0.12, 0.88, (n, tries, 2))
    apart = np.maximum(
        np.abs(at[:, :, None, 0] - scene.x_NO[:, None]), np.abs(at[:, :, None, 1] - scene.y_NO[:, None])
    ) - scene.radius_NO[:, None]
    best = np.where(scene.shape_NO[:, None] >= 0, apart, np.inf).min(-1).argmax(1)
    x, y = at[np.arange(n), best].T
    columns = (
        np.where(extra, rng.integers(0, len(COLOURS), n), -1),
        np.where(extra, rng.integers(0, len(SHAPES), n), -1),
        x.astype(np.float32),
        y.astype(np.float32),
        radius.astype(np.float32),
    )
    fields = (scene.colour_NO, scene.shape_NO, scene.x_NO, scene.y_NO, scene.radius_NO)
    joined = (np.concatenate([a, c[:, None]], 1) for a, c in zip(fields, columns, strict=True))
    return Arrays(*joined, scene.relation_NR)
