"""The fusion actor: what fused walks start from, whole batches at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mcts_ray import logs
from mcts_ray.actors.denoiser import unpacked
from mcts_ray.actors.spec import fetched, see_only
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import STATES, Fused

Starts = dict[str, tuple[np.ndarray, bool]]  # by unit: (C, H, W) fp32, and whether it is a whole state or the noise that leads to one


class FusionWorker:
    """Fuses what units start from; stateless, since noise is drawn again from ids and states come with the call.

    device: for networks that a mode has; everything else is done on the CPU. gpus: ids of the GPUs to see.
    """

    def __init__(self, device: str = "cpu", gpus: Sequence[str] = ()) -> None:
        logs.set_up()
        self.device = device
        see_only(gpus)

    def __repr__(self) -> str:
        return "Fusion"

    def fuse(
        self, works: Sequence[Work], shape: tuple[int, int, int], states: Sequence[Any]
    ) -> tuple[dict[str, str | Fused], Starts]:
        """For each unit, by its id: why its particles cannot be fused, or what is said of the fusion. And, as an object of its own, what
        those start from that can be.

        states: object refs to the `States` in which particles are, of the modes that read those. Raises Gone if some are lost.
        """
        from mcts_ray.fusion.fuser import start_of
        from mcts_ray.tree.weights import Refusal

        known = _fetched(works, states)
        made = {work.id: start_of(work, shape, known.get(work.search), self.device) for work in works}
        going = {id: start for id, start in made.items() if not isinstance(start, Refusal)}
        said = {id: going[id].said if id in going else start.value for id, start in made.items()}
        return said, {id: (start.tensor.numpy(), start.whole) for id, start in going.items()}


def _fetched(works: Sequence[Work], states: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The kept states of the units' particles, by search and node."""
    wanted = {(work.search, node) for work in works if work.fuse.mode in STATES for node in work.fuse.particles}
    known: dict[str, dict[str, Any]] = {}
    for found in fetched(states):
        for search, node in found.keys() & wanted:
            known.setdefault(search, {})[node] = unpacked(found[search, node], "cpu")
    return known
