"""The anytime curve as inline SVG: the best reward so far over NFE, and every finished image as a dot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import accumulate

from mcts_ray.search.base import Candidate

WIDTH, HEIGHT = 1060, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 46


def curve(finished: Sequence[Candidate], nfe: int, reward: str) -> str:
    """An <svg>: `finished` in the order in which they came, `nfe` spent in all, `reward` the name of the reward."""
    rewards = [candidate.reward for candidate in finished]
    right = max(nfe, finished[-1].nfe, 1)
    low, high = _padded(min(rewards), max(rewards))

    def x(nfe: float) -> float:
        return round(_LEFT + nfe / right * (WIDTH - _LEFT - _RIGHT), 1)

    def y(reward: float) -> float:
        return round(HEIGHT - _BOTTOM - (reward - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    bests = list(accumulate(rewards, max))
    steps = "".join(f"H{x(candidate.nfe)}V{y(best)}" for candidate, best in zip(finished, bests))
    dots = [_dot(candidate, best, x, y) for candidate, best in zip(finished, bests)]
    return "".join(
        (
            f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="best reward so far over NFE">',
            *_levels(ticks(low, high, 6), y),
            *(f'<text class="tick" x="{x(t)}" y="{HEIGHT - _BOTTOM + 18}">{t:,}</text>' for t in whole_ticks(right)),
            f'<path class="axis" d="M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>',
            f'<text class="tick" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}">NFE</text>',
            f'<text class="tick" transform="translate(12 {HEIGHT / 2 - 16})rotate(-90)">{escape(reward)}</text>',
            f'<path class="without" d="M{x(finished[0].nfe)} {y(rewards[0])}H{x(right)}"/>',
            f'<path class="best" d="M{x(finished[0].nfe)} {y(rewards[0])}{steps}H{x(right)}"/>',
            *dots,
            "</svg>",
        )
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range of an axis: a little more than that of the values, and never empty."""
    span = high - low if high - low > 1e-9 * abs(high) else 0.0
    margin = span * 0.06 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _levels(rewards: Sequence[float], y) -> list[str]:
    """A line and a label at every one of `rewards`, which are evenly spaced."""
    digits = max(0, -math.floor(math.log10(rewards[1] - rewards[0]) + 1e-9))
    line = '<path class="grid" d="M{} {}H{}"/><text class="tick left" x="{}" y="{:.1f}">{:.{}f}</text>'
    return [line.format(_LEFT, y(r), WIDTH - _RIGHT, _LEFT - 8, y(r) + 4, r + 0.0, digits) for r in rewards]


def _dot(candidate: Candidate, best: float, x, y) -> str:
    cost = f"{candidate.nfe} NFE, {candidate.seconds:.1f} s"
    text = f"reward {candidate.reward:.4f}\nbest so far {best:.4f}\n{cost}\n{candidate.node[:8]}"
    kind = ' class="top"' if candidate.reward == best else ""
    return f'<circle{kind} cx="{x(candidate.nfe)}" cy="{y(candidate.reward)}" r="3.5" data-tip="{escape(text)}"/>'


def ticks(low: float, high: float, n: int) -> list[float]:
    """About `n` round numbers in [low, high], at steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def whole_ticks(high: int) -> list[int]:
    """About ten round whole numbers from 0 to `high`."""
    return [int(tick) for tick in ticks(0, high, 10) if tick == int(tick)]
