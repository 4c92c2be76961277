"""`algorithm auto`: the search that the committed comparisons say is best for a budget and a model, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcts_ray.config import SearchConfig
from mcts_ray.settings import make_config

AUTO = "auto"
WALKS = {"grid", "order", "jump", "k", "jump_table", "rollout_stride"}  # fields of how a trajectory walks
CALLS = 7.5  # T / k of the jumps that were best on scenes, k = 4 where T = 30: eight calls
RICH = 2  # times T from which on the tree was ahead on scenes (measured at 2, 4, 8 and 16)
TREE = {"phi_schedule": "constant", "phi": 1.2, "branchings": 12}


@dataclass(frozen=True)
class Choice:
    """What a configuration becomes, and why, in a sentence; None where nothing was left to choose."""

    config: SearchConfig
    why: str | None = None


def choose(config: SearchConfig, model: str) -> Choice:
    """The configuration with an algorithm in place of `auto`, and with what goes with it unless that was set."""
    if config.algorithm != AUTO:
        return Choice(config)
    if model != "scenes":
        why = f"auto takes best-of-n: no comparison of {model} is committed; `mcts-ray compare` makes one"
        return Choice(_with(config, {"algorithm": "best-of-n"}), why)
    update: dict[str, Any] = {}
    if not WALKS & config.model_fields_set:
        update["k"] = max(1, round(config.levels / CALLS))
    times = config.spendable / config.levels
    if times < RICH:
        why = (
            f"auto takes best-of-n with long jumps: {times:.3g} times T are less than the {RICH} from which on a tree was better on hard "
            "test prompts of scenes (benchmarks/results/quality-mcts-4.json)"
        )
        return Choice(_with(config, update | {"algorithm": "best-of-n"}), why)
    update |= {name: value for name, value in TREE.items() if name not in config.model_fields_set}
    why = (
        f"auto takes mcts with long jumps and strong noise: at 2, 4, 8 and 16 times T (here {times:.3g}) best-of-n with the same jumps "
        "needs 1.6 [1.1, 2.3], 1.4 [.97, 2.1], 2.3 [1.3, > 4.3] and > 2.1 [1.1, > 2.1] times the compute for as much gold on 100 hard test "
        "prompts of scenes (benchmarks/results/quality-mcts-4.json)"
    )
    return Choice(_with(config, update | {"algorithm": "mcts"}), why)


def _with(config: SearchConfig, update: dict[str, Any]) -> SearchConfig:
    return make_config(config.model_dump(exclude_unset=True) | update, "algorithm auto: ")
