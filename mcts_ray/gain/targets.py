"""What a jump is worth: four targets from the same recorded transitions, the calibration they need, and a table of best jumps.

From a state x_a every jump k was made twice over: without noise (phi = 0), and with the same fresh noises z_j for every k, by the angle phi
of its level; each child was completed. x0(i) is the clean image predicted at level i, at level 0 the image itself.

Legend: N states, K jump sizes, J children of a jump (the first one without noise). NaN: not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

DECIDED = 0.02  # of 1 - s(a), below which there is no share of it to speak of
FEWEST = 8  # pairs for a level's own line
SMOOTH = 1 / 15  # of T: width of the kernel by which neighbouring levels join in a table
BEST_OF_8, BEST_OF_9 = 1.4236, 1.4850  # expected maxima of so many standard normals


@dataclass(frozen=True, eq=False)
class Transitions:
    """Recorded transitions, a row for each state x_a.

    level: a. prompt, trajectory: their numbers. score: raw step score S(x_a). similarity: s(a) = cos(x0(a), x*), x* the end of the fine (k = 1, phi = 0)
    path from x_a. end: reward of x*. For each jump without noise: landed (N, K): S at its end; similar (N, K): s there; error (N, K):
    1 - cos(x0 after it, x0 after k single steps), phi = 0. reward (N, K, J): of the completed children. calls (N, K): calls from a child on.
    """

    level: np.ndarray
    prompt: np.ndarray
    trajectory: np.ndarray
    score: np.ndarray
    similarity: np.ndarray
    end: np.ndarray
    landed: np.ndarray
    similar: np.ndarray
    error: np.ndarray
    reward: np.ndarray
    calls: np.ndarray

    def __len__(self) -> int:
        return len(self.level)

    def take(self, rows: np.ndarray) -> Transitions:
        """Some of the rows."""
        return replace(self, **{each.name: getattr(self, each.name)[rows] for each in fields(self)})


def value(data: Transitions, jumps: Sequence[int]) -> np.ndarray:
    """(N, K, J): V(x_{a-k}) - V(x_{a-1}), V being the final reward of the child's completion, of children by the same noise.

    E over completions is the value after the jump without costs; what the prompt, the state and the noise make of both cancels, and the
    child by k = 1 is 0 by definition. Weakness: the completions' own policy is in it, and their noise is large beside the differences,
    so it needs far more data than the other targets do.
    """
    return data.reward - data.reward[:, [list(jumps).index(1)]]


def reward_rate(data: Transitions, jumps: Sequence[int], calibration: Calibration) -> np.ndarray:
    """(N, K): (C(x_{a-k}) - C(x_a)) / k on calibrated scores C = E[R | S, i]; at level 0 C is the reward.

    The commission's first target. Weaknesses: raw scores of different levels may differ by any offset, so all rests on the calibration;
    a calibrated score does not drift on average, so what is left is mostly noise of the scorer; k counts levels, not calls, and is no
    price (every jump costs one call).
    """
    rate = np.full(data.error.shape, np.nan)
    start = calibration(data.level, data.score)
    for place, k in enumerate(jumps):
        end = calibration(data.level - k, data.landed[:, place])
        at_end = data.level == k
        end[at_end] = data.reward[at_end, place, 0]
        rate[:, place] = np.where(data.level >= k, (end - start) / k, np.nan)
    return rate


def similarity(data: Transitions) -> np.ndarray:
    """(N, K): completion [s(a-k) - s(a)] / [1 - s(a)], clipped to [0, 1]; none where 1 - s(a) < .02.

    The commission's second target, s(i) = cos(x0(i), x*) as in CoCA's code (arXiv 2505.19196); x* is the same for all k (with the jump's
    own end in its place, or with the noisy state in place of x0, the largest k always wins). Weaknesses: it says how decided the image
    is after the jump, not how good it is, and grows with k whatever the jump spoils.
    """
    left = 1 - data.similarity
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (data.similar - data.similarity[:, None]) / left[:, None]
    return np.where(left[:, None] < DECIDED, np.nan, np.clip(share, 0, 1))


def jump_error(data: Transitions) -> np.ndarray:
    """(N, K): 1 - cos(x0 after the jump, x0 after k single steps), both without noise; lower is better, 0 for k = 1.

    The discretisation that a jump costs. Weaknesses: it never rewards a jump, so without a price k = 1 always wins; and being far from
    the fine path is not the same as being worse.
    """
    return data.error


def make(name: str, data: Transitions, jumps: Sequence[int], calibration: Calibration) -> np.ndarray:
    """A target by name, (N, K, J); those of a jump without noise have J = 1."""
    if name == "value":
        return value(data, jumps)
    found = {"reward_rate": lambda: reward_rate(data, jumps, calibration), "similarity": lambda: similarity(data)}
    return found.get(name, lambda: jump_error(data))()[:, :, None]


@dataclass(frozen=True)
class Calibration:
    """C = E[R | S, i]: a least squares line for each level, which does not fall; `lines`: (intercept, slope) by level."""

    lines: Mapping[int, tuple[float, float]]

    def __call__(self, level_N: np.ndarray, score_N: np.ndarray) -> np.ndarray:
        """(N,); a level without a line of its own takes the nearest one."""
        if not self.lines:
            return np.full(len(level_N), np.nan)
        known = np.array(sorted(self.lines))
        nearest = known[np.abs(known[None] - np.asarray(level_N)[:, None]).argmin(1)]
        line = np.array([self.lines[level] for level in nearest]).reshape(-1, 2)
        return line[:, 0] + line[:, 1] * score_N


def calibrate(data: Transitions, jumps: Sequence[int]) -> Calibration:
    """Fit on the scores of the states and of where noise-free jumps land, against the rewards of their completions."""
    levels = [data.level] + [data.level - k for k in jumps]
    scores = [data.score] + [data.landed[:, place] for place in range(len(jumps))]
    ends = [data.end] + [data.reward[:, place, 0] for place in range(len(jumps))]
    level, score, end = np.concatenate(levels), np.concatenate(scores), np.concatenate(ends)
    whole = np.isfinite(score) & np.isfinite(end) & (level > 0)
    level, score, end = level[whole], score[whole], end[whole]
    counts = {int(one): int((level == one).sum()) for one in np.unique(level)}
    return Calibration({one: _line(score[level == one], end[level == one]) for one, count in counts.items() if count >= FEWEST})


def _line(score: np.ndarray, reward: np.ndarray) -> tuple[float, float]:
    spread = ((score - score.mean()) ** 2).sum()
    slope = max(0.0, float(((score - score.mean()) * reward).sum() / spread)) if spread > 0 else 0.0
    return float(reward.mean() - slope * score.mean()), slope


def worth(name: str, data: Transitions, jumps: Sequence[int], calibration: Calibration) -> float:
    """What a unit of a target is worth in reward: 1 for those that are in reward; else the least squares slope, through the origin, of the
    value over that of k = 1 on the target over that of k = 1."""
    if name in ("value", "reward_rate"):
        return 1.0
    first = list(jumps).index(1)
    target = make(name, data, jumps, calibration)
    more = (target - target[:, [first]])[:, :, 0].ravel()
    gain = value(data, jumps)[:, :, 0].ravel()
    known = np.isfinite(more) & np.isfinite(gain)
    square = (more[known] ** 2).sum()
    return float((more[known] * gain[known]).sum() / square) if square > 0 else 0.0


def price_of_a_call(data: Transitions, levels: int) -> float:
    """c: slope of the best-of-n curve at eight trajectories, in reward per call: sd of rewards within a prompt, times the expected
    maximum of 9 over that of 8 standard normals, over the calls of a trajectory of single steps."""
    rewards: dict[int, dict[int, float]] = {}
    for row in np.argsort(data.level, kind="stable"):  # of each trajectory one: the fine path from its highest state
        if np.isfinite(data.end[row]):
            rewards.setdefault(int(data.prompt[row]), {})[int(data.trajectory[row])] = float(data.end[row])
    spreads = [np.var(list(ends.values()), ddof=1) for ends in rewards.values() if len(ends) > 1]
    return float(np.sqrt(np.mean(spreads))) * (BEST_OF_9 - BEST_OF_8) / levels if spreads else 0.0


def best_jumps(data: Transitions, jumps: Sequence[int], levels: int, price: float) -> tuple[int, ...]:
    """The table: at each level 1 ... T the jump of highest mean gain less price times the calls still to pay, n(l) = 1 + n(l - k(l)).

    Gains of neighbouring levels count by a Gaussian kernel, about the nearest level that has any. Of equal ones the larger jump is taken.
    """
    gain = value(data, jumps)
    count_NK = np.isfinite(gain).sum(2)
    sum_NK = np.where(np.isfinite(gain), gain, 0.0).sum(2)
    calls, table = [0.0], []
    for level in range(1, levels + 1):
        nets = {}
        for place, k in enumerate(jumps):
            made_N = count_NK[:, place] > 0
            if k <= level and made_N.any():
                distance_n = ((data.level[made_N] - level) / (SMOOTH * levels)) ** 2
                weight_n = np.exp((distance_n.min() - distance_n) / 2)
                mean = weight_n @ sum_NK[made_N, place] / (weight_n @ count_NK[made_N, place])
                nets[k] = mean - price * calls[level - k]
        best = max(nets, key=lambda k: (nets[k], k)) if nets else 1
        table.append(best)
        calls.append(1 + calls[level - best])
    return tuple(table)
