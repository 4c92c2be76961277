"""`algorithm auto`: the search that the committed comparisons say is best for a budget and a model, and why."""

from __future__ import annotations

from dataclasses import dataclass

from mcts_ray.config import BUDGET_IN_TRAJECTORIES, SearchConfig

AUTO = "auto"
WALKS = {"grid", "order", "jump", "k", "jump_table", "rollout_stride"}  # fields of how a trajectory walks
CALLS = 7.5  # T / k of the jumps that were best on scenes, k = 4 where T = 30: eight calls


@dataclass(frozen=True)
class Choice:
    """What a configuration becomes, and why, in a sentence; None where nothing was left to choose."""

    config: SearchConfig
    why: str | None = None


def choose(config: SearchConfig, model: str) -> Choice:
    """The configuration with an algorithm in place of `auto`, and with jumps unless some were asked for."""
    if config.algorithm != AUTO:
        return Choice(config)
    times = (config.budget or BUDGET_IN_TRAJECTORIES * config.levels) / config.levels
    if model != "scenes":
        return Choice(
            config.model_copy(update={"algorithm": "best-of-n"}),
            f"auto takes best-of-n: no comparison of {model} is committed, and on scenes nothing that costs as much was surely better "
            "at every budget; `mcts-ray compare` makes one",
        )
    update: dict = {"algorithm": "best-of-n"}
    if not WALKS & config.model_fields_set:
        update["k"] = max(1, round(config.levels / CALLS))
    why = (
        f"auto takes best-of-n with long jumps at {times:.3g} times {config.levels} NFE: on 100 hard test prompts of "
        "scenes no search was better at up to 8 times, and one at 16 times by .010 of gold, for four times the decoding "
        "(benchmarks/results/quality-main.json)"
    )
    return Choice(SearchConfig(**(config.model_dump(exclude_unset=True) | update)), why)
