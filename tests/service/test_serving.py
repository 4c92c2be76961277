"""What the benchmarks of a service make of its processes and of its deaths."""

import copy
import subprocess
import sys

import pytest

from benchmarks.service_chaos import passed
from benchmarks.serving import kind, memory
from benchmarks.soak import in_mib, of_service

PART = {"lost": 0, "twice": 0, "ready_seconds": 20.0}
FOUND = {
    "ready_seconds": 20.0,
    "deaths": {**PART, "killed": {"TreeManager": 1, "JobsActor": 1}, "back_seconds": {"TreeManager": 0.1, "JobsActor": 15.0}},
    "restarts": {"killed": PART, "down": PART},
}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["ray::JobsActor"], "JobsActor"),
        (["ray::RewardWorker.score()"], "RewardWorker"),
        (["ray::ServeReplica:mcts-ray:front"], "ServeReplica"),
        (["ray::IDLE", ""], "IDLE"),
        (["ray/core/src/ray/raylet/raylet", "--node_id=1"], "raylet"),
        (["python3", "-u", "ray/dashboard/agent.py", "--x=y.py"], "agent"),
    ],
)
def test_the_kind_of_a_process(command, name):
    assert kind(command) == name


def test_memory_is_told_by_kind_and_the_service_apart_from_ray(tmp_path):
    """Of real processes, one of which calls itself an actor."""
    code = "import ray._raylet, sys, time; sys.argv[1] and ray._raylet.setproctitle(sys.argv[1]); print(flush=True); time.sleep(60)"
    env = {"RAY_TMPDIR": str(tmp_path), "PATH": "/usr/bin", "SPT_NOENV": "1"}  # as the raylet has it: a title leaves the environment alone
    titles = ("ray::DenoiserWorker.run()", "ray::IDLE", "")
    started = [subprocess.Popen([sys.executable, "-c", code, title], env=env, stdout=subprocess.PIPE) for title in titles]
    try:
        for process in started:
            process.stdout.readline()
        held = memory(str(tmp_path))
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert set(held["service"]) == {"DenoiserWorker"} and "IDLE" in held["ray"] and len(held["ray"]) == 2
    assert of_service(held) == held["service"]["DenoiserWorker"] > 2**20
    assert in_mib({"a": 2**20, "b": 2**21}) == {"b": 2.0, "a": 1.0}


@pytest.mark.parametrize(
    ("path", "value", "result"),
    [
        ((), None, True),
        (("deaths", "killed", "JobsActor"), 0, False),
        (("deaths", "lost"), 1, False),
        (("deaths", "back_seconds", "JobsActor"), 61.0, False),
        (("restarts", "down", "ready_seconds"), 60.5, False),
        (("restarts", "killed", "twice"), 1, False),
        (("ready_seconds",), 60.1, False),
    ],
)
def test_what_passes(path, value, result):
    found = copy.deepcopy(FOUND)
    if path:
        place = found
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
    assert passed(found) is result
