"""The index and the run directories: on a path, and on a URL of another file system."""

import json
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from mcts_ray.service.models import SearchRequest
from mcts_ray.service.store import JobStore, Record
from tests.service.cloud import CloudError

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def record(id, hours=0, **more):
    request = SearchRequest(prompt="a red circle", model="scenes", reward="scenes", budget=60, jump="table", jump_table=(1,) * 30)
    return Record(id=id, request=request, created=NOW + timedelta(hours=hours), **more)


@pytest.fixture(params=["path", "odd", "file", "memory"])
def url(request, tmp_path):
    urls = {"path": str(tmp_path / "jobs"), "odd": str(tmp_path / "[a]*?" / "jobs"), "file": f"file://{tmp_path}/jobs"}
    return {**urls, "memory": f"memory://{uuid.uuid4().hex}/[a]/jobs"}[request.param]


def test_records_come_back_oldest_first(url):
    store = JobStore(url)
    records = [record("b", 1), record("a", 2, status="done", result={"images": []}), record("c", 0, key="k", attempt=2)]
    for one in records:
        store.save(one)
    records[0].status = "running"
    store.save(records[0])
    assert JobStore(url).load() == [records[2], records[0], records[1]]


def test_a_run_directory_is_found_again(url, tmp_path):
    store = JobStore(url, tmp_path / "spool")
    folder = store.run_dir("a", 1)
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "01.png").write_bytes(b"png")
    (folder / "tree.json").write_text("{}")
    store.publish("a", 1)
    again = JobStore(url)
    assert again.read("a", 1, "images/01.png") == b"png" and again.read("a", 1, "tree.json") == b"{}"
    assert again.read("a", 2, "tree.json") is None and again.read("a", 1, "images/02.png") is None
    assert again.address("a", 1).endswith("/jobs/runs/a/1") and folder.exists() is store.local
    store.publish("nothing", 0)


def test_a_store_that_cannot_be_used_is_said_at_once(tmp_path):
    (tmp_path / "file").touch()
    for url in (str(tmp_path / "file"), "nothing://bucket"):
        with pytest.raises(ValueError, match=f"the store {url} cannot be used"):
            JobStore(url)


def test_a_store_whose_errors_are_its_own_cannot_be_used(cloud):
    cloud.trouble(CloudError("Unable to\nlocate credentials"))
    with pytest.raises(ValueError, match=rf"^the store {cloud.url} cannot be used \(Unable to locate credentials\)$"):
        JobStore(cloud.url)


@pytest.mark.parametrize(("error", "words"), [(CloudError("no endpoint"), "no endpoint"), (CloudError(), "CloudError")])
def test_every_trouble_of_a_store_is_an_oserror(cloud, tmp_path, error, words):
    store = JobStore(cloud.url, tmp_path)
    store.save(record("a"))
    write_run(store.run_dir("a", 1))
    calls = [store.load, lambda: store.save(record("a")), lambda: store.keep("a", 1), lambda: store.publish("a", 1)]
    calls += [lambda: store.here("a", 2), lambda: store.read("a", 1, "tree.json"), lambda: store.remove("jobs/a.json")]
    cloud.trouble(error)
    for call in calls:
        with pytest.raises(OSError, match=f"^{words}$") as raised:
            call()
        assert raised.value.__cause__ is error
    cloud.trouble(PermissionError(13, "Forbidden"))
    with pytest.raises(PermissionError) as raised:
        store.load()
    assert raised.value.strerror == "Forbidden"
    cloud.trouble(None)
    assert store.load() == [record("a")] and store.read("a", 1, "tree.json") is None and store.run_dir("a", 1).is_dir()


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    store = JobStore(tmp_path)
    (tmp_path / "jobs" / "x.json").write_text('{"id": "x"}')
    with pytest.raises(ValueError, match="x.json of the job index cannot be read"):
        store.load()


def write_run(folder, status="running", journal="one line\n"):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"status": status, "prompt": "a red circle"}))
    (folder / "journal.jsonl").write_text(journal)


def test_the_journal_of_a_search_that_runs_is_there_for_another_machine(tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    store, other = JobStore(url, tmp_path / "spool"), JobStore(url, tmp_path / "other")
    store.keep("a", 1)  # nothing yet
    assert not other.here("a", 1).exists()
    write_run(store.run_dir("a", 1))
    store.keep("a", 1)
    assert (other.here("a", 1) / "journal.jsonl").read_text() == "one line\n"
    write_run(store.run_dir("a", 1), "done", "one line\nanother\n")
    store.keep("a", 1)
    assert json.loads(store.read("a", 1, "job.json"))["status"] == "running"  # not before everything else is there
    assert store.read("a", 1, "journal.jsonl") == b"one line\nanother\n"
    assert other.here("a", 1).joinpath("journal.jsonl").read_text() == "one line\nanother\n"  # which had less
    store.publish("a", 1)
    assert json.loads(store.read("a", 1, "job.json"))["status"] == "done"


def test_only_what_has_changed_is_put_into_the_store_again(tmp_path, monkeypatch):
    store = JobStore(f"memory://{uuid.uuid4().hex}", tmp_path)
    write_run(store.run_dir("a", 1))
    store.keep("a", 1)
    puts = []
    monkeypatch.setattr(store, "put", lambda name, data: puts.append(name))
    store.keep("a", 1)
    write_run(store.run_dir("a", 1), journal="one line\nanother\n")
    store.keep("a", 1)
    assert "runs/a/1/journal.jsonl" in puts and len(puts) <= 2


def test_a_run_begins_with_the_journal_of_another_one(url, tmp_path):
    store = JobStore(url, tmp_path / "spool")
    write_run(store.run_dir("a", 1), "done")
    store.publish("a", 1)
    assert store.here("a", 1).is_dir() and store.next_run("a", 1, True) == 2
    new = store.run_dir("a", 2)
    assert json.loads((new / "job.json").read_text()) == {"status": "interrupted", "prompt": "a red circle"}
    assert (new / "journal.jsonl").read_text() == "one line\n" and (new / "images").is_dir()
    assert json.loads(store.read("a", 1, "job.json"))["status"] == "done"
    assert store.next_run("a", 2, False) == 3 and not store.run_dir("a", 3).exists()
