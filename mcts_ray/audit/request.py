"""An `audit` request from the command line, checked in full before torch or a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mcts_ray.actors.cluster import find
from mcts_ray.audit.design import (
    FILE,
    SETTINGS,
    Design,
    Step,
    parse_size,
    spread_levels,
)
from mcts_ray.checks import canonical, check_prompts, check_size, default_reward, needs_scenes
from mcts_ray.compare.design import model_key, reward_key
from mcts_ray.compare.judge import VERIFIER, as_reward
from mcts_ray.compare.prompts import read_prompt_file
from mcts_ray.compare.request import check_independent, gold_or_default
from mcts_ray.settings import parse_setting
from mcts_ray.diffusion.resolve import Model, image_size, resolve_model
from mcts_ray.report.folder import check_folder
from mcts_ray.report.run import check_writable
from mcts_ray.request import check_where
from mcts_ray.reward.resolve import find_weights
from mcts_ray.reward.step import absolute, find_step_model, step_key

LEAST = {"prompts": 2, "trajectories": 4}  # below which nothing can be said


@dataclass(frozen=True)
class Audit:
    """A design, and where it is carried out; `calibrate`: where to write a calibration of its step score."""

    design: Design
    model: Model
    out: Path
    calibrate: Path | None = None
    device: str = "auto"
    executor: str = "ray"
    workers: int | None = None
    address: str | None = None


def make_audit(
    *,
    out: Path,
    model: str = "scenes",
    step_rewards: Sequence[str] = (),
    step_models: Sequence[str] = (),
    reward: str | None = None,
    gold: str | None = None,
    prompts_file: Path | None = None,
    set_name: str | None = None,
    split: str = "test",
    count: int = 20,
    trajectories: int = 16,
    levels: int = 30,
    siblings: str = "4x4x4",
    pool: str = "10x64",
    paths: str = "10x2",
    path_levels: int = 8,
    settings: Sequence[str] = (),
    group: int = 8,
    calibrate: Path | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    executor: str = "ray",
    workers: int | None = None,
    address: str | None = None,
) -> Audit:
    """Check everything, the cheap first; ValueError with one sentence for the first mistake."""
    check_where(executor, device, dtype, workers, address)
    steps = _steps(step_rewards, step_models)
    reward = default_reward(model, reward)
    gold = gold_or_default(model, gold)
    check_independent(reward, gold)
    source, texts = _prompts(prompts_file, set_name, split, count)
    _check_calibrate(calibrate, steps, source, [canonical(text) for text in texts] if model == "scenes" else texts)
    at, children, completions = parse_size(siblings, ("levels", "children", "completions"), "--siblings")
    _check_enough(len(texts), trajectories, children, completions)
    design = Design(
        model=model,
        reward=reward,
        gold=gold,
        steps=steps,
        source=source,
        texts=tuple(texts),
        levels=levels,
        trajectories=trajectories,
        scored=tuple(range(levels, 0, -1)),
        parents=spread_levels(levels, at) if at else (),
        children=children,
        completions=completions,
        pool=_few(parse_size(pool, ("prompts", "samples"), "--pool"), len(texts), "--pool"),
        paths=_few(parse_size(paths, ("prompts", "seeds"), "--paths"), len(texts)),
        path_levels=path_levels,
        settings=_settings(settings),
        group=group,
        dtype=dtype,
    )
    return _resolved(design, out, calibrate, device, executor, workers, address)


def _resolved(design: Design, out: Path, calibrate: Path | None, device, executor, workers, address) -> Audit:
    """The second half: what needs files or the network."""
    design.check()
    steps = tuple(_found(step, design.model) for step in design.steps)
    scenes = any(needs_scenes(design.model, reward) for reward in (design.reward, design.gold) if reward != VERIFIER)
    check_prompts(design.texts, scenes or design.gold == VERIFIER)
    check_writable(out, "audit folder")
    if calibrate:
        if calibrate.is_dir():
            raise ValueError(f"--calibrate {calibrate} is a folder; name a file in it, as {calibrate / 'calibration.json'}")
        check_writable(calibrate.parent, "folder")
    model = resolve_model(design.model)
    check_size(design.reward, *image_size(model, design.settings.get("height"), design.settings.get("width")))
    rewards = (design.reward, as_reward(design.gold))
    for reward in rewards:
        find_weights(reward)
    reward_weights = reward_key(*rewards) + "".join(step_key(step.name, step.model) for step in steps if step.model)
    design = replace(design, steps=steps, weights=model_key(model), reward_weights=reward_weights)
    check_folder(design.to_dict(), out, FILE, "an audit")
    if executor == "ray":
        address = find(address) or "local"
    return Audit(design, model, out, calibrate, device, executor, workers, address)


def _found(step: Step, model: str) -> Step:
    """The step score with the place of its network, which must be there; x0 has none."""
    return step if step.name == "x0" else replace(step, model=absolute(find_step_model(step.name, model, step.model)))


def _steps(names: Sequence[str], models: Sequence[str]) -> tuple[Step, ...]:
    """The step scores in the order given, each once, with their models."""
    names = list(names) or ["x0"]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"--step-reward {twice[0]} is there twice")
    if "none" in names:
        raise ValueError("--step-reward none is no score; choose x0, lrm or value")
    paths: dict[str, str] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or not path or name not in names or name == "x0":
            raise ValueError(f"--step-model {text!r} must be NAME=PATH, NAME being an lrm or value given as --step-reward")
        paths[name] = path
    return tuple(Step(name, paths.get(name)) for name in names)


def _prompts(file: Path | None, set_name: str | None, split: str, count: int) -> tuple[str, list[str]]:
    """Where the prompts are from, and the first `count` of them."""
    if file is not None:
        if set_name:
            raise ValueError("--prompts and --set-name are two ways to say the same; give one of them")
        return str(file), read_prompt_file(file)[:count]
    from mcts_ray.scenes.prompts import prompts

    name = set_name or "hard"
    return f"{name} {split}", prompts(name, split)[:count]


def _check_calibrate(path: Path | None, steps: Sequence[Step], source: str, texts: Sequence[str]) -> None:
    """A calibration is of one step score, and never fitted on test prompts."""
    if path is None:
        return
    if len(steps) != 1:
        raise ValueError(f"--calibrate writes the calibration of one step score, not of {len(steps)}; give one --step-reward")
    from mcts_ray.scenes.prompts import DIFFICULTIES, prompts

    test = {prompt for name in DIFFICULTIES for prompt in prompts(name, "test")}
    if any(text in test for text in texts):
        raise ValueError(f"--calibrate must not be fitted on test prompts, as those of {source} are; use --split validation or train")


def _check_enough(prompts: int, trajectories: int, children: int, completions: int) -> None:
    for what, number in (("prompts", prompts), ("trajectories", trajectories)):
        if number < LEAST[what]:
            raise ValueError(f"{number} {what} are too few for an audit; it needs at least {LEAST[what]}")
    if children and (children < 3 or completions < 2):
        raise ValueError(f"--siblings needs at least 3 children with 2 completions each, not {children} and {completions}")


def _few(size: tuple[int, int], prompts: int, what: str = "") -> tuple[int, int]:
    """(prompts, samples) with no more prompts than there are."""
    if what and 0 < size[1] < 4:
        raise ValueError(f"{what}: best-of-n needs at least 4 samples of a prompt, not {size[1]}")
    return min(size[0], prompts), size[1]


def _settings(texts: Sequence[str]) -> dict:
    found = dict(parse_setting(text) for text in texts)
    wrong = [name for name in found if name not in SETTINGS]
    if wrong:
        raise ValueError(f"--set {wrong[0]} is no setting of an audit; choose from {', '.join(SETTINGS)}")
    return found
