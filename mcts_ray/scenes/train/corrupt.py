"""Hard negatives for the scorer: scenes in which a known number of the caption's facts is wrong, by construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..grammar import COLOURS, RELATIONS, SHAPES
from ..layout import place_arrays
from ..render import Arrays
from .text import END

# What a diffusion model gets wrong most is where things are: a good third of the relations are wrong, each for itself. Of the
# other kinds a scene has some attempts to make a fact wrong, half of them with an attribute of another object of the caption.
WRONG_RELATION = 0.35
KINDS = ("colour", "shape", "missing", "extra")
SHARES = (0.36, 0.4, 0.14, 0.1)
HOW_MANY = (0.45, 0.3, 0.15, 0.1)  # shares of scenes with 0, 1, ... attempts
LEAKED = 0.5
EXTRA_RADIUS = (0.1, 0.15)
# The tokens that state facts: of colours, of shapes, of relations (their first word), and the end for "nothing else".
FACTS_OF = (
    tuple(f"{word}</w>" for word in COLOURS),
    tuple(f"{word}</w>" for word in SHAPES),
    tuple(f"{relation.split()[0]}</w>" for relation in RELATIONS),
    (END,),
)
FACT_TOKENS = [token for tokens in FACTS_OF for token in tokens]


@dataclass(frozen=True)
class Facts:
    """Which facts of a caption hold, bool: the colour and the shape of each object, each relation, and nothing else.

    exists, related: which of them the caption states.
    """

    colour_NO: np.ndarray
    shape_NO: np.ndarray
    relation_NR: np.ndarray
    alone_N: np.ndarray
    exists_NO: np.ndarray
    related_NR: np.ndarray

    @property
    def share_N(self) -> np.ndarray:
        """Share of the caption's facts that hold."""
        held = self.colour_NO.sum(1) + self.shape_NO.sum(1) + self.relation_NR.sum(1) + self.alone_N
        return (held / (2 * self.exists_NO.sum(1) + self.related_NR.sum(1) + 1)).astype(np.float32)

    @property
    def all_N(self) -> np.ndarray:
        """Whether all facts hold."""
        return self.share_N == 1

    def at_tokens(self, token_NL: np.ndarray, ids: Callable[[Sequence[str]], Sequence[int]]) -> np.ndarray:
        """1 where the token at that place of the caption states a fact that holds, else 0: float32 (N, L)."""
        facts = (self.colour_NO, self.shape_NO, self.relation_NR, self.alone_N[:, None])
        return sum(spread(token_NL, ids(tokens), fact_NF.astype(np.float32)) for tokens, fact_NF in zip(FACTS_OF, facts))


def spread(token_NL: np.ndarray, ids: Sequence[int], value_NF: np.ndarray) -> np.ndarray:
    """The f-th value of each row at its f-th token that is one of `ids` (further ones repeat the last), 0 elsewhere: (N, L)."""
    states_NL = np.isin(token_NL, ids)
    which_NL = (states_NL.cumsum(1) - 1).clip(0, value_NF.shape[1] - 1)
    return np.take_along_axis(value_NF, which_NL, 1) * states_NL


def corrupt(caption: Arrays, rng: np.random.Generator) -> tuple[Arrays, Facts]:
    """Scenes to render for the captions of `caption`, and which of the caption's facts hold in each.

    Facts are those that the verifier states (two for each object, one for each relation, and nothing else), but known
    from the edit itself, never from an image.
    """
    n, most = caption.colour_NO.shape
    count = (caption.shape_NO >= 0).sum(1)
    colour, shape, relation = caption.colour_NO.copy(), caption.shape_NO.copy(), caption.relation_NR.copy()
    colour_ok, shape_ok = caption.shape_NO >= 0, caption.shape_NO >= 0
    relation_ok = caption.relation_NR >= 0
    colour_ok, shape_ok, relation_ok = colour_ok.copy(), shape_ok.copy(), relation_ok.copy()
    extra, missing = np.zeros(n, bool), np.zeros((n, most), bool)
    for i, j in np.argwhere((rng.random(relation.shape) < WRONG_RELATION) & relation_ok):
        relation[i, j], relation_ok[i, j] = _other(relation[i, j], len(RELATIONS), rng), False
    attempts = rng.choice(len(HOW_MANY), n, p=HOW_MANY)
    for attempt in range(len(HOW_MANY) - 1):
        kind = rng.choice(len(KINDS), n, p=SHARES)
        which = rng.integers(0, count)
        for i in np.flatnonzero(attempts > attempt):
            j, k = which[i], KINDS[kind[i]]
            if k == "colour":
                colour[i, j], colour_ok[i, j] = _other(caption.colour_NO[i, j], len(COLOURS), rng, caption.colour_NO[i]), False
            elif k == "shape":
                shape[i, j], shape_ok[i, j] = _other(caption.shape_NO[i, j], len(SHAPES), rng, caption.shape_NO[i]), False
            elif k == "missing" and count[i] > 1:
                missing[i, j] = True
            elif k == "extra":
                extra[i] = True
    colour_ok &= ~missing
    shape_ok &= ~missing
    relation_ok &= ~(missing[:, 1:] | missing[:, :-1])
    xyr = place_arrays(count, relation, rng)
    shape[missing] = -1
    scene = with_extra(Arrays(colour, shape, *np.moveaxis(xyr, -1, 0), relation), extra, rng)
    return scene, Facts(colour_ok, shape_ok, relation_ok, ~extra, caption.shape_NO >= 0, caption.relation_NR >= 0)


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
