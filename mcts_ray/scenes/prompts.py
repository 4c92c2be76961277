"""Prompt sets and the splits: what training may see, and what validation and test ask.

A combination is (colour, shape, relation) of an object and the relation that it is the subject of. One in five
combinations is held out of training; half of the medium and hard prompts of validation and test contain one.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .grammar import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, Object, Scene

DIFFICULTIES = ("easy", "medium", "hard")
SPLITS = ("train", "validation", "test")
COUNT = {"easy": 1, "medium": 2, "hard": 3}
EVALUATION_SIZE = {"easy": 24, "medium": 240, "hard": 240}
TRAIN_SIZE = {"easy": 48, "medium": 1000, "hard": 1000}
_SEED = 20260


@cache
def held_out() -> np.ndarray:
    """bool (colours, shapes, relations): combinations that training never shows."""
    rng = np.random.default_rng(_SEED)
    size = (len(COLOURS), len(SHAPES), len(RELATIONS))
    table = np.zeros(np.prod(size), bool)
    table[rng.permutation(table.size)[: table.size // 5]] = True
    return table.reshape(size)


def code(colour_NO: np.ndarray, shape_NO: np.ndarray, relation_NR: np.ndarray) -> np.ndarray:
    """One integer for each caption, from indices padded with -1: int64 (N,)."""
    digits = [(colour_NO + 1, len(COLOURS) + 1), (shape_NO + 1, len(SHAPES) + 1), (relation_NR + 1, len(RELATIONS) + 1)]
    out = np.zeros(len(colour_NO), np.int64)
    for values, base in digits:
        for column in values.T:
            out = out * base + column
    return out


@cache
def evaluation_codes() -> np.ndarray:
    """The captions of all medium and hard validation and test prompts, sorted."""
    return np.sort(np.concatenate([_codes(name, split) for name in ("medium", "hard") for split in SPLITS[1:]]))


def prompts(name: str, split: str) -> list[str]:
    """The prompts of `easy`, `medium` or `hard` in `train`, `validation` or `test`, always in the same order.

    easy: one object (there are only 48 of them, so that training has seen each; validation and test share them out).
    medium: two objects and a relation. hard: three objects and two relations, where each object shares its colour or
    its shape with another one. Raises ValueError for an unknown name or split.
    """
    if name not in DIFFICULTIES:
        raise ValueError(f"There is no prompt set '{name}'; use one of {', '.join(DIFFICULTIES)}.")
    if split not in SPLITS:
        raise ValueError(f"There is no split '{split}'; use one of {', '.join(SPLITS)}.")
    return captions(*_sets(name)[split])


def captions(colour_NO: np.ndarray, shape_NO: np.ndarray, relation_NR: np.ndarray) -> list[str]:
    """The caption of each row of indices padded with -1."""
    return [_scene(*row).caption for row in zip(colour_NO, shape_NO, relation_NR, strict=True)]


def _codes(name: str, split: str) -> np.ndarray:
    return code(*_sets(name)[split])


@cache
def _sets(name: str) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(colour, shape, relation) index arrays of each split; the splits are disjoint in captions (easy: by design not)."""
    rng = np.random.default_rng([_SEED, DIFFICULTIES.index(name)])
    if name == "easy":
        order = rng.permutation(len(COLOURS) * len(SHAPES))
        parts = {"train": order, "validation": order[:24], "test": order[24:]}
        return {split: _easy(part) for split, part in parts.items()}
    size = EVALUATION_SIZE[name]
    fresh = _distinct(_candidates(name, 60_000, rng))
    novel = _has_held_out(*fresh)
    seen, unseen = np.flatnonzero(~novel), np.flatnonzero(novel)
    half = size // 2
    parts = {
        "validation": np.concatenate([unseen[:half], seen[:half]]),
        "test": np.concatenate([unseen[half:size], seen[half:size]]),
        "train": seen[size : size + TRAIN_SIZE[name]],
    }
    for part in parts.values():
        rng.shuffle(part)
    return {split: tuple(a[part] for a in fresh) for split, part in parts.items()}


def _easy(index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    colour, shape = np.full((len(index), MAX_OBJECTS), -1), np.full((len(index), MAX_OBJECTS), -1)
    colour[:, 0], shape[:, 0] = index // len(SHAPES), index % len(SHAPES)
    return colour, shape, np.full((len(index), MAX_OBJECTS - 1), -1)


def _candidates(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    exists = np.arange(MAX_OBJECTS)[None] < COUNT[name]
    colour = np.where(exists, rng.integers(0, len(COLOURS), (n, MAX_OBJECTS)), -1)
    shape = np.where(exists, rng.integers(0, len(SHAPES), (n, MAX_OBJECTS)), -1)
    relation = np.where(exists[:, 1:], rng.integers(0, len(RELATIONS), (n, MAX_OBJECTS - 1)), -1)
    keep = np.ones(n, bool)
    shares = np.zeros((n, MAX_OBJECTS), bool)
    for i in range(COUNT[name]):
        for j in range(COUNT[name]):
            if i != j:
                same_colour, same_shape = colour[:, i] == colour[:, j], shape[:, i] == shape[:, j]
                keep &= ~(same_colour & same_shape)
                shares[:, i] |= same_colour | same_shape
    if name == "hard":
        keep &= shares.all(1)
    return colour[keep], shape[keep], relation[keep]


def _distinct(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, first = np.unique(code(*rows), return_index=True)
    first.sort()
    return tuple(a[first] for a in rows)


def _has_held_out(colour: np.ndarray, shape: np.ndarray, relation: np.ndarray) -> np.ndarray:
    return (held_out()[colour[:, :-1], shape[:, :-1], relation] & (relation >= 0)).any(1)


def _scene(colour: np.ndarray, shape: np.ndarray, relation: np.ndarray) -> Scene:
    objects = tuple(Object(COLOURS[c], SHAPES[s]) for c, s in zip(colour, shape, strict=True) if c >= 0)
    return Scene(objects, tuple(RELATIONS[r] for r in relation if r >= 0))


def training_prompts() -> list[str]:
    """Those that training data of step models is made for: medium and hard in turn."""
    return [text for pair in zip(*(prompts(name, "train") for name in ("medium", "hard")), strict=True) for text in pair]
