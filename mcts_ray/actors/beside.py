"""Actors that share the GPUs of a denoiser: rewards, and the fusion actor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mcts_ray.actors.spec import Actor

LOOK = 1.0  # seconds between two looks at the denoiser


class Displaced(ActorUnschedulableError):
    """The denoiser of an actor has no place for now, so that the actor cannot be beside it."""


class Beside(Actor):
    """An actor on the GPUs of one denoiser, on its node: `worker` takes their ids as its last argument, after `args`."""

    def __init__(self, denoiser: Actor, node: str, gpus: Sequence[str], worker: type, *args: Any) -> None:
        self.denoiser, self._worker, self._args, self._place = denoiser, worker, args, (node, list(gpus))
        super().__init__(*self._there(), **_on(node))

    def beside(self, denoiser: Actor, node: str, gpus: Sequence[str]) -> Beside:
        """One more like it, on the GPUs of another denoiser."""
        return Beside(denoiser, node, gpus, self._worker, *self._args)

    async def follow(self) -> bool:
        """A new one where the denoiser is now, which is waited for; False, and nothing done, if that is where it was."""
        node, gpus, _ = await self.denoiser.call("place")
        if self._place == (node, list(gpus)):
            return False
        ray.kill(self.handle, no_restart=True)
        self._place = node, list(gpus)
        worker, *args = self._there()
        self._recipe = worker, tuple(args), _on(node)
        self.handle = self._start()
        return True

    async def revive(self) -> None:
        """As any actor, but where its denoiser is: it may have died with their node."""
        if not await self.follow():
            await super().revive()

    def _there(self) -> tuple[Any, ...]:
        return self._worker, *self._args, self._place[1]


async def unless_displaced(call: Coroutine[Any, Any, Any], displaced: Callable[[], bool]) -> Any:
    """What a call of such an actor gives. Raises Displaced where it waits though its denoiser has no place."""
    answer = asyncio.ensure_future(call)
    try:
        while not (await asyncio.wait([answer], timeout=LOOK))[0]:
            if displaced():
                raise Displaced("the denoiser that it is to be beside has no place for now")
        return await answer
    finally:
        answer.cancel()


def _on(node: str) -> dict[str, Any]:
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
