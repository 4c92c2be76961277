"""The index and the run directories: on a path, and on a URL of another file system."""

import uuid
from datetime import datetime, timedelta, timezone

import pytest

from mcts_ray.service.models import SearchRequest
from mcts_ray.service.store import JobStore, Record

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


def record(id, hours=0, **more):
    request = SearchRequest(prompt="a red circle", model="scenes", reward="scenes", budget=60, jump="table", jump_table=(1,) * 30)
    return Record(id=id, request=request, created=NOW + timedelta(hours=hours), **more)


@pytest.fixture(params=["path", "file", "memory"])
def url(request, tmp_path):
    return {"path": str(tmp_path / "jobs"), "file": f"file://{tmp_path}/jobs", "memory": f"memory://{uuid.uuid4().hex}/jobs"}[request.param]


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


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    store = JobStore(tmp_path)
    (tmp_path / "jobs" / "x.json").write_text('{"id": "x"}')
    with pytest.raises(ValueError, match="x.json of the job index cannot be read"):
        store.load()
