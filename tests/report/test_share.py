"""Files made by several processes at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcts_ray.report.share import make_all, replacing

WORKER = """
import sys, time
from pathlib import Path
from mcts_ray.report.share import make_all, replacing

def make(path):
    with open("made.txt", "a") as log:
        log.write(path.name + "\\n")
    time.sleep(float(sys.argv[1]))
    with replacing(path) as partial:
        partial.write_text(path.name)

files = {Path(f"{n}.json"): make for n in range(12)}
make_all(files, Path(".lock"))
print(sum(path.read_text() == path.name for path in files))
"""


@pytest.fixture
def worker(tmp_path):
    """Start a process that makes twelve files, each in so many seconds."""
    started = []

    def start(seconds):
        command = [sys.executable, "-c", WORKER, str(seconds)]
        started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _made(tmp_path):
    log = tmp_path / "made.txt"
    return log.read_text().split() if log.exists() else []


def test_processes_share_the_work_and_each_has_all_files_at_its_end(tmp_path, worker):
    workers = [worker(0.05) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in workers] == ["12\n"] * 3
    assert len(_made(tmp_path)) == len(set(_made(tmp_path))) == 12
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_process_had_under_way_when_it_died_is_made_by_another(tmp_path, worker):
    dying = worker(60)
    while not _made(tmp_path):
        assert dying.poll() is None
    other = worker(0)
    while len(list(tmp_path.glob("*.json"))) < 11:  # all but the one under way
        assert other.poll() is None
    assert other.poll() is None
    dying.kill()
    assert other.communicate(timeout=60)[0] == "12\n"
    assert sorted(_made(tmp_path)).count("0.json") == 2 and len(_made(tmp_path)) == 13


def test_a_file_that_was_not_finished_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.json") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_made_again(tmp_path):
    (tmp_path / "a").touch()
    said = []
    make_all({tmp_path / "a": pytest.fail, tmp_path / "b": Path.touch}, tmp_path / ".lock", said.append)
    assert (tmp_path / "b").exists() and not said
