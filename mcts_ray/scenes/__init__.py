"""The embedded world: coloured shapes in given relations, captions in a small grammar, and an exact verifier."""

from .grammar import COLOURS, RELATIONS, SHAPES, Object, PromptError, Scene, parse
from .prompts import prompts
from .render import render
from .verify import verify, verify_batch

__all__ = [
    "COLOURS",
    "RELATIONS",
    "SHAPES",
    "Object",
    "PromptError",
    "Scene",
    "parse",
    "prompts",
    "render",
    "verify",
    "verify_batch",
]
