"""The configuration of a search, as it is read from files, the command line and Python."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUDGET_IN_TRAJECTORIES = 8


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence."""


class SearchConfig(BaseModel):
    """What to search for and how much it may cost. Fields left at None take the default of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    algorithm: str = Field("best-of-n", description="Search algorithm, a name of mcts_ray.search.ALGORITHMS.")
    budget: int | None = Field(
        None, ge=1, description="NFE (guided evaluations of one sample) that may be spent; None: 8 times `levels`."
    )
    max_seconds: float | None = Field(None, gt=0, description="Wall time after which the search ends; None: no limit.")
    max_decodes: int | None = Field(None, ge=1, description="Images that may be decoded and rewarded; None: no limit.")
    levels: int = Field(30, ge=1, le=1000, description="T, the levels of a full trajectory.")
    jump: Literal["constant"] = Field("constant", description="How jump sizes are chosen; constant: always `k`.")
    k: int = Field(1, ge=1, description="Levels per jump; a trajectory costs ceil(levels / k) NFE.")
    eta: float = Field(0.0, ge=0, le=1, description="Noise of each jump as DDIM's eta: 0 deterministic, 1 DDPM.")
    guidance: float | None = Field(
        None, ge=0, description="Classifier-free guidance scale, 1 or less: off; None: 3.0 for scenes, 7.5 for other models."
    )
    negative_prompt: str = Field("", description="What the images should not show.")
    seed: int = Field(0, ge=0, description="Seed of all noise; the same seed gives the same initial noises everywhere.")
    images: int = Field(4, ge=1, description="How many of the best images are returned.")
    height: int | None = Field(None, ge=8, description="Pixels; None: the size the model was trained for.")
    width: int | None = Field(None, ge=8, description="Pixels; None: the size the model was trained for.")
    reward: str | None = Field(
        None, description="scenes, jpeg, MODULE:FUNCTION or a sum as in scenes:1,jpeg:0.2; None: scenes for the scenes model."
    )
    in_flight: int | None = Field(
        None, ge=1, description="Units of work in flight at once per search; None: budget // 8, at least 1."
    )

    @model_validator(mode="after")
    def _budget_pays_for_a_trajectory(self) -> SearchConfig:
        if self.budget is not None and self.budget < self.trajectory_nfe:
            raise ValueError(
                f"budget {self.budget} is below one trajectory, which needs {self.trajectory_nfe} NFE "
                f"(levels {self.levels}, k {self.k})"
            )
        return self

    @property
    def trajectory_nfe(self) -> int:
        """NFE of one full trajectory."""
        return -(-self.levels // self.k)

    def resolved(self, scenes: bool, size: tuple[int, int], reward: str | None) -> SearchConfig:
        """This configuration with every default filled in: for a model of `size` (height, width), `scenes` or not."""
        budget = self.budget or BUDGET_IN_TRAJECTORIES * self.levels
        defaults = {
            "budget": budget,
            "guidance": 3.0 if scenes else 7.5,
            "height": size[0],
            "width": size[1],
            "reward": reward,
            "in_flight": max(1, budget // 8),
        }
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})


def load_config(file: Path | None = None, settings: Mapping[str, Any] | None = None) -> SearchConfig:
    """The configuration in a JSON or TOML file, with `settings` over it. Raises ConfigError."""
    values = read_file(file) if file else {}
    return make_config({**values, **(settings or {})}, f"config {file}: " if file else "")


def make_config(values: Mapping[str, Any], source: str = "") -> SearchConfig:
    """Validate; the first mistake becomes a ConfigError of one sentence, which `source` begins."""
    try:
        return SearchConfig(**values)
    except ValidationError as error:
        raise ConfigError(f"{source}{_sentence(error)}") from error


def read_file(file: Path) -> dict[str, Any]:
    """The settings in a .json or .toml file."""
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if file.suffix not in readers:
        raise ConfigError(f"config {file} must be a .json or .toml file")
    try:
        values = readers[file.suffix](file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"config {file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"config {file} is not valid {file.suffix[1:].upper()} ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {file} must hold an object of SearchConfig fields, not a {type(values).__name__}")
    return values


def parse_setting(text: str) -> tuple[str, Any]:
    """`name=value` of `--set`; lists, null, true and false are read as JSON, anything else is left to the field."""
    name, equals, value = text.partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    if not equals or not name:
        raise ConfigError(f"--set {text!r} must have the form name=value")
    if value in ("null", "true", "false") or value.startswith(("[", "{")):
        try:
            return name, json.loads(value)
        except ValueError as error:
            raise ConfigError(f"--set {text!r}: the value is not valid JSON ({error})") from error
    return name, value


def _sentence(error: ValidationError) -> str:
    """The first mistake of a validation in words."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, SearchConfig.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SearchConfig.model_fields)}"
        return f"there is no field {name!r}; {hint}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}: {message}, not {first['input']!r}"
