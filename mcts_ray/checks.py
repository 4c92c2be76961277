"""What can be said against a request before torch or a model is loaded; every mistake is a ValueError of one sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcts_ray.auto import AUTO
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.resolve import Model, latent_channels, resolve_model
from mcts_ray.fits import check_budget
from mcts_ray.gain.folder import Config, absolute, find_ige, weights
from mcts_ray.report.run import check_writable
from mcts_ray.reward import ImageReward, parse_reward, step
from mcts_ray.reward.lrm.layout import check_latents, find
from mcts_ray.reward.step import SHIPPED, find_step_model, place_of, step_key
from mcts_ray.search import ALGORITHMS

if TYPE_CHECKING:
    from mcts_ray.reward.calibrate import Calibration

PLACES = {"calibration": os.path.abspath, "fuse_model": os.path.abspath, "step_model": step.absolute}  # fields that name files and folders
PLACES |= {"ige_model": absolute, "ige_online": absolute}


def check_algorithm(name: str) -> None:
    """The algorithm must be known."""
    known = [*ALGORITHMS, AUTO]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise ValueError(f"unknown algorithm {name!r}; {hint}")


def default_reward(model: str, reward: str | None) -> str:
    """The reward to use with a model: the one asked for, or the scorer of scenes for the model of scenes."""
    reward = own_reward(model) if reward is None else reward
    if reward is None:
        raise ValueError(f"model {model} has no reward of its own; choose one, for example jpeg or MODULE:FUNCTION")
    parse_reward(reward)
    return reward


def own_reward(model: str) -> str | None:
    """The reward that goes with a model, if any does."""
    return "scenes" if model == "scenes" else None


def choose_reward(model: str, asked: str | None, given: str | ImageReward | None) -> str | ImageReward:
    """The reward of a search: the configuration's, else the one given with the model, else the model's own."""
    reward = given if asked is None else asked
    return default_reward(model, reward) if reward is None or isinstance(reward, str) else reward


def needs_scenes(model: str, reward: object) -> bool:
    """Whether prompts must follow the scenes grammar: its model or, by name, its scorer is used."""
    return model == "scenes" or (isinstance(reward, str) and any(term.name == "scenes" for term in parse_reward(reward)))


def check_prompts(prompts: Sequence[str], scenes: bool) -> None:
    """There must be prompts, none empty, and for scenes all must be in the grammar."""
    if isinstance(prompts, str):
        raise ValueError("prompts must be a list of prompts, not one string")
    if not prompts:
        raise ValueError("no prompt was given")
    if any(not prompt.strip() for prompt in prompts):
        raise ValueError("a prompt must not be empty")
    if scenes:
        from mcts_ray.scenes.grammar import parse

        for prompt in prompts:
            parse(prompt)


def canonical(prompt: str) -> str:
    """A scenes prompt in the words the model was trained on."""
    from mcts_ray.scenes.grammar import parse

    return parse(prompt).caption


def fusion_decoder(model: str, config: SearchConfig) -> str | None:
    """The folder of the network that maps fused features back, where `config` fuses by it; it must be there."""
    if config.fuse != "decoder":
        return None
    folder = Path(config.fuse_model) if config.fuse_model else Path(__file__).parent / "scenes" / "weights" / "fusion"
    if not config.fuse_model and model != "scenes":
        raise ValueError(f"fuse decoder needs a network trained for {model}; make one with `mcts-ray train fusion`, and set fuse_model")
    if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
        raise ValueError(f"fuse decoder finds no network in {folder}; make one with `mcts-ray train fusion`, and set fuse_model")
    return str(folder.absolute())


def check_step_model(model: str, config: SearchConfig) -> None:
    """The network that scores states beside the denoiser must be there, if one is asked for."""
    if config.scores_in_engine:
        source = find_step_model(config.step_reward, model, config.step_model)
        folder = place_of(config.step_reward, source)
        if config.step_reward == "lrm" and (folder / "config.json").is_file():
            _check_lrm(str(folder), resolve_model(model))


def _check_lrm(folder: str, model: Model) -> None:
    """What an LRM of the own layout says of its generator must hold of this one; other layouts are compared once the model is loaded."""
    own = find(folder).config
    check_latents(folder, (own["family"], own["latents"]["channels"]), ("sdxl" if model.is_xl else "sd", latent_channels(model)))


def check_ige(model: str, config: SearchConfig) -> None:
    """The network that chooses jumps must be there, if one is asked for."""
    if config.jump == "ige":
        ige = Config.read(find_ige(model, config.ige_model))
        reward = config.reward if config.algorithm == "mcts" else None
        ige.check_search(config.levels, config.grid, config.ige_target, config.jumps, reward)
        with_table(config, ige)
        weights(config.ige_model or "scenes", config.ige_version)
        if config.ige_online:
            check_writable(Path(config.ige_online).expanduser(), "ige_online")


def with_table(config: SearchConfig, ige: Config) -> SearchConfig:
    """A configuration with jump ige that has a table: the network's own, unless it was given one. ValueError if by that its budget is below
    one trajectory."""
    found = config if config.jump_table else config.model_copy(update={"jump_table": ige.table_of(config.jumps)})
    check_budget(found)
    return found


def collection_prompts(model: str, reward: object, prompts: Sequence[str] | None, count: int | None) -> list[str]:
    """The first `count` prompts (None: all) to make training data for, each once, those of scenes in its own words; without any given
    the training prompts of scenes, and where `count` is more than those, other captions. ValueError for another model without prompts, or
    prompts that cannot be."""
    if prompts is None:
        if model != "scenes":
            raise ValueError(f"model {model} has no prompts of its own; give some with --prompts FILE")
        from mcts_ray.scenes.prompts import training_prompts

        prompts = training_prompts()
        if count is not None and count > len(prompts):
            from mcts_ray.reward.lrm.renders import further_prompts

            prompts += further_prompts(prompts)
    texts = list(prompts)[:count]
    check_prompts(texts, needs_scenes(model, reward))
    return list(dict.fromkeys(map(canonical, texts) if model == "scenes" else texts))


def check_size(reward: object, height: int, width: int) -> None:
    """The scorer of scenes reads images of one size only."""
    if needs_scenes("", reward):
        from mcts_ray.scenes.render import SIDE

        if (height, width) != (SIDE, SIDE):
            raise ValueError(f"the scenes reward reads images of {SIDE}x{SIDE} pixels, not {height}x{width}; choose another reward")


def with_absolute_places(config: SearchConfig) -> SearchConfig:
    """The same files and folders, named for a process with another working directory."""
    named = {name: getattr(config, name) for name in PLACES if getattr(config, name) not in (None, "none")}
    return config.model_copy(update={name: PLACES[name](place) for name, place in named.items()})


def find_calibration(config: SearchConfig, model: str) -> Calibration | None:
    """The calibration of a search whose reward is known; ValueError for a file that is none, or one of other scores, and where a search
    that cannot do without has none.

    Without one asked for, it is the one beside the step model, if it was made for this reward, model and guidance and these weights of the
    step model; "none": without.
    """
    found = _calibration(config, model)
    if config.wait and found is None:
        raise ValueError(
            f"wait needs calibrated step scores, and there is no calibration of {config.step_reward} for reward {config.reward}; make one "
            "with `mcts-ray audit --calibrate` and set calibration to it"
        )
    return found


def _calibration(config: SearchConfig, model: str) -> Calibration | None:
    if config.algorithm != "mcts" or config.step_reward in (None, "none") or config.calibration == "none":
        return None
    from mcts_ray.reward.calibrate import Calibration

    asked = config.calibration is not None
    path = Path(config.calibration) if asked else _beside(config, model)
    if path is None or not (asked or path.is_file()):
        return None
    found = Calibration.load(path)
    ours = {"step_reward": config.step_reward, "reward": config.reward, "model": _place(model)}
    ours["guidance"] = config.own_guidance(model == "scenes")
    if config.scores_in_engine:
        ours["step_weights"] = step_key(config.step_reward, config.step_model or "scenes")
    theirs = {name: getattr(found, name) for name in ours} | {"model": _place(found.model)}
    differ = [name for name in ours if ours[name] != theirs[name] and not {ours[name], theirs[name]} & {"", None}]
    if differ and asked:
        name = differ[0]
        raise ValueError(
            f"calibration {path} was made for {name} {theirs[name]!r}, not {ours[name]!r}; make one with `mcts-ray audit --calibrate`"
        )
    return None if differ else found


def _place(model: str) -> str:
    """A model's name, the same for every way to write a folder's; "" for a pipeline that was made by its user."""
    if model == "pipeline":  # as `Searcher` calls one
        return ""
    return str(Path(model).expanduser().resolve()) if model and Path(model).expanduser().is_dir() else model


def _beside(config: SearchConfig, model: str) -> Path | None:
    """Where the calibration of a step model lies: in its folder, or that of its file; for scenes without one named, in the package."""
    if config.step_model not in (None, "scenes"):
        path = Path(config.step_model).expanduser()
        return (path.parent if path.is_file() else path) / "calibration.json"
    return SHIPPED / config.step_reward / "calibration.json" if model == "scenes" or config.step_model else None
