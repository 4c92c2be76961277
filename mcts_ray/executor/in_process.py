"""The backend in this process: a loaded pipeline, its engine and its rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcts_ray.checks import choose_reward, with_absolute_places
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.sizing import check_batch_size
from mcts_ray.executor.backend import Found, Plan, Run, Task
from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.local import LocalExecutor
from mcts_ray.executor.plan import make_plan
from mcts_ray.reward import ImageReward, Reward, resolve_reward


CACHE = 4 * 2**30  # bytes that kept states of trees may take; those over it are made again where they are needed


class InProcess:
    """Carries out searches with a pipeline on DDIM that is loaded in this process. batch_size: see `choose_batch_size`."""

    def __init__(self, pipe, model: str, batch_size: int | str | None = None) -> None:
        check_batch_size(batch_size)
        self.model = model
        self.batch_size = batch_size
        self.adapter = make_adapter(pipe)
        self.denoiser = Denoiser(self.adapter)
        self.decoder = Decoder(self.adapter)
        self._rewards: dict[str, Reward] = {}
        self._jobs: dict[str, Job] = {}

    def plan(self, prompts: Sequence[str], config: SearchConfig, reward: str | ImageReward | None) -> Plan:
        config = with_absolute_places(config)
        plan = make_plan(self.model, self.denoiser, prompts, config, reward, batch_size=self.batch_size)
        self._reward(choose_reward(self.model, config.reward, reward))  # what is wrong with its weights is said before the search
        return plan

    def run(
        self,
        tasks: Sequence[Task],
        plan: Plan,
        reward: str | ImageReward,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        jobs = [task.job(plan.batch_size) for task in tasks]
        self._jobs |= {job.search.id: job for job in jobs}
        error = None
        try:
            self.executor(plan, reward).run(jobs, on_progress)
        except BaseException as caught:  # what was found is handed over first
            error = caught
        for job in jobs:
            del self._jobs[job.search.id]
            if job.observer:
                job.observer.close()
        return Run([Found.of(job, job.gallery) for job in jobs], error)

    def extend(self, search: str, nfe: int) -> bool:
        """Let a running search, by its id, spend more; False if it has ended or cannot use it. May be called from another thread."""
        job = self._jobs.get(search)
        return job is not None and job.extend(nfe)

    def executor(self, plan: Plan, reward: str | ImageReward) -> LocalExecutor:
        """An executor for the searches of a plan."""
        engine = Engine(self.denoiser, plan.batch_size, CACHE)
        return LocalExecutor(engine, self.decoder, self._reward(reward))

    def close(self) -> None:
        """Nothing is held that does not go with the object."""

    def _reward(self, reward: str | ImageReward) -> Reward:
        """The reward, made once for each name."""
        if not isinstance(reward, str):
            return resolve_reward(reward)
        if reward not in self._rewards:
            self._rewards[reward] = resolve_reward(reward, str(self.adapter.device))
        return self._rewards[reward]
