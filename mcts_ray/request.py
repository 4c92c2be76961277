"""A `search` request from the command line, checked in full before torch or a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mcts_ray.actors.cluster import find
from mcts_ray.auto import choose
from mcts_ray.checks import (
    check_algorithm,
    check_ige,
    check_prompts,
    check_size,
    check_step_model,
    default_reward,
    find_calibration,
    fusion_decoder,
    needs_scenes,
)
from mcts_ray.config import SearchConfig
from mcts_ray.settings import load_config, parse_setting
from mcts_ray.diffusion.device import DEVICES, DTYPES, check_precision
from mcts_ray.diffusion.resolve import Model, image_size, resolve_model
from mcts_ray.report.run import check_free
from mcts_ray.reward import find_weights

EXECUTORS = ("ray", "local")


@dataclass(frozen=True)
class Request:
    """What to search for with what, and where each prompt's run directory goes."""

    prompts: list[str]
    config: SearchConfig
    model: Model
    device: str
    dtype: str
    executor: str
    workers: int | None
    address: str | None
    outs: list[Path]


def make_request(
    prompts: Sequence[str],
    *,
    prompts_file: Path | None = None,
    config_file: Path | None = None,
    options: Mapping[str, Any],
    settings: Sequence[str] = (),
    model: str = "scenes",
    device: str = "auto",
    dtype: str = "fp32",
    executor: str = "ray",
    workers: int | None = None,
    address: str | None = None,
    out: Path | None = None,
) -> Request:
    """Check everything, the cheap first; ValueError with one sentence for the first mistake.

    A field may be set in the file, by its option (`options`, None: not given) or by `--set`; the later one holds.
    """
    prompts = [*prompts, *(read_prompts(prompts_file) if prompts_file else ())]
    given = {name: value for name, value in options.items() if value is not None}
    config = load_config(config_file, given | dict(parse_setting(text) for text in settings))
    check_algorithm(config.algorithm)
    check_where(executor, device, dtype, workers, address)
    check_prompts(prompts, scenes=False)
    if config.reward is not None or model == "scenes":
        check_prompts(prompts, needs_scenes(model, default_reward(model, config.reward)))
    chosen = choose(config, model).config
    check_step_model(model, chosen)
    check_ige(model, chosen)
    fusion_decoder(model, chosen)
    if chosen.calibration not in (None, "none"):
        find_calibration(chosen.model_copy(update={"reward": default_reward(model, chosen.reward)}), model)
    outs = run_directories(prompts, out)
    for path in outs:
        check_free(path)
    found = resolve_model(model)
    reward = default_reward(model, config.reward)
    check_size(reward, *image_size(found, config.height, config.width))
    find_weights(reward)
    if executor == "ray":
        address = find(address) or "local"
    return Request(prompts, config, found, device, dtype, executor, workers, address, outs)


def check_where(executor: str, device: str, dtype: str, workers: int | None, address: str | None) -> None:
    """Where and in what precision to run: known words that go together."""
    for word, known, what in ((executor, EXECUTORS, "executor"), (device, DEVICES, "device"), (dtype, DTYPES, "dtype")):
        if word not in known:
            raise ValueError(f"unknown {what} {word!r}; choose {' or '.join(known)}")
    if executor == "local" and (workers not in (None, 1) or address is not None):
        raise ValueError("--workers and --address belong to --executor ray; the local one is this process alone")
    check_precision(dtype, device)


def read_prompts(file: Path) -> list[str]:
    """One prompt a line; empty lines and lines that start with # are skipped."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise ValueError(f"prompts file {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts file {file} is not text in UTF-8") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"prompts file {file} holds no prompt; write one a line")
    return prompts


def run_directories(prompts: Sequence[str], out: Path | None) -> list[Path]:
    """One directory per prompt: `out` itself, or numbered ones in it for several; by default runs/<time>-<prompt>."""
    if out is None:
        name = slug(prompts[0]) if len(prompts) == 1 else f"{len(prompts)}-prompts"
        out = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{name}"  # runs started together must not meet
    if len(prompts) == 1:
        return [out]
    return [out / f"{index:03d}-{slug(prompt)}" for index, prompt in enumerate(prompts, start=1)]


def slug(prompt: str) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].rstrip("-") or "prompt"
