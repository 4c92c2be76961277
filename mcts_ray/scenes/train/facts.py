"""Which facts of a caption hold in a scene, known from the scene itself, and the caption's tokens that state them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..grammar import COLOURS, RELATIONS, SHAPES
from ..layout import DIRECTION
from ..render import Arrays
from ..verify import mainly_along
from .text import END

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

    x, y: centre of the object of the scene that an object of the caption is matched to, in units of the side.
    exists, related: which facts the caption states.
    """

    colour_NO: np.ndarray
    shape_NO: np.ndarray
    relation_NR: np.ndarray
    alone_N: np.ndarray
    x_NO: np.ndarray
    y_NO: np.ndarray
    exists_NO: np.ndarray
    related_NR: np.ndarray

    @property
    def share_N(self) -> np.ndarray:
        """Share of the caption's facts that hold."""
        held = self.colour_NO.sum(1) + self.shape_NO.sum(1) + self.relation_NR.sum(1) + self.alone_N
        return (held / (2 * self.exists_NO.sum(1) + self.related_NR.sum(1) + 1)).astype(np.float32)

    def at_tokens(self, token_NL: np.ndarray, ids: Callable[[Sequence[str]], Sequence[int]]) -> np.ndarray:
        """1 where the token at that place of the caption states a fact that holds, else 0: float32 (N, L)."""
        facts = (self.colour_NO, self.shape_NO, self.relation_NR, self.alone_N[:, None])
        return sum(spread(token_NL, ids(tokens), fact_NF.astype(np.float32)) for tokens, fact_NF in zip(FACTS_OF, facts))


def facts_of(caption: Arrays, scene: Arrays) -> Facts:
    """The facts of each caption of `caption` that hold in the scene of the same row of `scene`, under the verifier's
    definition: objects named are matched to objects shown in the way that makes most facts hold. No pixel is read."""
    rows, most = np.arange(len(caption)), caption.shape_NO.shape[1]
    exists_NO, related_NR, shown_NO = caption.shape_NO >= 0, caption.relation_NR >= 0, scene.shape_NO >= 0
    which_MO = np.array(list(permutations(range(scene.shape_NO.shape[1]), most)))  # all M ways to match
    shown_NMO = shown_NO[:, which_MO] & exists_NO[:, None]
    colour_NMO = shown_NMO & (scene.colour_NO[:, which_MO] == caption.colour_NO[:, None])
    shape_NMO = shown_NMO & (scene.shape_NO[:, which_MO] == caption.shape_NO[:, None])
    moved = [np.diff(at_NO[:, which_MO]) for at_NO in (scene.x_NO, scene.y_NO)]
    along = np.moveaxis(DIRECTION[caption.relation_NR], -1, 0)[:, :, None]
    relation_NMR = related_NR[:, None] & shown_NMO[..., 1:] & shown_NMO[..., :-1] & mainly_along(*along, *moved)
    best_N = (colour_NMO.sum(2) + shape_NMO.sum(2) + relation_NMR.sum(2)).argmax(1)
    chosen_NO = which_MO[best_N]
    return Facts(
        *(facts_NMF[rows, best_N] for facts_NMF in (colour_NMO, shape_NMO, relation_NMR)),
        alone_N=shown_NO.sum(1) <= exists_NO.sum(1),
        x_NO=np.take_along_axis(scene.x_NO, chosen_NO, 1),
        y_NO=np.take_along_axis(scene.y_NO, chosen_NO, 1),
        exists_NO=exists_NO,
        related_NR=related_NR,
    )


def spread(token_NL: np.ndarray, ids: Sequence[int], value_NF: np.ndarray) -> np.ndarray:
    """The f-th value of each row at its f-th token that is one of `ids` (further ones repeat the last), 0 elsewhere: (N, L)."""
    states_NL = np.isin(token_NL, ids)
    which_NL = (states_NL.cumsum(1) - 1).clip(0, value_NF.shape[1] - 1)
    return np.take_along_axis(value_NF, which_NL, 1) * states_NL
