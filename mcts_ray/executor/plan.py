"""A request met with a loaded model: checked, defaults filled in, one search for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mcts_ray.auto import choose
from mcts_ray.checks import (
    canonical,
    check_algorithm,
    check_prompts,
    check_size,
    choose_reward,
    find_calibration,
    fusion_decoder,
    needs_scenes,
    with_table,
)
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.levels import Levels, ays_levels
from mcts_ray.diffusion.sizing import choose_batch_size
from mcts_ray.diffusion.taps import middle_tap
from mcts_ray.executor.backend import Plan
from mcts_ray.gain import make_policy
from mcts_ray.gain.folder import begin_online, find_ige, weights
from mcts_ray.reward import ImageReward, reward_name
from mcts_ray.reward.refresh import Refreshed
from mcts_ray.reward.step import find_step_model
from mcts_ray.search import ALGORITHMS, Search, Setting
from mcts_ray.search.angles import Angles
from mcts_ray.tree.weights import FEATURES


def make_plan(
    model: str,
    denoiser: Denoiser,
    prompts: Sequence[str],
    config: SearchConfig,
    reward: str | ImageReward | None,
    prefix: str = "",
    batch_size: int | str | None = None,
) -> Plan:
    """The plan of a request, with searches named by `prefix` and their number; ValueError if this model cannot do it. batch_size: what
    was asked for, see `choose_batch_size`."""
    check_algorithm(config.algorithm)
    choice = choose(config, model, reward)
    config = resolve(model, denoiser, prompts, choice.config, reward)
    searches = tuple(build(model, denoiser, f"{prefix}{index}", prompt, config) for index, prompt in enumerate(prompts))
    shape = denoiser.adapter.latent_shape(config.height, config.width)
    dtype = str(denoiser.adapter.unet.dtype).removeprefix("torch.")
    log_snr = tuple(denoiser.levels(config.levels, config.grid).log_snr_L.tolist())
    notes = [choice.why, denoiser.evaluator(config.ige_model).config.guidance_note(config.guidance) if config.jump == "ige" else None]
    samples = choose_batch_size(denoiser, shape, batch_size)
    return Plan(config, searches, shape, str(denoiser.adapter.device), dtype, samples, log_snr, tuple(filter(None, notes)))


def resolve(
    model: str, denoiser: Denoiser, prompts: Sequence[str], config: SearchConfig, reward: str | ImageReward | None
) -> SearchConfig:
    """Check a request against a model, and fill in its defaults."""
    reward = choose_reward(model, config.reward, reward)
    check_prompts(prompts, needs_scenes(model, reward))
    name = reward if isinstance(reward, str) else reward_name(reward)
    config = config.resolved(model == "scenes", denoiser.adapter.default_size, name)
    check_size(reward, config.height, config.width)
    denoiser.adapter.latent_shape(config.height, config.width)
    denoiser.levels(config.levels, config.grid)
    if config.scores_in_engine:
        denoiser.scorer(config.step_reward, find_step_model(config.step_reward, model, config.step_model))
    _fused(model, denoiser, config)
    return with_ige(model, denoiser, config) if config.jump == "ige" else config


def with_ige(model: str, denoiser: Denoiser, config: SearchConfig) -> SearchConfig:
    """The IGE of a configuration checked against the model; its table is filled in, and for mcts, which asks the network, its price."""
    source = find_ige(model, config.ige_model)
    online = {}
    if config.ige_online:
        online["ige_online"] = source = begin_online(source, config.ige_online)
    ige = denoiser.evaluator(source).config
    reward = config.reward if config.algorithm == "mcts" else None  # others go by the table alone, as do pools, which keep every sample
    ige.check_search(config.levels, config.grid, config.ige_target, config.jumps, reward)
    weights(source, config.ige_version)
    priced = config.algorithm == "mcts" and config.price is None
    update = {"ige_model": source, **online} | ({"price": ige.price} if priced else {})
    return with_table(config, ige).model_copy(update=update)


def build(model: str, denoiser: Denoiser, id: str, prompt: str, config: SearchConfig) -> Search:
    """The search of one prompt; `config` must be resolved. The scenes model is given its own grammar's wording."""
    scored: dict[str, Any] = {}
    if config.scores_in_engine:
        scored = {"step_reward": config.step_reward, "step_model": find_step_model(config.step_reward, model, config.step_model)}
    if config.jump == "ige" and config.algorithm == "mcts":
        scored |= {"ige_model": config.ige_model, "ige_target": config.ige_target, "ige_version": config.ige_version}
        scored |= {"ige_features": config.ige_online is not None}
    setting = Setting(
        canonical(prompt) if model == "scenes" else prompt,
        config.negative_prompt,
        config.guidance,
        config.levels,
        config.grid,
        height=config.height,
        width=config.width,
        order=config.order,
        **scored,
        **_fused(model, denoiser, config),
    )
    levels = denoiser.levels(config.levels, setting.grid)
    policy = make_policy(config, partial(ays_levels, levels, denoiser.adapter.ays_grid))
    search = ALGORITHMS[config.algorithm].from_config(id, setting, config, angles(config, levels), policy)
    search.record_scores = config.record_scores
    calibration = find_calibration(config, model)
    if calibration:
        calibration = calibration.on(levels.log_snr_L.tolist())
        search.calibrate(Refreshed(calibration) if config.calibration_refresh else calibration)
    return search


def angles(config: SearchConfig, levels: Levels) -> Angles:
    """phi(a, s) of the jumps of trajectories, by eta or by a schedule of phi; `config` must be resolved."""
    by = {"eta": config.eta} if config.phi_schedule is None else {"phi": config.phi, "schedule": config.phi_schedule}
    return Angles(tuple(levels.alpha_L.tolist()), tuple(levels.sigma_L.tolist()), **by)


def _fused(model: str, denoiser: Denoiser, config: SearchConfig) -> dict[str, str]:
    """What the units of a search that fuses by features need to know; ValueError if its network is not there, or of another model."""
    folder = fusion_decoder(model, config)
    if folder is not None:
        from mcts_ray.fusion.decoder import check_decoder

        return {"tap": check_decoder(folder, denoiser.adapter), "fuse_model": folder}
    return {"tap": middle_tap(denoiser.adapter.tap_points)} if config.fuse in FEATURES else {}
