"""Pruning policies replayed on recorded step scores, without any model: what would each have returned at equal cost?

A file holds `scores` [prompt, sample, step], the step scores of whole trajectories, and `final` [prompt, sample], their rewards;
optionally `cost` [step], what the calls cost relative to each other. A budget B pays for B whole trajectories.

    best-of-n          the expected best of B: exact, over all subsets of the N samples of a prompt
    psp                2B seeds, the B best by step ceil(S/4) go on, the B/2 best by step ceil(S/2) are finished (arXiv 2607.21591)
    halving@F,F,...    as many seeds as the budget pays for, halved (rounded up) after each of these shares of the steps

The winner is the best of the finished ones by `final`. The expectation of a pruning policy is taken over `DRAWS` seeded draws of
its seeds from the samples of each prompt; `Row.error` is the standard error that this leaves in its mean. Where 4 does not divide
S, psp spends a little more than B.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcts_ray.compare.figures import best_of, best_of_each, interval

BUDGETS = (2, 4, 8, 16)
DRAWS = 500  # of each prompt
POLICIES = "psp, best-of-n or halving@SHARE,SHARE,... as in halving@0.25,0.5,0.75"


@dataclass(frozen=True)
class Records:
    """Recorded trajectories. scores_PNS: step scores, NaN where a state has none; final_PN: rewards; cost_S: shares of a trajectory."""

    scores_PNS: np.ndarray
    final_PN: np.ndarray
    cost_S: np.ndarray

    @property
    def samples(self) -> int:
        return self.final_PN.shape[1]


@dataclass(frozen=True)
class Row:
    """One budget: mean values over prompts, the paired difference with its 95 % bootstrap interval over prompts.

    multiplier: the budget that best-of-n needs for the policy's value, as a multiple of this one; None if it gets there with no
    number of samples in the file. error: standard error of `policy` from its draws.
    """

    budget: int
    best_of_n: float
    policy: float
    diff: float
    ci: tuple[float, float]
    multiplier: float | None
    error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The row as `replay --json` prints it."""
        return asdict(self) | {"ci": list(self.ci)}


def load_all(files: Sequence[Path]) -> Records:
    """The prompts of several files together, each cut to the samples of the smallest. Raises ValueError with a sentence."""
    parts = [load(file) for file in files]
    first, samples = parts[0], min(part.samples for part in parts)
    for file, part in zip(files, parts):
        if not np.array_equal(part.cost_S, first.cost_S):
            raise ValueError(f"scores {file} has other steps or costs than {files[0]}; replay them apart")
    scores_PNS = np.concatenate([part.scores_PNS[:, :samples] for part in parts])
    return Records(scores_PNS, np.concatenate([part.final_PN[:, :samples] for part in parts]), first.cost_S)


def load(file: Path) -> Records:
    """The records in an .npz file. Raises ValueError with a sentence."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name], float) for name in ("scores", "final", "cost") if name in arrays}
    except OSError as error:
        raise ValueError(f"scores {file} cannot be read ({error.strerror or 'not an .npz file'})") from error
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"scores {file} is not an .npz file of numbers") from error
    missing = [name for name in ("scores", "final") if name not in found]
    if missing:
        raise ValueError(f"scores {file} holds no array {missing[0]!r}")
    scores, final = found["scores"], found["final"]
    if scores.ndim != 3 or final.shape != scores.shape[:2] or 0 in scores.shape:
        shapes = f"scores {list(scores.shape)}, final {list(final.shape)}"
        raise ValueError(f"scores {file} must hold scores [prompt, sample, step] and final [prompt, sample], not {shapes}")
    if not np.isfinite(final).all():
        raise ValueError(f"scores {file} has entries of final that are not finite")
    cost = found.get("cost", np.ones(scores.shape[2]))
    if cost.shape != scores.shape[2:] or not (np.isfinite(cost).all() and (cost > 0).all()):
        raise ValueError(f"scores {file} must hold a positive cost for each of its {scores.shape[2]} steps")
    return Records(scores, final, cost / cost.sum())


@dataclass(frozen=True)
class Halving:
    """Seeds are halved, rounded up, by their scores after `cuts` calls. twice: begin with 2B seeds, else with all that B pays for."""

    cuts: tuple[int, ...]
    twice: bool = False

    def sizes(self, seeds: int) -> list[int]:
        """How many run in each stage."""
        return [-(-seeds // 2**stage) for stage in range(len(self.cuts) + 1)]

    def cost(self, seeds: int, records: Records) -> float:
        """In whole trajectories."""
        calls = len(records.cost_S)
        parts = [records.cost_S[a:b].sum() for a, b in zip((0, *self.cuts), (*self.cuts, calls))]
        return float(sum(size * part for size, part in zip(self.sizes(seeds), parts)))

    def seeds(self, budget: int, records: Records) -> int:
        """How many it begins with."""
        if self.twice:
            return 2 * budget
        n = budget
        while self.cost(n + 1, records) <= budget + 1e-9:
            n += 1
        return n

    def values(self, budget: int, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Mean (P,) of the winner's final over the draws, and its squared standard error (P,)."""
        seeds = self.seeds(budget, records)
        rng = np.random.default_rng([0, budget])
        won_PD = np.stack([self._play(rng, seeds, *pair) for pair in zip(records.scores_PNS, records.final_PN)])
        return won_PD.mean(1), won_PD.var(1, ddof=1) / DRAWS

    def _play(self, rng: np.random.Generator, seeds: int, scores_NS: np.ndarray, final_N: np.ndarray) -> np.ndarray:
        """What wins in each draw, for one prompt: (D,)."""
        running_DK = np.argsort(rng.random((DRAWS, len(final_N))), 1)[:, :seeds]
        for cut, size in zip(self.cuts, self.sizes(seeds)[1:]):
            score_N = np.nan_to_num(scores_NS[:, cut - 1], nan=-np.inf, neginf=-np.inf, posinf=np.inf)
            order_DK = np.argsort(-score_N[running_DK], 1, kind="stable")
            running_DK = np.take_along_axis(running_DK, order_DK[:, :size], 1)
        return final_N[running_DK].max(1)


def make_policy(name: str, steps: int) -> Halving | None:
    """The policy of that name for trajectories of so many steps; None for best-of-n. Raises ValueError."""
    if name == "best-of-n":
        return None
    if name == "psp":
        if steps < 4:
            raise ValueError(f"psp prunes after a quarter and a half of the steps; {steps} are too few")
        return Halving((-(-steps // 4), -(-steps // 2)), twice=True)
    kind, at, shares = name.partition("@")
    try:
        cuts = [math.ceil(float(share) * steps - 1e-9) for share in shares.split(",")]
        if kind != "halving" or any(not 0 < float(share) < 1 for share in shares.split(",")):
            raise ValueError
    except ValueError:
        raise ValueError(f"unknown policy {name!r}; choose {POLICIES}, with shares between 0 and 1") from None
    return Halving(tuple(sorted(set(cuts) - {steps})))


def replay(records: Records, name: str, budgets: Sequence[int] = BUDGETS) -> list[Row]:
    """A policy at every budget for which the file has samples enough. Raises ValueError if that is none."""
    policy = make_policy(name, records.scores_PNS.shape[2])
    for cut in policy.cuts if policy else ():
        if np.isnan(records.scores_PNS[:, :, cut - 1]).all(1).any():
            raise ValueError(f"policy {name} ranks by step {cut}, of which a prompt has no scores")
    final_PN = records.final_PN
    curve_N = best_of_each(final_PN, final_PN).mean(0)
    rows = []
    for budget in budgets:
        needed = policy.seeds(budget, records) if policy else budget
        if needed <= records.samples:
            rows.append(_row(records, policy, budget, curve_N))
    if not rows:
        raise ValueError(f"{records.samples} samples of a prompt are too few to replay {name} at a budget of {min(budgets)}")
    return rows


def _row(records: Records, policy: Halving | None, budget: int, curve_N: np.ndarray) -> Row:
    plain_P = best_of(records.final_PN, records.final_PN, budget)
    mean_P, squares_P = policy.values(budget, records) if policy else (plain_P, np.zeros_like(plain_P))
    diff_P = mean_P - plain_P
    value = float(mean_P.mean())
    return Row(
        budget,
        float(plain_P.mean()),
        value,
        float(diff_P.mean()),
        interval(diff_P)[1:],
        _multiplier(value, curve_N, budget),
        float(np.sqrt(squares_P.sum()) / len(squares_P)),
    )


def _multiplier(value: float, curve_N: np.ndarray, budget: int) -> float | None:
    """The n at which best-of-n is worth `value`, linear between whole numbers and at least 1, over `budget`."""
    if value > curve_N[-1] + 1e-12:
        return None
    return float(np.interp(value, curve_N, np.arange(1, len(curve_N) + 1))) / budget
