"""A limit on the body of requests, kept before anything reads it."""

from __future__ import annotations

from starlette.datastructures import Headers

from mcts_ray.service.answers import refusal


class BodyLimit:
    """ASGI middleware: bodies of more than `limit` bytes are answered with 413, those of unknown length once they are longer.

    Where a method has no use for a body, none is read, and none is too long.
    """

    def __init__(self, app, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        chunks, size = [], int(length) if length.isdecimal() else 0
        if size <= self.limit:
            size, more = 0, True
            while more and size <= self.limit:
                message = await receive()
                if message["type"] != "http.request":
                    return  # the client has gone
                size, more = size + len(message.get("body", b"")), message.get("more_body", False)
                chunks.append(message)
        if size > self.limit:
            words = f"the body is longer than {self.limit} bytes, which is all that this service takes"
            await refusal(scope["path"], 413, words)(scope, receive, send)
            return
        waiting = iter(chunks)

        async def replayed():
            return next(waiting, None) or await receive()

        await self.app(scope, replayed, send)
