"""Configurations as they are read from files, the command line and Python; a mistake is one sentence."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mcts_ray.config import SearchConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence."""


def load_config(file: Path | None = None, settings: Mapping[str, Any] | None = None) -> SearchConfig:
    """The configuration in a JSON or TOML file, with `settings` over it. Raises ConfigError."""
    values = read_file(file) if file else {}
    return make_config({**values, **(settings or {})}, f"config {file}: " if file else "")


def make_config(values: Mapping[str, Any], source: str = "") -> SearchConfig:
    """Validate; the first mistake becomes a ConfigError of one sentence, which `source` begins."""
    try:
        return SearchConfig(**values)
    except ValidationError as error:
        raise ConfigError(f"{source}{first_mistake(error, SearchConfig.model_fields)}") from error


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


def first_mistake(error: ValidationError, known: Collection[str]) -> str:
    """The first mistake of a validation in words. known: the fields that there are."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no field {name!r}; {near(name, known)}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}: {message}, not {first['input']!r}"


def near(name: str, known: Collection[str]) -> str:
    """What may have been meant by a name that there is not."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]!r}?" if found else f"known are {', '.join(known)}"
