"""What a fused walk starts from, mode by mode: its noise, or a whole state.

Innovations are exact functions of node ids (`mcts_ray.diffusion.noise`), so a mode that fuses those needs no stored latents, and the
same particles give the same noise on every machine. The modes of `STATES` read what was predicted at the particles too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.store import Kept
from mcts_ray.fusion.fresh import fresh
from mcts_ray.fusion.innovation import barycenter, copies
from mcts_ray.fusion.mean import weighted_mean
from mcts_ray.fusion.rules import STEPS, demon, stepped
from mcts_ray.fusion.siblings import Siblings
from mcts_ray.fusion.signed import signed_sum
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import MODES as WEIGHTED, STATES, Fused, Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Start:
    """(C, H, W) fp32 on the CPU: the noise z* that enters in place of the node's own draw, or (`whole`) the state x* itself.

    fallback, cosine, ess: as in `Fused`; where siblings are fused, not for fresh ones and the noises of baselines.
    """

    tensor: torch.Tensor
    whole: bool = False
    fallback: Refusal | None = None
    cosine: float | None = None
    ess: float | None = None

    @property
    def said(self) -> Fused:
        """What is to be told of it, in as many digits as are the same on every machine."""
        fallback = self.fallback and self.fallback.value
        return Fused(fallback) if self.ess is None else Fused(fallback, round(self.cosine, 4), round(self.ess, 2))


def start_of(
    work: Work, shape: tuple[int, int, int], states: Mapping[str, Kept] | None = None, device: torch.device | str = "cpu"
) -> Start | Refusal:
    """What a unit that is to be fused starts from; `shape` is (C, H, W), `states` those of its particles that are still kept.

    device: for the network of `decoder`, the one thing here that gains by a GPU: draws are a CPU generator's, which makes them the same
    everywhere, and optimal plans a solver's.
    Never raises: what cannot be fused is a refusal, and so is an error, for no search should end over one fusion.
    """
    about = {"search": work.search, "work": work.id, "mode": work.fuse.mode}
    try:
        made = _made(work, shape, states or {}, device)
    except Exception:
        log.exception("fusion failed", extra=about)
        return Refusal.FAILED
    if isinstance(made, Refusal):
        log.info("fusion refused", extra={**about, "reason": made.value})
    elif made.ess is not None:
        log.info("fused", extra={**about, "cosine": made.said.cosine, "particles": made.said.ess})
    return made


def _made(work: Work, shape: tuple[int, int, int], states: Mapping[str, Kept], device: torch.device | str) -> Start | Refusal:
    rule = work.fuse
    if rule.mode in STATES:
        siblings = Siblings.of(work, shape, states, device)
        return siblings if isinstance(siblings, Refusal) else _of_states(rule.mode, siblings)
    noise = fuse(rule.particles, rule.weights, shape, rule.mode, work.edges[0].node)
    if isinstance(noise, Refusal):
        return noise
    if rule.mode not in WEIGHTED or rule.mode == "fresh":
        return Start(noise)
    weights = torch.tensor(rule.weights)
    best_CHW = draw([rule.particles[int(weights.argmax())]], shape)[0]
    return _told(Start(noise), noise, best_CHW, weights)


def _told(start: Start, z_CHW: torch.Tensor, best_CHW: torch.Tensor, a_N: torch.Tensor) -> Start:
    """With what is said of it."""
    cosine = torch.cosine_similarity(z_CHW.flatten(), best_CHW.flatten(), 0)
    return replace(start, cosine=float(cosine), ess=float(a_N.abs().sum().square() / a_N.square().sum()))


def fuse(
    particles: Sequence[str], weights: Sequence[float], shape: tuple[int, int, int], mode: str = "innovation", node: str = ""
) -> torch.Tensor | Refusal:
    """z* (C, H, W), fp32 on the CPU, of a mode that needs ids alone; `shape` is (C, H, W).

    In the modes of `STEPS` the particles are a lineage that ends in `node`, whose own draw is the direction of the last step.
    """
    if mode in STEPS:
        return stepped(mode, draw([*particles, node], shape), weights)
    if mode == "fresh":
        return fresh(node, shape)
    rule = {"demon": demon, "mean": weighted_mean, "signed": signed_sum}.get(mode, barycenter)
    return rule(draw(particles, shape), torch.tensor(weights))


def _of_states(mode: str, siblings: Siblings) -> Start | Refusal:
    if not math.isfinite(siblings.origin[1]):
        raise ValueError("a state is not finite")
    if not siblings.noisy:
        return Refusal.NOISELESS
    made = MODES[mode](siblings)
    if made is Refusal.STILL:
        noise = barycenter(siblings.z_NCHW, siblings.a_N)
        made = noise if isinstance(noise, Refusal) else Start(noise, fallback=made)
    if isinstance(made, Refusal):
        return made
    z_CHW = siblings.innovation(made.tensor) if made.whole else made.tensor
    if made.whole and copies(siblings.z_NCHW.flatten(1), z_CHW.flatten()):
        return Refusal.COPY
    return made if made.ess else _told(made, z_CHW, siblings.z_NCHW[0], siblings.a_N)


def _ensemble(siblings: Siblings) -> Start | Refusal:
    from mcts_ray.fusion.ensemble import column

    a_N = column(siblings.x0_NCHW, siblings.a_N, siblings.index)
    noise = a_N if isinstance(a_N, Refusal) else barycenter(siblings.z_NCHW, a_N)
    return noise if isinstance(noise, Refusal) else _told(Start(noise), noise, siblings.z_NCHW[0], a_N)


def _x0_transport(siblings: Siblings) -> Start | Refusal:
    from mcts_ray.fusion.x0_transport import x0_transport

    return _start(x0_transport(siblings.x0_NCHW, siblings.eps_NCHW, siblings.a_N, *siblings.scales), whole=True)


def _features(siblings: Siblings) -> Start | Refusal:
    from mcts_ray.fusion.features import feature_transport

    states = siblings.x0_NCHW, siblings.eps_NCHW, siblings.features_NChw
    return _start(feature_transport(*states, siblings.a_N, *siblings.scales), whole=True)


def _slerp(siblings: Siblings) -> Start | Refusal:
    from mcts_ray.fusion.slerp import slerp_mean

    return _start(slerp_mean(siblings.x_NCHW, siblings.a_N), whole=True)


def _decoder(siblings: Siblings) -> Start | Refusal:
    from mcts_ray.fusion.decoder import decoded, load

    alpha, sigma = siblings.scales
    states = siblings.z_NCHW, siblings.x_NCHW, siblings.features_NChw, siblings.a_N
    return _start(decoded(*states, siblings.origin, log_snr(alpha, sigma), load(siblings.folder, str(siblings.device))))


MODES = {"ensemble": _ensemble, "x0_transport": _x0_transport, "features": _features, "slerp": _slerp, "decoder": _decoder}


def log_snr(alpha: float, sigma: float) -> float:
    """ln (alpha^2 / sigma^2), cut to +-20."""
    return min(20.0, max(-20.0, 2 * (math.log(max(alpha, 1e-6)) - math.log(max(sigma, 1e-6)))))


def _start(made: torch.Tensor | Refusal, whole: bool = False) -> Start | Refusal:
    return made if isinstance(made, Refusal) else Start(made, whole)
