"""What fused units start from, as the tree manager has it made by the fusion actor."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from mcts_ray.actors.beside import Beside, Displaced, unless_displaced
from mcts_ray.actors.pool import Worker
from mcts_ray.actors.recovery import Recovery
from mcts_ray.actors.spec import TRIES, Actor, Gone, first_line
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import STATES, Fused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """What has come of fusing for one unit: a ref to what it starts from, among others; what is said of the fusion, or why its particles
    are refused; or what went wrong."""

    starts: Any = None
    said: Fused | str | None = None
    error: str | None = None


class Fusing(Recovery):
    """The part of the tree manager that fuses."""

    fusion: Actor

    def _holder(self, work: Work) -> Worker | None:
        """Who has a unit; None if its search has been ended meanwhile."""
        return next((worker for worker in self.workers if (work.search, work.id) in worker.out), None)

    async def _fuse(self, fused: Sequence[Work]) -> None:
        """Have the fusion actor make what units start from, or tell why it cannot; then they are ready to be sent."""
        made: dict[str, Made] = {}
        for shape in dict.fromkeys(self.running[work.search].latent_shape for work in fused):
            made |= await self._made([work for work in fused if self.running[work.search].latent_shape == shape], shape)
        for work in fused:
            worker, one = self._holder(work), made[work.id]
            if worker is None:
                continue
            work = worker.out[work.search, work.id]  # lost and sent again meanwhile, it has another epoch
            if one.error:
                worker.take_back(work)
                self._failed(work, one.error)
            elif isinstance(one.said, Fused):
                worker.starts[work.id] = one.starts
                self.session.fused(work, one.said)
            else:
                worker.take_back(work)
                self.session.refuse(work, one.said)
        self._wake()

    async def _made(self, works: Sequence[Work], shape: tuple[int, int, int]) -> dict[str, Made]:
        """What comes of units by their ids: of all together, and where that fails again and again of each alone."""
        try:
            said, starts = await self._fused(works, shape)
        except Exception as error:
            log.warning("%d units could not be fused (%s)", len(works), first_line(error))
            if len(works) == 1:
                return {works[0].id: Made(error=f"its particles could not be fused: {first_line(error)}")}
            alone = [await self._made([work], shape) for work in works]
            return {id: made for one in alone for id, made in one.items()}
        return {id: Made(starts, said[id]) for id in said}

    async def _fused(self, works: Sequence[Work], shape: tuple[int, int, int]) -> list[Any]:
        """The answer of the fusion actor, for which lost states are made again."""
        for _ in range(TRIES):
            await self._place_fusion()
            for id in dict.fromkeys(work.search for work in works):
                lost = self._missing(id, [work for work in works if work.search == id])
                if lost and not await self._again(self.running[id], lost):
                    break
            with contextlib.suppress(Gone, Displaced):
                return await unless_displaced(self._call_fusion(works, shape), lambda: self._host_of_fusion() is not None)
        raise RuntimeError("their states, or the GPU that they are fused on, are lost again and again")

    async def _place_fusion(self) -> None:
        """Another one in place of a fusion actor whose denoiser has gone, or has no place."""
        old, host = self.fusion, self._host_of_fusion()
        if host is None:
            return
        node, gpus, _ = await host.denoiser.call("place")
        if self.fusion is old:  # nobody else has replaced it meanwhile
            ray.kill(old.handle, no_restart=True)
            self.fusion = old.beside(host.denoiser, node, gpus)

    def _host_of_fusion(self) -> Worker | None:
        """Who the fusion actor is to be with in place of the denoiser whose GPUs it shares; None where it can stay, or nobody else is up."""
        if not isinstance(self.fusion, Beside):
            return None
        stays = any(worker.denoiser is self.fusion.denoiser and not worker.displaced for worker in self.workers)
        host = self._emptiest()
        return host if host.up and not stays else None

    async def _call_fusion(self, works: Sequence[Work], shape: tuple[int, int, int]) -> list[Any]:
        """One call of the fusion actor: what it says of each unit, and a ref to what they start from. Raises Gone."""
        nodes = [(work.search, node) for work in works if work.fuse.mode in STATES for node in work.fuse.particles]
        refs = list(dict.fromkeys(batch.ref for key in nodes if (batch := self.states.use(key))))
        try:
            return await self.fusion.parts("fuse", 2, works, shape, refs)
        except Gone as gone:
            self.states.drop(Gone.refs(gone))
            raise
