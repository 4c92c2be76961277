"""The scenes vocabulary, its grammar, and the parser.

    a C S  |  a C S and a C S  |  a C S REL a C S  |  a C S REL a C S REL a C S

with C a colour, S a shape, REL a relation between neighbours. That nothing else is in the picture is also a fact.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
SHAPES = ("circle", "square", "triangle", "ring", "cross", "diamond")
RELATIONS = ("left of", "right of", "above", "below")
GRAMMAR = "'a red circle', 'a red circle and a blue square', or a chain of up to three such as 'a red circle left of a blue square'"
MAX_OBJECTS = 3

_WORDS = ("a", "and", "of", *COLOURS, *SHAPES, *(relation.split()[0] for relation in RELATIONS))
WORDS = tuple(sorted(set(_WORDS)))


class PromptError(ValueError):
    """A prompt outside the scenes grammar; the message says where and offers the nearest word."""


@dataclass(frozen=True)
class Object:
    """One object. `x`, `y` (centre) and `radius` are in units of the image side; None until the scene is laid out."""

    colour: str
    shape: str
    x: float | None = None
    y: float | None = None
    radius: float | None = None


@dataclass(frozen=True)
class Scene:
    """Objects in caption order and the relation between each neighbouring pair (none for one object or for `and`)."""

    objects: tuple[Object, ...]
    relations: tuple[str, ...] = ()

    @property
    def placed(self) -> bool:
        return all(o.x is not None for o in self.objects)

    @property
    def caption(self) -> str:
        phrases = [f"a {o.colour} {o.shape}" for o in self.objects]
        if len(phrases) == 1:
            return phrases[0]
        if not self.relations:
            return " and ".join(phrases)
        parts = [phrases[0]]
        for relation, phrase in zip(self.relations, phrases[1:], strict=True):
            parts += [relation, phrase]
        return " ".join(parts)


def parse(prompt: str) -> Scene:
    """Parse a prompt into an unplaced scene; `parse(prompt).caption` is its canonical wording ("an orange ring." is read
    as "a orange ring"). Raises `PromptError` with a hint where the prompt leaves the grammar."""
    words = prompt.lower().rstrip(". ").split()
    if not words:
        raise PromptError(f"The prompt is empty; write {GRAMMAR}.")
    objects, relations, at = [], [], 0
    joined_by_and = False
    while True:
        at = _expect(words, at, ("a", "an"), "'a'", prompt)
        colour, at = _take(words, at, COLOURS, "a colour", prompt)
        shape, at = _take(words, at, SHAPES, "a shape", prompt)
        objects.append(Object(colour, shape))
        if at == len(words):
            break
        if len(objects) == MAX_OBJECTS or joined_by_and:
            limit = "'and' joins two objects" if joined_by_and else f"a scene has at most {MAX_OBJECTS} objects"
            raise PromptError(f"'{' '.join(words[at:])}' is too much in '{prompt}': {limit}; write {GRAMMAR}.")
        if words[at] == "and" and len(objects) == 1:
            joined_by_and, at = True, at + 1
            continue
        relation, at = _take_relation(words, at, prompt)
        relations.append(relation)
    return Scene(tuple(objects), tuple(relations))


def _expect(words: list[str], at: int, allowed: tuple[str, ...], what: str, prompt: str) -> int:
    if at < len(words) and words[at] in allowed:
        return at + 1
    raise _error(words, at, allowed, what, prompt)


def _take(words: list[str], at: int, allowed: tuple[str, ...], what: str, prompt: str) -> tuple[str, int]:
    return words[_expect(words, at, allowed, what, prompt) - 1], at + 1


def _take_relation(words: list[str], at: int, prompt: str) -> tuple[str, int]:
    for relation in RELATIONS:
        parts = relation.split()
        if words[at : at + len(parts)] == parts:
            return relation, at + len(parts)
    raise _error(words, at, RELATIONS, "a relation", prompt)


def _error(words: list[str], at: int, allowed: tuple[str, ...], what: str, prompt: str) -> PromptError:
    found = f"'{words[at]}'" if at < len(words) else "the end"
    near = difflib.get_close_matches(words[at], allowed, n=1, cutoff=0.7) if at < len(words) else []
    hint = f"did you mean '{near[0]}'?" if near else f"use one of: {', '.join(allowed)}"
    return PromptError(
        f"'{prompt}' is outside the scenes grammar: expected {what} but found {found} ({hint}); write {GRAMMAR}"
    )
