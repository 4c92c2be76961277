"""The backend on Ray: a tree manager, denoisers, reward actors and a fusion actor, for as long as the backend is open.

One denoiser for each GPU, and beside it on the same GPU a reward actor, beside the first the fusion actor too; on a cluster without GPUs
one denoiser, or as many as asked for, and one reward actor for all. The tree manager sits on this node, where the run directories are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mcts_ray.actors import cluster
from mcts_ray.actors.beside import Beside
from mcts_ray.actors.denoiser import DenoiserWorker
from mcts_ray.actors.fusion import FusionWorker
from mcts_ray.actors.reward import RewardWorker
from mcts_ray.actors.spec import DEATHS, PATIENCE, TRIES, Actor, first_line, in_turn
from mcts_ray.actors.tree_manager import TreeManager
from mcts_ray.checks import choose_reward, with_absolute_places
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.device import check_precision, resolve_device
from mcts_ray.diffusion.resolve import Model
from mcts_ray.diffusion.sizing import check_batch_size
from mcts_ray.executor.backend import ActorsLost, Found, Plan, Run, Task
from mcts_ray.executor.base import Job, Progress
from mcts_ray.executor.record import line
from mcts_ray.reward import ImageReward, with_absolute_folders
from mcts_ray.reward.resolve import module_paths

START = 600.0  # seconds that a cluster may take to find room for the actors
CACHE, MOST_CACHE = 0.3, 4 * 2**30  # of the cluster's object store, what states of trees may take; bytes
POLL = 0.2  # seconds between two looks at the progress


class RayBackend:
    """Carries out searches on the cluster at `address`, or as `mcts_ray.actors.cluster` finds or starts one.

    batch_size: see `choose_batch_size`. cache: bytes that the states of all trees may take; those over it are evicted, and made again
    where they are needed. None: a share of the object store. Raises ValueError, before any actor is made, for an address where nobody
    answers, and for more workers or another device than the cluster has.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        dtype: str = "fp32",
        *,
        batch_size: int | str | None = None,
        workers: int | None = None,
        address: str | None = None,
        cache: int | None = None,
    ) -> None:
        check_batch_size(batch_size)
        self.model, self.dtype, self.batch_size, self._cache = model, dtype, batch_size, cache
        address = cluster.find(address)
        if address is None and device == "cuda" and not ray.is_initialized():
            resolve_device(device)  # a cluster of our own has what this machine has
        self._actors: list[Actor] = []
        self._manager = None
        self._reviving, self._making = threading.Lock(), threading.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="mcts-ray-"))  # what the manager needs to go on after its death
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
        config = with_absolute_places(config)
        plan = self._ask("plan", list(prompts), config, reward, self.batch_size)
        self._ask("load", with_absolute_folders(choose_reward(self.model.name, config.reward, reward)))
        return plan

    def run(
        self,
        tasks: Sequence[Task],
        plan: Plan,
        reward: str | ImageReward,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        """Carry out tasks made from one plan. Ctrl-C ends them, and what they have found is handed over."""
        ids = [task.search.id for task in tasks]
        error = None
        try:
            kept = [task.moved() if task.run_dir else self._spooled(task) for task in tasks]
            self._ask("submit", kept, with_absolute_folders(reward), plan.latent_shape, plan.batch_size)
            self._watch(ids, on_progress)
        except BaseException as caught:  # what was found is handed over first
            error = caught
        try:
            if error:
                self._ask("halt", ids)
            found = self._ask("found", ids)
            with contextlib.suppress(Exception):  # they are here, whatever becomes of the manager
                self._ask("forget", ids)
            return Run(found, error)
        except Exception as lost:  # with the manager, or before it had the searches: nothing was found
            return Run([Found.of(Job(task.search, task.in_flight), {}) for task in tasks], error or lost)
        finally:
            for id in ids:
                shutil.rmtree(self._folder / id, ignore_errors=True)

    def extend(self, search: str, nfe: int) -> bool:
        """Let a running search, by its id, spend more; False if it has ended or cannot use it."""
        return _get(self._open().extend.remote(search, nfe))

    def resize(self, workers: int) -> None:
        """Have so many denoisers, also while searches run. More are asked of the cluster, which may have to grow for them, and join when
        they have their place; those that are to go end what they do first. ValueError for none."""
        self._ask("resize", workers)
        self.workers = workers

    def census(self) -> dict[str, Any]:
        """What the tree manager has in hand."""
        return self._ask("census")

    def close(self) -> None:
        """End the actors, and the connection if nobody else in this process needs it."""
        with self._making:
            gone = [self._manager, *(actor.handle for actor in self._actors)]
            self._manager, self._actors = None, []
        for handle in gone if ray.is_initialized() else ():
            if handle is not None:
                ray.kill(handle, no_restart=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._joined:
            self._joined = False
            cluster.leave()

    def _start(self) -> None:
        """Make the actors, all at once, and wait for the denoisers to have their place."""
        threads = _threads(self.workers)
        paths = module_paths()
        model = self.model, self.device, self.dtype, threads
        gpu = self.device == "cuda"
        denoisers = [Actor(in_turn(DenoiserWorker), *model, paths, num_cpus=1, num_gpus=int(gpu)) for _ in range(self.workers)]
        self._actors += denoisers
        places = _get([actor.handle.place.remote() for actor in denoisers], START)
        if gpu:
            sharing = [(one, node, gpus) for one, (node, gpus, _) in zip(denoisers, places, strict=True)]
            rewards = [Beside(*one, RewardWorker, *model, paths) for one in sharing]
            fusion = Beside(*sharing[0], FusionWorker, self.device)  # the first denoiser never leaves
        else:
            rewards = [Actor(RewardWorker, *model, paths, num_cpus=0)] * self.workers
            fusion = Actor(FusionWorker, num_cpus=0)
        self._actors += [*dict.fromkeys(rewards), fusion]
        self._pool = list(zip(denoisers, rewards, strict=True)), fusion, paths
        self._manager = self._make_manager()

    def _make_manager(self) -> Any:
        """Ray restarts it when its process dies; it then goes on by itself with what is in the folder."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        manager = ray.remote(TreeManager).options(num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here)
        store = ray.cluster_resources().get("object_store_memory", 0)
        cache = self._cache or min(MOST_CACHE, int(CACHE * store)) or None
        return manager.remote(cloudpickle.dumps(self._pool), str(self._folder), cache)  # pickled: Ray warns of handles it may need again

    def _spooled(self, task: Task) -> Task:
        """A search that nobody wants written down, with a journal for the manager's sake. OSError where there is no room for that."""
        folder = self._folder / task.search.id
        try:
            folder.mkdir()
            (folder / "journal.jsonl").write_bytes(line({"type": "header", "search": task.search.id}))
        except OSError as error:
            words = f"folder {self._folder} for temporary files cannot be written ({error.strerror}); make room there, or name another by TMPDIR"
            raise OSError(words) from error
        return replace(task, run_dir=folder)

    def _open(self) -> Any:
        """The manager; ActorsLost where another thread has closed the backend."""
        if self._manager is None:
            raise ActorsLost("the actors of the search have been let go")
        return self._manager

    def _ask(self, method: str, *args: Any) -> Any:
        """A call of the manager that may be repeated: where it dies over it, the next one is asked."""
        for left in reversed(range(TRIES)):
            manager = self._open()
            try:
                return _get(getattr(manager, method).remote(*args))
            except RuntimeError as error:
                if not left or not isinstance(error.__cause__, RayActorError):
                    raise
                self._revive(manager)

    def _revive(self, manager: Any) -> None:
        """After its death: wait until Ray has restarted the manager, or make a new one if it is gone for good. Raises as `_open`."""
        with self._reviving:
            deadline = time.monotonic() + PATIENCE
            while self._open() is manager and time.monotonic() < deadline:
                try:
                    ray.get(manager.__ray_ready__.remote(), timeout=PATIENCE)
                    return
                except ActorUnavailableError:
                    time.sleep(POLL)
                except (RayActorError, GetTimeoutError):
                    break
            with self._making:  # not while another thread closes the backend
                if self._open() is manager:
                    ray.kill(manager, no_restart=True)
                    self._manager = self._make_manager()

    def _watch(self, ids: Sequence[str], on_progress: Callable[[Progress], None] | None) -> None:
        """Wait for searches to end, and say how they get on. Raises where the manager dies again and again and they get nowhere."""
        deaths, reached = 0, -1
        while True:
            manager = self._open()
            try:
                self._until_ended(manager, ids, on_progress)
                return
            except RuntimeError as error:
                if not isinstance(error.__cause__, RayActorError):
                    raise
                self._revive(manager)
                nfe = self._ask("progress", ids).nfe
                deaths, reached = (1, nfe) if nfe > reached else (deaths + 1, reached)
                if deaths > TRIES:
                    raise

    def _until_ended(self, manager: Any, ids: Sequence[str], on_progress: Callable[[Progress], None] | None) -> None:
        ended = manager.wait.remote(ids)
        while not ray.wait([ended], timeout=POLL if on_progress else None)[0]:
            on_progress(_get(manager.progress.remote(ids)))
        _get(ended)
        if on_progress:
            on_progress(_get(manager.progress.remote(ids)))


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
        if isinstance(error.cause, ActorsLost):
            raise ActorsLost(str(error.cause)) from None
        if isinstance(error.cause, DEATHS):
            raise ActorsLost(f"an actor of the search has died: {first_line(error)}") from None
        raise
    except GetTimeoutError:
        words = f"the Ray cluster found no room for the actors within {timeout:.0f} s; `ray status` says what it lacks"
        raise ActorsLost(words) from None
    except RayError as error:
        raise ActorsLost(f"an actor of the search has died: {first_line(error)}") from error
