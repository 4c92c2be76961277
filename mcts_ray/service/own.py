"""A Ray cluster on this machine that outlives the process that starts it, and demands Ray's token."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from mcts_ray.actors import cluster
from mcts_ray.service.home import write_secret

MODE = "RAY_AUTH_MODE"
SLOW = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}  # Serve ends its proxy after 5 s, which a busy machine needs to start it


def start(cpus: int, dashboard: bool) -> str:
    """Start it; returns its address. ValueError if there is no token and none can be made."""
    env = {**cluster.QUIET, **SLOW, **os.environ, **token_mode()}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", "0", "--num-cpus", str(cpus)]
    command += ["--object-store-memory", str(cluster.OBJECT_STORE), "--include-dashboard", str(dashboard).lower(), "--disable-usage-stats"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
    starter = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
    output, errors = starter.communicate()
    if starter.returncode:
        _end(lambda process: os.getsid(process.pid) == starter.pid)  # what it has begun before it gave up
        raise RuntimeError(f"Ray could not be started: {(errors or output).strip().splitlines()[-1]}")
    return cluster.started_here()


def stop(session: str | None) -> None:
    """End the processes of the cluster, known by its session folder, and what else the `ray start` of its head has started; others on
    this machine live on."""
    if not session:
        return

    def named(process: psutil.Process) -> bool:
        return any(session in word for word in process.cmdline())

    heads = _those(lambda process: process.name() == "gcs_server" and named(process))
    started = {os.getsid(process.pid) for process in heads if process.is_running()}  # `start` gives it a session of its own
    _end(lambda process: os.getsid(process.pid) in started or named(process))


def _those(one_of_them: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The processes of this machine for which that holds, but not this one; those that cannot be looked at are passed over."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and one_of_them(process):
                found.append(process)
    return found


def _end(one_of_them: Callable[[psutil.Process], bool]) -> None:
    """End processes, by SIGKILL where ten seconds are not enough for them, but not this one."""
    mine = _those(one_of_them)
    for stop in ("terminate", "kill"):
        for process in mine:
            with contextlib.suppress(psutil.Error):
                getattr(process, stop)()
        mine = psutil.wait_procs(mine, timeout=10)[1]


def token_mode() -> dict[str, str]:
    """The environment in which a new cluster demands Ray's token, made if this user has none; empty if RAY_AUTH_MODE forbids that.

    It lies where Ray looks for it, so that whatever this user attaches finds it: other commands, `ray status`, more nodes.
    """
    if os.environ.get(MODE, "token").lower() != "token":
        return {}
    from ray._raylet import AuthenticationTokenLoader
    from ray.exceptions import AuthenticationError

    loader, file = AuthenticationTokenLoader.instance(), Path.home() / ".ray" / "auth_token"
    try:
        if not loader.has_token(ignore_auth_mode=True):
            _make(file)
            loader.reset_cache()
        elif file.is_file() and file.stat().st_mode & 0o077:
            file.chmod(0o600)  # Ray itself lets everybody read it
    except AuthenticationError as error:
        raise ValueError(f"Ray's token cannot be read ({error}); see RAY_AUTH_TOKEN_PATH") from error
    except OSError as error:
        raise ValueError(
            f"Ray's token cannot be written to {file} ({error.strerror}); set RAY_AUTH_TOKEN, or {MODE}=disabled to do without"
        ) from error
    return {MODE: "token"}


def _make(file: Path) -> None:
    from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

    write_secret(file, generate_new_authentication_token())
