"""Asking several actors of which some may be without a place: an actor that the cluster has no room for answers nothing, for as long as
that lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from mcts_ray.actors.spec import DEATHS

LATE = 10.0  # seconds for the others to answer too, once one has, and for the first denoiser to begin
NEXT = 10.0  # seconds after which the next one is asked beside those that have not answered

Call = Coroutine[Any, Any, Any]


async def answers(calls: Iterable[Call]) -> list[Any]:
    """What calls give that are made at once, of those that come; what comes later than LATE seconds after another is not waited for.
    Raises what one of them raises; a death only where no other answers."""
    got, dead, waiting = [], None, {asyncio.ensure_future(call) for call in calls}
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=LATE if got else None, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for call in done:
                try:
                    got.append(call.result())
                except DEATHS as error:
                    dead = error
    finally:
        for call in waiting:
            call.cancel()
    if dead and not got:
        raise dead
    return got


async def first(calls: Iterable[Call]) -> Any:
    """What the first call gives that is answered. The next one is made where those before have not answered after NEXT seconds, or have
    ended with a death. Raises what one of them raises, a death only of the last."""
    calls, waiting = list(calls), set()
    try:
        while True:
            if calls:
                waiting.add(asyncio.ensure_future(calls.pop(0)))
            done, waiting = await asyncio.wait(waiting, timeout=NEXT if calls else None, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                try:
                    return call.result()
                except DEATHS:
                    if not (calls or waiting):
                        raise
    finally:
        for call in calls:
            call.close()
        for call in waiting:
            call.cancel()
