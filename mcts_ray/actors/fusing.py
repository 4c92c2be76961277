"""What fused units start from, as the tree manager has it made by the fusion actor."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from mcts_ray.actors.pool import Worker
from mcts_ray.actors.recovery import Recovery
from mcts_ray.actors.spec import TRIES, Actor, Gone
from mcts_ray.search.base import Work
from mcts_ray.tree.weights import STATES


class Fusing(Recovery):
    """The part of the tree manager that fuses."""

    fusion: Actor

    def _holder(self, work: Work) -> Worker | None:
        """Who has a unit; None if its search has been ended meanwhile."""
        return next((worker for worker in self.workers if (work.search, work.id) in worker.out), None)

    async def _fuse(self, fused: Sequence[Work]) -> None:
        """Have the fusion actor make what units start from, or tell why it cannot; then they are ready to be sent."""
        words: dict[str, tuple[str | None, str | None]] = {}
        starts: dict[str, Any] = {}
        for shape in dict.fromkeys(self.running[work.search].latent_shape for work in fused):
            group = [work for work in fused if self.running[work.search].latent_shape == shape]
            told, made = await self._fused(group, shape)
            words |= told
            starts |= dict.fromkeys(told, made)
        for work in fused:
            worker = self._holder(work)
            if worker is None:
                continue
            refused, fallback = words[work.id]
            if refused:
                worker.take_back(work)
                self.session.refuse(work, refused)
            else:
                worker.starts[work.id] = starts[work.id]
            if fallback:
                self.session.fall_back(work, fallback)
        self._wake()

    async def _fused(self, works: Sequence[Work], shape: tuple[int, int, int]) -> list[Any]:
        """The answer of the fusion actor, for which lost states are made again."""
        for _ in range(TRIES):
            for id in dict.fromkeys(work.search for work in works):
                lost = self._missing(id, [work for work in works if work.search == id])
                if lost and not await self._again(self.running[id], lost):
                    break
            with contextlib.suppress(Gone):
                return await self._call_fusion(works, shape)
        raise RuntimeError("states that are to be fused are lost again and again")

    async def _call_fusion(self, works: Sequence[Work], shape: tuple[int, int, int]) -> list[Any]:
        """One call of the fusion actor: what it says of each unit, and a ref to what they start from. Raises Gone."""
        nodes = [(work.search, node) for work in works if work.fuse.mode in STATES for node in work.fuse.particles]
        refs = list(dict.fromkeys(batch.ref for key in nodes if (batch := self.states.use(key))))
        try:
            return await self.fusion.parts("fuse", 2, works, shape, refs)
        except Gone as gone:
            self.states.drop(Gone.refs(gone))
            raise
