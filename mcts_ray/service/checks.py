"""What can be said against a search before it is queued: mistakes, and what the operator does not allow. No torch, no files of clients."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mcts_ray.auto import choose
from mcts_ray.checks import (
    PLACES, check_algorithm, check_ige, check_prompts, check_size, check_step_model, default_reward, fusion_decoder, needs_scenes, own_reward,
)  # fmt: skip
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.resolve import Model, image_size
from mcts_ray.reward.resolve import REWARDS
from mcts_ray.service.models import SearchRequest
from mcts_ray.service.settings import Settings

ONE_LINE = r"^[^\x00-\x1f\x7f]*$"  # of a prompt: without control characters, and with more than spaces
NOT_EMPTY = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MAX_SEED, MAX_LEVELS = 2**63 - 1, 1000
MAX_SECONDS = 7 * 24 * 3600  # where the operator has no limit
MAX_TERMS = 8  # of a sum of rewards: each is a network of its own that sees every image
COUNTS = [name for name, field in SearchConfig.model_fields.items() if field.annotation in (int, int | None)]
LISTS = [name for name, field in SearchConfig.model_fields.items() if "tuple" in str(field.annotation)]


def checked(request: SearchRequest, models: Mapping[str, Model], settings: Settings) -> SearchRequest:
    """The request with model, reward and budget filled in. ValueError with one sentence for the first thing that cannot be."""
    model = request.model or settings.models[0]
    if model not in models:
        raise ValueError(f"model {model!r} is not served here; choose {' or '.join(models)}")
    check_limits(request, settings)
    check_reward_allowed(request.reward, settings)
    check_places(request)
    check_algorithm(request.algorithm)
    reward = default_reward(model, reward_of(model, settings) if request.reward is None else request.reward)
    check_prompts([request.prompt], needs_scenes(model, reward))
    chosen = choose(request.config(), model, reward).config
    for check in (check_step_model, check_ige, fusion_decoder):
        check(model, chosen)
    check_size(reward, *image_size(models[model], request.height, request.width))
    seconds = request.max_seconds or settings.max_seconds  # one that names none has the operator's
    return request.model_copy(update={"model": model, "reward": reward, "budget": request.spendable, "max_seconds": seconds})


def reward_of(model: str, settings: Settings) -> str | None:
    """The reward of a search that names none: the model's own, else the operator's; None: it must name one."""
    return own_reward(model) or settings.reward


def most(settings: Settings) -> dict[str, float]:
    """The most that a field of numbers may be on this service, beside what SearchConfig allows anyone."""
    counts = max(settings.max_budget, MAX_LEVELS)  # no count does more than the budget pays for, and some are looped over
    own = {"budget": settings.max_budget, "images": settings.max_images, "height": settings.max_side, "width": settings.max_side}
    return {**dict.fromkeys(COUNTS, counts), **own, "seed": MAX_SEED, "max_seconds": settings.max_seconds or MAX_SECONDS}


def check_limits(request: SearchRequest, settings: Settings) -> None:
    """Within what the operator allows."""
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        if len(text) > settings.max_prompt:
            raise ValueError(f"{name} has {len(text)} characters; this service allows {settings.max_prompt}")
        if _CONTROL.search(text):
            raise ValueError(f"{name} holds a control character; send it on one line")
    check_budget(request.spendable, settings)
    for name, limit in most(settings).items():
        value = getattr(request, name)
        if value is not None and value > limit:
            raise ValueError(f"{name} is {value}; this service allows {limit}")
    for name in LISTS:
        if len(getattr(request, name) or ()) > MAX_LEVELS:
            raise ValueError(f"{name} has {len(getattr(request, name))} entries; this service allows {MAX_LEVELS}")


def check_places(request: SearchRequest) -> None:
    """No file or folder is named: what ships with a model is used."""
    for name in PLACES:
        if getattr(request, name) is not None and (name, getattr(request, name)) != ("calibration", "none"):
            raise ValueError(f"{name} names a place on the service's machine, which clients may not; leave it out")


def check_budget(budget: int, settings: Settings) -> None:
    """NFE of one search."""
    if budget > settings.max_budget:
        raise ValueError(f"budget is {budget} NFE; this service allows {settings.max_budget}")


def check_reward_allowed(reward: str | None, settings: Settings) -> None:
    """Only rewards by name, without a source, functions that the operator has listed, and the operator's own default: nothing else is
    ever imported or opened."""
    if reward is not None and reward == settings.reward:
        return
    parts = (reward or "").split(",")
    if len(parts) > MAX_TERMS:
        raise ValueError(f"reward is a sum of {len(parts)} terms; this service allows {MAX_TERMS}")
    for part in parts:
        name, _, weight = part.strip().rpartition(":")
        if not name or not _is_number(weight):
            name = part.strip()
        if "@" in name:
            raise ValueError(f"reward {name!r}: clients may not say where weights lie; leave out what follows the @")
        if name and name not in REWARDS and name not in settings.rewards:
            known = ", ".join(sorted([*REWARDS, *settings.rewards]))
            raise ValueError(f"reward {name!r} is not allowed on this service; choose {known}, or a sum such as 'scenes:1,jpeg:0.2'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
