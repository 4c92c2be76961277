"""Hard negatives for the scorer: scenes in which some of the caption's facts are wrong, by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..grammar import COLOURS, RELATIONS, SHAPES
from ..layout import place_arrays
from ..render import Arrays

# What a diffusion model gets wrong most is where things are: a good third of the relations are wrong, each for itself. Of the
# other kinds a scene has some attempts to make a fact wrong, most of the attributes with one of another object of the caption.
WRONG_RELATION = 0.35
KINDS = ("colour", "shape", "copy", "missing", "extra")
SHARES = (0.25, 0.33, 0.2, 0.12, 0.1)
HOW_MANY = (0.4, 0.3, 0.18, 0.12)  # shares of scenes with 0, 1, ... attempts
LEAKED = 0.65
RESHAPED = 0.6
EXTRA_RADIUS = (0.1, 0.15)


def corrupt(caption: Arrays, rng: np.random.Generator) -> Arrays:
    """Scenes to render for the captions of `caption`, with objects copied, missing, added, or of another colour or shape, and
    other relations. Which facts hold in them, `facts_of` tells."""
    n, most = caption.colour_NO.shape
    count = (caption.shape_NO >= 0).sum(1)
    colour, shape, relation = caption.colour_NO.copy(), caption.shape_NO.copy(), caption.relation_NR.copy()
    extra, missing = np.zeros(n, bool), np.zeros((n, most), bool)
    for i, j in np.argwhere((rng.random(relation.shape) < WRONG_RELATION) & (relation >= 0)):
        relation[i, j] = _other(relation[i, j], len(RELATIONS), rng)
    attempts = rng.choice(len(HOW_MANY), n, p=HOW_MANY)
    for attempt in range(len(HOW_MANY) - 1):
        kind = rng.choice(len(KINDS), n, p=SHARES)
        which = rng.integers(0, count)
        for i in np.flatnonzero(attempts > attempt):
            j, k = which[i], KINDS[kind[i]]
            if k == "colour":
                colour[i, j] = _other(caption.colour_NO[i, j], len(COLOURS), rng, caption.colour_NO[i])
            elif k == "shape":
                shape[i, j] = _other(caption.shape_NO[i, j], len(SHAPES), rng, caption.shape_NO[i])
            elif k == "copy":
                of = rng.integers(0, count[i])
                colour[i, j], shape[i, j] = caption.colour_NO[i, of], caption.shape_NO[i, of]
            elif k == "missing" and count[i] > 1:
                missing[i, j] = True
            elif k == "extra":
                extra[i] = True
    xyr = place_arrays(count, relation, rng)
    shape[missing] = -1
    return with_extra(Arrays(colour, shape, *np.moveaxis(xyr, -1, 0), relation), extra, rng)


def twin(scene: Arrays, rng: np.random.Generator) -> tuple[Arrays, np.ndarray]:
    """The same scenes, each with another colour or shape of one object that it shows; and which object that is (N,)."""
    n = len(scene)
    which = np.where(scene.shape_NO >= 0, rng.random(scene.shape_NO.shape), -1).argmax(1)
    colour, shape = scene.colour_NO.copy(), scene.shape_NO.copy()
    for i, j, reshape in zip(range(n), which, rng.random(n) < RESHAPED):
        attribute, options = (shape, len(SHAPES)) if reshape else (colour, len(COLOURS))
        attribute[i, j] = _other(attribute[i, j], options, rng, attribute[i])
    return replace(scene, colour_NO=colour, shape_NO=shape), which


def _other(right: int, options: int, rng: np.random.Generator, near: Sequence[int] = ()) -> int:
    """Something else than `right`: one of `near` as often as `LEAKED` says, if there is one, else any."""
    leaks = [value for value in near if value not in (-1, right)]
    if leaks and rng.random() < LEAKED:
        return int(rng.choice(leaks))
    return int(rng.choice([value for value in range(options) if value != right]))


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

