"""What `benchmarks.fuzz` does beside schemathesis: a server with a search of each fate, cases aimed at them, and answers counted."""

import json
import time
from types import SimpleNamespace

import httpx2
import pytest

from benchmarks.fuzz import FATES, TOKEN, aim, main, serve

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def fuzzed(tmp_path):
    port, ids, counted, stop = serve(str(tmp_path / "store"))
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20) as http:
        yield http, ids, counted
    stop()


def case(path="/v1/searches/{id}", method="GET", parameters=None, body=None):
    return SimpleNamespace(path=path, method=method, path_parameters=parameters or {}, body=body)


def test_there_is_a_search_of_each_fate_and_one_runs_again_and_again(fuzzed):
    http, ids, _ = fuzzed
    seen = {fate: set() for fate in ids}
    deadline = time.monotonic() + 20
    while not all(fate in seen[fate] for fate in ids) or http.get(f"/v1/searches/{ids['running']}").json()["attempt"] < 3:
        assert time.monotonic() < deadline, seen
        for fate, id in ids.items():
            seen[fate].add(http.get(f"/v1/searches/{id}").json()["status"])


def test_every_operation_can_succeed_and_is_counted(fuzzed):
    http, ids, counted = fuzzed
    id = ids["done"]
    while http.get(f"/v1/searches/{id}").json()["status"] != "done":
        time.sleep(0.01)
    for part in ("", "/events", "/images/1", "/tree", "/report"):
        assert http.get(f"/v1/searches/{id}{part}").status_code == 200, part
    assert http.delete(f"/v1/searches/{ids['running']}").status_code == 200
    assert http.post(f"/v1/searches/{id}/budget", json={"nfe": 1}).status_code == 200
    prompts = {fate: prompt for prompt, fate in FATES.items()}
    assert http.post("/v1/searches", json={"prompt": prompts["done"]}).status_code == 202
    fates = {fate: http.post("/v1/images/generations", json={"prompt": prompt}).status_code for fate, prompt in prompts.items()}
    assert fates == {"done": 200, "running": 422, "cancelled": 409, "failed": 422}
    assert "POST /v1/searches" not in counted.found()["never_succeeded"] and "GET /metrics" in counted.found()["never_succeeded"]
    for path in ("/v1/searches", "/v1/models", "/healthz", "/metrics"):
        assert http.get(path).status_code == 200
    assert http.get("/v2").status_code == 404
    found = counted.found()
    assert found["never_succeeded"] == [] and found["elsewhere"] == 1
    assert found["statuses"]["POST /v1/images/generations"] == {"200": 1, "409": 1, "422": 2}
    assert found["statuses"]["GET /v1/searches/{id}/tree"] == {"200": 1}


def test_three_of_four_cases_ask_for_what_is_there():
    cases = [case("/v1/searches/{id}/images/{n}", parameters={"id": f"x{i}", "n": 7}) for i in range(400)]
    for one in cases:
        aim(one, IDS)
    aimed = [one for one in cases if one.path_parameters["id"] in IDS]
    assert 250 < len(aimed) < 350 and {one.path_parameters["id"] for one in aimed} == set(IDS)
    assert all((one.path_parameters["n"] == 1) == (one in aimed) for one in cases)
    again = case("/v1/searches/{id}/images/{n}", parameters={"id": "x5", "n": 7})
    aim(again, IDS)
    assert again == cases[5]


def test_bodies_get_a_prompt_of_a_fate_and_little_budget():
    bodies = []
    for i in range(200):
        one = case("/v1/searches", "POST", body={"prompt": f"p{i}", "algorithm": "none", "seed": i})
        aim(one, IDS)
        bodies.append(one.body)
    prompts = {body["prompt"] for body in bodies}
    assert set(FATES) < prompts and any("algorithm" not in body for body in bodies)
    assert [body["seed"] for body in bodies] == list(range(200))
    more = [case("/v1/searches/{id}/budget", "POST", {"id": f"x{i}"}, {"nfe": 500 + i}) for i in range(100)]
    for one in more:
        aim(one, IDS)
    assert all(one.body["nfe"] < 3 for one in more if one.path_parameters["id"] in IDS)


def test_bodies_that_are_none_are_left_alone():
    for body in (None, [], "text", 3):
        one = case("/v1/searches", "POST", body=body)
        aim(one, IDS)
        assert one.body == body


@pytest.mark.slow
def test_schemathesis_finds_nothing_and_every_operation_succeeds(tmp_path, monkeypatch):
    """A short run of the whole, where schemathesis is installed."""
    pytest.importorskip("schemathesis")
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--examples", "3"])
    status = main()
    found = json.loads((tmp_path / "fuzz.json").read_text())
    assert status == 0 and found["passed"] and found["never_succeeded"] == [], found["tail"]
