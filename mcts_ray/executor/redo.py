"""Walking the beginnings of units again, to have back what was lost: states of the tree, and latents of finished images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from mcts_ray.diffusion.engine import ALIKE, Engine
from mcts_ray.diffusion.lane import Walked
from mcts_ray.fusion.fuser import start_of
from mcts_ray.search.lineage import Again
from mcts_ray.tree.weights import Refusal


def redo(engine: Engine, generations: Sequence[Sequence[Again]]) -> list[Walked]:
    """Walk units again, at once and beside what the engine holds: afterwards the states that they keep are in its store.

    Returns them in their order; one that fails has its `error`. What it costs is in none of the engine's counts.
    """
    done: dict[tuple[str, str], Walked] = {}
    for generation in generations:
        for group in _alike(generation, engine):
            done |= {(one.work.search, one.work.id): one for one in _redo(engine, group)}
    return [done[unit.work.search, unit.work.id] for generation in generations for unit in generation]


def _redo(engine: Engine, units: Sequence[Again]) -> list[Walked]:
    """Units of one shape whose calls were alike."""
    setting, sizes = units[0].work.setting, deque(units[0].sizes)
    shape = engine.denoiser.adapter.latent_shape(setting.height, setting.width)
    lane = engine.lane(shape, len(units))
    walked: list[Walked] = []
    for unit in units:
        noise = state = None
        if unit.work.fuse:
            kept = {node: engine.store.get(unit.work.search, node) for node in unit.work.fuse.particles}
            states = {node: one.cpu() for node, one in kept.items() if one is not None}
            start = start_of(unit.work, shape, states, engine.denoiser.device)
            if isinstance(start, Refusal):
                walked.append(Walked(unit.work, error=f"its particles cannot be fused again: {start.value}"))
                continue
            noise, state = (None, start.tensor) if start.whole else (start.tensor, None)
        lane.submit(unit.work, noise, state)
    while len(lane):
        walked += lane.step(sizes.popleft() if sizes else 0)
    return walked


def _alike(units: Sequence[Again], engine: Engine) -> Iterator[list[Again]]:
    """Units of one shape whose calls had the same sizes, at most as many together as the smallest of them had."""
    groups: dict[tuple, list[Again]] = {}
    for unit in units:
        setting, sizes = unit.work.setting, tuple(min(size, ALIKE) for size in unit.sizes[: unit.work.nfe])
        groups.setdefault((setting.height, setting.width, sizes), []).append(Again(unit.work, sizes))
    for (height, width, sizes), group in groups.items():
        full = engine.size(engine.denoiser.adapter.latent_shape(height, width))
        most = full if min(sizes, default=ALIKE) >= ALIKE else min(sizes)
        yield from (group[at : at + most] for at in range(0, len(group), most))
