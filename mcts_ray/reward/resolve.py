"""Rewards by name: `scenes`, `jpeg`, `MODULE:FUNCTION`, and sums such as `scenes:1,jpeg:0.2`.

`parse_reward` is the cheap half, for checks before a model is loaded; `resolve_reward` makes the reward.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import isfinite

from mcts_ray.reward.base import ImageReward, Reward
from mcts_ray.reward.compose import WeightedSum


def _scenes(device: str) -> ImageReward:
    from mcts_ray.scenes.scorer import Scorer

    return Scorer.load(device)


def _jpeg(device: str) -> ImageReward:
    from mcts_ray.reward.jpeg import JpegCompressibility

    return JpegCompressibility()


REWARDS: dict[str, Callable[[str], ImageReward]] = {"scenes": _scenes, "jpeg": _jpeg}


@dataclass(frozen=True)
class Term:
    """One summand: a name of `REWARDS` or `module:function`, and its weight (None: the reward as it is)."""

    name: str
    weight: float | None


def parse_reward(spec: str) -> tuple[Term, ...]:
    """The terms of a reward given as text. Raises ValueError for an unknown name or a function that is not there."""
    terms = tuple(_parse_term(part.strip()) for part in spec.split(","))
    if len(terms) > 1 and any(term.weight is None for term in terms):
        raise ValueError(f"reward {spec!r}: each term of a sum needs a weight, as in 'scenes:1,jpeg:0.2'")
    for term in terms:
        if term.weight is not None and not isfinite(term.weight):
            raise ValueError(f"reward {spec!r}: a weight must be a finite number, not {term.weight}")
        if term.name not in REWARDS:
            _function(term.name)
    return terms


def resolve_reward(reward: str | ImageReward, device: str = "cpu") -> Reward:
    """A reward from its text or from any callable `(images, prompts) -> scores`; networks go to `device`."""
    if not isinstance(reward, str):
        return Reward(reward_name(reward), reward)
    terms = parse_reward(reward)
    functions = [REWARDS[t.name](device) if t.name in REWARDS else _function(t.name) for t in terms]
    if len(terms) == 1 and terms[0].weight is None:
        return Reward(reward, functions[0])
    return Reward(reward, WeightedSum([(function, term.weight) for function, term in zip(functions, terms)]))


def reward_name(reward: ImageReward) -> str:
    """What to call a callable: its `__name__`, else its class."""
    return getattr(reward, "__name__", type(reward).__name__)


def _parse_term(text: str) -> Term:
    name, _, weight = text.rpartition(":")
    try:
        return Term(name, float(weight)) if name else Term(text, None)
    except ValueError:
        return Term(text, None)


def _function(name: str) -> ImageReward:
    """The callable `module:function`; modules in the working directory are found too."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        known = ", ".join(sorted(REWARDS))
        raise ValueError(f"unknown reward {name!r}: choose {known}, MODULE:FUNCTION, or a sum such as 'scenes:1,jpeg:0.2'")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except Exception as error:  # importing a user's module may raise anything
        raise ValueError(f"reward {name!r}: module {module_name!r} cannot be imported ({error})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"reward {name!r}: module {module_name!r} has no function {attribute!r} (images, prompts) -> scores")
    return function
