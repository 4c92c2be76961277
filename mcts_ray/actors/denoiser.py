"""The denoiser actor: an engine of its own, driven by the tree manager one batch of units at a time.

Torch is imported when the model is, not when this module is: the tree manager and the driver only name the class.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from mcts_ray import logs
from mcts_ray.actors.spec import Gone, ends_unless, fetched, look_in, users_modules
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.resolve import Model
from mcts_ray.gain.choose import Gains
from mcts_ray.search.base import Cost
from mcts_ray.search.lineage import Again

if TYPE_CHECKING:
    from mcts_ray.diffusion.engine import Engine, Walked
    from mcts_ray.executor.backend import Plan
    from mcts_ray.gain.online import Version

# By search and node: (level, alpha, sigma, previous), (x0, eps[, m1]), features.
State = tuple[tuple[int, float, float, "int | None"], np.ndarray, "np.ndarray | None"]
States = dict[tuple[str, str], State]


@dataclass(frozen=True)
class Left:
    """A unit that has left the engine: which one, what it has spent, why it failed if it did, how many latents it leaves, and what
    was made of its states in the engine: step scores, and what jumps from them gain."""

    search: str
    work: str
    cost: Cost
    error: str | None
    latents: int
    scores: tuple[tuple[str, float | None], ...] = ()
    gains: tuple[Gains, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a call of `advance` did. nfe: by search; step_seconds: of its last batch; size: bytes of the states that were kept."""

    left: tuple[Left, ...]
    nfe: Counter[str]
    step_seconds: float
    size: int = 0


class Reborn(RuntimeError):
    """The actor has been restarted since its engine was begun: what the caller thinks is in it is lost."""


class DenoiserWorker:
    """Loads a model on first use and runs walks in an engine that `begin` makes; a restarted actor has none.

    paths: where a user's reward module may lie.
    """

    def __init__(self, model: Model, device: str, dtype: str, threads: int | None = None, paths: Sequence[str] = ()) -> None:
        logs.set_up()
        self.model, self.device, self.dtype, self.threads = model, device, dtype, threads
        look_in(paths)
        self.generation: int | None = None
        self.engine: Engine | None = None

    def __repr__(self) -> str:
        return f"Denoiser({self.model.name})"

    def place(self) -> tuple[str, list[str], int]:
        """(node, GPU ids, process id) of this actor."""
        return ray.get_runtime_context().get_node_id(), [str(gpu) for gpu in ray.get_gpu_ids()], os.getpid()

    def plan(self, prefix: str, prompts: Sequence[str], config: SearchConfig, reward: Any, batch_size: int | str | None = None) -> Plan:
        """The plan of a request, the ids of its searches beginning with `prefix`; ValueError if the model cannot do it."""
        from mcts_ray.executor.plan import make_plan

        with users_modules():
            return make_plan(self.model.name, self.denoiser, prompts, config, reward, prefix, batch_size)

    def begin(self, generation: int, batch_size: int) -> None:
        """An empty engine with this batch size; what was in an older one has been given to others."""
        from mcts_ray.diffusion.engine import Engine

        self.generation, self.engine = generation, Engine(self.denoiser, batch_size)

    @ends_unless(Reborn, Gone)
    def advance(
        self, generation: int, packed: bytes, starts: Sequence[Any], states: Sequence[Any], seconds: float | None
    ) -> tuple[Report, States, list[np.ndarray]]:
        """Take in units (pickled: a list of `Again`, and batch sizes by shape), as far as they had got elsewhere, and step until one has
        left, nothing is in, or another step would take longer than `seconds`; with None, only take them in.

        Object refs: `starts` to what the fusion actor has made for some of them, `states` to `States` of other denoisers that hold
        parents of some.
        Returns the report, the states kept by the units that left, and the latents they leave, unit by unit. Raises Reborn
        if the engine of this `generation` has gone with an earlier process, Gone if refs are lost; anything else ends this process.
        """
        self._check(generation)
        start = time.perf_counter()
        engine = self.engine
        before_nfe = engine.spent
        units, sizes = pickle.loads(packed)
        engine.sizes |= sizes
        walked, last = self._take_in(units, starts, states), 0.0
        while seconds is not None and not walked and not engine.idle and (not last or time.perf_counter() - start + last <= seconds):
            before = time.perf_counter()
            walked = self._step()
            last = time.perf_counter() - before
        kept = [(w.work.search, node) for w in walked if not w.error for node in w.work.keep]
        left = tuple(Left(w.work.search, w.work.id, w.cost, w.error, len(w.to_decode), w.scores, w.gains) for w in walked)
        latents = [latent.cpu().numpy() for w in walked for latent in w.to_decode]
        states = {key: _packed(engine.store.get(*key)) for key in kept}
        return Report(left, engine.spent - before_nfe, last, _size(states)), states, latents

    @ends_unless(Reborn, Gone)
    def redo(
        self, generation: int, generations: Sequence[Sequence[Again]], states: Sequence[Any]
    ) -> tuple[tuple[int, list[str], int], States, list[np.ndarray]]:
        """Walk the beginnings of units again, from `states` (refs to `States` that hold what they start from).

        Returns NFE, the nodes whose latents are left, and the bytes of the states that are kept; those states; those latents.
        Raises Reborn and Gone as `advance`.
        """
        from mcts_ray.executor.redo import redo

        self._check(generation)
        self._put(fetched(states))
        walked = redo(self.engine, generations)
        keys = dict.fromkeys((w.work.search, node) for w in walked if not w.error for node in w.work.keep)
        images = [w for w in walked if w.latent is not None]
        made = {key: _packed(self.engine.store.get(*key)) for key in keys}
        report = sum(w.nfe for w in walked), [w.work.edges[-1].node for w in images], _size(made)
        return report, made, [w.latent.cpu().numpy() for w in images]

    def install(self, source: str, version: Version) -> None:
        """A new version of an IGE, which searches that are not pinned go by from now on."""
        self.denoiser.install(source, version)

    def forget(self, search: str, nodes: Sequence[str]) -> None:
        """Free the states of some nodes."""
        if self.engine:
            self.engine.store.forget(search, nodes)

    def drop(self, search: str) -> list[Cost]:
        """Forget a search that has ended; returns what its running units have spent."""
        return [walked.cost for walked in self.engine.drop(search)] if self.engine else []

    @cached_property
    def denoiser(self):
        """The loaded model."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        from mcts_ray.diffusion.adapters.make import make_adapter
        from mcts_ray.diffusion.denoiser import Denoiser
        from mcts_ray.diffusion.load import load_pipeline

        return Denoiser(make_adapter(load_pipeline(self.model, self.device, self.dtype)))

    def _step(self) -> list[Walked]:
        """One call of the network; units of which not even one fits into the memory leave as failed."""
        try:
            return self.engine.step()
        except Exception as error:
            import torch

            if not isinstance(error, torch.OutOfMemoryError):
                raise
            return self.engine.give_up(str(error))

    def _check(self, generation: int) -> None:
        if generation != self.generation:
            raise Reborn(f"{self!r} has no engine of generation {generation}")

    def _put(self, parts: Sequence[States]) -> None:
        """States from elsewhere into the store, unless they are there."""
        store = self.engine.store
        for part in parts:
            for key, state in part.items():
                if store.get(*key) is None:
                    store.put(*key, unpacked(state, self.denoiser.device))

    def _take_in(self, units: Sequence[Again], starts: Sequence[Any], states: Sequence[Any]) -> list[Walked]:
        found = fetched([*starts, *states])
        made = {id: start for part in found[: len(starts)] for id, start in part.items()}
        parents = {(unit.work.search, unit.work.parent) for unit in units}
        self._put([{key: state for key, state in part.items() if key in parents} for part in found[len(starts) :]])
        noise, whole = {}, {}
        for work in (unit.work for unit in units if unit.work.fuse):
            import torch

            tensor, is_whole = made[work.id]
            (whole if is_whole else noise)[work.edges[0].node] = torch.from_numpy(tensor.copy())
        return self.engine.resume(units, noise, whole)


def _size(states: States) -> int:
    """Bytes of states."""
    return sum(tensors.nbytes + (0 if features is None else features.nbytes) for _, tensors, features in states.values())


def _packed(kept) -> State:
    """A kept state as plain numbers, contiguous fp32."""
    tensors = [kept.x0, kept.eps] + ([] if kept.m1 is None else [kept.m1])
    features = None if kept.features is None else kept.features.cpu().numpy()
    return (kept.level, kept.alpha, kept.sigma, kept.previous), np.stack([tensor.cpu().numpy() for tensor in tensors]), features


def unpacked(state: State, device):
    """The kept state on a device."""
    import torch

    from mcts_ray.diffusion.store import Kept

    (level, alpha, sigma, previous), tensors, features = state
    x0, eps, *m1 = torch.from_numpy(tensors.copy()).to(device).unbind(0)
    features = None if features is None else torch.from_numpy(features.copy()).to(device)
    return Kept(level, x0, eps, alpha, sigma, m1[0] if m1 else None, previous, features)
