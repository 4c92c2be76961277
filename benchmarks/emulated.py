"""Denoisers and reward actors that take their time and compute nothing, for what the tree manager and the pool do themselves.

They answer as `DenoiserWorker` and `RewardWorker` do, import no torch, and sleep as long as a GPU would work: one batch, full or not, takes
the same time. Everything else is the real thing: the searches, the tree manager, the calls, the refs, the journal. They stand for other
machines, so where there are too few cores for all of them the manager goes first (`yields`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError

from mcts_ray.actors.denoiser import DenoiserWorker
from mcts_ray.actors.reward import RewardWorker
from mcts_ray.actors.spec import Actor, in_turn
from mcts_ray.actors.tree_manager import TreeManager
from mcts_ray.executor.backend import Task
from mcts_ray.executor.record import line
from mcts_ray.reward.base import Scored
from mcts_ray.search import MCTS, BestOfN, Setting
from mcts_ray.search.base import Cost, Search, Work
from mcts_ray.search.branching import Branching
from mcts_ray.search.lineage import Again

SHAPE = (4, 64, 64)  # of a latent of SD 1.5
STORE = 2**30  # bytes of the object store of a cluster of our own
IMAGE = np.zeros((8, 8, 3), np.uint8)


class Tensor:
    """As much of a tensor as the denoiser actor needs to pack it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


@dataclass
class Kept:
    """A state as it is kept."""

    level: int
    x0: Tensor
    eps: Tensor
    alpha: float = 1.0
    sigma: float = 0.0
    m1: None = None
    previous: None = None
    features: None = None


@dataclass
class Walked:
    """A unit that has left; the fields that the denoiser actor reads."""

    work: Work
    nfe: int
    seconds: float
    latent: Tensor | None
    error: None = None
    scores: tuple = ()
    gains: tuple = ()

    @property
    def cost(self) -> Cost:
        return Cost(self.nfe, 2 * self.nfe, denoiser_seconds=self.seconds)

    @property
    def to_decode(self) -> tuple[Tensor, ...]:
        return () if self.latent is None else (self.latent,)


class Store(dict):
    """Kept states by search and node."""

    def get(self, search: str, node: str) -> Kept | None:
        return super().get((search, node))

    def put(self, search: str, node: str, kept: Kept) -> None:
        self[search, node] = kept

    def forget(self, search: str, nodes: Sequence[str]) -> None:
        for node in nodes:
            self.pop((search, node), None)


@dataclass
class Engine:
    """Slots whose walks move on by one state with every step of `seconds`."""

    batch_size: int
    seconds: float
    latent: Tensor
    store: Store = field(default_factory=Store)
    spent: Counter[str] = field(default_factory=Counter)
    sizes: dict = field(default_factory=dict)
    units: list[list] = field(default_factory=list)  # [work, states evaluated, seconds]
    most: int = 0  # units that were in it at once
    missing: int = 0  # parents that were not there

    @property
    def idle(self) -> bool:
        return not self.units

    def resume(self, units: Sequence[Again], noise: Any = None, states: Any = None) -> list[Walked]:
        for unit in units:
            parent = unit.work.parent
            self.missing += parent is not None and self.store.get(unit.work.search, parent) is None
            self.units.append([unit.work, 0, 0.0])
        self.most = max(self.most, len(self.units))
        return []

    def step(self) -> list[Walked]:
        time.sleep(self.seconds)
        batch = self.units[: self.batch_size]
        for unit in batch:
            unit[1] += 1
            unit[2] += self.seconds / len(batch)
        self.spent = self.spent + Counter(work.search for work, _, _ in batch)
        left = [unit for unit in batch if unit[1] >= unit[0].nfe]
        self.units = [unit for unit in self.units if not any(unit is one for one in left)]
        return [self.walked(*unit) for unit in left]

    def walked(self, work: Work, nfe: int, seconds: float) -> Walked:
        for edge in work.edges:
            if edge.node in work.keep:
                self.store.put(work.search, edge.node, Kept(edge.level, self.latent, self.latent))
        return Walked(work, nfe, seconds, self.latent if work.terminal else None)

    def drop(self, search: str) -> list[Walked]:
        for key in [key for key in self.store if key[0] == search]:
            del self.store[key]
        gone = [unit for unit in self.units if unit[0].search == search]
        self.units = [unit for unit in self.units if unit[0].search != search]
        return [Walked(work, nfe, seconds, None) for work, nfe, seconds in gone if nfe]


class EmulatedDenoiser(DenoiserWorker):
    """A denoiser whose batches take `seconds`. spans: when its steps began and ended, and how many samples they had."""

    def __init__(self, seconds: float, shape: tuple[int, int, int] = SHAPE) -> None:
        self.seconds, self.latent = seconds, Tensor(np.zeros(shape, np.float16))
        self.generation, self.engine, self.spans = None, None, []
        yields()

    def __repr__(self) -> str:
        return "Denoiser(emulated)"

    def begin(self, generation: int, batch_size: int) -> None:
        self.generation, self.engine = generation, Engine(batch_size, self.seconds, self.latent)
        step = self.engine.step

        def timed() -> list[Walked]:
            began, size = time.time(), min(len(self.engine.units), batch_size)
            left = step()
            self.spans.append((began, time.time(), size))
            return left

        self.engine.step = timed

    def _put(self, parts: Sequence[dict]) -> None:
        for part in parts:
            for key, ((level, *_), _, _) in part.items():
                self.engine.store.put(*key, Kept(level, self.latent, self.latent))

    def redo(self, generation: int, generations: Sequence[Sequence[Again]], states: Sequence[Any]):
        """As the real one; its walks take no time."""
        self._check(generation)
        units = [unit for generation in generations for unit in generation]
        state = (0, 1.0, 0.0, None), np.stack([self.latent.array] * 2), None
        made = {(unit.work.search, node): state for unit in units for node in unit.work.keep}
        self._put([made])
        return (sum(unit.work.nfe for unit in units), [], 0), made, []

    def seen(self) -> dict[str, Any]:
        """What it has been through."""
        return {"spans": self.spans, "most": self.engine.most, "missing": self.engine.missing, "kept": len(self.engine.store)}


class EmulatedReward(RewardWorker):
    """A reward actor that takes `seconds` a latent, and scores at random."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spans = seconds, []
        yields()

    def __repr__(self) -> str:
        return "Reward(emulated)"

    def load(self, key: str, reward: Any) -> int:
        return 0

    def forget(self, key: str) -> None:
        pass

    def score(self, packed: bytes, refs: Sequence[Any]) -> list:
        began = time.time()
        _, picks, _, wanted = pickle.loads(packed)
        time.sleep(self.seconds * len(picks))
        scores = [Scored(random.random(), None, 1) for _ in picks]
        self.spans.append((began, time.time()))
        stats = scores, [b""] * len(wanted), time.time() - began
        return [stats, *[IMAGE] * len(wanted)] if wanted else stats

    def show(self, latents: Sequence[np.ndarray]) -> list:
        return [[b""] * len(latents), *[IMAGE] * len(latents)]

    def seen(self) -> list[tuple[float, float]]:
        """When it was at work."""
        return self.spans


class EmulatedFusion:
    """There is nothing to fuse."""


class Emulated:
    """A tree manager with `denoisers` emulated ones, for as long as the `with` block lasts; Ray must be there.

    rewards: how many reward actors they share. cache: bytes that states may take. cpus: what each denoiser asks the cluster for.
    """

    def __init__(
        self,
        denoisers: int,
        batch_size: int = 8,
        seconds: float = 0.25,
        reward_seconds: float = 0.001,
        rewards: int | None = None,
        cache: int | None = None,
        shape: tuple[int, int, int] = SHAPE,
        cpus: int = 0,
    ) -> None:
        self.batch_size, self.shape = batch_size, shape
        rewards = rewards or max(1, denoisers // 8)
        self.denoisers = [Actor(in_turn(EmulatedDenoiser), seconds, shape, num_cpus=cpus) for _ in range(denoisers)]
        self.rewards = [Actor(EmulatedReward, reward_seconds, num_cpus=0) for _ in range(rewards)]
        self.fusion = Actor(EmulatedFusion, num_cpus=0)
        pool = [(denoiser, self.rewards[at % rewards]) for at, denoiser in enumerate(self.denoisers)], self.fusion
        ray.get([actor.handle.__ray_ready__.remote() for actor in (*self.denoisers, *self.rewards)])
        self.folder = tempfile.TemporaryDirectory(prefix="mcts-ray-")
        manager = ray.remote(TreeManager).options(num_cpus=0, max_restarts=-1)
        self.manager = manager.remote(cloudpickle.dumps((*pool, [])), self.folder.name, cache)

    def __enter__(self) -> Emulated:
        return self

    def __exit__(self, *_: Any) -> None:
        for actor in (self.manager, *(actor.handle for actor in (*self.denoisers, *self.rewards, self.fusion))):
            ray.kill(actor, no_restart=True)
        self.folder.cleanup()

    def submit(self, searches: Sequence[Search], in_flight: int | Callable[[Search], int], written: bool = True) -> list[str]:
        """Begin searches, each with its journal if they are `written` down; returns their ids."""
        tasks = []
        for search in searches:
            run = Path(self.folder.name) / search.id
            if written:
                run.mkdir()
                (run / "journal.jsonl").write_bytes(line({"type": "header", "search": search.id}))
            cap = in_flight(search) if callable(in_flight) else in_flight
            tasks.append(Task(search, cap, 1, run if written else None))
        self._ask("submit", tasks, "emulated", self.shape, self.batch_size)
        return [search.id for search in searches]

    def finish(self, ids: Sequence[str]) -> list:
        """Wait for searches to end, and what they have found; where nobody else is there, nothing is in flight then."""
        self._ask("wait", ids)
        census = self.census()
        assert census["searches"] > len(ids) or census["in_flight"] == 0, census
        found = self._ask("found", ids)
        self._ask("forget", ids)
        return found

    def finish_now(self, ids: Sequence[str]) -> list:
        """End searches, and what they have found."""
        self._ask("halt", ids)
        return self.finish(ids)

    def resize(self, denoisers: int) -> None:
        """Have so many denoisers, as soon as there is room for them."""
        self._ask("resize", denoisers)

    def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the census is as wanted; returns it."""
        deadline = time.monotonic() + seconds
        while not holds(census := self.census()):
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {census}"
            time.sleep(0.05)
        return census

    def census(self) -> dict[str, Any]:
        """What the manager has in hand."""
        return self._ask("census")

    def _ask(self, method: str, *args: Any) -> Any:
        """The manager's answer; one that is being restarted is waited for."""
        while True:
            try:
                return ray.get(getattr(self.manager, method).remote(*args))
            except ActorUnavailableError:
                time.sleep(0.1)

    def seen(self) -> list[dict[str, Any]]:
        """What the denoisers have been through."""
        return ray.get([actor.handle.seen.remote() for actor in self.denoisers])

    def rewards_seen(self) -> list[list[tuple[float, float]]]:
        """When the reward actors were at work."""
        return ray.get([actor.handle.seen.remote() for actor in self.rewards])


def cpu_seconds(actor: Any) -> float:
    """CPU seconds of an actor's process so far."""
    times = ray.get(actor.__ray_call__.remote(lambda _: os.times()))
    return times.user + times.system


def yields() -> None:
    """Let other processes go before all threads of this one."""
    with contextlib.suppress(FileNotFoundError):  # on Linux alone
        for thread in os.listdir("/proc/self/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), 19)


@contextlib.contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """A Ray cluster of our own with room for anything that is emulated, or the one at `address`."""
    quiet = {"namespace": "mcts_ray", "log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **quiet)
    else:
        here = {"num_cpus": 64, "include_dashboard": False, "object_store_memory": STORE, "_system_config": {"worker_niceness": 0}}
        ray.init(address="local", **here, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def best_of_n(id: str, budget: int, levels: int) -> BestOfN:
    """Walks of `levels` states."""
    return BestOfN(id, Setting("a cat", levels=levels), budget)


def mcts(id: str, budget: int, levels: int) -> MCTS:
    """A tree of `levels` levels, as wide as it is asked for."""
    return MCTS(id, Setting("a cat", levels=levels), budget, Branching(levels, 0.6, 3), seeds=max(8, budget // (16 * levels)))


def union(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which any of the spans was under way."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
