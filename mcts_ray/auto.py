"""`algorithm auto`: the search that the committed comparisons say is best for a budget and a model, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mcts_ray.config import SearchConfig
from mcts_ray.fits import AUTO
from mcts_ray.reward import ImageReward
from mcts_ray.settings import make_config

WALKS = {"grid", "order", "jump", "jump_table", "rollout_stride"}  # fields of how a trajectory walks, but for k
LEVELS, K = 30, 4  # T, and the jumps that were best there
CALLS = LEVELS / K  # of a trajectory by such jumps
LONG = 10  # calls of a trajectory, up to which its jumps count as long ones
RICH = 7.5  # trajectories from which on the tree was ahead: 2 times T (measured at 2, 4, 8 and 16)
MOST = 60  # up to which that is certain: 16 times T (at 32 it is not)
TREE = {"phi_schedule": "constant", "phi": 1.2, "branchings": 12}
FEW = 60  # trajectories below which an eighth of them in flight is too few for a batch: 16 times T
SHARE = 0.5  # in flight there, which finds as much
RESULTS = "benchmarks/results/quality-mcts-5.json"


@dataclass(frozen=True)
class Choice:
    """What a configuration becomes, and why, in a sentence; None where nothing was left to choose."""

    config: SearchConfig
    why: str | None = None


def choose(config: SearchConfig, model: str, reward: str | ImageReward | None = None) -> Choice:
    """The configuration with an algorithm in place of `auto`, and with what goes with it unless that was set. reward: the one given with
    the model, where the configuration has none. ValueError if what was set does not go with what is chosen."""
    if config.algorithm != AUTO:
        return Choice(config)
    if other := _not_compared(config, model, config.reward or reward):
        return Choice(_with(config, {"algorithm": "best-of-n"}), f"auto takes best-of-n: {other}")
    update: dict[str, Any] = {} if "k" in config.model_fields_set else {"k": max(1, round(config.levels / CALLS))}
    k = update.get("k", config.k)
    calls = math.ceil(config.levels / k)
    affordable = config.spendable / calls
    if calls > LONG:
        why = f"with k = {k} a trajectory has {calls} calls, and on such long ones no tree was better; leave k out for longer jumps"
        return Choice(_with(config, {"algorithm": "best-of-n"}), f"auto takes best-of-n: {why}")
    if config.max_decodes is not None:
        why = "a tree decodes a quarter to a half more images than best-of-n for the same calls, and max_decodes bounds these"
        return Choice(_with(config, update | {"algorithm": "best-of-n"}), f"auto takes best-of-n with long jumps: {why}")
    if affordable < RICH:
        why = f"the budget pays for {affordable:.3g} trajectories of {calls} calls, and a tree was better from {RICH} on ({RESULTS})"
        return Choice(_with(config, update | {"algorithm": "best-of-n"}), f"auto takes best-of-n with long jumps: {why}")
    tree = TREE | ({"in_flight_share": SHARE} if affordable < FEW else {})
    update |= {name: value for name, value in tree.items() if name not in config.model_fields_set}
    here = "" if (config.levels, k) == (LEVELS, K) else f"; T = {config.levels} and k = {k} were not measured themselves"
    here += "" if affordable <= MOST else f"; of more than {MOST} trajectories, which this budget pays for, nothing is certain"
    why = (
        f"auto takes mcts with long jumps and strong noise: with T = {LEVELS} and k = {K}, at 2, 4, 8 and 16 times T "
        f"(here {config.spendable / config.levels:.3g}) best-of-n with the same jumps needs 1.3 [1.1, 1.8], 1.4 [1.1, 2.0], "
        f"2.0 [1.2, > 4.3] and > 2.1 [1.1, > 2.1] times the compute for as much gold on 100 hard test prompts of scenes ({RESULTS}){here}"
    )
    return Choice(_with(config, update | {"algorithm": "mcts"}), why)


def _not_compared(config: SearchConfig, model: str, reward: str | ImageReward | None) -> str | None:
    """Why no committed comparison speaks of such searches; None where one does."""
    if model != "scenes":
        return f"no comparison of {model} is committed; `mcts-ray compare` makes one"
    if reward not in (None, "scenes"):
        name = reward if isinstance(reward, str) else "a reward of your own"
        return f"searches by {name} were not compared; `mcts-ray compare` does that"
    own = sorted(WALKS & config.model_fields_set) + ["eta"] * bool(config.eta)
    return f"no tree has been shown to be better where {own[0]} is set; leave it out for long jumps" if own else None


def _with(config: SearchConfig, update: dict[str, Any]) -> SearchConfig:
    return make_config(config.model_dump(exclude_unset=True) | update, "algorithm auto: ")
