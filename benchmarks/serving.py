"""What the benchmarks of the service share: a user of their own, and the processes of the cluster that is started for it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

REPLICA, MANAGER, JOBS = "ray::ServeReplica:mcts-ray", "ray::TreeManager", "ray::JobsActor"
PROMPT = "a red circle left of a blue square"


@contextlib.contextmanager
def user() -> Iterator[str]:
    """A folder in which this process has its home and its Ray clusters; whatever still runs there at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="mr") as folder:  # short: Ray puts sockets there
        os.environ |= {"MCTS_RAY_HOME": f"{folder}/home", "RAY_TMPDIR": folder}
        for name in ("MCTS_RAY_URL", "MCTS_RAY_TOKEN", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        try:
            yield folder
        finally:
            kill(folder)


def begin(**settings: Any) -> float:
    """Start a service on a cluster of its own; returns the seconds that took."""
    from mcts_ray.service.settings import Settings
    from mcts_ray.service.up import up

    start = time.monotonic()
    up(Settings(**settings), "local", "127.0.0.1", None)
    return round(time.monotonic() - start, 1)


def processes(folder: str, *names: str) -> list[psutil.Process]:
    """Those of the clusters in `folder`; with `names`, those whose title begins with one of them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.pid != os.getpid() and process.environ().get("RAY_TMPDIR") == folder
            if mine and (not names or " ".join(process.cmdline()).startswith(names)):
                found.append(process)
    return found


def kind(command: Sequence[str]) -> str:
    """What a process of a cluster is, by its command line: the class of an actor, or the program of Ray."""
    actor = re.match(r"ray::(\w+)", " ".join(command))
    if actor:
        return actor[1]
    script = next((word for word in command if word.endswith(".py")), command[0] if command else "?")
    return Path(script).stem


def memory(folder: str) -> dict[str, dict[str, int]]:
    """Bytes by kind of process: `service`, all actors of it, and `ray`, what the cluster needs without one.

    What a process shares with others, its libraries and the object store, is left out: it is not the service's, and would count often.
    """
    found: dict[str, Counter] = {"service": Counter(), "ray": Counter()}
    for process in processes(folder):
        with contextlib.suppress(psutil.Error):
            command, size = process.cmdline(), process.memory_info()
            is_actor = command and command[0].startswith("ray::") and kind(command) != "IDLE"
            found["service" if is_actor else "ray"][kind(command)] += size.rss - size.shared
    return {part: dict(sizes) for part, sizes in found.items()}


def kill(folder: str, *names: str) -> int:
    """SIGKILL to all of `processes`; returns how many they were."""
    victims = processes(folder, *names)
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(victims, timeout=10)
    return len(victims)
