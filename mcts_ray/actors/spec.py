"""An actor and how it is made, so that whoever sees it die can have it back."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, GetTimeoutError, ObjectLostError, OutOfMemoryError, RayActorError

from mcts_ray.reward.resolve import NotImportable

PATIENCE = 60.0  # seconds for Ray to restart an actor by itself
TRIES = 3  # times that a call, or a unit of work, may be lost with the actor that has it, before it has failed
DEATHS = (RayActorError, ActorUnschedulableError, OutOfMemoryError, ObjectLostError)  # what a call raises whose actor has gone
FETCH = 60.0  # seconds after which an object that does not come is taken for lost


class Gone(RuntimeError):
    """Objects that a call needs were lost, with the node that held them; nothing has been done. args: the hex ids of their refs."""

    @staticmethod
    def refs(error: Gone) -> set[str]:
        """Those ids, of an error as it comes out of an actor."""
        return set(getattr(error, "cause", error).args)


class Actor:
    """A handle to an actor around a plain class. Ray restarts it when its process dies; its calls are never repeated by Ray."""

    def __init__(self, worker: type, *args: Any, **options: Any) -> None:
        self._recipe = worker, args, options
        self.handle = self._start()
        self.holding = 0  # calls that it has not answered
        self.died = 0  # of those, how many have ended with its death
        self.answered = 0  # since its last death

    def __repr__(self) -> str:
        return f"Actor({self._recipe[0].__name__})"

    def another(self) -> Actor:
        """One more like it."""
        worker, args, options = self._recipe
        return Actor(worker, *args, **options)

    async def call(self, method: str, *args: Any) -> Any:
        """The answer of a call that may be repeated: where the actor dies over it, the next one is asked."""
        answer, *_ = await self.parts(method, 1, *args)
        return answer

    async def parts(self, method: str, count: int, *args: Any) -> list[Any]:
        """The same of a method that returns `count` objects: the first of them, then refs to the others."""
        for left in reversed(range(TRIES)):
            try:
                first, *others = refs(getattr(self.handle, method).options(num_returns=count).remote(*args))
                with self.call_under_way():
                    return [await first, *others]
            except DEATHS:
                await self.revive()
                if not left:
                    raise

    @contextlib.contextmanager
    def call_under_way(self) -> Iterator[None]:
        """Around the wait for an answer."""
        self.holding += 1
        try:
            yield
            self.answered += 1
        except DEATHS:
            self.died, self.answered = self.died + 1, 0
            raise
        finally:
            self.holding -= 1

    async def revive(self) -> None:
        """After a call has failed: wait until Ray has restarted the actor, or make a new one if it is gone for good."""
        loop, handle = asyncio.get_running_loop(), self.handle
        deadline = loop.time() + PATIENCE
        while loop.time() < deadline:
            try:
                await handle.__ray_ready__.remote()
                return
            except ActorUnavailableError:
                await asyncio.sleep(0.2)
            except (RayActorError, ActorUnschedulableError):
                break
        if self.handle is handle:  # nobody else has replaced it meanwhile
            ray.kill(handle, no_restart=True)  # or it might come back later, and take what the new one needs
            self.handle = self._start()

    def _start(self):
        worker, args, options = self._recipe
        return ray.remote(worker).options(max_restarts=-1, max_task_retries=0, **options).remote(*args)


def look_in(paths: Sequence[str]) -> None:
    """Have Python look for modules in these folders too, after all others: those where the driver finds the user's own."""
    sys.path += [path for path in paths if path not in sys.path]


@contextlib.contextmanager
def users_modules() -> Iterator[None]:
    """ValueError where a module of the user's, which the driver has found, is missing here."""
    try:
        yield
    except NotImportable as error:
        raise ValueError(
            f"{error} on node {ray.util.get_node_ip_address()} of the Ray cluster; install it there, or put its folder on the PYTHONPATH "
            "of `ray start`"
        ) from None


def refs(answer: Any) -> list[Any]:
    """A call with one return gives a ref, with several a list of them."""
    return answer if isinstance(answer, list) else [answer]


def fetched(objects: Sequence[ray.ObjectRef]) -> list[Any]:
    """What refs stand for. Raises Gone, with all those that are lost."""
    found, gone = [], []
    for ref in objects:
        try:
            found.append(ray.get(ref, timeout=FETCH))
        except (ObjectLostError, GetTimeoutError, RayActorError):
            gone.append(ref.hex())
    if gone:
        raise Gone(*gone)
    return found
