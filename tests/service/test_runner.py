"""One job carried out by a real searcher on a tiny pipeline, in this process and with the life cycle around it."""

import json
import threading
import time
import uuid

import pytest
from PIL import Image

from mcts_ray import Searcher
from mcts_ray.service.models import SearchRequest
from mcts_ray.service.runner import Cancelled, SearcherRunner

CONFIG = {"levels": 4, "budget": 12, "reward": "jpeg", "images": 2}


@pytest.fixture(scope="module")
def searcher(tiny_folder):
    return Searcher.from_pretrained(str(tiny_folder), device="cpu")


@pytest.fixture
def runner(searcher):
    return SearcherRunner((searcher.model,), lambda model: searcher, at_once=False)


def test_a_job_gives_what_search_prints(runner, searcher, tmp_path):
    request = SearchRequest(prompt="a cat", model=searcher.model, **CONFIG)
    ended = runner.run(request, tmp_path / "run", lambda progress: None)
    assert ended.status == "done" and ended.error is None and ended.seconds["denoise"] > 0
    assert ended.result == json.loads((tmp_path / "run" / "job.json").read_text())["result"]
    names = ["run_dir", "prompt", "algorithm", "model", "reward", "gold", "images", "ledger", "tree"]
    assert list(ended.result) == names and ended.result["ledger"]["nfe"] == 12


def test_a_cancelled_job_keeps_what_it_has_found(runner, searcher, tmp_path):
    def on_progress(progress):
        if progress.images:
            assert progress.thumbnails[0].startswith(b"\xff\xd8")
            raise Cancelled

    request = SearchRequest(prompt="a cat", model=searcher.model, **{**CONFIG, "budget": 4000, "in_flight": 1})
    ended = runner.run(request, tmp_path / "run", on_progress)
    assert ended.status == "cancelled" and ended.result["images"] and ended.result["ledger"]["nfe"] < 100


@pytest.mark.parametrize("cancels", [True, False])
@pytest.mark.parametrize(("algorithm", "extended"), [("best-of-n", True), ("psp", False)])
def test_what_was_stopped_or_is_done_goes_on_in_its_directory(runner, searcher, tmp_path, algorithm, cancels, extended):
    """`mcts-ray down` stops searches as a client does; psp cannot take the budget that may have come since."""
    seen = []

    def on_progress(progress):
        seen.append(runner.goes_on(tmp_path / "run", 12))
        if cancels and progress.images:
            raise Cancelled

    request = SearchRequest(prompt="a cat", model=searcher.model, algorithm=algorithm, **{**CONFIG, "in_flight": 1})
    assert not runner.goes_on(tmp_path / "run", 12)
    runner.run(request, tmp_path / "run", on_progress)
    assert all(seen) and [runner.goes_on(tmp_path / "run", budget) for budget in (12, 20)] == [True, extended]
    (tmp_path / "run" / "journal.jsonl").write_text("nonsense\n")
    assert not runner.goes_on(tmp_path / "run", 12) and runner.spent(tmp_path / "run") == 0


@pytest.mark.parametrize("algorithm", ["best-of-n", "psp"])
def test_what_was_stopped_comes_to_the_same_end(runner, searcher, tmp_path, algorithm):
    def on_progress(progress):
        if progress.nfe >= 6:
            raise Cancelled

    request = SearchRequest(prompt="a cat", model=searcher.model, algorithm=algorithm, **{**CONFIG, "in_flight": 1})
    whole = runner.run(request, tmp_path / "whole", lambda progress: None)
    assert runner.run(request, tmp_path / "run", on_progress).status == "cancelled"
    ended = runner.run(request, tmp_path / "run", lambda progress: None)
    assert ended.status == "done" and ended.result["reward"] == whole.result["reward"] and ended.result["ledger"]["nfe"] == 12
    assert json.loads((tmp_path / "run" / "tree.json").read_text()) == json.loads((tmp_path / "whole" / "tree.json").read_text())


def test_what_is_done_is_not_done_again(runner, searcher, tmp_path, monkeypatch):
    """The service has died before its record could say so; the journal is of more budget than the client was told of."""
    request = SearchRequest(prompt="a cat", model=searcher.model, **CONFIG)
    done = runner.run(request, tmp_path / "run", lambda progress: None)
    for name in ("many", "resume"):
        monkeypatch.setattr(searcher, name, None)
    for budget in (12, 8):
        ended = runner.run(request.model_copy(update={"budget": budget}), tmp_path / "run", lambda progress: None)
        assert (ended.status, ended.result, ended.seconds) == ("done", done.result, {})


def test_what_is_done_goes_on_with_more_budget_from_its_journal(runner, searcher, tmp_path):
    request = SearchRequest(prompt="a cat", model=searcher.model, **{**CONFIG, "in_flight": 1})
    first = runner.run(request, tmp_path / "run", lambda progress: None)
    before = (tmp_path / "run" / "journal.jsonl").read_text()
    assert runner.spent(tmp_path / "run") == 12 and runner.found(tmp_path / "run") == first.result
    more = request.model_copy(update={"budget": 20})
    ended = runner.run(more, tmp_path / "run", lambda progress: None)
    whole = runner.run(more, tmp_path / "whole", lambda progress: None)
    assert ended.result["ledger"]["nfe"] == 20 and ended.result["reward"] == whole.result["reward"]
    assert (tmp_path / "run" / "journal.jsonl").read_text().startswith(before)
    busy = [one.result["ledger"]["denoiser_seconds"] for one in (first, ended)]
    assert ended.seconds["denoise"] == pytest.approx(busy[1] - busy[0])


@pytest.mark.parametrize(("algorithm", "takes"), [("best-of-n", True), ("psp", False)])
def test_a_running_job_takes_more_budget_and_its_journal_says_so(runner, searcher, tmp_path, algorithm, takes):
    seen = []

    def on_progress(progress):
        if not seen:
            seen.append(runner.extend(tmp_path / "run", 8))

    request = SearchRequest(prompt="a cat", model=searcher.model, algorithm=algorithm, **CONFIG)
    ended = runner.run(request, tmp_path / "run", on_progress)
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert seen == [takes] and [line["nfe"] for line in lines if line["type"] == "extend"] == [8] * takes
    assert ended.result["ledger"]["nfe"] == (20 if takes else 12)
    assert not runner.extend(tmp_path / "run", 8) and not runner.extend(tmp_path / "nowhere", 8)


def test_real_searches_through_the_service(make, runner, searcher):
    service = make(runner=runner, models=(searcher.model,), max_running=4)
    jobs = [service.client.submit("a cat", key=str(n), config=SearchRequest(prompt="x", **CONFIG, seed=n).config()) for n in range(3)]
    assert all(job.budget == 12 for job in jobs)
    ended = [service.client.wait(job.id) for job in jobs]
    assert {job.status for job in ended} == {"done"} and all(job.progress.nfe == 12 for job in ended)
    best = service.client.image(jobs[0].id)
    assert isinstance(best, Image.Image) and best.info["prompt"] == "a cat"
    assert len(service.client.tree(jobs[0].id)["nodes"]) == ended[0].result["tree"]["nodes"]
    assert "a cat" in service.client.report(jobs[0].id)
    assert "mcts_ray_nfe_total 36.0" in service.client.metrics()


@pytest.fixture(params=["path", "memory"])
def tiny(request, make, runner, searcher, tmp_path):
    """A service with real searches; the spool of one on a URL is lost whenever it is restarted."""
    store = {"path": tmp_path / "jobs", "memory": f"memory://{uuid.uuid4().hex}"}[request.param]
    return make(runner=runner, models=(searcher.model,), store=store)


def submitted(service, **more):
    return service.client.submit("a cat", config=SearchRequest(prompt="x", **{**CONFIG, "in_flight": 1, **more}).config())


def journal(service, job):
    data = service.jobs_object.store.read(job.id, int(job.result["run_dir"].rpartition("/")[2]), "journal.jsonl")
    return data.decode().splitlines()


def test_more_budget_spends_only_what_is_new(tiny):
    done = tiny.client.wait(submitted(tiny).id)
    tiny.restart()
    tiny.client.extend(done.id, 8)
    job = tiny.client.wait(done.id)
    assert (job.status, job.attempt, job.result["ledger"]["nfe"]) == ("done", 2, 20) and "mcts_ray_nfe_total 8.0" in tiny.client.metrics()
    before = journal(tiny, done)
    assert journal(tiny, job)[: len(before)] == before and job.result["run_dir"].endswith("/2")
    assert tiny.client.image(job.id).info["prompt"] == "a cat"
    assert json.loads(tiny.jobs_object.store.read(job.id, 1, "job.json"))["result"]["ledger"]["nfe"] == 12  # as it was


def test_a_search_planned_whole_begins_anew_with_more_budget(tiny):
    job = tiny.client.wait(submitted(tiny, algorithm="psp").id)
    tiny.client.extend(job.id, 8)
    again = tiny.client.wait(job.id)
    assert again.status == "done" and again.result["ledger"]["nfe"] == 20 and '"type":"extend"' not in "".join(journal(tiny, again))


def test_a_crash_before_the_record_says_so_costs_nothing(tiny, searcher, monkeypatch):
    done = tiny.client.wait(submitted(tiny).id)
    tiny.close()
    (record,) = tiny.jobs_object.store.load()
    tiny.jobs_object.store.save(record.model_copy(update={"status": "running", "result": None, "found": 0, "ended": None}))
    for name in ("many", "resume"):
        monkeypatch.setattr(searcher, name, None)
    tiny.open()
    job = tiny.client.wait(done.id)
    assert (job.status, job.attempt, job.result) == ("done", 2, done.result) and tiny.client.image(job.id).info["prompt"] == "a cat"


def test_a_search_goes_on_on_another_machine(tiny, monkeypatch):
    monkeypatch.setattr("mcts_ray.service.life.KEEP", 0.02)
    job = submitted(tiny, budget=4000)
    deadline = time.monotonic() + 30
    while (tiny.jobs_object.store.read(job.id, 1, "journal.jsonl") or b"").count(b'"tell"') < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    tiny.restart()
    while tiny.client.job(job.id).status != "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job = tiny.client.cancel(job.id)
    assert (job.status, job.attempt) == ("cancelled", 2) and job.result["run_dir"].endswith("/1")
    assert [json.loads(line)["type"] for line in journal(tiny, job)].count("resume") == 1


def test_only_one_at_once_where_there_is_one_engine(runner, searcher, tmp_path):
    inside, most = [], []

    def on_progress(progress):
        inside.append(threading.get_ident())
        most.append(len(set(inside)))
        time.sleep(0.01)
        if not progress.running:
            inside.clear()

    request = SearchRequest(prompt="a cat", model=searcher.model, **CONFIG)
    threads = [threading.Thread(target=runner.run, args=(request, tmp_path / str(n), on_progress)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
