"""Submitting searches to a service under test, and waiting for them."""

import time

PROMPT = "a red circle left of a blue square"


def submit(service, prompt=PROMPT, key=None, **fields):
    answer = service.http.post("/v1/searches", json={"prompt": prompt, **fields}, headers={"Idempotency-Key": key} if key else {})
    return answer


def ended(service, id, seconds=10):
    deadline = time.monotonic() + seconds
    while not (job := service.client.job(id)).has_ended:
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def until(service, id, status):
    deadline = time.monotonic() + 10
    while (job := service.client.job(id)).status != status:
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job
