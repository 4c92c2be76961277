"""A `compare` request from the command line, checked in full before torch or a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcts_ray.actors.cluster import find
from mcts_ray.checks import (
    check_ige,
    check_prompts,
    check_size,
    check_step_model,
    default_reward,
    needs_scenes,
)
from mcts_ray.compare.design import (
    POLICIES,
    Design,
    check_folder,
    configs_of,
    every_arm,
    model_key,
    parse_arm,
    parse_policy,
    parse_times,
    reward_key,
    step_key,
    with_oracles,
)
from mcts_ray.compare.judge import VERIFIER, as_reward
from mcts_ray.compare.prompts import read_prompt_file
from mcts_ray.settings import parse_setting
from mcts_ray.diffusion.resolve import Model, image_size, resolve_model
from mcts_ray.report.run import check_writable
from mcts_ray.request import check_where
from mcts_ray.reward import find_weights, parse_reward

QUICK = {"arms": ("best-of-n", "psp", "mcts"), "times": "8", "count": 20, "seeds": 1, "pool": 0}
FULL = {"times": "2,4,8,16", "count": 100, "seeds": 3, "pool": 128}  # and every algorithm with both eta
VALIDATION = 40  # prompts of each scenes set on which the jump policy is chosen


@dataclass(frozen=True)
class Comparison:
    """A design, and where it is carried out; `pools`: the folder of its pools."""

    design: Design
    model: Model
    out: Path
    pools: Path
    device: str = "auto"
    executor: str = "ray"
    workers: int | None = None
    address: str | None = None


def make_comparison(
    arms: Sequence[str] = (),
    *,
    out: Path,
    times: str | None = None,
    prompts_file: Path | None = None,
    set_names: Sequence[str] = (),
    split: str = "test",
    count: int | None = None,
    seeds: int | None = None,
    levels: int = 30,
    images: int = 4,
    model: str = "scenes",
    reward: str | None = None,
    gold: str | None = None,
    settings: Sequence[str] = (),
    oracle: bool = False,
    full: bool = False,
    pool: int | None = None,
    policies: Sequence[str] = (),
    validation_file: Path | None = None,
    validation_count: int | None = None,
    pools: Path | None = None,
    group: int = 30,
    device: str = "auto",
    dtype: str = "fp32",
    executor: str = "ray",
    workers: int | None = None,
    address: str | None = None,
) -> Comparison:
    """Check everything, the cheap first; ValueError with one sentence for the first mistake. None: `QUICK`, or `FULL`."""
    check_where(executor, device, dtype, workers, address)
    scale = FULL if full else QUICK
    chosen = [parse_arm(text) for text in arms] or (every_arm(levels) if full else [parse_arm(text) for text in QUICK["arms"]])
    chosen = with_oracles(chosen) if oracle else chosen
    twice = [arm.label for arm in chosen if sum(arm.label == other.label for other in chosen) > 1]
    if twice:
        raise ValueError(f"arm {twice[0]!r} is there twice")
    pool = scale["pool"] if pool is None else pool
    if pool and not 2 <= pool <= 1000:
        raise ValueError(f"--pool {pool}: a pool has from 2 to 1000 samples per prompt")
    reward = default_reward(model, reward)
    gold = gold_or_default(model, gold)
    check_independent(reward, gold)
    count = count or scale["count"]
    sets = _sets(prompts_file, set_names, split, count)
    chooses = pool and (validation_file or len(policies or POLICIES) > 1)
    tuning = _validation(validation_file, prompts_file is None, sets, validation_count or VALIDATION) if chooses else {}
    design = Design(
        arms=tuple(chosen),
        times=parse_times(times or scale["times"]),
        seeds=seeds or scale["seeds"],
        levels=levels,
        sets=sets,
        model=model,
        weights="",
        reward=reward,
        gold=gold,
        settings=dict(parse_setting(text) for text in settings),
        images=images,
        group=group,
        dtype=dtype,
        pool=pool,
        policies=tuple(parse_policy(text) for text in policies or POLICIES) if pool else (),
        validation=tuning,
    )
    return _resolved(design, out, pools, device, executor, workers, address)


def _resolved(design: Design, out: Path, pools: Path | None, device, executor, workers, address) -> Comparison:
    """The second half: what needs files or the network."""
    design.check()
    for config in configs_of(design):
        check_step_model(design.model, config)
        check_ige(design.model, config)
    for texts in (*design.sets.values(), *design.validation.values()):
        scenes = any(needs_scenes(design.model, reward) for reward in (design.reward, design.gold) if reward != VERIFIER)
        check_prompts(texts, scenes or design.gold == VERIFIER)
    check_writable(out, "comparison folder")
    model = resolve_model(design.model)
    check_size(design.reward, *image_size(model, design.settings.get("height"), design.settings.get("width")))
    rewards = (design.reward, as_reward(design.gold))
    for reward in rewards:
        find_weights(reward)
    reward_weights = reward_key(*rewards) + step_key(design)
    design = Design(**{**vars(design), "weights": model_key(model), "reward_weights": reward_weights})
    check_folder(design, out)
    if executor == "ray":
        address = find(address) or "local"
    return Comparison(design, model, out, pools or out / "pools", device, executor, workers, address)


def gold_or_default(model: str, gold: str | None) -> str:
    """The held-out judge: the one asked for, or the verifier for the model of scenes."""
    if gold is None and model != "scenes":
        raise ValueError(f"model {model} has no gold judge of its own; choose one with --gold, for example MODULE:FUNCTION")
    gold = gold or VERIFIER
    if gold != VERIFIER:
        parse_reward(gold)
    return gold


def check_independent(reward: str, gold: str) -> None:
    """Gold must be a judge that the guide has no part in: judged by the guide itself, whatever it likes would be good."""
    guides = {term.name for term in parse_reward(reward)}
    judges = {term.name for term in parse_reward(as_reward(gold))}
    shared = sorted(guides & judges)
    if shared:
        name = VERIFIER if shared[0] == as_reward(VERIFIER) else shared[0]
        raise ValueError(
            f"gold {gold!r} and guide {reward!r} share {name!r}: a guide that judges itself is always right; choose an independent gold"
        )


def _sets(file: Path | None, names: Sequence[str], split: str, count: int) -> dict[str, list[str]]:
    """The prompts by the name of their set, the first `count` of each."""
    if file is not None:
        if names:
            raise ValueError("--prompts and --set-name are two ways to say the same; give one of them")
        return {file.stem: read_prompt_file(file)[:count]}
    from mcts_ray.scenes.prompts import prompts

    return {name: prompts(name, split)[:count] for name in names or ("hard",)}


def _validation(file: Path | None, of_scenes: bool, sets: dict[str, list[str]], count: int) -> dict[str, list[str]]:
    """On what a jump policy is chosen: a file, or validation prompts of each scenes set that are not compared themselves."""
    if file is not None:
        texts = read_prompt_file(file)[:count]
        return {name: texts for name in sets}
    if not of_scenes:
        return {}
    from mcts_ray.scenes.prompts import prompts

    found = {name: [p for p in prompts(name, "validation") if p not in set(texts)][:count] for name, texts in sets.items()}
    short = [name for name, texts in found.items() if not texts]
    if short:
        raise ValueError(f"all validation prompts of {short[0]} are compared; leave some on which to choose the jump policy")
    return found
