"""Over-optimisation: what gold does while ever more samples are searched for the best by the guide.

Best-of-n for n = 1 ... 256, exact over all subsets of a pool, in standard deviations of single samples within a prompt, against
d = sqrt(KL), KL <= ln n - (n - 1) / n. That is an upper bound, not an equality (Beirami et al., arXiv 2401.01879).

    fit           gain = d (alpha - beta d), highest at d* = alpha / (2 beta)     (Gao et al., arXiv 2210.10760)
    expectation   rho x the guide's own gain: what regression to the mean alone leaves of it, rho being the correlation of guide
                  and gold within a prompt. Gold below it is hacked; gold on it only goes weakly with the guide.
    normal        rho m_n, the same if both were normal, m_n being the mean of the highest of n standard normal numbers

Legend: P prompts, N samples of the pool, S sizes n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import quad, trapezoid
from scipy.stats import norm

from mcts_ray.audit.metrics import check_finite, pearson
from mcts_ray.compare.figures import best_of, interval, within_sd

LARGEST = 256


def divergence(n: int) -> float:
    """Upper bound of the KL of best-of-n from one sample, in nats."""
    return float(np.log(n) - (n - 1) / n)


def highest_normal(n: int) -> float:
    """m_n: expectation of the highest of n standard normal numbers."""
    if n == 1:
        return 0.0
    return quad(lambda x: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -10, 10)[0]


def sizes(samples: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to the pool and LARGEST."""
    most = min(samples, LARGEST)
    steps = {2**e for e in range(9)} | {3 * 2**e for e in range(7)} | {most}
    return sorted(n for n in steps if n <= most)


def fit_gao(d_S: np.ndarray, gain_S: np.ndarray) -> tuple[float, float]:
    """alpha, beta of gain = d (alpha - beta d) by least squares."""
    alpha, minus_beta = np.linalg.lstsq(np.stack([d_S, d_S**2], 1), gain_S, rcond=None)[0]
    return float(alpha), float(-minus_beta)


def over_optimisation(guide_PN: np.ndarray, gold_PN: np.ndarray) -> dict[str, Any]:
    """The curve and what is to be said of it; ValueError for scores that are not finite, or all equal."""
    check_finite(guide=guide_PN, gold=gold_PN)
    sd = {"guide": within_sd(guide_PN), "gold": within_sd(gold_PN)}
    flat = [name for name, value in sd.items() if value == 0]
    if flat:
        raise ValueError(f"the {flat[0]} of the pool is the same for all samples of each prompt, so there is nothing to optimise")
    n_S = sizes(guide_PN.shape[1])
    gain_PS = {name: _gains(guide_PN, value_PN, n_S) / sd[name] for name, value_PN in (("guide", guide_PN), ("gold", gold_PN))}
    rho_P = pearson(guide_PN, gold_PN)
    rho = float(np.nanmean(rho_P)) if np.isfinite(rho_P).any() else 0.0
    d_S = np.sqrt([divergence(n) for n in n_S])
    alpha, beta = fit_gao(d_S, gain_PS["gold"].mean(0))
    peak = int(np.argmax(gain_PS["gold"].mean(0)))
    return {
        "prompts": len(guide_PN), "samples": guide_PN.shape[1], "sd": {name: round(value, 4) for name, value in sd.items()},
        "rho": round(rho, 4), "curve": _curve(n_S, d_S, gain_PS, rho), "alpha": round(alpha, 4), "beta": round(beta, 4),
        "fitted_peak_d": round(alpha / (2 * beta), 4) if beta > 0 else None,
        "peak_n": n_S[peak], "largest_n": n_S[-1],
        "drop": interval(gain_PS["gold"][:, -1] - gain_PS["gold"][:, peak]),
        "beyond_regression": interval(gain_PS["gold"][:, -1] - rho * gain_PS["guide"][:, -1]),
        "share_kept": _share(gain_PS), "gamma": _gamma(d_S, gain_PS),
    }  # fmt: skip


def _gains(rank_PN: np.ndarray, value_PN: np.ndarray, n_S: list[int]) -> np.ndarray:
    """Of best-of-n over one sample: (P, S)."""
    reach_PS = np.stack([best_of(rank_PN, value_PN, n) for n in n_S], 1)
    return reach_PS - value_PN.mean(1, keepdims=True)


def _curve(n_S: list[int], d_S: np.ndarray, gain_PS: dict[str, np.ndarray], rho: float) -> list[dict[str, Any]]:
    guide_S = gain_PS["guide"].mean(0)
    return [
        {
            "n": n, "kl_bound": round(divergence(n), 4), "d": round(float(d_S[s]), 4),
            "guide": interval(gain_PS["guide"][:, s]), "gold": interval(gain_PS["gold"][:, s]),
            "expectation": round(rho * float(guide_S[s]), 4), "normal": round(rho * highest_normal(n), 4),
        }
        for s, n in enumerate(n_S)
    ]  # fmt: skip


def _share(gain_PS: dict[str, np.ndarray]) -> float | None:
    """Gold's gain over the guide's, at the largest n."""
    guide = gain_PS["guide"][:, -1].mean()
    return round(float(gain_PS["gold"][:, -1].mean() / guide), 4) if guide > 0 else None


def _gamma(d_S: np.ndarray, gain_PS: dict[str, np.ndarray]) -> float | None:
    """Degree of over-optimisation, int |gold - guide| / int gold over d (Kim et al., arXiv 2505.12763)."""
    gold_S, guide_S = gain_PS["gold"].mean(0), gain_PS["guide"].mean(0)
    area, gap = trapezoid(gold_S, d_S), trapezoid(np.abs(gold_S - guide_S), d_S)
    return round(float(gap / area), 4) if area > 0 else None
