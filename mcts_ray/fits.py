"""Which fields of a SearchConfig go together. Raised is a ValueError of one sentence: what is wrong, and what would be right.

What depends on the algorithm is left open for `auto`: it is checked once the choice is made (`mcts_ray.auto`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

IGE = ("ige_model", "ige_target", "ige_choice", "ige_top", "ige_version", "ige_online", "price")  # fields of jump ige
TABLED = {"best-of-n", "psp"}  # those that go by the table of an IGE, since they plan whole walks before they see a state
PRUNE = {"prune_z": "statistical", "prune_least": "statistical", "prune_stages": "stages", "prune_cold": "memory"}  # fields of its rules
# Algorithms whose states part by the noise of their jumps, those of them that are trees, those that rank unfinished states, and
# those that have no use for a step score.
NOISY = {"fk", "smc-tempered", "bfs", "svdd", "beam", "rbf", "nts", "demon", "dts", "dts-star"}
TREES = {"dts", "dts-star"}
UNSCORED = {"best-of-n", "random", "zero-order", *TREES}
SCORED = {"psp", "fk", "smc-tempered", "bfs", "svdd", "beam", "dfs", "rbf", "nts", "demon"}
AUTO = "auto"


def check_together(config: SearchConfig) -> None:
    """ValueError for the first fields that do not go together."""
    _jumps(config)
    if config.algorithm != AUTO:
        _ige(config)
        _algorithm(config)
        check_budget(config)
        _pruning(config)
        _fusion(config)


def check_budget(config: SearchConfig) -> None:
    """ValueError unless the budget pays for a trajectory. What one costs by the table of an IGE is known once that has been read."""
    known = config.jump != "ige" or config.jump_table is not None
    if known and config.budget is not None and config.budget < config.trajectory_nfe:
        raise ValueError(f"budget {config.budget} is below one trajectory, which needs {config.trajectory_nfe} NFE ({_walk(config)})")


def _jumps(config: SearchConfig) -> None:
    if config.jump != "ige" and (config.jump == "table") != (config.jump_table is not None):
        raise ValueError("jump table and jump_table belong together: set both or neither")
    if config.jump_table is not None and len(config.jump_table) != config.levels:
        raise ValueError(f"jump_table has {len(config.jump_table)} entries where levels is {config.levels}")
    wrong = sorted(set(config.jump_table or ()) - set(config.jumps)) or [k for k in config.jumps if k < 1]
    if wrong:
        raise ValueError(f"jump size {wrong[0]} is not one of jumps {list(config.jumps)}, which must be at least 1")
    if config.jump != "constant" and not _default(config, "k"):
        raise ValueError(f"k is the jump where jump is constant, and has no effect on jump {config.jump}; leave one of them out")


def _ige(config: SearchConfig) -> None:
    if config.jump == "ige" and config.algorithm not in TABLED | {"mcts"}:
        raise ValueError(
            f"jump ige chooses at the states of a tree, which {config.algorithm} has not; set algorithm to mcts or jump to table"
        )
    set_ = [name for name in IGE if not _default(config, name)]
    if set_ and config.jump != "ige":
        raise ValueError(f"{set_[0]} belongs to jump ige; set jump to ige or leave it out")
    if config.algorithm in TABLED and set_ not in ([], ["ige_model"]):
        name = next(name for name in set_ if name != "ige_model")
        raise ValueError(f"{config.algorithm} goes by the table of the IGE, on which {name} has no effect; leave {name} out")
    if config.ige_online is not None and config.ige_version is not None:
        raise ValueError("a search that is pinned to a version learns nothing; set ige_version or ige_online")
    if config.ige_choice != "top-m" and not _default(config, "ige_top"):
        raise ValueError(f"ige_top is the m of top-m, and ige_choice is {config.ige_choice}; set that to top-m or leave ige_top out")
    if config.ige_online is not None and (config.ige_choice == "greedy" or config.ige_target != "value"):
        raise ValueError(
            "ige_online compares children of one state by their rewards; set ige_choice to top-m or sample, ige_target to value"
        )
    if config.ige_online is not None and config.ige_top == 1:
        raise ValueError("ige_online compares children by several jumps, where ige_top 1 makes them by one; set ige_top to 2 or more")


def _algorithm(config: SearchConfig) -> None:
    if config.algorithm in SCORED and config.step_reward == "none":
        raise ValueError(f"{config.algorithm} ranks by step scores; set step_reward to x0, lrm or value")
    if config.algorithm in NOISY and config.eta == 0:
        raise ValueError(f"{config.algorithm} needs noise, without which copies of a state stay equal; set eta above 0")
    _schedule(config)
    if config.step_model is not None and not config.scores_in_engine:
        raise ValueError("step_model is the network of step_reward lrm or value; set step_reward to one of them")
    decodes = not config.scores_in_engine
    if config.algorithm == "psp" and decodes and config.max_decodes is not None and config.max_decodes < 3:
        raise ValueError(f"psp needs max_decodes of at least 3, two of them for step scores, not {config.max_decodes}")
    if config.algorithm in UNSCORED and config.step_reward not in (None, "none") and not config.record_scores:
        raise ValueError(f"{config.algorithm} uses no step scores; leave step_reward at none, or record them with record_scores")
    if config.record_scores and decodes and config.max_decodes is not None:
        raise ValueError("record_scores decodes every state; leave max_decodes unset")
    if config.calibration not in (None, "none") and config.algorithm != "mcts":
        raise ValueError(f"{config.algorithm} takes raw step scores; leave calibration unset or set algorithm to mcts")
    if config.calibration not in (None, "none") and config.step_reward in (None, "none"):
        raise ValueError("a calibration needs step scores; set step_reward to that which it was made for, for example x0")
    if config.wait and (config.algorithm != "mcts" or config.step_reward in (None, "none")):
        raise ValueError("wait stops the walks of mcts by step scores; set algorithm to mcts and step_reward to x0, lrm or value")
    if config.algorithm == "mcts" and config.eta:
        raise ValueError("mcts rolls out without noise and branches by phi; leave eta at 0")


def _schedule(config: SearchConfig) -> None:
    """Trees branch where phi is above 0; the other noisy algorithms copy states at all levels."""
    if config.phi_schedule is None or config.algorithm == "mcts":
        return
    if config.eta is not None:
        raise ValueError("eta and phi_schedule both say how noisy a jump is; set one of them")
    if config.algorithm in NOISY and config.phi == 0:
        raise ValueError(f"{config.algorithm} needs noise, without which copies of a state stay equal; set phi above 0")
    if config.algorithm in NOISY - TREES and config.phi_schedule != "constant":
        raise ValueError(
            f"{config.algorithm} needs noise at every level, where {config.phi_schedule} has none in the last fifth; "
            "set phi_schedule to constant"
        )


def _pruning(config: SearchConfig) -> None:
    if config.prune and config.algorithm != "mcts":
        raise ValueError(f"{config.algorithm} cannot prune by rules; leave prune empty or set algorithm to mcts")
    if config.jump != "ige" and ("gain" in config.prune) != (config.prune_gains is not None):
        raise ValueError("the rule gain of prune and prune_gains belong together: set both or neither")
    for name, rule in PRUNE.items():
        if rule not in config.prune and not _default(config, name):
            raise ValueError(f"{name} belongs to the rule {rule} of prune; add it to prune or leave {name} out")
    if config.prune_gains is not None and len(config.prune_gains) != config.levels:
        raise ValueError(f"prune_gains has {len(config.prune_gains)} entries where levels is {config.levels}")


def _fusion(config: SearchConfig) -> None:
    if config.fuse_model is not None and config.fuse != "decoder":
        raise ValueError("fuse_model is the network of fuse decoder; set fuse to decoder or leave fuse_model out")
    if config.fuse == "none":
        return
    if config.algorithm != "mcts":
        raise ValueError(f"{config.algorithm} has no siblings to fuse; leave fuse at none or set algorithm to mcts")
    affordable = config.spendable // config.trajectory_nfe
    if config.phi == 0 and affordable < 7:
        raise ValueError(f"with phi 0 only seeds can be fused, 6 into one more; the budget pays for {affordable} seeds")


def _walk(config: SearchConfig) -> str:
    """What the length of a trajectory follows from."""
    if config.algorithm == "mcts" and config.rollout_stride:
        return f"levels {config.levels}, rollout_stride {config.rollout_stride}"
    return f"levels {config.levels}, " + (f"k {config.k}" if config.jump == "constant" else f"jump {config.jump}")


def _default(config: SearchConfig, name: str) -> bool:
    """Whether a field has its default."""
    return getattr(config, name) == type(config).model_fields[name].default
