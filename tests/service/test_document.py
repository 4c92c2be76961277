"""The OpenAPI document: it names the statuses that each operation answers with, and exactly the limits that the service keeps."""

import pytest
from pydantic import ValidationError

from mcts_ray.service.answers import IMAGES
from mcts_ray.service.checks import COUNTS, LISTS
from mcts_ray.service.models import Extension, ImageRequest, SearchRequest

PROMPT = "a red circle left of a blue square"
PART = {"200", "401", "404", "422", "503"}  # of a search that is named
STATUSES = {
    "POST /v1/searches": {"202", "401", "409", "413", "422", "429", "503"},
    "GET /v1/searches": PART,
    "GET /v1/searches/{id}": PART,
    "DELETE /v1/searches/{id}": PART,
    "POST /v1/searches/{id}/budget": PART | {"409", "413", "429"},
    "GET /v1/searches/{id}/events": PART,
    "GET /v1/searches/{id}/images/{n}": PART,
    "GET /v1/searches/{id}/tree": PART,
    "GET /v1/searches/{id}/report": PART,
    "POST /v1/images/generations": PART | {"409", "413", "429"},
    "GET /v1/models": {"200", "401", "503"},
    "GET /healthz": {"200", "503"},
    "GET /metrics": {"200", "401", "503"},
}


def document(service):
    return service.http.get("/openapi.json").json()


def fields(service, name):
    return document(service)["components"]["schemas"][name]["properties"]


def limit(field, word):
    """A limit of a field, null or not."""
    return next((one[word] for one in field.get("anyOf", [field]) if word in one), None)


def test_every_operation_names_its_statuses(service):
    paths = document(service)["paths"]
    found = {f"{method.upper()} {path}": operation for path, methods in paths.items() for method, operation in methods.items()}
    assert {name: set(operation["responses"]) for name, operation in found.items()} == STATUSES
    for name, operation in found.items():
        form = "/ImageProblem" if name.endswith(IMAGES) else "/Problem"
        for status in set(operation["responses"]) - {"200", "202"}:
            assert operation["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith(form), (name, status)


def test_answers_are_described_as_they_are(service):
    paths = document(service)["paths"]

    def content(path):
        return paths[path]["get"]["responses"]["200"]["content"]

    tree = content("/v1/searches/{id}/tree")["application/json"]["schema"]
    assert tree["type"] == "object" and tree["required"] == ["nodes"]
    assert content("/v1/searches/{id}/report")["text/html"]["schema"] == {"type": "string"}
    assert set(content("/v1/searches/{id}/events")) == {"text/event-stream"}


def test_limits_of_the_operator_are_in_the_document(make):
    service = make(max_budget=2000, max_prompt=90, max_images=6, max_side=128, max_seconds=30.0)
    search, images = fields(service, "SearchRequest"), fields(service, "ImageRequest")
    for field in (search["prompt"], images["prompt"]):
        assert (limit(field, "minLength"), limit(field, "maxLength")) == (1, 90) and limit(field, "pattern")
    most = {"budget": 2000, "images": 6, "height": 128, "width": 128, "max_seconds": 30.0, "seed": 2**63 - 1, "levels": 1000, "order": 2}
    assert {name: limit(search[name], "maximum") for name in most} == most
    assert all(limit(search[name], "maximum") for name in COUNTS) and all(limit(search[name], "maxItems") == 1000 for name in LISTS)
    assert [limit(images[name], "maximum") for name in ("n", "budget", "seed")] == [6, 2000, 2**63 - 1]
    assert limit(fields(service, "Extension")["nfe"], "maximum") == 1999
    for field in (search, images):
        assert limit(field["model"], "enum") == ["scenes"] and "mcts" in limit(field["algorithm"], "enum")


@pytest.mark.parametrize(("token", "known"), [(True, False), (False, True)])
def test_the_document_which_needs_no_token_names_no_folder(make, tiny_folder, token, known):
    service = make(models=("scenes", str(tiny_folder)), token=token)
    answer = service.http.get("/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200 and (str(tiny_folder) in answer.text) is known
    for name in ("SearchRequest", "ImageRequest"):
        assert limit(fields(service, name)["model"], "enum") == (["scenes", str(tiny_folder)] if known else None)


@pytest.mark.parametrize("name", ["images", "height", "max_seconds", "offspring", "rounds", "levels", "seed", "k"])
def test_the_service_keeps_the_limits_that_it_documents(service, name):
    most = limit(fields(service, "SearchRequest")[name], "maximum")
    answer = service.http.post("/v1/searches", json={"prompt": PROMPT, name: most + 1})
    assert answer.status_code == 422 and name in answer.json()["detail"]
    at_most = service.http.post("/v1/searches", json={"prompt": PROMPT, "budget": 2000, name: most})
    assert at_most.status_code == 202 or name not in at_most.json()["detail"].split(":")[0].split(" is "), at_most.text


def test_what_clients_may_not_name_is_null_in_the_document(service):
    search = fields(service, "SearchRequest")
    assert all(search[name]["type"] == "null" for name in ("step_model", "ige_model", "ige_online", "fuse_model"))
    assert search["calibration"]["anyOf"] == [{"const": "none"}, {"type": "null"}]


@pytest.mark.parametrize("value", ["60", True, 60.5, [60]])
def test_a_number_is_a_number(value):
    for kind, name in ((SearchRequest, "budget"), (ImageRequest, "budget"), (Extension, "nfe")):
        with pytest.raises(ValidationError, match="valid integer"):
            kind.model_validate({"prompt": PROMPT, name: value} if name == "budget" else {name: value})


def test_arrays_and_whole_numbers_are_taken_as_json_has_them(service):
    body = {"prompt": PROMPT, "algorithm": "mcts", "budget": 60.0, "jumps": [1, 2.0], "prune": ["stages"], "prune_stages": [0.5]}
    answer = service.http.post("/v1/searches", json=body)
    assert answer.status_code == 202 and answer.json()["budget"] == 60, answer.text
