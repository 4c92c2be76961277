"""What an audit measures, as plain data that is checked before anything heavy is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mcts_ray import __version__
from mcts_ray.audit.searches import JumpPaths, Siblings
from mcts_ray.config import SearchConfig
from mcts_ray.settings import make_config
from mcts_ray.reward.step import step_key
from mcts_ray.search.base import Setting
from mcts_ray.search.branching import Branching

FILE = "design.json"
IN_FLIGHT = 64
SETTINGS = ("guidance", "negative_prompt", "height", "width", "seed", "grid", "order", "phi")  # what may be set beside


@dataclass(frozen=True)
class Step:
    """A step score under audit: its name, and the folder or hub id of its model (None: the shipped one, or none needed)."""

    name: str
    model: str | None = None

    def apply(self, setting: Setting) -> Setting:
        """The setting in which states are scored by it; x0 is what settings have."""
        return setting if self.name == "x0" else replace(setting, step_reward=self.name, step_model=self.model)

    def fields(self) -> dict[str, Any]:
        """Of a SearchConfig."""
        return {"step_reward": self.name} | ({} if self.model is None else {"step_model": self.model})


@dataclass(frozen=True)
class Design:
    """An audit. `texts`: its prompts, `source`: where they are from.

    trajectories: finished samples of each prompt, scored at the levels `scored`. siblings: at each of `parents` levels of one
    trajectory of each prompt, `children` states with `completions` each (0: none). pool: (prompts, samples) for best-of-n.
    paths: (prompts, seeds) whose jump paths through `path_levels` levels, by `jumps`, are all walked.
    weights, reward_weights: what stands for the files of the model, and of guide and gold. dtype: of the model's network.
    """

    model: str
    reward: str
    gold: str
    steps: tuple[Step, ...]
    source: str
    texts: tuple[str, ...]
    levels: int
    trajectories: int
    scored: tuple[int, ...]
    parents: tuple[int, ...] = ()
    children: int = 0
    completions: int = 0
    pool: tuple[int, int] = (0, 0)
    paths: tuple[int, int] = (0, 0)
    path_levels: int = 8
    jumps: tuple[int, ...] = (1, 2, 4, 8)
    settings: dict[str, Any] = field(default_factory=dict)
    group: int = 8
    dtype: str = "fp32"
    weights: str = ""
    reward_weights: str = ""
    version: str = __version__

    def config(self, levels: int, samples: int, eta: float = 0.0) -> SearchConfig:
        """So many whole trajectories; every image is kept, so that gold can judge it."""
        own = {"algorithm": "best-of-n", "levels": levels, "budget": samples * levels, "images": samples, "eta": eta}
        return make_config({**self.settings, **own, "reward": self.reward, "in_flight": IN_FLIGHT})

    def search(self, step: Step) -> SearchConfig:
        """A search that would go by a step score. ValueError for one that cannot be."""
        own = {"algorithm": "mcts", "levels": self.levels, "budget": self.levels, "calibration": "none", "reward": self.reward}
        return make_config({**self.settings, **own, **step.fields()}, f"step score {step.name}: ")

    @property
    def guidance(self) -> float:
        """That of its samples."""
        return self.config(self.levels, 1).own_guidance(self.model == "scenes")

    def step_weights(self, name: str) -> str:
        """What stands for the weights of a step score's model; "" where it has none in a file."""
        step = next(step for step in self.steps if step.name == name)
        return step_key(step.name, step.model) if step.model else ""

    @property
    def branching(self) -> Branching:
        """How the children of a state are made: as mcts makes them."""
        return Branching(self.levels, make_config(self.settings).phi, 1)

    def nfe(self) -> dict[str, int]:
        """What each part costs for one step score; further ones repeat all but completions and pool."""
        siblings = Siblings.nfe(self.levels, self.parents, self.children, self.completions) if self.parents else 0
        prompts, seeds = self.paths
        return {
            "trajectories": len(self.texts) * self.trajectories * self.levels,
            "siblings": len(self.texts) * siblings,
            "pool": self.pool[0] * self.pool[1] * self.levels,
            "paths": prompts * JumpPaths.nfe(self.path_levels, self.jumps, seeds),
        }

    def check(self) -> None:
        """ValueError for what cannot be."""
        self.config(self.levels, self.trajectories, 1.0)
        for step in self.steps:
            self.search(step)
        quiet = [level for level in self.parents if self.branching.angle(level) == 0]
        if quiet:
            raise ValueError(f"children of level {quiet[0]} of {self.levels} would be equal: no noise is added there; choose higher levels")

    def to_dict(self) -> dict[str, Any]:
        """As it is written to design.json."""
        return json.loads(json.dumps(asdict(self)))

    def head(self) -> dict[str, Any]:
        """The same without the prompts."""
        return {**self.to_dict(), "texts": len(self.texts)}


LOWEST = 3  # level of a parent: its children still have a noisy move before them


def spread_levels(T: int, count: int) -> tuple[int, ...]:
    """`count` levels spread over the noisy part, where mcts may branch, highest first. ValueError if there are not so many."""
    levels = tuple(level for level in Branching(T, 1.0, count).marks if level >= LOWEST)
    if len(levels) < count:
        raise ValueError(
            f"--siblings: T = {T} has no {count} levels of {LOWEST} or more at which siblings could be made; ask for fewer or none"
        )
    return levels


def parse_size(text: str, parts: Sequence[str], what: str) -> tuple[int, ...]:
    """`4x8x8` as whole numbers, one for each of `parts`; 0 stands for none at all."""
    try:
        numbers = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        numbers = ()
    if numbers == (0,):
        return (0,) * len(parts)
    if len(numbers) != len(parts) or min(numbers) < 1:
        example = "x".join(str(4 + 4 * place) for place in range(len(parts)))
        raise ValueError(f"{what} {text!r} must be {' x '.join(parts)}, as in {example}, or 0 for none")
    return numbers
