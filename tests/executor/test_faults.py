"""A search that is stopped anywhere and gone on with, in process: the tree of an unbroken run. Storage that cannot be written."""

import errno
import json
import os

import numpy as np
import pytest

from mcts_ray import SearchConfig, Searcher, SearchInterrupted
from mcts_ray.executor import record
from mcts_ray.executor.standing import standing
from mcts_ray.report.terminal import progress_line

CONFIG = SearchConfig(algorithm="mcts", levels=8, budget=80, guidance=2.0, images=3, seeds=4, reward="jpeg", in_flight=5)
CONFIGS = {
    "mcts": CONFIG,
    "fusing": CONFIG.model_copy(update={"fuse": "signed", "seeds": 7, "budget": 120, "fuse_after": 6}),
    "fusing-states": CONFIG.model_copy(update={"fuse": "features", "seeds": 7, "budget": 120, "fuse_after": 6}),
    "second-order": CONFIG.model_copy(update={"order": 2}),
    "psp": CONFIG.model_copy(update={"algorithm": "psp", "order": 2}),
    "nts": CONFIG.model_copy(update={"algorithm": "nts", "eta": 1.0}),
}


@pytest.fixture(scope="module")
def searcher(tiny_folder):
    return Searcher.from_pretrained(str(tiny_folder), device="cpu")


def stopped(run, copy, tells):
    """A copy of a run as a crash after so many outcomes leaves it, in the middle of a line."""
    lines = (run / "journal.jsonl").read_text().splitlines(True)
    places = [place for place, line in enumerate(lines) if json.loads(line)["type"] == "tell"]
    end = places[tells] + 1
    (copy / "images").mkdir(parents=True)
    (copy / "journal.jsonl").write_text("".join(lines[:end]) + '{"type": "as')
    (copy / "metrics.jsonl").touch()
    job = json.loads((run / "job.json").read_text())
    (copy / "job.json").write_text(json.dumps({**job, "status": "running", "result": None}))
    return copy


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stopped_search_goes_on_to_the_tree_of_an_unbroken_one(searcher, tmp_path, name):
    whole = searcher("a red circle", CONFIGS[name], out=tmp_path / "whole")
    for tells in (1, 4, 8):
        run = stopped(tmp_path / "whole", tmp_path / str(tells), tells)
        seen = []
        result = searcher.resume(run, seen.append)
        assert result.tree == whole.tree and [c.reward for c in result.finished] == [c.reward for c in whole.finished]
        assert [c.node for c in result.candidates] == [c.node for c in whole.candidates]
        for ours, theirs in zip(result.images, whole.images, strict=True):  # decoded alone, so the last digit may differ
            assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
        for field in ("nfe", "model_forwards", "decodes", "reward_calls", "fusions"):
            assert getattr(result.ledger, field) == getattr(whole.ledger, field), field
        assert seen[-1].nfe == whole.ledger.nfe and "NFE were spent once more after losses" in result.notes[-1]
        job = json.loads((run / "job.json").read_text())
        assert job["status"] == "done" and job["resumed"] == 1 and (run / "report.html").exists()


def test_a_search_goes_on_in_batches_of_the_size_it_had(searcher, tmp_path, tiny_folder):
    """job.json knows it; a profile, or another device, may choose another one."""
    fives = Searcher.from_pretrained(str(tiny_folder), device="cpu", batch_size=5)
    config = CONFIG.model_copy(update={"in_flight": 12})
    whole = fives("a red circle", config, out=tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "job.json").read_text())["batch_size"] == 5
    run = stopped(tmp_path / "whole", tmp_path / "run", 4)
    assert searcher.resume(run).tree == whole.tree


def test_one_that_is_stopped_again_and_again_is_the_same_too(searcher, tmp_path):
    whole = searcher("a red circle", CONFIG, out=tmp_path / "whole")
    run = stopped(tmp_path / "whole", tmp_path / "run", 2)

    def interrupt(progress):
        interrupt.looks += 1
        if interrupt.looks == 6:
            raise KeyboardInterrupt

    for _ in range(3):
        interrupt.looks = 0
        with pytest.raises(SearchInterrupted):
            searcher.resume(run, interrupt)
        assert json.loads((run / "job.json").read_text())["status"] == "interrupted"
    result = searcher.resume(run)
    assert result.tree == whole.tree and result.ledger.nfe == whole.ledger.nfe
    tells = [r["work"] for r in map(json.loads, (run / "journal.jsonl").read_text().splitlines()) if r["type"] == "tell"]
    assert len(tells) == len(set(tells))


def test_more_budget_for_a_search_that_has_ended(searcher, tmp_path):
    searcher("a red circle", CONFIG, out=tmp_path / "run")
    with pytest.raises(ValueError, match="is done; there is nothing to resume"):
        searcher.resume(tmp_path / "run")
    result = searcher.resume(tmp_path / "run", budget=120)
    assert 120 - 8 < result.ledger.nfe <= 120 and sum(node["level"] > 0 for node in result.tree["nodes"]) == result.ledger.nfe
    searcher("a red circle", CONFIGS["psp"], out=tmp_path / "psp")
    with pytest.raises(ValueError, match="planned whole"):
        searcher.resume(tmp_path / "psp", budget=120)


def test_what_cannot_be_resumed_is_said(searcher, tmp_path):
    with pytest.raises(ValueError, match="there is no run directory"):
        searcher.resume(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no run directory that can be resumed"):
        searcher.resume(tmp_path)
    searcher("a red circle", CONFIG, out=tmp_path / "run")
    run = stopped(tmp_path / "run", tmp_path / "held", 2)
    held = record.Recorder(run)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mcts_ray.report.run.PATIENCE", 0.0)
            with pytest.raises(ValueError, match="is being written by a search that is running"):
                searcher.resume(run)
    finally:
        held.close()
    lines = (run / "journal.jsonl").read_text().splitlines(True)
    (run / "journal.jsonl").write_text(lines[0] + lines[2] + lines[1])
    with pytest.raises(ValueError, match="does not belong to this configuration"):
        searcher.resume(run)
    assert not (run / "tree.json").exists()
    (run / "journal.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match="the journal in .* is damaged"):
        searcher.resume(run)


@pytest.mark.parametrize("half", [False, True])
def test_full_storage_pauses_a_search_until_it_can_be_written(searcher, tmp_path, monkeypatch, half):
    """From the tenth write on the disk is full, for a while; with `half` it takes the beginning of a line."""
    whole = searcher("a red circle", CONFIG, out=tmp_path / "whole")
    write, seen, writes = os.write, [], []

    def full(fd, data):
        writes.append(len(data))
        if 10 <= len(writes) < 30:
            if half and len(writes) == 10:
                return write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(record.os, "write", full)
    monkeypatch.setattr("mcts_ray.executor.local.PAUSE", 0.01)
    result = searcher("a red circle", CONFIG, seen.append, out=tmp_path / "run")
    paused = [progress for progress in seen if progress.paused]
    assert paused and "cannot be written (No space left on device)" in progress_line(paused[0]) and not seen[-1].paused
    assert not result.errors and 80 - 8 < result.ledger.nfe <= 80
    monkeypatch.undo()
    assert len(whole.tree["nodes"]) <= len(result.tree["nodes"]) + 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert sum(line["type"] == "tell" for line in lines) == len(result.finished)
    assert not [line for line in lines if line["type"] == "halt"]


def test_the_end_of_a_run_waits_for_its_storage_too(searcher, tmp_path, monkeypatch):
    from mcts_ray.report.run import RunDirectory

    finish, tries, seen = RunDirectory.finish, [], []

    def full(self, result, status):
        tries.append(status)
        if len(tries) < 3:
            raise OSError(errno.EROFS, "Read-only file system")
        finish(self, result, status)

    monkeypatch.setattr(RunDirectory, "finish", full)
    monkeypatch.setattr("mcts_ray.searcher.WAIT", 0.01)
    searcher("a red circle", CONFIG, seen.append, out=tmp_path / "run")
    assert tries == ["done"] * 3 and "Read-only file system" in seen[-1].paused and (tmp_path / "run" / "report.html").exists()


def test_time_that_was_spent_before_anything_was_told_counts(searcher, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted) as first:
        searcher("a red circle", CONFIGS["mcts"], stop, out=tmp_path / "run")
    assert not [line for line in record.read_journal(tmp_path / "run")[1] if line["type"] == "tell"]
    with pytest.raises(SearchInterrupted) as second:
        searcher.resume(tmp_path / "run", stop)
    before, after = (stopped.value.results[0].ledger.seconds for stopped in (first, second))
    assert 0 < before < after


def test_a_journal_that_tells_of_something_else_says_nothing_of_how_far_units_were():
    ask = {"type": "ask", "work": "a", "edges": [["n", 2, 0.0], ["m", 0, 0.0]], "scored": []}
    tell = {"type": "tell", "work": "b"}
    assert standing([ask, tell], 4).sizes == {} and standing([ask], 4).sizes == {"a": ()}
