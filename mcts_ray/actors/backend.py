"""The backend on Ray: a tree manager, denoisers, reward actors and a fusion actor, for as long as the backend is open.

One denoiser for each GPU, and beside it on the same GPU a reward actor; on a cluster without GPUs one denoiser, or as many as
asked for, and one reward actor for all. The tree manager sits on this node, where the run directories are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mcts_ray.actors import cluster
from mcts_ray.actors.denoiser import DenoiserWorker
from mcts_ray.actors.fusion import FusionWorker
from mcts_ray.actors.reward import RewardWorker
from mcts_ray.actors.spec import Actor
from mcts_ray.actors.tree_manager import TreeManager
from mcts_ray.checks import choose_reward
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.device import check_precision, resolve_device
from mcts_ray.diffusion.resolve import Model
from mcts_ray.executor.backend import Found, Plan, Run, Task
from mcts_ray.executor.base import Progress
from mcts_ray.gain import folder
from mcts_ray.reward import ImageReward, with_absolute_folders
from mcts_ray.reward.step import absolute

START = 600.0  # seconds that a cluster may take to find room for the actors
POLL = 0.2  # seconds between two looks at the progress


class RayBackend:
    """Carries out searches on the cluster at `address`, or as `mcts_ray.actors.cluster` finds or starts one.

    Raises ValueError, before any actor is made, for an address where nobody answers, and for more workers or another device
    than the cluster has.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        dtype: str = "fp32",
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        address: str | None = None,
    ) -> None:
        self.model, self.dtype, self.batch_size = model, dtype, batch_size
        address = cluster.find(address)
        if address is None and device == "cuda" and not ray.is_initialized():
            resolve_device(device)  # a cluster of our own has what this machine has
        self._actors: list[Actor] = []
        self._manager = None
        self._joined = cluster.join(address, workers or 1)
        try:
            self.device, self.workers = _room(device, workers)
            check_precision(dtype, self.device)
            self._start()
        except BaseException:
            self.close()
            raise

    def plan(self, prompts: Sequence[str], config: SearchConfig, reward: str | ImageReward | None) -> Plan:
        """The plan of a request; ValueError with a sentence if the model cannot do it."""
        if config.calibration not in (None, "none"):  # actors have another working directory
            config = config.model_copy(update={"calibration": os.path.abspath(config.calibration)})
        if config.fuse_model:
            config = config.model_copy(update={"fuse_model": os.path.abspath(config.fuse_model)})
        if config.step_model:
            config = config.model_copy(update={"step_model": absolute(config.step_model)})
        folders = {name: getattr(config, name) for name in ("ige_model", "ige_online")}
        config = config.model_copy(update={name: folder.absolute(source) for name, source in folders.items() if source})
        plan = _get(self._manager.plan.remote(list(prompts), config, reward))
        _get(self._manager.load.remote(with_absolute_folders(choose_reward(self.model.name, config.reward, reward))))
        return plan

    def run(
        self,
        tasks: Sequence[Task],
        plan: Plan,
        reward: str | ImageReward,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        """Carry out tasks made from one plan. Ctrl-C ends them, and what they have found is handed over."""
        size = self.batch_size or plan.batch_size
        tasks = [task.moved() for task in tasks]
        ids = [task.search.id for task in tasks]
        error = None
        try:
            _get(self._manager.submit.remote(tasks, with_absolute_folders(reward), plan.latent_shape, size))
            self._watch(ids, on_progress)
        except BaseException as caught:  # what was found is handed over first
            error = caught
        try:
            if error:
                _get(self._manager.halt.remote(ids))
            return Run(_get(self._manager.found.remote(ids)), error)
        except Exception as lost:  # with the manager, or before it had the searches: nothing was found
            return Run([Found.of(task.job(), {}) for task in tasks], error or lost)

    def extend(self, search: str, nfe: int) -> bool:
        """Let a running search, by its id, spend more; False if it has ended or cannot use it."""
        return _get(self._manager.extend.remote(search, nfe))

    def census(self) -> dict[str, Any]:
        """What the tree manager has in hand."""
        return _get(self._manager.census.remote())

    def close(self) -> None:
        """End the actors, and the connection if nobody else in this process needs it."""
        if ray.is_initialized():
            for handle in [self._manager, *(actor.handle for actor in self._actors)]:
                if handle is not None:
                    ray.kill(handle, no_restart=True)
        self._manager, self._actors = None, []
        if self._joined:
            self._joined = False
            cluster.leave()

    def _start(self) -> None:
        """Make the actors, all at once, and wait for the denoisers to have their place."""
        threads = _threads(self.workers)
        paths = [os.getcwd()]
        model = self.model, self.device, self.dtype, threads
        gpu = self.device == "cuda"
        denoisers = [Actor(DenoiserWorker, *model, num_cpus=1, num_gpus=int(gpu)) for _ in range(self.workers)]
        self._actors += denoisers
        places = _get([actor.handle.place.remote() for actor in denoisers], START)
        if gpu:
            rewards = [
                Actor(RewardWorker, *model, gpus, paths, num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                for node, gpus, _ in places
            ]
        else:
            rewards = [Actor(RewardWorker, *model, (), paths, num_cpus=0)] * self.workers
        fusion = Actor(FusionWorker, num_cpus=0)
        self._actors += [*dict.fromkeys(rewards), fusion]
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        manager = ray.remote(TreeManager).options(num_cpus=0, scheduling_strategy=here)
        self._manager = manager.remote(list(zip(denoisers, rewards, strict=True)), fusion)

    def _watch(self, ids: Sequence[str], on_progress: Callable[[Progress], None] | None) -> None:
        """Wait for searches to end, and say how they get on."""
        ended = self._manager.wait.remote(ids)
        while not ray.wait([ended], timeout=POLL if on_progress else None)[0]:
            on_progress(_get(self._manager.progress.remote(ids)))
        _get(ended)
        if on_progress:
            on_progress(_get(self._manager.progress.remote(ids)))


def _room(device: str, workers: int | None) -> tuple[str, int]:
    """The device and the number of denoisers on this cluster; ValueError if it has less than was asked for."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if device == "cuda" and not gpus:
        raise ValueError("device cuda was asked for, but the Ray cluster has no GPU; use --device cpu")
    device = "cuda" if gpus and device != "cpu" else "cpu"
    workers = workers or max(1, gpus if device == "cuda" else 1)
    have, what = (gpus, "GPUs") if device == "cuda" else (cpus, "CPUs")
    if workers > have:
        raise ValueError(f"{workers} workers need as many {what}, and the Ray cluster has {have}; use --workers {max(1, have)}")
    return device, workers


def _threads(workers: int) -> int:
    """CPU threads of each network: those of a lone process, shared out among the denoisers."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = min(os.cpu_count() or 1, int(ray.cluster_resources().get("CPU", 1)))
    return int(asked) if asked.isdigit() else max(1, cores // workers)


def _get(ref: Any, timeout: float | None = None) -> Any:
    """`ray.get`, raising what the actor raised, and a sentence where the cluster finds no room in time."""
    try:
        return ray.get(ref, timeout=timeout)
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from None  # a sentence for the user
        raise
    except GetTimeoutError:
        raise RuntimeError(f"the Ray cluster found no room for the actors within {timeout:.0f} s; `ray status` says what it lacks") from None
    except RayError as error:
        raise RuntimeError(f"an actor of the search has died: {str(error).strip().splitlines()[0]}") from error
