"""A diffusion model whose every answer is known: a mixture of Gaussians on the line, with the exact (x0, eps).

The real engine carries out the units of a search (`run`); there is no decoder, an image is a number x and a reward any function
of an array of them. With `dim` above 1 an image is a vector (dim,) of numbers, each a mixture of its own and independent of the
others, and a reward a function of an array (N, dim); what follows then holds for each number. What a search should find follows
from the chain that it walks, T noisy jumps with the exact denoiser. That chain ends near the mixture, but not in it, the less so
the fewer levels: so `expected` and what builds on it integrate over the chain itself, level by level on a grid, and compare with
any T; `tilted` is the closed form that large T tends to.

    model = Mixture()
    search = FK("s", model.setting(), budget=20 * 500, phi=model.phi())
    x = run(search, model, reward)                               # {node: x} of all images
    exact = expect_target(model, reward, 3.0, f, search)         # E f(x) under p(x) exp(3 reward(x)) / Z
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from diffusers import DDIMScheduler

from mcts_ray.diffusion.denoiser import Prediction
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.levels import Levels
from mcts_ray.fusion.fuser import start_of
from mcts_ray.search import Cost, Outcome, Search, Setting, Work
from mcts_ray.tree.weights import Refusal
from tests.tiny import SD_BETAS

Function = Callable[[np.ndarray], np.ndarray]  # of numbers (N,), elementwise

GRID_G = np.linspace(-7, 7, 3501)  # where functions of a state are known; in between they are linear
NOISE_Q = np.linspace(-6, 6, 161)  # quadrature of one jump's noise
NOISE_WEIGHT_Q = np.exp(-(NOISE_Q**2) / 2) / np.exp(-(NOISE_Q**2) / 2).sum()


class Mixture:
    """p(x) = sum_j w_j N(x; m_j, s^2) as a denoiser and its adapter; level 0 is clean. Prompts and guidance change nothing."""

    def __init__(
        self, means: Sequence[float] = (-1.0, 1.0), weights: Sequence[float] = (0.7, 0.3), std: float = 0.25, dim: int = 1
    ):
        self.means, self.weights, self.std, self.dim = means, weights, std, dim
        self.device = torch.device("cpu")
        self.adapter = self
        self._levels: dict[int, Levels] = {}

    # what a search needs -------------------------------------------------------------------------------------------

    def setting(self, T: int = 20) -> Setting:
        return Setting("", guidance=1.0, levels=T)

    def phi(self, T: int = 20, eta: float = 1.0) -> Callable[[int, int], float]:
        """The angles of DDIM's eta; 1 is DDPM."""
        return cache(lambda a, s: phi_from_eta(self.levels(T), a, s, eta))

    # what the engine needs -----------------------------------------------------------------------------------------

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, 1, self.dim

    def levels(self, T: int, grid: str = "native") -> Levels:
        if T not in self._levels:
            scheduler = DDIMScheduler(**SD_BETAS, steps_offset=1, clip_sample=False)
            self._levels[T] = Levels.from_scheduler(scheduler, T)
        return self._levels[T]

    @staticmethod
    def forwards(setting: Setting) -> int:
        return 1

    def denoise(self, x_BCHW: torch.Tensor, level_B: Sequence[int], settings: Sequence[Setting], *_) -> Prediction:
        rows_B = [self.levels(setting.levels).rows[level] for level, setting in zip(level_B, settings, strict=True)]
        _, alpha_B, sigma_B = np.repeat(rows_B, self.dim, axis=0).T
        x0_B, eps_B = self.predict(x_BCHW.flatten().double().numpy(), alpha_B, sigma_B)
        x0, eps = (torch.from_numpy(each).float().reshape(x_BCHW.shape) for each in (x0_B, eps_B))
        return Prediction(x0, eps, len(settings))

    def predict(self, x_B: np.ndarray, alpha_B, sigma_B) -> tuple[np.ndarray, np.ndarray]:
        """E[x0 | x] and the eps that goes with it, where x = alpha x0 + sigma eps."""
        variance_B = alpha_B**2 * self.std**2 + sigma_B**2
        log_share_JB = np.stack(
            [math.log(w) - (x_B - alpha_B * m) ** 2 / (2 * variance_B) for w, m in zip(self.weights, self.means, strict=True)]
        )
        share_JB = np.exp(log_share_JB - log_share_JB.max(0))
        share_JB /= share_JB.sum(0)
        mean_JB = np.stack([m + alpha_B * self.std**2 / variance_B * (x_B - alpha_B * m) for m in self.means])
        x0_B = (share_JB * mean_JB).sum(0)
        return x0_B, (x_B - alpha_B * x0_B) / sigma_B


def run(search: Search, model: Mixture, reward: Function, room: int = 256) -> dict[str, float]:
    """Carry a search to its end, up to `room` units in a batch; returns x of every finished image, by node."""
    return run_together([search], model, reward, room)[0]


def run_together(searches: Sequence[Search], model: Mixture, reward: Function, room: int = 1) -> list[dict[str, float]]:
    """Carry searches, whose ids differ, to their ends side by side, up to `room` units of each in a batch; their images."""
    engine, by_id = Engine(model, room * len(searches)), {search.id: search for search in searches}
    images: dict[str, dict] = {id: {} for id in by_id}
    while running := [search for search in searches if not search.done]:
        asked = [_submit(engine, search, search.ask(room - search.in_flight)) for search in running]
        assert any(asked) or not engine.idle, "no search is done but none asks for anything"
        walked = engine.step()
        values = iter(_rewards([x for unit in walked for x in unit.to_decode], reward))
        for unit in walked:
            work, count = unit.work, len(unit.to_decode)
            nodes = [edge.node for edge in work.edges if edge.node in work.scored]
            scores = tuple((node, next(values)) for node in nodes[: len(unit.x0s)])
            final = None
            if unit.latent is not None:
                final, images[work.search][work.edges[-1].node] = next(values), _image(unit.latent)
            cost = replace(unit.cost, decodes=count, reward_calls=count, fusions=int(work.fuse is not None))
            by_id[work.search].tell(Outcome(work.id, work.search, work.epoch, cost, final, scores, unit.error))
        for search in running:
            engine.store.forget(search.id, search.released())
    return [images[search.id] for search in searches]


def _submit(engine: Engine, search: Search, works: Sequence[Work]) -> bool:
    """Hand units to the engine, with the noise of those that fuse; those that cannot be fused go back. Whether there were any."""
    for work in works:
        start = start_of(work, engine.denoiser.latent_shape(0, 0)) if work.fuse else None
        noise = getattr(start, "tensor", start)  # or a refusal
        if isinstance(noise, Refusal):
            search.tell(Outcome(work.id, search.id, work.epoch, Cost(), refused=noise.value))
        else:
            engine.submit([work], {} if noise is None else {work.edges[0].node: noise})
    return bool(works)


def _rewards(latents: Sequence[torch.Tensor], reward: Function) -> list[float]:
    return np.asarray(reward(np.array([_image(x) for x in latents]))).tolist() if latents else []


def _image(latent: torch.Tensor) -> float | np.ndarray:
    """A number, or a vector (dim,)."""
    return float(latent) if latent.numel() == 1 else latent.flatten().double().numpy()


# what is true ----------------------------------------------------------------------------------------------------------


def expected(model: Mixture, f: Function, search) -> dict[int, np.ndarray]:
    """E[f(x_0) | x_i = GRID_G] at every level i > 0 of `search.path`, by its `phi`; at -1 the mean over all starts x_T."""
    levels = model.levels(search.setting.levels)
    path, known = search.path, {}
    later = f
    for a, s in reversed(list(zip(path, path[1:]))):
        x0_G, eps_G = model.predict(GRID_G, float(levels.alpha_L[a]), float(levels.sigma_L[a]))
        alpha, sigma, phi = float(levels.alpha_L[s]), float(levels.sigma_L[s]), search.phi(a, s)
        mean_G, noise = alpha * x0_G + sigma * math.cos(phi) * eps_G, sigma * math.sin(phi)
        if noise == 0:
            known[a] = later(mean_G)
        else:
            known[a] = later(mean_G[:, None] + noise * NOISE_Q) @ NOISE_WEIGHT_Q
        later = _between(known[a])
    known[-1] = later(levels.start_scale * NOISE_Q) @ NOISE_WEIGHT_Q
    return known


def _between(value_G: np.ndarray) -> Function:
    return lambda x: np.interp(x, GRID_G, value_G)


def expect(model: Mixture, f: Function, search) -> float:
    """E f(x_0) of the chain without any search."""
    return float(expected(model, f, search)[-1])


def expect_target(model: Mixture, reward: Function, strength: float, f: Function, search) -> float:
    """E f(x_0) under the target: the law of the chain times exp(strength reward(x_0)), normalised."""

    def tilt(x):
        return np.exp(strength * reward(x))

    return expect(model, lambda x: f(x) * tilt(x), search) / expect(model, tilt, search)


def soft_value(model: Mixture, reward: Function, strength: float, search) -> dict[int, np.ndarray]:
    """V_i = (1/strength) log E[exp(strength reward(x_0)) | x_i] on GRID_G at every level i > 0; at -1 over all starts."""
    each = expected(model, lambda x: np.exp(strength * reward(x)), search)
    return {level: np.log(value_G) / strength for level, value_G in each.items()}


def tilted(model: Mixture, slope: float) -> Mixture:
    """The mixture times exp(slope x), normalised: weights w_j exp(slope m_j + slope^2 s^2 / 2), means m_j + slope s^2."""
    weights = np.array([w * math.exp(slope * m) for w, m in zip(model.weights, model.means)])
    means = tuple(m + slope * model.std**2 for m in model.means)
    return Mixture(means, tuple((weights / weights.sum()).tolist()), model.std)
