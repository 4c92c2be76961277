"""What is tried again until it is there, and what is said meanwhile."""

import asyncio

import pytest

from mcts_ray.service.errors import Unavailable
from mcts_ray.service.opening import Opening


def failing(*errors):
    """Opens after these errors."""
    left = list(errors)

    async def open():
        if left:
            raise left.pop(0)
        return "open"

    return open


def test_it_is_tried_again_until_it_is_there():
    async def main():
        opening = Opening(failing(OSError("away"), ValueError("too few CPUs"), RuntimeError("died")), pause=0.01)
        assert await opening.get(5) == "open" and opening.now() == "open"
        await opening.tried()  # what has been wrong is wrong no more

    asyncio.run(main())


def test_the_first_failure_is_told_at_once():
    async def main():
        opening = Opening(failing(ValueError("unknown model")), pause=60)
        with pytest.raises(ValueError, match="unknown model"):
            await asyncio.wait_for(opening.tried(), 5)
        assert opening.now() is None

    asyncio.run(main())


def test_a_call_does_not_wait_longer_than_its_patience():
    async def main():
        opening = Opening(failing(OSError("away")), pause=60)
        with pytest.raises(Unavailable, match="the service is starting") as refused:
            await asyncio.wait_for(opening.get(0.05), 5)
        assert refused.value.status == 503 and refused.value.retry_after

    asyncio.run(main())


def test_one_that_is_closed_while_it_opens_lets_go_of_what_it_has():
    let_go = []

    async def open():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            let_go.append("lease")
            raise

    async def main():
        opening = Opening(open)
        await asyncio.sleep(0.01)
        await asyncio.wait_for(opening.close(), 5)
        assert let_go == ["lease"] and opening.now() is None
        opened = Opening(failing())
        await opened.tried()
        await opened.close()
        assert opened.now() == "open"

    asyncio.run(main())
