"""One job carried out by a real searcher on a tiny pipeline, in this process and with the life cycle around it."""

import json
import threading
import time

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


@pytest.mark.parametrize(
    ("algorithm", "cancels", "extended"), [("best-of-n", True, True), ("psp", True, False), ("best-of-n", False, False)]
)
def test_only_what_was_stopped_goes_on_in_its_directory(runner, searcher, tmp_path, algorithm, cancels, extended):
    """`mcts-ray down` stops searches as a client does; psp cannot take the budget that may have come since."""
    seen = []

    def on_progress(progress):
        seen.append(runner.goes_on(tmp_path / "run", 12))
        if cancels and progress.images:
            raise Cancelled

    request = SearchRequest(prompt="a cat", model=searcher.model, algorithm=algorithm, **{**CONFIG, "in_flight": 1})
    assert not runner.goes_on(tmp_path / "run", 12)
    runner.run(request, tmp_path / "run", on_progress)
    assert all(seen) and [runner.goes_on(tmp_path / "run", budget) for budget in (12, 20)] == [cancels, extended]


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
