"""An actor and how it is made, so that whoever sees it die can have it back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, GetTimeoutError, ObjectLostError, OutOfMemoryError, RayActorError

from mcts_ray.reward.resolve import NotImportable

log = logging.getLogger(__name__)
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
        self.died = 0  # calls that have ended with its death
        self.answered = 0  # since its last death
        self._asked: list[object] = []  # calls that it has not answered, the oldest first

    def __repr__(self) -> str:
        return f"Actor({self._recipe[0].__name__})"

    @property
    def holding(self) -> int:
        """Calls that it has not answered."""
        return len(self._asked)

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
                return [await self.answer(first), *others]
            except DEATHS:
                await self.revive()
                if not left:
                    raise

    async def answer(self, ref: Any, patience: float | None = None) -> Any:
        """What a call gives, by its ref. With `patience`, one that has not answered after so many seconds, though everything asked of the
        actor before has been answered, hangs: its process is killed, which ends the call as a death does."""
        call, answer = object(), asyncio.ensure_future(ref)
        self._asked.append(call)
        try:
            oldest = self._asked[0] is call
            while not (await asyncio.wait([answer], timeout=patience))[0]:
                if oldest:
                    log.warning("%r has not answered for %.0f s, and is killed", self, patience)
                    self.end()
                oldest = self._asked[0] is call
            found = await answer
            self.answered += 1
            return found
        except DEATHS:
            self.died, self.answered = self.died + 1, 0
            raise
        finally:
            self._asked.remove(call)
            answer.cancel()

    def end(self) -> None:
        """Have its process end, and another one begin."""
        ray.kill(self.handle, no_restart=False)

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


def in_turn(worker: type) -> type:
    """A class like `worker` whose public methods Ray may call several at a time: they are carried out one after the other, in one thread,
    and a next one begins while what the last one returns is still being handed over, which for tensors takes Ray milliseconds. Ray does
    not promise the order of calls that are sent within milliseconds of each other; whoever minds waits for the first."""

    def later(method: Callable) -> Callable:
        @functools.wraps(method)
        async def call(self: Any, *args: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(self._thread, method, self, *args)

        return call

    def __init__(self: Any, *args: Any) -> None:
        self._thread = ThreadPoolExecutor(1, "calls")
        worker.__init__(self, *args)

    methods = {name: later(method) for name, method in inspect.getmembers(worker, inspect.isfunction) if not name.startswith("_")}
    about = {"__module__": worker.__module__, "__doc__": worker.__doc__, "__init__": __init__}
    return type(worker.__name__, (worker,), about | methods)


def ends_unless(*passing: type[Exception]) -> Callable[[Callable], Callable]:
    """Of a method of an actor: where it raises anything but these, its process ends, and its caller sees a death. So a unit that makes it
    raise is found like one that kills it, and what a CUDA error has left behind goes with the process."""

    def decorate(method: Callable) -> Callable:
        @functools.wraps(method)
        def guarded(self: Any, *args: Any) -> Any:
            try:
                return method(self, *args)
            except passing:
                raise
            except Exception:
                log.exception("%r ends: its %s has failed", self, method.__name__)
                os._exit(1)

        return guarded

    return decorate


def first_line(error: BaseException) -> str:
    """Of what an error says, as it comes out of an actor or as it is."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, BaseException) else error
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def see_only(gpus: Sequence[str]) -> None:
    """Have this process see these GPUs, by their ids, and no others; all of them where none are named. Before torch is loaded."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


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
