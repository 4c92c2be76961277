"""`Searcher`: a loaded model that searches for the best images of a prompt, or of many prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mcts_ray.checks import canonical, check_algorithm, check_prompts, check_size, default_reward, needs_scenes
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.levels import ays_levels
from mcts_ray.diffusion.load import load_pipeline, use_ddim
from mcts_ray.diffusion.resolve import Model
from mcts_ray.executor import Job, LocalExecutor, Progress
from mcts_ray.gain import make_policy
from mcts_ray.report.run import RunDirectory, check_free
from mcts_ray.result import SearchFailed, SearchInterrupted, SearchResult
from mcts_ray.reward import ImageReward, Reward, resolve_reward, reward_name
from mcts_ray.search import ALGORITHMS, Search, Setting


class Searcher:
    """A pipeline with a reward, ready to search. Made by `from_pretrained`, or from a diffusers pipeline (LoRAs loaded).

    reward: a name, a weighted sum or a callable `(images, prompts) -> scores`; `SearchConfig.reward` goes before it.
    batch_size: samples per denoiser call; by default chosen from the latent size and the device.
    """

    def __init__(self, pipe, *, model: str = "pipeline", reward: str | ImageReward | None = None, batch_size: int | None = None):
        self.model = model
        self.reward = reward
        self.batch_size = batch_size
        self.adapter = StableDiffusionAdapter(use_ddim(pipe, model))
        self.denoiser = Denoiser(self.adapter)
        self.decoder = Decoder(self.adapter)
        self._rewards: dict[str, Reward] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str | Model = "scenes",
        device: str = "auto",
        dtype: str = "fp32",
        reward: str | ImageReward | None = None,
        batch_size: int | None = None,
    ) -> Searcher:
        """Load "scenes", a hub id or a local folder. ValueError with a sentence for anything that cannot be."""
        pipe = load_pipeline(model, device, dtype)
        name = model if isinstance(model, str) else model.name
        return cls(pipe, model=name, reward=reward, batch_size=batch_size)

    def __call__(
        self,
        prompt: str,
        config: SearchConfig | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        out: str | Path | None = None,
    ) -> SearchResult:
        """Search for one prompt; with `out`, also write its run directory. SearchFailed if no image was finished."""
        result = self.many([prompt], config, on_progress, None if out is None else [out])[0]
        if result.failure:
            raise SearchFailed(result.failure)
        return result

    def many(
        self,
        prompts: Sequence[str],
        config: SearchConfig | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        outs: Sequence[str | Path] | None = None,
    ) -> list[SearchResult]:
        """Search for several prompts together, one batch from all of them; the budget is for each.

        A search that finished no image has `failure` set. Ctrl-C raises SearchInterrupted, which holds what was found.
        """
        config, reward = self.resolve(prompts, config or SearchConfig())
        if outs and len(outs) != len(prompts):
            raise ValueError(f"there are {len(prompts)} prompts but {len(outs)} run directories")
        for out in outs or ():
            check_free(Path(out))
        searches = [self.build(str(index), prompt, config) for index, prompt in enumerate(prompts)]
        runs = [self._open_run(*job, config, Path(out)) for *job, out in zip(searches, prompts, outs or ())]
        jobs = [
            Job(search, config.in_flight, config.images, runs[index] if runs else None) for index, search in enumerate(searches)
        ]
        status = "failed"
        try:
            self.executor(config, reward).run(jobs, on_progress)
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            results = [self._result(job, prompt, config) for job, prompt in zip(jobs, prompts)]
            for run, result in zip(runs, results):
                run.finish(result, "failed" if status == "done" and result.failure else status)
        if status == "interrupted":
            raise SearchInterrupted(results)
        return results

    def resolve(self, prompts: Sequence[str], config: SearchConfig) -> tuple[SearchConfig, Reward]:
        """Check a request against this model, and fill in its defaults; ValueError with a sentence if it cannot be done."""
        check_algorithm(config.algorithm)
        reward = self.reward if config.reward is None else config.reward
        if reward is None or isinstance(reward, str):
            reward = default_reward(self.model, reward)
        check_prompts(prompts, needs_scenes(self.model, reward))
        name = reward if isinstance(reward, str) else reward_name(reward)
        config = config.resolved(self.model == "scenes", self.adapter.default_size, name)
        check_size(reward, config.height, config.width)
        self.adapter.latent_shape(config.height, config.width)
        self.denoiser.levels(config.levels)
        return config, self._reward(reward)

    def build(self, id: str, prompt: str, config: SearchConfig) -> Search:
        """The search of one prompt; `config` must be resolved. The scenes model is given its own grammar's wording."""
        text = canonical(prompt) if self.model == "scenes" else prompt
        setting = Setting(
            text,
            config.negative_prompt,
            config.guidance,
            config.levels,
            height=config.height,
            width=config.width,
            order=config.order,
        )
        levels = self.denoiser.levels(config.levels)
        phi = partial(phi_from_eta, levels, eta=config.eta)
        policy = make_policy(config, partial(ays_levels, levels))
        return ALGORITHMS[config.algorithm].from_config(id, setting, config, phi, policy)

    def executor(self, config: SearchConfig, reward: Reward) -> LocalExecutor:
        """An executor for searches of this configuration."""
        _, height, width = self.adapter.latent_shape(config.height, config.width)
        batch_size = self.batch_size or _batch_size(height * width, self.adapter.device.type)
        return LocalExecutor(Engine(self.denoiser, batch_size), self.decoder, reward)

    def _reward(self, reward: str | ImageReward) -> Reward:
        """The reward, made once for each name."""
        if not isinstance(reward, str):
            return resolve_reward(reward)
        if reward not in self._rewards:
            self._rewards[reward] = resolve_reward(reward, str(self.adapter.device))
        return self._rewards[reward]

    def _open_run(self, search: Search, prompt: str, config: SearchConfig, out: Path) -> RunDirectory:
        job = {"prompt": prompt, "model": self.model, "device": str(self.adapter.device)}
        job |= {"dtype": str(self.adapter.unet.dtype).removeprefix("torch."), "config": config.model_dump()}
        header = {"search": search.id, "config": config.model_dump(), "setting": asdict(search.setting)}
        return RunDirectory(out, job, header)

    def _result(self, job: Job, prompt: str, config: SearchConfig) -> SearchResult:
        search, gallery = job.search, job.gallery
        candidates = search.best(config.images)
        rewards = [candidate.reward for candidate in search.finished]
        scenes = bool(candidates) and needs_scenes(self.model, config.reward if config.reward in self._rewards else None)
        images = [gallery[candidate.node] for candidate in candidates]
        return SearchResult(
            prompt=prompt,
            model=self.model,
            config=config,
            images=[Image.fromarray(image) for image in images],
            candidates=candidates,
            first=Image.fromarray(gallery[job.first]) if job.first else None,
            mean_reward=sum(rewards) / len(rewards) if rewards else None,
            verdicts=_judge(images, prompt) if scenes else (),
            ledger=search.ledger,
            tree={"nodes": search.nodes()},
            errors=tuple(search.errors),
            run_dir=job.observer.path if isinstance(job.observer, RunDirectory) else None,
        )


def _judge(images: Sequence[np.ndarray], prompt: str) -> tuple[tuple[float, bool], ...]:
    """Gold and pass of each image, by the exact verifier."""
    from mcts_ray.scenes import verify_batch

    return tuple((float(score), bool(passed)) for score, passed, _ in verify_batch(images, [prompt] * len(images)))


def _batch_size(cells: int, device: str) -> int:
    """Samples per call for latents of `cells` = H x W: 64 small ones on a CPU (more gains nothing), 64 of 64 x 64 on a GPU."""
    if device == "cpu":
        return max(1, min(64, 2**14 // cells))
    return max(1, min(256, 2**18 // cells))
