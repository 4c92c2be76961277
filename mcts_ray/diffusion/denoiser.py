"""One guided evaluation of a mixed batch: levels, prompts and guidance may differ from sample to sample.

Shapes: B samples; N = B + (guided samples) rows of the network call, and maybe some that fill it up; C, H, W latent; `level_B`,
`settings` per sample; R of the B samples are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mcts_ray.diffusion.jump import split
from mcts_ray.diffusion.levels import Levels
from mcts_ray.diffusion.memory import Slices
from mcts_ray.diffusion.prompts import PromptCache
from mcts_ray.diffusion.sizing import bucket, profile
from mcts_ray.diffusion.taps import tapped
from mcts_ray.reward.step import States, StepScorer, load_scorer
from mcts_ray.search.base import Setting

if TYPE_CHECKING:
    from mcts_ray.gain.choose import Gains
    from mcts_ray.gain.evaluator import Evaluator
    from mcts_ray.gain.online import Version


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one call says of B samples, after guidance, fp32.

    x0, eps: (B, C, H, W). taps: features of the conditional branch by name. taps_uncond: of the unconditional branch,
    equal to the conditional ones for samples without guidance. forwards: network sample-forwards spent.
    """

    x0: torch.Tensor
    eps: torch.Tensor
    forwards: int
    taps: dict[str, torch.Tensor] = field(default_factory=dict)
    taps_uncond: dict[str, torch.Tensor] = field(default_factory=dict)

    def first(self, n: int) -> Prediction:
        """Of the first n samples; `forwards` stays that of the whole call."""
        parts = ({name: tap[:n] for name, tap in taps.items()} for taps in (self.taps, self.taps_uncond))
        return Prediction(self.x0[:n], self.eps[:n], self.forwards, *parts)


class Denoiser:
    """Predicts (x0, eps) for a batch; everything but the network itself is fp32.

    Build it after LoRA weights are loaded: prompt embeddings are kept.
    """

    def __init__(self, adapter, prompts: int = 256):
        self.adapter = adapter
        self.device = adapter.device
        self.slices = Slices()
        self.prompts = PromptCache(adapter.encode, prompts)
        self._levels: dict[tuple[int, str], Levels] = {}
        self._scorers: dict[tuple[str, str], StepScorer] = {}
        self._evaluators: dict[str, Evaluator] = {}
        self._scoring = Slices()
        self._fastest: dict[tuple[int, int, int], int] = {}

    def levels(self, T: int, grid: str = "native") -> Levels:
        """The T levels of the model's scheduler, read once; of "ays" those of the table made for such models."""
        grid = self.adapter.ays_grid if grid == "ays" else grid
        if (T, grid) not in self._levels:
            self._levels[T, grid] = Levels.from_scheduler(self.adapter.scheduler, T, grid)
        return self._levels[T, grid]

    @staticmethod
    def forwards(setting: Setting) -> int:
        """Network sample-forwards of one evaluation: a guidance of 1 or less needs the conditional branch only."""
        return 2 if setting.guidance > 1 else 1

    def denoise(
        self,
        x_BCHW: torch.Tensor,
        level_B: Sequence[int],
        settings: Sequence[Setting],
        taps: Sequence[str] = (),
        pooled: bool = False,
        full: int = 0,
    ) -> Prediction:
        """(x0, eps) and the named taps of every sample, from one network call (more only when memory forces smaller batches).

        full: the largest batch there will be; with it the rows of the call are filled up to a `bucket`, which changes no result and
        counts nowhere, so that the network and the memory of a GPU see few shapes.
        """
        parts = self.slices.run(
            len(settings), lambda part: self._denoise(x_BCHW[part], level_B[part], settings[part], taps, pooled, full)
        )
        return parts[0] if len(parts) == 1 else _joined(parts)

    def fastest(self, shape: tuple[int, int, int]) -> int:
        """The number of samples (C, H, W) per call at which it makes most guided NFE each second, tried out once."""
        if shape not in self._fastest:
            setting = Setting("", guidance=2.0)

            def call(size: int) -> None:  # past the slices, which would hide that memory is out
                x_BCHW = torch.zeros(size, *shape, device=self.device)
                self._denoise(x_BCHW, [setting.levels] * size, [setting] * size, (), False)

            self._fastest[shape] = profile(call, shape, self.device)
        return self._fastest[shape]

    def scorer(self, step_reward: str, step_model: str) -> StepScorer:
        """The step scorer of a setting, loaded on first use; ValueError if it does not fit this model."""
        key = step_reward, step_model
        if key not in self._scorers:
            self._scorers[key] = load_scorer(*key, self.adapter)
        return self._scorers[key]

    def register(self, step_reward: str, step_model: str, scorer: StepScorer) -> None:
        """Have `scorer` score the states of this setting."""
        self._scorers[step_reward, step_model] = scorer

    def evaluator(self, source: str) -> Evaluator:
        """The IGE in a folder, or "scenes", loaded on first use; ValueError if it does not fit this model."""
        if source not in self._evaluators:
            from mcts_ray.gain.evaluator import load_evaluator

            self._evaluators[source] = load_evaluator(source, self)
        return self._evaluators[source]

    def install(self, source: str, version: Version) -> None:
        """From now on searches that are not pinned go by this version of an IGE."""
        self.evaluator(source).install(version.number, {name: torch.from_numpy(value) for name, value in version.state.items()})

    @torch.no_grad()
    def gains(
        self,
        source: str,
        nodes: Sequence[str],
        x_BCHW: torch.Tensor,
        prediction: Prediction,
        level_B: Sequence[int],
        settings: Sequence[Setting],
        rows: Sequence[int],
    ) -> list[Gains]:
        """What an IGE predicts of the jumps from the states in `rows`, whose names are `nodes`, right after `denoise`."""
        evaluator = self.evaluator(source)
        states = self._states(evaluator.taps, x_BCHW, prediction, level_B, settings, rows)
        return evaluator.evaluate(states, nodes, [level_B[row] for row in rows], [settings[row] for row in rows])

    @torch.no_grad()
    def score(
        self,
        scorer: StepScorer,
        x_BCHW: torch.Tensor,
        prediction: Prediction,
        level_B: Sequence[int],
        settings: Sequence[Setting],
        rows: Sequence[int],
    ) -> list[float | None]:
        """Step scores of the states in `rows`, right after `denoise` has made `prediction` of all B; None where one is not finite."""
        states = self._states(scorer.taps, x_BCHW, prediction, level_B, settings, rows)
        score_R = torch.cat(self._scoring.run(len(states), lambda part: scorer.score(states.part(part)))).float().cpu()
        assert score_R.shape == (len(rows),), "a step scorer gave another number of scores than there are states"
        return [score if math.isfinite(score) else None for score in score_R.tolist()]

    def _states(self, taps, x_BCHW, prediction, level_B, settings, rows) -> States:
        chosen = [settings[row] for row in rows]
        rows_R = [self.levels(s.levels, s.grid).rows[level_B[row]] for s, row in zip(chosen, rows, strict=True)]
        t_R, alpha_R, sigma_R = torch.tensor(rows_R, dtype=torch.float32).to(self.device).unbind(1)
        index_R = torch.tensor(rows, device=self.device)
        tensors = (tensor.index_select(0, index_R) for tensor in (x_BCHW, prediction.x0, prediction.eps))
        found = {name: prediction.taps[name].index_select(0, index_R) for name in taps}
        prompts = tuple(s.prompt for s in chosen)
        embedding_RLD = torch.stack([self.prompts.get(prompt).embedding for prompt in prompts]).float()
        return States(*tensors, t_R, 2 * (alpha_R.log() - sigma_R.log()), found, prompts, embedding_RLD)

    @torch.no_grad()
    def _denoise(self, x_BCHW, level_B, settings, taps, pooled, full=0) -> Prediction:
        rows_B = [self.levels(s.levels, s.grid).rows[level] for s, level in zip(settings, level_B, strict=True)]
        t_B, alpha_B, sigma_B = torch.tensor(rows_B, dtype=torch.float32).to(self.device).unbind(1)
        guided = [b for b, s in enumerate(settings) if s.guidance > 1]
        count = len(settings) + len(guided)
        filler = bucket(count, full) - count if full else 0
        condition = self.prompts.stack([s.prompt for s in settings], [settings[b].negative_prompt for b in guided], filler)
        rows = slice(None) if len(guided) == len(settings) else torch.tensor(guided, dtype=torch.long, device=self.device)
        x_NCHW, t_N = (torch.cat([each, each[rows], *[each[:1]] * filler]) for each in (x_BCHW, t_B))
        with tapped(self.adapter.tap_points, taps, pooled) as features:
            output_NCHW = self.adapter.forward(x_NCHW, t_N, condition)[:count]
        output_BCHW = self._guide(output_NCHW, rows, [settings[b].guidance for b in guided], len(settings))
        x0, eps = split(output_BCHW, x_BCHW, alpha_B, sigma_B, self._prediction_type(settings))
        taps_cond, taps_uncond = {}, {}
        for name, feature_N in features.items():
            taps_cond[name] = feature_N[: len(settings)]
            taps_uncond[name] = feature_N[: len(settings)].clone()
            taps_uncond[name][rows] = feature_N[len(settings) : count]
        return Prediction(x0, eps, count, taps_cond, taps_uncond)

    def _guide(self, output_NCHW: torch.Tensor, rows, guidance: list[float], count: int) -> torch.Tensor:
        """Classifier-free guidance (arXiv 2207.12598): uncond + w (cond - uncond), w per sample."""
        if not guidance:
            return output_NCHW
        cond_BCHW, uncond_GCHW = output_NCHW[:count], output_NCHW[count:]
        w_G = torch.tensor(guidance, dtype=torch.float32, device=self.device)[:, None, None, None]
        guided_GCHW = uncond_GCHW + w_G * (cond_BCHW[rows] - uncond_GCHW)
        if len(guidance) == count:
            return guided_GCHW
        return cond_BCHW.index_copy(0, rows, guided_GCHW)

    def _prediction_type(self, settings: Sequence[Setting]) -> str:
        return self.levels(settings[0].levels, settings[0].grid).prediction_type


def _joined(parts: list[Prediction]) -> Prediction:
    return Prediction(
        torch.cat([part.x0 for part in parts]),
        torch.cat([part.eps for part in parts]),
        sum(part.forwards for part in parts),
        {name: torch.cat([part.taps[name] for part in parts]) for name in parts[0].taps},
        {name: torch.cat([part.taps_uncond[name] for part in parts]) for name in parts[0].taps},
    )
