"""What a jump is worth: four targets from the same recorded transitions, the calibration they need, and a table of best jumps.

From a state x_a every jump k was made twice over: without noise (phi = 0), and with the same fresh noises z_j for every k, by the angle phi
of its level; each child was completed. x0(i) is the clean image predicted at level i, at level 0 the image itself.

Legend: N states, K jump sizes, J children of a jump (the first one without noise). NaN: not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from mcts_ray.compare.figures import best_of

DECIDED = 0.02  # of 1 - s(a), below which there is no share of it to speak of
FEWEST = 8  # pairs for a level's own line
SMOOTH = 1 / 15  # of T: width of the kernel by which neighbouring levels join in a table
SURE = 3.0  # standard errors; about a hundred differences are looked at for a table
POOL = 32  # finished trajectories of a prompt that show its best-of-n curve
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
    """c: slope of the best-of-n curve at eight trajectories of single steps, in reward per call.

    Exact (`best_of_n_slope`) where `POOL` trajectories of every prompt were recorded. Of fewer only by the sd of rewards within a prompt,
    times the expected maximum of 9 over that of 8 standard normals: rewards are bounded and not normal, so where a pool of finished
    samples is at hand, the slope in it at the budget of the search is the better price.
    """
    rewards: dict[int, dict[int, float]] = {}
    for row in np.argsort(data.level, kind="stable"):  # of each trajectory one: the fine path from its highest state
        if np.isfinite(data.end[row]):
            rewards.setdefault(int(data.prompt[row]), {})[int(data.trajectory[row])] = float(data.end[row])
    pools = [list(ends.values()) for ends in rewards.values() if len(ends) > 1]
    if not pools:
        return 0.0
    if (fewest := min(map(len, pools))) >= POOL:
        return best_of_n_slope(np.array([pool[:fewest] for pool in pools]), levels, 8 * levels)
    return float(np.sqrt(np.mean([np.var(pool, ddof=1) for pool in pools]))) * (BEST_OF_9 - BEST_OF_8) / levels


def best_of_n_slope(reward_PN: np.ndarray, cost: int, budget: int) -> float:
    """c at a budget: what one more call wins for best-of-n, mean over P prompts of N finished samples that cost `cost` calls each.

    [best of n + 1 - best of n] / cost at n = budget / cost, expected over all subsets of the N.
    """
    n = max(1, budget // cost)
    if n >= reward_PN.shape[1]:
        raise ValueError(f"a pool of {reward_PN.shape[1]} samples has no slope at {n} samples; make a larger one")
    return float((best_of(reward_PN, reward_PN, n + 1) - best_of(reward_PN, reward_PN, n)).mean()) / cost


def best_jumps(data: Transitions, jumps: Sequence[int], levels: int, price: float) -> tuple[int, ...]:
    """The table: at each level 1 ... T the jump of highest mean gain less price times the calls still to pay, n(l) = 1 + n(l - k(l)).

    That is the best constant one (`best_constant`) unless another is ahead of it by `SURE` standard errors of their difference: of several
    noisy means the highest is mostly the luckiest. Gains of neighbouring levels count by a Gaussian kernel. Of equal ones the larger
    jump is taken.
    """
    gain_NK, steady = _mean_gain(data, jumps), best_constant(data, jumps, levels, price)
    calls, table = [0.0], []
    for level in range(1, levels + 1):
        usual = _cut(jumps, steady, level)
        ahead = {usual: 0.0}
        for k in (k for k in jumps if k <= level and k != usual):
            mean, error = _near(gain_NK[:, jumps.index(k)] - gain_NK[:, jumps.index(usual)], data.level, level, levels)
            ahead[k] = mean - SURE * error - price * (calls[level - k] - calls[level - usual])
        best = max(ahead, key=lambda k: (ahead[k], k))
        table.append(best)
        calls.append(1 + calls[level - best])
    return tuple(table)


def best_constant(data: Transitions, jumps: Sequence[int], levels: int, price: float) -> int:
    """The constant jump whose mean gains along its path from T to 0, less price times its calls, are highest; of equal ones the largest.

    By the performance difference lemma (Kakade and Langford, 2002): a policy's worth over that of the completions' policy is the sum of
    what each of its choices gains over it, and k = 1 stands for that policy's choice.
    """
    gain_NK, worths = _mean_gain(data, jumps), {}
    for k in jumps:
        worths[k], level = 0.0, levels
        while level:
            step = _cut(jumps, k, level)
            worths[k] += _near(gain_NK[:, jumps.index(step)], data.level, level, levels)[0] - price
            level -= step
    return max(worths, key=lambda k: (worths[k], k))


def _mean_gain(data: Transitions, jumps: Sequence[int]) -> np.ndarray:
    """(N, K): `value`, mean over the children."""
    gain_NKJ = value(data, jumps)
    known_NKJ = np.isfinite(gain_NKJ)
    with np.errstate(invalid="ignore"):
        return np.where(known_NKJ, gain_NKJ, 0.0).sum(2) / known_NKJ.sum(2)


def _cut(jumps: Sequence[int], k: int, level: int) -> int:
    """The largest of the jumps that is at most k and the level."""
    return max(jump for jump in jumps if jump <= min(k, level))


def _near(value_N: np.ndarray, level_N: np.ndarray, level: int, levels: int) -> tuple[float, float]:
    """Mean of the values near a level, about the nearest one that has any, and its standard error; -inf and inf without any."""
    known = np.isfinite(value_N)
    if not known.any():
        return -np.inf, np.inf
    distance_n = ((level_N[known] - level) / (SMOOTH * levels)) ** 2
    weight_n = np.exp((distance_n.min() - distance_n) / 2)
    weight_n /= weight_n.sum()
    mean = float(weight_n @ value_N[known])
    count = 1 / (weight_n**2).sum()  # so many of equal weight would be as sure
    spread = (weight_n**2) @ (value_N[known] - mean) ** 2
    return mean, float(np.sqrt(spread * count / (count - 1))) if count > 1 + 1e-9 else np.inf
