"""The HTTP API on a service whose searches the test controls: every route, every limit, and what is said of mistakes."""

import base64
import json
import threading
import time

import pytest

from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.checks import PLACES
from mcts_ray.service.checks import checked
from mcts_ray.service.models import Job, SearchRequest
from mcts_ray.service.runner import Lost
from mcts_ray.service.settings import Settings
from tests.service.asking import PROMPT, ended, submit, until

ROUTES = {
    ("POST", "/v1/searches"), ("GET", "/v1/searches"), ("GET", "/v1/searches/{id}"), ("DELETE", "/v1/searches/{id}"),
    ("GET", "/v1/searches/{id}/events"), ("GET", "/v1/searches/{id}/images/{n}"), ("GET", "/v1/searches/{id}/tree"),
    ("GET", "/v1/searches/{id}/report"), ("POST", "/v1/searches/{id}/budget"), ("GET", "/v1/models"), ("GET", "/healthz"),
    ("GET", "/metrics"), ("POST", "/v1/images/generations"),
}  # fmt: skip


def test_the_document_names_exactly_the_routes_that_there_are(service):
    document = service.http.get("/openapi.json").json()
    assert {(m.upper(), path) for path, methods in document["paths"].items() for m in methods} == ROUTES


def test_every_route_but_health_wants_the_token(service):
    for method, path in ROUTES - {("GET", "/healthz")}:
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer another"}, {"Authorization": "Basic YQ=="}):
            answer = service.http.request(method, path.format(id="abc", n=1), headers=headers, json={"prompt": PROMPT, "nfe": 1})
            assert answer.status_code == 401 and "Bearer TOKEN" in answer.text, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/openapi.json", "/docs"):
        assert service.http.get(path, headers={"Authorization": ""}).status_code == 200


def test_without_the_token_nothing_is_said_of_a_request(make):
    """Neither of its body, which is not read, nor of its address and method."""
    service = make(max_body=2048)
    headers = {"Authorization": "", "Content-Type": "application/json"}
    for path in ("/v1/searches", "/v1/images/generations", "/v1/searches/abc/budget"):
        for content in (b"{", b"\xff", b"[]", b"", b" " * 4096):
            assert service.http.post(path, content=content, headers=headers).status_code == 401, (path, content)
    for method, path in (("GET", "/v2"), ("PUT", "/v1/searches"), ("POST", "/healthz/"), ("GET", "/v1/searches?limit=0")):
        assert service.http.request(method, path, headers=headers).status_code == 401, path


def test_the_token_is_taken_as_http_has_it(service):
    token = service.http.headers["Authorization"].removeprefix("Bearer ")
    for given, status in ((f"bearer {token}", 200), (f"Bearer  {token} ", 200), (token, 401), ("Bearer", 401), (f"Bearer {token}x", 401)):
        assert service.http.get("/v1/models", headers={"Authorization": given}).status_code == status, given
    assert service.http.get("/v1/models", headers={"Authorization": b"Bearer \xff"}).status_code == 401


def test_a_search_from_submission_to_its_files(service, held):
    answer = submit(service, budget=60)
    assert answer.status_code == 202
    job = Job.model_validate(answer.json())
    assert (job.status, job.prompt, job.model, job.algorithm, job.budget) == ("queued", PROMPT, "scenes", "best-of-n", 60)
    running = until(service, job.id, "running")
    assert running.attempt == 1 and running.started >= running.created
    assert service.http.get(f"/v1/searches/{job.id}/tree").status_code == 404
    held.go.set()
    done = ended(service, job.id)
    assert done.status == "done" and done.ended >= done.started and done.result["ledger"]["nfe"] == 60
    assert done.result["run_dir"].endswith(f"runs/{job.id}/1") and done.result["images"] == [done.result["run_dir"] + "/images/01.png"]
    image = service.http.get(f"/v1/searches/{job.id}/images/1")
    assert image.content == b"\x89PNG" and image.headers["content-type"] == "image/png"
    assert service.client.tree(job.id) == {"nodes": []} and service.client.report(job.id) == "<html>"
    assert "sandbox" in service.http.get(f"/v1/searches/{job.id}/report").headers["content-security-policy"]
    missing = service.http.get(f"/v1/searches/{job.id}/images/2")
    assert missing.status_code == 404 and "has no images/02.png" in missing.json()["detail"]


def test_events_tell_progress_the_best_image_and_the_end(service, held):
    id = submit(service, budget=60).json()["id"]
    until(service, id, "running")
    seen = []
    threading.Timer(0.1, held.go.set).start()  # the test client hands over a stream as a whole, at its end
    job = service.client.wait(id, seen.append)
    assert job.status == "done" and seen[-1].name == "done"
    best = [event.data for event in seen if event.name == "best"]
    assert len(best) == 1 and best[0].reward == 0.5
    assert base64.b64decode(best[0].thumbnail.removeprefix("data:image/jpeg;base64,")) == b"\xff\xd8jpeg"
    assert all(0 < event.data.nfe <= 60 for event in seen if event.name == "progress")
    lines = service.http.get(f"/v1/searches/{id}/events").text.splitlines()
    assert lines[1] == "event: best" and "event: done" in lines


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt is missing"),
        ({"prompt": ""}, "prompt: string should have at least 1 character"),
        ({"prompt": "a red hexagon"}, "hexagon"),
        ({"prompt": PROMPT + "\n"}, "control character"),
        ({"prompt": PROMPT, "budgett": 1}, "there is no field 'budgett'"),
        ({"prompt": PROMPT, "budget": 0}, "budget: input should be greater than or equal to 1"),
        ({"prompt": PROMPT, "budget": 5}, "budget 5 is below one trajectory"),
        ({"prompt": PROMPT, "budget": 5000}, "budget is 5000 NFE; this service allows 1000"),
        ({"prompt": PROMPT, "levels": 1000}, "budget is 8000 NFE; this service allows 1000"),
        ({"prompt": PROMPT * 10}, "prompt has 340 characters; this service allows 100"),
        ({"prompt": PROMPT, "negative_prompt": "x" * 101}, "negative_prompt has 101 characters; this service allows 100"),
        ({"prompt": PROMPT, "images": 17}, "images is 17; this service allows 16"),
        ({"prompt": PROMPT, "seed": 2**64}, "seed is 18446744073709551616; this service allows 9223372036854775807"),
        ({"prompt": PROMPT, "height": 4096}, "height is 4096; this service allows 2048"),
        ({"prompt": PROMPT, "height": 32}, "scenes reward reads images of"),
        ({"prompt": PROMPT, "algorithm": "mtcs"}, "did you mean 'mcts'?"),
        ({"prompt": PROMPT, "model": "/etc"}, "model '/etc' is not served here; choose scenes"),
        ({"prompt": PROMPT, "reward": "os:system"}, "reward 'os:system' is not allowed on this service"),
        ({"prompt": PROMPT, "reward": "scenes:1,os:getpid:0.5"}, "reward 'os:getpid' is not allowed on this service"),
        ({"prompt": PROMPT, "reward": "pickscore@/etc:1"}, "may not say where weights lie"),
        ({"prompt": PROMPT, "algorithm": "psp", "step_reward": "lrm", "step_model": "/etc"}, "step_model names a place on the service's"),
        ({"prompt": PROMPT, "algorithm": "mcts", "jump": "ige", "ige_model": "/etc"}, "ige_model names a place on the service's machine"),
        ({"prompt": PROMPT, "algorithm": "mcts", "jump": "ige", "ige_choice": "sample", "ige_online": "/x"}, "ige_online names a place"),
        ({"prompt": PROMPT, "algorithm": "mcts", "fuse": "decoder", "fuse_model": "none"}, "fuse_model names a place on the service's"),
        ({"prompt": PROMPT, "algorithm": "mcts", "step_reward": "x0", "calibration": "/etc/passwd"}, "calibration names a place on the"),
        ({"prompt": PROMPT, "algorithm": "dts", "branchings": 10**9}, "branchings is 1000000000; this service allows 1000"),
        ({"prompt": PROMPT, "algorithm": "mcts", "jump": "ige", "ige_version": 9}, "IGE"),
        ({"prompt": PROMPT, "algorithm": "beam", "population": 10**6}, "population is 1000000; this service allows 1000"),
        ({"prompt": PROMPT, "in_flight": 10**6}, "in_flight is 1000000; this service allows 1000"),
        ({"prompt": PROMPT, "max_decodes": 10**6}, "max_decodes is 1000000; this service allows 1000"),
        ({"prompt": PROMPT, "max_seconds": 1e18}, "max_seconds is 1e+18; this service allows 604800"),
        ({"prompt": PROMPT, "jumps": [1] * 1001}, "jumps has 1001 entries; this service allows 1000"),
        ({"prompt": PROMPT, "reward": ",".join(["jpeg:1"] * 9)}, "reward is a sum of 9 terms; this service allows 8"),
        ({"prompt": PROMPT, "budget": "60"}, "budget: input should be a valid integer"),
        ({"prompt": PROMPT, "images": True}, "images: input should be a valid integer"),
        ({"prompt": PROMPT, "record_scores": "yes"}, "record_scores: input should be a valid boolean"),
        ([], "the body must be a JSON object"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(make, body, words):
    answer = make(max_budget=1000, max_prompt=100).http.post("/v1/searches", json=body)
    assert answer.status_code == 422 and list(answer.json()) == ["detail"]
    assert words in answer.json()["detail"] and "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b"\x80\x04\x95pickle"])
def test_what_is_no_json_is_refused(service, content):
    for kind in ("application/json", "application/octet-stream"):
        answer = service.http.post("/v1/searches", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 422 and answer.json()["detail"]


def test_every_field_of_text_is_known_to_the_checks():
    """A new field that names a file or folder must be refused; whoever adds one of text decides here which it is."""
    text = {name for name, field in SearchRequest.model_fields.items() if field.annotation in (str, str | None)}
    assert text == {"prompt", "negative_prompt", "model", "algorithm", "reward", *PLACES}


def test_user_rewards_only_where_the_operator_allows_them(make):
    service = make(rewards=("math:fsum",))
    assert submit(service, reward="math:fsum").status_code == 202
    assert submit(service, reward="math:prod").status_code == 422


def test_a_long_body_is_refused_before_it_is_read(make):
    service = make(max_body=2048)
    for content in (b" " * 4096, iter([b" " * 1500] * 3)):
        answer = service.http.post("/v1/searches", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and "longer than 2048 bytes" in answer.json()["detail"]
    assert submit(service).status_code == 202
    assert service.http.request("GET", "/v1/models", content=b" " * 4096).status_code == 200  # nobody reads it


def test_a_search_that_names_no_time_has_the_operators():
    models = {"scenes": resolve_model("scenes")}
    for asked, allowed, got in ((None, 5.0, 5.0), (2.0, 5.0, 2.0), (None, None, None)):
        request = SearchRequest(prompt=PROMPT, max_seconds=asked)
        assert checked(request, models, Settings(max_seconds=allowed)).max_seconds == got


def test_a_full_queue_says_when_to_come_again(make):
    service = make(max_running=1, max_queue=2, retry_after=7)
    first = submit(service).json()["id"]
    until(service, first, "running")
    assert [submit(service).status_code for _ in range(2)] == [202, 202]
    answer = submit(service)
    assert answer.status_code == 429 and answer.headers["retry-after"] == "7" and "queue is full (2 searches)" in answer.json()["detail"]
    health = service.client.health()
    assert (health.running, health.queued) == (1, 2)


def test_the_same_key_gives_the_same_search(service):
    first, again = (submit(service, key="k", budget=60).json()["id"] for _ in range(2))
    assert first == again
    other = submit(service, key="k", budget=90)
    assert other.status_code == 409 and "idempotency key 'k' was used for another search" in other.json()["detail"]
    service.restart()
    assert submit(service, key="k", budget=60).json()["id"] == first


def test_cancelling_keeps_what_was_found(make):
    service = make(max_running=1)
    running, queued = (submit(service).json()["id"] for _ in range(2))
    until(service, running, "running")
    assert service.client.cancel(queued).status == "cancelled"
    job = service.client.cancel(running)
    assert job.status == "cancelled" and job.result["images"] and service.http.get(f"/v1/searches/{running}/images/1").status_code == 200
    assert service.client.cancel(running) == job
    assert service.http.get(f"/v1/searches/{queued}/tree").status_code == 404


def test_budget_can_be_extended(make, held):
    service = make(max_running=1, max_budget=200)
    running, queued = (submit(service, budget=60).json()["id"] for _ in range(2))
    until(service, running, "running")
    assert service.client.extend(queued, 30).budget == 90 and service.client.extend(running, 20).budget == 80
    assert [nfe for _, nfe in held.extended] == [20]
    too_much = service.http.post(f"/v1/searches/{queued}/budget", json={"nfe": 1000})
    assert too_much.status_code == 422 and "allows 200" in too_much.json()["detail"]
    held.takes_more = False
    assert service.http.post(f"/v1/searches/{running}/budget", json={"nfe": 1}).status_code == 409
    held.go.set()
    assert ended(service, queued).result["ledger"]["nfe"] == 90
    nothing = service.http.post(f"/v1/searches/{queued}/budget", json={"nfe": 0})
    assert nothing.status_code == 409 and "nothing to resume" in nothing.json()["detail"]
    again = service.client.extend(queued, 60)
    assert again.status in ("queued", "running") and again.budget == 150
    job = ended(service, queued)
    assert job.attempt == 2 and job.result["ledger"]["nfe"] == 150 and held.begun[-1] == (PROMPT, 150)


def test_a_lost_search_is_begun_again_but_not_for_ever(service, held):
    held.go.set()
    held.raises = [Lost("an actor has died")]
    job = ended(service, submit(service).json()["id"])
    assert (job.status, job.attempt) == ("done", 2)
    held.raises = [Lost("an actor has died")] * 3
    job = ended(service, submit(service).json()["id"])
    assert (job.status, job.attempt, job.error) == ("failed", 3, "an actor has died")
    assert service.client.resume(job.id).attempt >= 3 and ended(service, job.id).status == "done"


def test_a_lost_search_that_gets_further_every_time_is_not_given_up(service, held):
    held.go.set()
    held.raises, held.spends = [Lost("an actor has died")] * 5, [10, 10, 20, 30, 30]
    job = ended(service, submit(service, budget=60).json()["id"])
    assert (job.status, job.attempt) == ("done", 6)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_lost_search_goes_on_in_its_directory_if_it_can(service, held, keeps):
    held.go.set()
    held.keeps, held.raises = keeps, [Lost("an actor has died")]
    job = ended(service, submit(service).json()["id"])
    assert job.attempt == 2 and [out.name for out in held.outs] == (["1", "1"] if keeps else ["1", "2"])
    assert job.result["run_dir"].endswith(f"/{held.outs[-1].name}") and service.client.png(job.id) == b"\x89PNG"


def test_a_search_that_raises_fails_alone(service, held):
    held.go.set()
    held.raises = [RuntimeError("out of\nmemory")]
    job = ended(service, submit(service).json()["id"])
    assert (job.status, job.error) == ("failed", "RuntimeError: out of memory")
    assert ended(service, submit(service).json()["id"]).status == "done"


def test_the_index_outlives_a_restart_and_unfinished_searches_go_on(make, held):
    service = make(max_running=2)
    held.go.set()
    done = ended(service, submit(service).json()["id"])
    held.go.clear()
    running, _, queued = (submit(service).json()["id"] for _ in range(3))
    until(service, running, "running")
    service.restart()
    assert service.client.job(done.id) == done and service.client.png(done.id) == b"\x89PNG"
    held.go.set()
    jobs = [ended(service, id) for id in (running, queued)]
    assert [job.status for job in jobs] == ["done", "done"] and jobs[0].attempt == 2
    assert len(list(service.client.jobs())) == 4


def test_searches_are_listed_page_by_page_newest_first(service, held):
    held.go.set()
    ids = [submit(service).json()["id"] for _ in range(5)]
    page = service.http.get("/v1/searches", params={"limit": 2}).json()
    assert [job["id"] for job in page["searches"]] == ids[:2:-1]
    rest = service.http.get("/v1/searches", params={"limit": 10, "after": page["next"]}).json()
    assert [job["id"] for job in rest["searches"]] == ids[2::-1] and rest["next"] is None
    for id in ids:
        ended(service, id)
    assert len(list(service.client.jobs("done", limit=3))) == 3 and not list(service.client.jobs("failed"))


@pytest.mark.parametrize("id", ["unknown", "..%2f..%2fetc%2fpasswd", "../x", "%00", "A", "x" * 65])
def test_no_path_of_a_client_reaches_the_file_system(service, id):
    for part in ("", "/tree", "/report", "/images/1", "/events"):
        answer = service.http.get(f"/v1/searches/{id}{part}")
        assert answer.status_code in (404, 422) and answer.json()["detail"], part
    assert service.http.get("/v1/searches/abc/images/-1").status_code == 422


def test_an_address_or_method_that_is_not_there(service):
    assert service.http.get("/v2").json() == {"detail": "there is nothing at this address; see /docs"}
    assert service.http.put("/v1/searches").status_code == 405


def test_models_and_metrics(service, held):
    assert service.http.get("/v1/models").json()["data"][0] == {
        "id": "scenes", "object": "model", "owned_by": "mcts-ray", "height": 64, "width": 64, "reward": "scenes"
    }  # fmt: skip
    held.go.set()
    ended(service, submit(service, budget=60).json()["id"])
    lines = ('mcts_ray_searches_ended_total{status="done"} 1.0', "mcts_ray_nfe_total 60.0", "mcts_ray_batch_fill 0.25",
             'mcts_ray_phase_seconds_total{phase="denoise"} 1.5', "mcts_ray_replays_total 3.0")  # fmt: skip
    deadline = time.monotonic() + 10
    while missing := [line for line in lines if line not in service.http.get("/metrics").text]:  # counted once the search is in the store
        assert time.monotonic() < deadline, missing


def test_the_record_on_disk_holds_no_secret_and_is_json(service, tmp_path):
    id = submit(service, key="k").json()["id"]
    record = json.loads((tmp_path / "store" / "jobs" / f"{id}.json").read_text())
    assert record["request"]["prompt"] == PROMPT and record["key"] == "k" and "token" not in json.dumps(record)
