"""`Searcher`: a model that searches for the best images of a prompt, or of many prompts at once, here or on a Ray cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mcts_ray.checks import choose_reward, needs_scenes
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.resolve import Model, resolve_model
from mcts_ray.executor.backend import ActorsLost, Backend, Found, Plan, Task
from mcts_ray.executor.base import Progress
from mcts_ray.report.run import RunDirectory, check_free
from mcts_ray.result import SearchFailed, SearchInterrupted, SearchResult
from mcts_ray.reward import ImageReward, find_weights, reward_name
from mcts_ray.search import Search
from mcts_ray.settings import make_config

log = logging.getLogger(__name__)
WAIT = 2.0  # seconds between two attempts to write the end of a run


class Searcher:
    """A pipeline with a reward, ready to search. Made by `from_pretrained`, or from a diffusers pipeline (LoRAs loaded).

    reward: a name, a weighted sum or a callable `(images, prompts) -> scores`; `SearchConfig.reward` goes before it.
    batch_size: samples per denoiser call, or "profile": tried out for the model and the size of its images when a search begins, which
    is the default on a GPU; on a CPU, where results depend on it in their last digits, the default is a constant.
    backend: what carries searches out; by default this process, with `pipe`.
    """

    def __init__(
        self,
        pipe=None,
        *,
        model: str = "pipeline",
        reward: str | ImageReward | None = None,
        batch_size: int | str | None = None,
        backend: Backend | None = None,
    ):
        self.model = model
        self.reward = reward
        self.backend = backend or _in_process(pipe, model, batch_size)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Model = "scenes",
        device: str = "auto",
        dtype: str = "fp32",
        reward: str | ImageReward | None = None,
        batch_size: int | str | None = None,
        executor: str = "local",
        workers: int | None = None,
        address: str | None = None,
    ) -> Searcher:
        """Load "scenes", a hub id or a local folder. ValueError with a sentence for anything that cannot be.

        executor: "local", in this process, or "ray": actors on the cluster at `address` (None: RAY_ADDRESS, else one that
        runs on this machine, else one of its own), with `workers` denoisers (None: one for each GPU, at least one). A
        searcher on Ray holds actors until `close`, or the end of its `with` block.
        """
        model = resolve_model(model) if isinstance(model, str) else model
        if executor == "ray":
            from mcts_ray.actors.backend import RayBackend

            backend = RayBackend(model, device, dtype, batch_size=batch_size, workers=workers, address=address)
            return cls(model=model.name, reward=reward, backend=backend)
        if executor != "local":
            raise ValueError(f"unknown executor {executor!r}; choose ray or local")
        if workers not in (None, 1) or address is not None:
            raise ValueError("workers and address belong to the ray executor; the local one is this process alone")
        from mcts_ray.diffusion.load import load_pipeline

        return cls(load_pipeline(model, device, dtype), model=model.name, reward=reward, batch_size=batch_size)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End its actors, and the Ray cluster if it started one."""
        self.backend.close()

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
        if outs and len(outs) != len(prompts):
            raise ValueError(f"there are {len(prompts)} prompts but {len(outs)} run directories")
        for out in outs or ():
            check_free(Path(out))
        asked = config or SearchConfig()
        reward = choose_reward(self.model, asked.reward, self.reward)
        find_weights(reward)
        plan = self.backend.plan(prompts, asked, self.reward)
        config = plan.config
        runs = [self._open_run(*pair, plan, Path(out)) for *pair, out in zip(plan.searches, prompts, outs or ())]
        tasks = [
            Task(search, config.in_flight, config.images, runs[index].path if runs else None)
            for index, search in enumerate(plan.searches)
        ]
        return self._carry_out(prompts, tasks, plan, reward, runs, on_progress)

    def resume(
        self, run_dir: str | Path, on_progress: Callable[[Progress], None] | None = None, budget: int | None = None
    ) -> SearchResult:
        """Go on with a search that was stopped, in its run directory, to the tree that it would have had: with one denoiser and on a
        CPU the same, node for node. States that are needed are made again; that costs time, and nothing of the budget.

        budget: NFE in all, where it is to have more than it had; also for one that has ended. Raises as `many`, and ValueError if the
        directory holds no such run.
        """
        run = RunDirectory.reopen(Path(run_dir))
        if run.job["status"] == "done" and budget is None:
            raise ValueError(f"the search in {run_dir} is done; there is nothing to resume, only more budget to give")
        if run.job["model"] != self.model:
            raise ValueError(f"the search in {run_dir} is of model {run.job['model']}, not {self.model}")
        asked = make_config(run.job["config"], f"run directory {run_dir}: ")
        if self.reward is not None and not isinstance(self.reward, str) and reward_name(self.reward) == asked.reward:
            asked = asked.model_copy(update={"reward": None})  # a callable, which no file holds
        reward = choose_reward(self.model, asked.reward, self.reward)
        find_weights(reward)
        plan = self.backend.plan([run.job["prompt"]], asked, self.reward)
        plan = replace(plan, batch_size=run.job.get("batch_size", plan.batch_size))  # last digits depend on it
        search, config = plan.searches[0], plan.config
        run.check(search, budget or 0)
        run.resume(search.id, self._header(search, config))
        task = Task(search, config.in_flight, config.images, run.path, budget or 0)
        return self._carry_out([run.job["prompt"]], [task], plan, reward, [run], on_progress)[0]

    def _open_run(self, search: Search, prompt: str, plan, out: Path) -> RunDirectory:
        header = self._header(search, plan.config)
        job = {"prompt": prompt, "model": self.model, "device": plan.device, "dtype": plan.dtype, "batch_size": plan.batch_size}
        job["config"] = header["config"]
        return RunDirectory.make(out, job, header)

    def _header(self, search: Search, config: SearchConfig) -> dict[str, Any]:
        return {"search": search.id, "config": config.model_dump(), "setting": asdict(search.setting)}

    def _carry_out(
        self,
        prompts: Sequence[str],
        tasks: Sequence[Task],
        plan: Plan,
        reward: str | ImageReward,
        runs: Sequence[RunDirectory],
        on_progress: Callable[[Progress], None] | None,
    ) -> list[SearchResult]:
        """Run tasks to their end and write down what came of them."""
        found, error = self.backend.run(tasks, plan, reward, on_progress)
        scenes = needs_scenes(self.model, reward)
        results = [
            self._result(one, prompt, plan, scenes, task.run_dir) for one, prompt, task in zip(found, prompts, tasks, strict=True)
        ]
        for run, result in zip(runs, results):
            _finish(run, result, _status(error, result), on_progress)
        if isinstance(error, KeyboardInterrupt):
            raise SearchInterrupted(results)
        if isinstance(error, ValueError):  # the request was found good, so this is not the user's mistake
            raise RuntimeError(str(error)) from error
        if error:
            raise error
        return results

    def _result(self, found: Found, prompt: str, plan: Plan, scenes: bool, run_dir: Path | None) -> SearchResult:
        rewards = [candidate.reward for candidate in found.finished]
        images = [found.gallery[candidate.node] for candidate in found.best]
        return SearchResult(
            prompt=prompt,
            model=self.model,
            config=plan.config,
            images=[Image.fromarray(image) for image in images],
            candidates=list(found.best),
            first=Image.fromarray(found.gallery[found.first]) if found.first else None,
            mean_reward=sum(rewards) / len(rewards) if rewards else None,
            verdicts=_judge(images, prompt) if scenes and images else (),
            ledger=found.ledger,
            tree={"nodes": found.nodes},
            errors=found.errors,
            run_dir=run_dir,
            finished=found.finished,
            thumbnails=found.thumbnails,
            refusals=found.refusals,
            scoring_seconds=found.scoring_seconds,
            scores=found.scores,
            pruning=found.pruning,
            notes=(*plan.notes, *found.notes),
        )


def _in_process(pipe, model: str, batch_size: int | str | None) -> Backend:
    from mcts_ray.diffusion.load import use_ddim
    from mcts_ray.executor.in_process import InProcess

    return InProcess(use_ddim(pipe, model), model, batch_size)


def _status(error: BaseException | None, result: SearchResult) -> str:
    """How a search ended, for job.json; one that was lost with its actors goes on by its journal."""
    if isinstance(error, (KeyboardInterrupt, ActorsLost)):
        return "interrupted"
    return "failed" if error or result.failure else "done"


def _finish(run: RunDirectory, result: SearchResult, status: str, on_progress: Callable[[Progress], None] | None) -> None:
    """Write the end of a run, and while its storage is full or cannot be written wait, and say so; Ctrl-C ends that, and one that was ended
    by it is not waited for: its journal says as much."""
    while True:
        try:
            run.finish(result, status)
            return
        except OSError as error:
            if status == "interrupted":
                log.warning("the end of the search could not be written to run directory %s (%s)", run.path, error.strerror)
                return
            paused = f"run directory {run.path} cannot be written ({error.strerror}); the search is over and waits for that"
            log.warning("paused: %s", paused)
            if on_progress:
                best = result.best and result.best.reward
                nfe, seconds = result.ledger.nfe, result.ledger.seconds
                on_progress(Progress(nfe, nfe, seconds, (best,), len(result.finished), len(result.errors), 0, paused=paused))
            time.sleep(WAIT)


def _judge(images: Sequence[np.ndarray], prompt: str) -> tuple[tuple[float, bool], ...]:
    """Gold and pass of each image, by the exact verifier."""
    from mcts_ray.scenes import verify_batch

    return tuple((float(score), bool(passed)) for score, passed, _ in verify_batch(images, [prompt] * len(images)))
