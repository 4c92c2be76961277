"""Rewards by name: `scenes`, `jpeg`, `pickscore` and others, `MODULE:FUNCTION`, and sums such as `pickscore:1,aesthetic:0.3`.

`NAME@SOURCE` takes the weights from a folder or another hub id. `parse_reward` and `find_weights` are the cheap half, for checks
before a model is loaded; `resolve_reward` makes the reward.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

from mcts_ray.reward import aesthetic, clipscore, hps, pickscore
from mcts_ray.reward.base import ImageReward, Reward
from mcts_ray.reward.compose import WeightedSum
from mcts_ray.reward.weights import local_files

SCORER = Path(__file__).parents[1] / "scenes" / "weights" / "scorer"


@dataclass(frozen=True)
class Named:
    """A reward that has a name. load: makes it on a device from a source (None: the published weights, or none at all).

    find: checks a source without loading it; None: its weights, if any, are part of this package. package: what must be
    installed beside it, by the extra of the reward's own name.
    """

    load: Callable[[str, str | None], ImageReward]
    find: Callable[[str | None], object] | None = None
    package: str | None = None


def _scenes(device: str, source: None) -> ImageReward:
    from mcts_ray.scenes.scorer import Scorer

    return Scorer.load(device)


def _jpeg(device: str, source: None) -> ImageReward:
    from mcts_ray.reward.jpeg import JpegCompressibility

    return JpegCompressibility()


REWARDS: dict[str, Named] = {
    "scenes": Named(_scenes),
    "jpeg": Named(_jpeg),
    pickscore.NAME: Named(pickscore.PickScore.load, pickscore.find),
    clipscore.NAME: Named(clipscore.ClipScore.load, clipscore.find),
    aesthetic.NAME: Named(aesthetic.Aesthetic.load, aesthetic.find),
    hps.NAME: Named(hps.Hps.load, hps.find, package="open_clip"),
}


class NotImportable(ValueError):
    """A user's module that cannot be imported in this process."""


@dataclass(frozen=True)
class Term:
    """One summand: a name of `REWARDS` or `module:function`, its weight (None: the reward as it is), where its weights lie."""

    name: str
    weight: float | None
    source: str | None = None

    def __str__(self) -> str:
        source = "" if self.source is None else f"@{self.source}"
        return self.name + source + ("" if self.weight is None else f":{self.weight}")


def parse_reward(spec: str) -> tuple[Term, ...]:
    """The terms of a reward given as text. Raises ValueError for an unknown name or a function that is not there."""
    terms = tuple(_parse_term(part.strip()) for part in spec.split(","))
    if len(terms) > 1 and any(term.weight is None for term in terms):
        raise ValueError(f"reward {spec!r}: each term of a sum needs a weight, as in 'scenes:1,jpeg:0.2'")
    for term in terms:
        if term.weight is not None and not isfinite(term.weight):
            raise ValueError(f"reward {spec!r}: a weight must be a finite number, not {term.weight}")
        _check_term(term)
    return terms


def find_weights(reward: str | ImageReward) -> None:
    """The weights of named rewards must be in their folder, or on a hub that answers. Reads small files; ValueError otherwise."""
    for term in parse_reward(reward) if isinstance(reward, str) else ():
        if term.name in REWARDS and REWARDS[term.name].find:
            REWARDS[term.name].find(term.source)


def module_paths() -> list[str]:
    """Where modules are that an actor on this machine cannot know of: the working directory and PYTHONPATH."""
    folders = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return list(dict.fromkeys(map(os.path.abspath, folders)))


def with_absolute_folders(reward: str | ImageReward) -> str | ImageReward:
    """The same reward for a process with another working directory."""
    if not isinstance(reward, str):
        return reward
    terms = [replace(term, source=_absolute(term.source)) for term in parse_reward(reward)]
    return ",".join(map(str, terms))


def weight_files(reward: str) -> list[Path]:
    """The files on this machine that a named reward or a sum takes weights from; those of the hub are left out."""
    terms = parse_reward(reward)
    shipped = sorted(SCORER.rglob("*.safetensors")) if any(term.name == "scenes" for term in terms) else []
    return shipped + [file for term in terms if term.source for file in local_files(term.source)]


def resolve_reward(reward: str | ImageReward, device: str = "cpu") -> Reward:
    """A reward from its text or from any callable `(images, prompts) -> scores`; networks go to `device`."""
    if not isinstance(reward, str):
        return Reward(reward_name(reward), reward)
    terms = parse_reward(reward)
    functions = [REWARDS[t.name].load(device, t.source) if t.name in REWARDS else _function(t.name) for t in terms]
    if len(terms) == 1 and terms[0].weight is None:
        return Reward(reward, functions[0])
    return Reward(reward, WeightedSum([(function, term.weight) for function, term in zip(functions, terms)]))


def reward_name(reward: ImageReward) -> str:
    """What to call a callable: its `__name__`, else its class."""
    return getattr(reward, "__name__", type(reward).__name__)


def _parse_term(text: str) -> Term:
    name, _, weight = text.rpartition(":")
    try:
        return _with_source(name, float(weight)) if name else _with_source(text, None)
    except ValueError:
        return _with_source(text, None)


def _with_source(text: str, weight: float | None) -> Term:
    name, at, source = text.partition("@")
    return Term(name, weight, source) if at and name in REWARDS else Term(text, weight)


def _check_term(term: Term) -> None:
    """A known name with what it needs installed, or a function that can be imported."""
    if term.name not in REWARDS:
        _function(term.name)
        return
    named = REWARDS[term.name]
    if term.source is not None and named.find is None:
        raise ValueError(f"reward {term.name!r} takes no weights from elsewhere; leave '@{term.source}' out")
    if term.source == "":
        raise ValueError(f"reward '{term.name}@': name a folder or a hub id after the @")
    if named.package and find_spec(named.package) is None:
        raise ValueError(f"reward {term.name!r} needs {named.package}; install it with pip install 'mcts-ray[{term.name}]'")


def _absolute(source: str | None) -> str | None:
    return str(Path(source).expanduser().absolute()) if source and Path(source).expanduser().is_dir() else source


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
        raise NotImportable(f"reward {name!r}: module {module_name!r} cannot be imported ({error})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"reward {name!r}: module {module_name!r} has no function {attribute!r} (images, prompts) -> scores")
    return function
