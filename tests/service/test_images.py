"""OpenAI's way to make images: what it answers, and its errors in the form that OpenAI's clients read."""

import asyncio
import base64
import json
import threading
import time

import httpx2
import pytest

from mcts_ray.service.answers import IMAGES
from mcts_ray.service.app import make_app
from mcts_ray.service.home import find_service

PROMPT = "a red circle left of a blue square"


def fault(answer):
    """What an OpenAI client reads of an error."""
    assert list(answer.json()) == ["error"] and list(answer.json()["error"]) == ["message", "type", "param", "code"]
    return answer.json()["error"]


def ended(service, id):
    deadline = time.monotonic() + 10
    while not (job := service.client.job(id)).has_ended:
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def test_images_in_the_form_of_openai(service, held):
    held.go.set()
    asked = {"prompt": PROMPT, "n": 1, "user": "someone", "quality": "high", "budget": 60}
    answer = service.http.post(IMAGES, json=asked)
    assert answer.status_code == 200 and base64.b64decode(answer.json()["data"][0]["b64_json"]) == b"\x89PNG"
    assert abs(answer.json()["created"] - time.time()) < 60
    url = service.http.post(IMAGES, json={**asked, "response_format": "url"}).json()["data"][0]["url"]
    assert url.startswith("http://service/v1/searches/") and service.http.get(url).content == b"\x89PNG"


def test_null_is_as_good_as_leaving_a_field_out(service, held):
    held.go.set()
    names = "model n size response_format budget algorithm seed user quality style background moderation output_format stream".split()
    answer = service.http.post(IMAGES, json={"prompt": PROMPT, **dict.fromkeys(names)})
    assert answer.status_code == 200 and list(answer.json()["data"][0]) == ["b64_json"], answer.text
    request = service.jobs_object._entries[answer.json()["search"]].record.request
    assert (request.images, request.seed, request.algorithm, request.budget) == (1, 0, "best-of-n", 240)
    many = service.http.post(IMAGES, json={"prompt": PROMPT, "n": 10}).json()["search"]
    assert service.jobs_object._entries[many].record.request.budget == 300


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"size": "large"}, "size", "size must be auto or WIDTHxHEIGHT in pixels, as in 512x512"),
        ({"size": "0x64"}, "size", "size must be auto or"),
        ({"size": "32x32"}, None, "scenes reward reads images of"),
        ({"size": "4x64"}, None, "width: input should be greater than or equal to 8"),
        ({"n": 8, "budget": 60}, None, "budget 60 is below 8 images of 30 NFE; give at least 240"),
        ({"n": 11}, "n", "n: input should be less than or equal to 10"),
        ({"n": "2"}, "n", "n: input should be a valid integer"),
        ({"prompt": None}, "prompt", "prompt: input should be a valid string"),
        ({"response_format": "png"}, "response_format", "response_format: input should be 'b64_json' or 'url'"),
        ({"model": "dall-e-3"}, None, "model 'dall-e-3' is not served here; choose scenes"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_in_the_form_of_openai(service, fields, param, words):
    answer = service.http.post(IMAGES, json={"prompt": PROMPT, **fields})
    found = fault(answer)
    assert (answer.status_code, found["type"], found["param"], found["code"]) == (422, "invalid_request_error", param, "invalid_value")
    assert words in found["message"]


def test_a_search_that_fails_is_an_error_which_clients_do_not_repeat(service, held):
    held.go.set()
    held.raises = [RuntimeError("out of\nmemory")]
    answer = service.http.post(IMAGES, json={"prompt": PROMPT})
    found = fault(answer)
    assert (answer.status_code, found["code"], found["type"]) == (422, "search_failed", "search_error")
    assert "has failed (RuntimeError: out of memory)" in found["message"] and answer.headers["x-should-retry"] == "false"


def test_a_search_that_is_cancelled_is_a_conflict_and_says_where_its_images_are(live, held):
    def cancel():
        while not (running := [job for job in live.client.jobs() if job.status == "running"]):
            time.sleep(0.01)
        live.client.cancel(running[0].id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    answer = post_live({"prompt": PROMPT})
    canceller.join()
    found = fault(answer)
    (job,) = live.client.jobs()
    assert (answer.status_code, found["code"]) == (409, "search_cancelled") and answer.headers["x-should-retry"] == "false"
    assert f"what it has found is kept at /v1/searches/{job.id}" in found["message"] and job.result["images"]


def post_live(body):
    """By a client of its own, since the one of the fixture is at work for the test."""
    url, token = find_service()
    return httpx2.post(url + IMAGES, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=20)


def test_every_other_refusal_has_the_form_too(make):
    service = make(max_body=2048, max_running=1, max_queue=1, retry_after=7)
    long = service.http.post(IMAGES, content=b" " * 4096, headers={"Content-Type": "application/json"})
    assert long.status_code == 413 and fault(long)["code"] == "body_too_large"
    wrong = service.http.post(IMAGES, json={"prompt": PROMPT}, headers={"Authorization": "Bearer another"})
    assert wrong.status_code == 401 and fault(wrong)["code"] == "invalid_api_key" and wrong.headers["www-authenticate"] == "Bearer"
    method = service.http.get(IMAGES)
    assert method.status_code == 405 and fault(method)["code"] == "method_not_allowed"
    broken = service.http.post(IMAGES, content=b"{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 422 and fault(broken)["param"] is None
    for _ in range(2):
        service.client.submit(PROMPT)
        while service.client.health().running == 0:
            time.sleep(0.01)
    busy = service.http.post(IMAGES, json={"prompt": PROMPT})
    assert busy.status_code == 429 and busy.headers["retry-after"] == "7" and fault(busy)["type"] == "rate_limit_error"


@pytest.mark.parametrize("how", ["disconnected", "cancelled"])
def test_a_client_that_goes_away_ends_its_search(service, monkeypatch, how):
    """As uvicorn says it, and as Ray Serve does, by cancelling the request."""
    monkeypatch.setattr("mcts_ray.service.images.WAIT", 0.05)
    body = json.dumps({"prompt": PROMPT, "budget": 60}).encode()
    messages = [{"type": "http.request", "body": body}]
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": IMAGES, "query_string": b"", "headers": headers}

    async def receive():
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    async def send(message): ...

    async def go():
        task = asyncio.create_task(make_app(service.jobs_object, None)(scope, receive, send))
        while (await service.jobs_object.health()).running == 0:
            await asyncio.sleep(0.01)
        if how == "cancelled":
            task.cancel()
        messages.append({"type": "http.disconnect"})
        await asyncio.wait([task])

    service.http.portal.call(go)
    (job,) = service.client.jobs()
    assert ended(service, job.id).status == "cancelled"
