"""The reward of a search on a model that has none of its own: the request's, else the operator's, by both ways to ask for a search."""

import base64
import io

import pytest
from PIL import Image

from mcts_ray import Searcher
from mcts_ray.service.answers import IMAGES
from mcts_ray.service.runner import SearcherRunner
from tests.service.asking import PROMPT


@pytest.fixture
def rewards(tiny_folder, make, held):
    """The rewards of searches of the tiny model by both routes, or what is said against them; and the service."""
    held.go.set()

    def rewards(fields, **settings):
        service = make(models=(str(tiny_folder), "scenes"), **settings)
        found = []
        for route, name in (("/v1/searches", "id"), (IMAGES, "search")):
            answer = service.http.post(route, json={"prompt": PROMPT, **fields})
            body = answer.json()
            if answer.status_code == 422:
                found.append(body["detail"] if "detail" in body else body["error"]["message"])
            else:
                found.append(service.jobs_object._entries[body[name]].record.request.reward)
        assert found[0] == found[1]
        return found[0], service

    return rewards


@pytest.mark.parametrize(
    ("fields", "default", "got"),
    [
        ({}, "jpeg", "jpeg"),
        ({"reward": None}, "jpeg", "jpeg"),
        ({"reward": "clipscore:2,jpeg:1"}, "jpeg", "clipscore:2,jpeg:1"),
        ({"reward": "jpeg"}, None, "jpeg"),
        ({}, "math:fsum", "math:fsum"),
        ({"reward": "math:fsum"}, "math:fsum", "math:fsum"),
        ({"model": "scenes"}, "jpeg", "scenes"),
        ({"model": "scenes", "reward": "jpeg"}, None, "jpeg"),
    ],
)
def test_the_requests_reward_goes_before_the_models_and_that_before_the_operators(rewards, fields, default, got):
    assert rewards(fields, reward=default)[0] == got


@pytest.mark.parametrize(
    ("fields", "default", "words"),
    [
        ({}, None, "has no reward of its own; choose one"),
        ({"reward": "os:system"}, "jpeg", "reward 'os:system' is not allowed"),
        ({"reward": "jpeg:1,math:fsum:1"}, "math:fsum", "reward 'math:fsum' is not allowed"),
        ({"reward": ""}, "jpeg", "unknown reward ''"),
    ],
)
def test_what_is_wrong_with_a_reward_is_said_by_both_routes(rewards, fields, default, words):
    assert words in rewards(fields, reward=default)[0]


@pytest.mark.parametrize("default", [None, "jpeg"])
def test_models_are_listed_with_the_reward_that_they_have(rewards, default):
    service = rewards({}, reward=default)[1]
    assert [model.reward for model in service.client.models().data] == [default, "scenes"]


def test_an_openai_client_gets_images_of_a_model_without_a_reward(tiny_folder, make):
    """By a real search, with nothing in the request but what such a client sends."""
    searcher = Searcher.from_pretrained(str(tiny_folder), device="cpu")
    service = make(SearcherRunner((searcher.model,), lambda model: searcher, at_once=False), models=(searcher.model,), reward="jpeg")
    answer = service.http.post(IMAGES, json={"prompt": "a cat", "model": searcher.model, "n": 1, "size": "32x32"})
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert image.size == (32, 32)
    assert service.client.job(answer.json()["search"]).result["reward"]["name"] == "jpeg"
