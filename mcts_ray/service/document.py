"""What a service allows, put into its OpenAPI document: exactly the limits that `checks` keeps, as far as a schema can say them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from mcts_ray.auto import AUTO
from mcts_ray.checks import PLACES
from mcts_ray.hub import is_hub_id
from mcts_ray.search import ALGORITHMS
from mcts_ray.service.checks import LISTS, MAX_LEVELS, NOT_EMPTY, ONE_LINE, most
from mcts_ray.service.settings import Settings

NO_PLACE = "A place on the service's machine, which clients may not name: what ships with a model is used."


def narrow(app: FastAPI, settings: Settings) -> None:
    """Have the application serve its document with the limits of `settings`."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        found = plain()
        schemas = found["components"]["schemas"]
        _search(schemas["SearchRequest"]["properties"], settings)
        _images(schemas["ImageRequest"]["properties"], settings)
        _bound(schemas["Extension"]["properties"]["nfe"], "integer", maximum=settings.max_budget - 1)
        return found

    app.openapi = document


def _search(fields: dict[str, Any], settings: Settings) -> None:
    _words(fields, settings)
    _bound(fields["negative_prompt"], "string", maxLength=settings.max_prompt, pattern=ONE_LINE)
    for name, limit in most(settings).items():
        _most(fields[name], limit)
    for name in LISTS:
        _bound(fields[name], "array", maxItems=MAX_LEVELS)
    for name in PLACES:
        allowed = {"anyOf": [{"const": "none"}, {"type": "null"}]} if name == "calibration" else {"type": "null"}
        fields[name] = {**allowed, "title": fields[name].get("title", name), "description": NO_PLACE}


def _images(fields: dict[str, Any], settings: Settings) -> None:
    _words(fields, settings)
    limits = most(settings)
    for name, limit in {"n": limits["images"], "budget": limits["budget"], "seed": limits["seed"]}.items():
        _most(fields[name], limit)


def _words(fields: dict[str, Any], settings: Settings) -> None:
    """What both ways to ask for a search have."""
    _bound(fields["prompt"], "string", maxLength=settings.max_prompt, pattern=NOT_EMPTY)
    if _may_be_known(settings):
        _bound(fields["model"], "string", enum=list(settings.models))
    _bound(fields["algorithm"], "string", enum=[*ALGORITHMS, AUTO])


def _may_be_known(settings: Settings) -> bool:
    """Whether everybody may read what models are called: the document needs no token, and the path of a folder tells of the machine."""
    return not settings.token or all(model == "scenes" or is_hub_id(model) for model in settings.models)


def _most(schema: dict[str, Any], limit: float) -> None:
    for kind in ("integer", "number"):
        for one in _kinds(schema, kind):
            one["maximum"] = min(limit, one.get("maximum", limit))


def _bound(schema: dict[str, Any], kind: str, **limits: Any) -> None:
    for one in _kinds(schema, kind):
        one.update(limits)


def _kinds(schema: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The parts of a field's schema that are of one type of JSON, beside null."""
    return [one for one in schema.get("anyOf", [schema]) if one.get("type") == kind]
