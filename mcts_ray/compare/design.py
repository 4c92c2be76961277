"""What is compared: arms x budgets x prompts x seeds, as plain data that is checked before anything heavy is loaded."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcts_ray import __version__
from mcts_ray.checks import check_algorithm
from mcts_ray.compare.judge import as_reward
from mcts_ray.config import SearchConfig
from mcts_ray.settings import ConfigError, make_config, parse_setting
from mcts_ray.diffusion.resolve import Model
from mcts_ray.gain.folder import folder_of, weights
from mcts_ray.report import folder
from mcts_ray.reward.resolve import weight_files
from mcts_ray.reward.step import step_weights
from mcts_ray.reward.weights import digest
from mcts_ray.search import ALGORITHMS

POLICIES = ("k=1", "k=2", "k=4", "jump=ays")
FILE = "design.json"
_OWN = ("algorithm", "budget", "max_seconds", "max_decodes", "seed", "images", "reward", "in_flight")  # the comparison's
_ORACLE = "oracle"


@dataclass(frozen=True)
class Arm:
    """One search to compare: an algorithm with fields of its SearchConfig; `oracle`: guided by the gold judge."""

    label: str
    algorithm: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    oracle: bool = False


@dataclass(frozen=True)
class Design:
    """A comparison. Budgets are `times` x `levels` NFE; `sets` and `validation` hold prompts by the name of their set.

    pool: finished samples per prompt and jump policy, from which best-of-n for every n follows (0: none); the policy is
    chosen on `validation`. weights, reward_weights: what stands for the files of the model, and of guide and gold judge.
    images: how many are returned. dtype: of the model's network.
    """

    arms: tuple[Arm, ...]
    times: tuple[int, ...]
    seeds: int
    levels: int
    sets: dict[str, list[str]]
    model: str
    weights: str
    reward: str
    gold: str
    reward_weights: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    images: int = 4
    group: int = 30
    dtype: str = "fp32"
    pool: int = 0
    policies: tuple[Arm, ...] = ()
    validation: dict[str, list[str]] = field(default_factory=dict)
    version: str = __version__

    @property
    def budgets(self) -> list[int]:
        """NFE of each of `times`."""
        return [times * self.levels for times in self.times]

    def config(self, arm: Arm, times: int, seed: int) -> SearchConfig:
        """The search of one cell. Every image is kept, so that the gold of each best one on the way is known."""
        budget = times * self.levels
        reward = as_reward(self.gold) if arm.oracle else self.reward
        own = {"algorithm": arm.algorithm, "budget": budget, "seed": seed, "images": max(budget, self.images), "reward": reward}
        return make_config({"levels": self.levels, **self.settings, **arm.fields, **own}, f"arm {arm.label}: ")

    def pool_config(self, policy: Arm) -> SearchConfig:
        """`pool` independent trajectories of a jump policy; every sample is kept, so the cheapest reward will do.

        The budget is what they cost at most: what they cost is known once the model is there (`mcts_ray.compare.pool`).
        """
        fields = {"levels": self.levels, **self.settings, **policy.fields, "algorithm": "best-of-n"}
        cost = make_config(fields, f"policy {policy.label}: ").trajectory_nfe
        count = self.pool or 1
        return make_config({**fields, "budget": count * cost, "images": count, "reward": "jpeg", "in_flight": 64})

    def check(self) -> None:
        """ValueError for the first cell that cannot be, or that would not be what it is called."""
        own = next((name for name in self.settings if name in _OWN), None)
        if own:
            raise ValueError(f"--set {own}: the comparison itself sets {own}; leave it out")
        for times in self.times:
            for arm in self.arms:
                config = self.config(arm, times, 0)
                if arm.oracle and (config.scores_in_engine or config.jump == "ige"):
                    raise ValueError(
                        f"arm {arm.label}: its steps follow a network that has learned the guide, which no oracle replaces; "
                        "leave --oracle out"
                    )
        for policy in self.policies:
            self.pool_config(policy)

    def to_dict(self) -> dict[str, Any]:
        """As it is written to design.json."""
        return json.loads(json.dumps(asdict(self)))


def open_folder(design: Design, out: Path) -> None:
    """Make `out` the folder of a design, or see that it is already. ValueError for one that holds something else."""
    folder.open_folder(design.to_dict(), out, FILE, "a comparison")


def check_folder(design: Design, out: Path) -> None:
    """ValueError unless `out` is empty, not there, or holds this very design."""
    folder.check_folder(design.to_dict(), out, FILE, "a comparison")


def parse_arm(text: str, what: str = "arm") -> Arm:
    """`NAME[,field=value...]`; lists may hold commas, as in jump_table=[1,1,2]."""
    name, *parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text)]
    check_algorithm(name)
    fields = {}
    for part in parts:
        try:
            field_name, value = parse_setting(part)
        except ConfigError as error:
            raise ValueError(f"{what} {text!r}: {str(error).removeprefix('--set ')}") from error
        if field_name in _OWN:
            raise ValueError(f"{what} {text!r}: {field_name} is the same for all; leave it out")
        if field_name not in SearchConfig.model_fields:
            near = difflib.get_close_matches(field_name, SearchConfig.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `mcts-ray search --help` for the fields"
            raise ValueError(f"{what} {text!r}: there is no field {field_name!r}; {hint}")
        fields[field_name] = value
    return Arm(",".join([name, *parts]), name, fields)


def parse_policy(text: str) -> Arm:
    """`field=value[,...]`: how the trajectories of a pool go."""
    arm = parse_arm(f"best-of-n,{text}", "policy")
    return Arm(arm.label.removeprefix("best-of-n,"), "best-of-n", arm.fields)


def every_arm(levels: int) -> list[Arm]:
    """All algorithms, each with both eta where the algorithm allows them; the first is the reference."""
    arms = []
    for name in ALGORITHMS:
        for eta in (0, 1):
            try:
                config = make_config({"algorithm": name, "levels": levels, "eta": eta})
            except ConfigError:
                continue
            arms.append(Arm(f"{name},eta={eta}", name, {"eta": config.eta}))
    return arms


def with_oracles(arms: Sequence[Arm]) -> list[Arm]:
    """Each arm, then the same one guided by the gold judge."""
    return [*arms, *(Arm(f"{arm.label} ({_ORACLE})", arm.algorithm, arm.fields, oracle=True) for arm in arms)]


def parse_times(text: str) -> tuple[int, ...]:
    """Budgets in multiples of T, as in 2,4,8,16."""
    try:
        times = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"--times {text!r} must be whole numbers, as in 2,4,8,16") from None
    if times[0] < 1:
        raise ValueError(f"--times {text!r}: a budget is at least 1 times T")
    return times


def model_key(model: Model) -> str:
    """What stands for a model: of a local one its weights, of one from the hub its name."""
    return digest(sorted(Path(model.source).rglob("*.safetensors"))) if model.local else model.name


def reward_key(*rewards: str) -> str:
    """What stands for the weights of rewards: those that lie on this machine, the shipped scorer's where it is used."""
    files = list(dict.fromkeys(file for reward in rewards for file in weight_files(reward)))
    return digest(files) if files else ""


def step_key(design: Design) -> str:
    """What stands for the networks that score states, or choose jumps, beside the denoiser, the tables of the latter too; nothing
    where no arm or policy has one."""
    configs = configs_of(design)
    used = {(one.step_reward, one.step_model or "scenes") for one in configs if one.scores_in_engine}
    iges = {(one.ige_model or "scenes", one.ige_version) for one in configs if one.jump == "ige"}
    files = sorted({(weights(*ige)[1], folder_of(ige[0]) / "config.json") for ige in iges})
    return "".join([*(digest(step_weights(*pair)) for pair in sorted(used)), *map(digest, files)])


def configs_of(design: Design) -> list[SearchConfig]:
    """A search of each arm, and of each jump policy."""
    return [*(design.config(arm, design.times[0], 0) for arm in design.arms), *map(design.pool_config, design.policies)]
