"""What a service refuses, each kind with its HTTP status; the message is one sentence for the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ServiceError(Exception):
    """A request that cannot be served."""

    status = 500

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message, retry_after)
        self.message, self.retry_after = message, retry_after

    def __str__(self) -> str:
        return self.message


class Unauthorised(ServiceError):
    """No token, or another one."""

    status = 401


class NotFound(ServiceError):
    """There is no such search, or image of it."""

    status = 404


class Conflict(ServiceError):
    """The search is not in a state in which that can be done."""

    status = 409


class TooLarge(ServiceError):
    """The body is longer than the operator allows."""

    status = 413


class Invalid(ServiceError):
    """A request that is wrong in itself, or more than the operator allows."""

    status = 422


class Busy(ServiceError):
    """The queue is full; `retry_after` seconds later it may not be."""

    status = 429


class Unavailable(ServiceError):
    """The service is starting, or its store cannot be written."""

    status = 503


KINDS = {kind.status: kind for kind in ServiceError.__subclasses__()}


def field(error: dict[str, Any]) -> str:
    """Where pydantic has found a mistake; empty: in the body as a whole."""
    if error["type"] == "json_invalid":
        return ""  # its place is that of a character
    return ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path", "header"))


def sentence(errors: Sequence[dict[str, Any]]) -> str:
    """The first mistake that pydantic has found in a request, in words."""
    first = errors[0]
    name = field(first)
    kind = first["type"]
    if kind == "json_invalid":
        return f"the body is not valid JSON ({first.get('ctx', {}).get('error', first['msg'])})"
    if kind == "missing":
        return f"{name} is missing" if name else "the body is missing; send a JSON object with Content-Type application/json"
    if kind == "extra_forbidden":
        return f"there is no field {name!r}"
    if kind in ("model_attributes_type", "model_type", "dict_type") and not name:
        return "the body must be a JSON object, sent with Content-Type application/json"
    if kind == "value_error":
        return str(first["ctx"]["error"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{name}: {message}" if name else message
