"""The bearer token, demanded before anything of a request is read or said of it."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers

from mcts_ray.service.answers import refusal

WORDS = "this service wants its token as `Authorization: Bearer TOKEN`; `mcts-ray up` has put it into MCTS_RAY_HOME"


class Guard:
    """ASGI middleware: requests without the token are answered with 401, whatever they ask for, except for a few paths."""

    def __init__(self, app, token: str, open_to_all: Collection[str]) -> None:
        self.app, self.token, self.open_to_all = app, token, open_to_all

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or self._may(scope):
            await self.app(scope, receive, send)
        else:
            await refusal(scope["path"], 401, WORDS)(scope, receive, send)

    def _may(self, scope) -> bool:
        if scope["path"].removeprefix(scope.get("root_path", "")) in self.open_to_all:
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode())
