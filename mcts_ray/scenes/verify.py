"""The exact verifier: which facts of a prompt hold in an image.

Facts: the colour and the shape of each object named, each relation, and that nothing else is in the picture. The named
objects are matched to the found ones in the way that makes most facts hold. The score is the share of facts that hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from .detect import Found, detect
from .grammar import RELATIONS, Scene, parse
from .layout import DIRECTION

Verdict = tuple[float, bool, dict[str, bool]]
MIN_APART = 4 / 64
_parse = lru_cache(maxsize=4096)(parse)


def verify(image: Any, prompt: str) -> Verdict:
    """(score, passed, facts) for one image: a PIL image, or an array (H, W, 3) of uint8 or of floats in [0, 1].

    score is the share of facts that hold, passed whether all do, and facts tells for each one. Raises `PromptError`
    for a prompt outside the grammar.
    """
    return verify_batch(np.asarray(image)[None], [prompt])[0]


def verify_batch(images: Any, prompts: Sequence[str]) -> list[Verdict]:
    """`verify` for (N, H, W, 3) images, or a sequence of images of one size, and N prompts; well under 1 ms an image."""
    if not len(prompts):
        return []
    array = images if isinstance(images, np.ndarray) else np.stack([np.asarray(image) for image in images])
    if len(array) != len(prompts):
        raise ValueError(f"There are {len(array)} images but {len(prompts)} prompts.")
    scenes = [_parse(p) for p in prompts]
    return [_judge(scene, found) for scene, found in zip(scenes, detect(array), strict=True)]


def _judge(scene: Scene, found: list[Found]) -> Verdict:
    names = _fact_names(scene)
    candidates: list[Found | None] = [*found[:6], *[None] * (len(scene.objects) - len(found))]
    best: list[bool] = []
    for chosen in permutations(candidates, len(scene.objects)):
        facts = _facts(scene, chosen)
        if not best or sum(facts) > sum(best):
            best = facts
            if all(best):
                break
    best.append(len(found) <= len(scene.objects))
    return sum(best) / len(best), all(best), dict(zip(names, best, strict=True))


def _facts(scene: Scene, chosen: Sequence[Found | None]) -> list[bool]:
    facts = []
    for wanted, one in zip(scene.objects, chosen, strict=True):
        facts += [one is not None and one.colour == wanted.colour, one is not None and one.shape == wanted.shape]
    for relation, a, b in zip(scene.relations, chosen, chosen[1:]):
        facts.append(a is not None and b is not None and holds(relation, b.x - a.x, b.y - a.y))
    return facts


def holds(relation: str, dx: float, dy: float) -> bool:
    """Whether a displacement (y down, units of the side) from subject to object is mainly along the relation."""
    return bool(mainly_along(*DIRECTION[RELATIONS.index(relation)], dx, dy))


def mainly_along(ux: Any, uy: Any, dx: Any, dy: Any) -> Any:
    """The same for a unit vector along an axis; numbers or arrays."""
    along, across = dx * ux + dy * uy, abs(dx * uy) + abs(dy * ux)
    return (along >= MIN_APART) & (along > across)


@lru_cache(maxsize=4096)
def _fact_names(scene: Scene) -> tuple[str, ...]:
    names = []
    for i, o in enumerate(scene.objects, 1):
        names += [f"object {i} is {o.colour}", f"object {i} is a {o.shape}"]
    names += [f"object {i} is {relation} object {i + 1}" for i, relation in enumerate(scene.relations, 1)]
    return (*names, "nothing else")
