"""What a refusal looks like: `{"detail": "one sentence"}`, and on OpenAI's route the form that its clients read."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from mcts_ray.service.models import Fault, ImageProblem, Problem

IMAGES = "/v1/images/generations"  # OpenAI's route
CODES = {
    401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 409: "conflict", 413: "body_too_large",
    422: "invalid_value", 429: "rate_limit_exceeded", 503: "unavailable",
}  # fmt: skip


def refusal(
    path: str,
    status: int,
    words: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: int | None = None,
    headers: Any = None,
) -> JSONResponse:
    """The answer to a request for `path` that is refused. code: what went wrong, in a word; param: the field at fault."""
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if path != IMAGES:
        return JSONResponse(Problem(detail=words).model_dump(), status, headers)
    if code:
        headers["x-should-retry"] = "false"  # OpenAI's clients repeat a 409 by themselves, which would search again
    fault = Fault(message=words, type=_kind(status, code), param=param, code=code or CODES.get(status, "internal_error"))
    return JSONResponse(ImageProblem(error=fault).model_dump(), status, headers)


def _kind(status: int, code: str | None) -> str:
    if code:
        return "search_error"
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    return kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
