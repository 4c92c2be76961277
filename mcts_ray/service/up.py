"""Starting a service on a Ray cluster, or on one of its own that goes on running, and ending it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from mcts_ray.actors import cluster
from mcts_ray.diffusion.device import DEVICES, DTYPES, check_precision
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.reward import parse_reward
from mcts_ray.service.home import home, make_token, read_state, write_state
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore

PORT = 8000
READY = 180.0  # seconds for everything to be there; it takes about 20 on two free cores
STOP = 20.0  # seconds for running searches to be let go
SLOW = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}  # Serve ends its proxy after 5 s, which a busy machine needs to start it


def check(settings: Settings, host: str, port: int | None) -> None:
    """ValueError with one sentence for what cannot be, before Ray is started."""
    state = read_state()
    if state and answers(state["url"]):
        raise ValueError(f"a service runs already at {state['url']}; end it first with `mcts-ray down`")
    for word, known, what in ((settings.device, DEVICES, "device"), (settings.dtype, DTYPES, "dtype")):
        if word not in known:
            raise ValueError(f"unknown {what} {word!r}; choose {' or '.join(known)}")
    check_precision(settings.dtype, settings.device)
    for model in settings.models:
        resolve_model(model)
    for reward in settings.rewards:
        parse_reward(reward)
    if settings.store:
        JobStore(settings.store)
    if port is not None and not _free(host, port):
        raise ValueError(f"port {port} of {host} is taken; choose another one with --port")
    make_token()


def up(settings: Settings, address: str | None, host: str, port: int | None, dashboard: bool = False) -> dict[str, Any]:
    """Start the service and wait until it answers; returns what is written into MCTS_RAY_HOME. ValueError for the user's mistakes."""
    check(settings, host, port)
    settings = settings.model_copy(update={"store": settings.store or str(home() / "jobs")})
    address, own = cluster.find(address), False
    if address is None:
        address, own = _start_cluster(settings, dashboard), True
    cluster.join(address)
    import ray

    from mcts_ray.service import actor

    session = ray._private.worker._global_node.get_session_dir_path() if own else None
    try:
        jobs = actor.start(settings, str(home()), os.getcwd())
        url = _serve(settings, host, port)
        _ready(jobs)
        state = {"url": url, "address": address, "session": session}
        write_state(state)
        _wait_for(url)
        return state
    except BaseException:
        _end(session)
        raise
    finally:
        cluster.leave()
        if own and not read_state():
            _stop_cluster(session)


def down() -> dict[str, Any]:
    """End the service that `up` has started, and its cluster if that was its own; jobs stay in the store. ValueError if there is none."""
    state = read_state()
    if not state:
        raise ValueError("no service is known here; there is nothing to end")
    with contextlib.suppress(ValueError):  # the cluster has gone, and the service with it
        cluster.join(cluster.find(state["address"]))
        _end(None)
        cluster.leave()
    _stop_cluster(state.get("session"))
    write_state(None)
    return state


def answers(url: str) -> bool:
    """Whether a service is up there."""
    try:
        with urllib.request.urlopen(url + "/healthz", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _serve(settings: Settings, host: str, port: int | None) -> str:
    """Deploy the application; returns its URL."""
    from ray import serve
    from ray.exceptions import RayActorError

    from mcts_ray.service.serve import APP, front, listening

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    there = listening()
    if there is None:
        port = port or (PORT if _free(host, PORT) else _any_port(host))
        with contextlib.suppress(RayActorError):  # a proxy that was too slow, and which Serve replaces
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    else:
        host, port = there  # Serve has one address for all of its applications
    serve.run(front(settings, str(home()), os.getcwd()), name=APP, route_prefix="/")
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"


def _ready(jobs: Any) -> None:
    """Until models are loaded; ValueError for what the actor finds wrong with them."""
    import ray
    from ray.exceptions import GetTimeoutError, RayTaskError

    try:
        ray.get(jobs.ready.remote(), timeout=READY)
    except RayTaskError as error:
        raise error.cause from None
    except GetTimeoutError:
        raise RuntimeError(f"the models were not loaded within {READY:.0f} s; `ray status` says what the cluster lacks") from None


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + READY
    while not answers(url):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service does not answer at {url}")
        time.sleep(0.1)


def _end(session: str | None) -> None:
    """Take the service off the cluster; running searches write down what they have."""
    import ray
    from ray import serve

    from mcts_ray.service import actor
    from mcts_ray.service.serve import APP, listening

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if listening():
        if set(serve.status().applications) <= {APP}:
            serve.shutdown()
        else:
            serve.delete(APP)
    with contextlib.suppress(ValueError):
        jobs = actor.handle()
        with contextlib.suppress(Exception):
            ray.get(jobs.call.remote("close"), timeout=STOP)
        ray.kill(jobs, no_restart=True)


def _start_cluster(settings: Settings, dashboard: bool) -> str:
    """Start a cluster on this machine that outlives this process; returns its address."""
    cpus = max(os.cpu_count() or 1, (settings.workers or 1) * len(settings.models))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", "0", "--num-cpus", str(cpus)]
    command += ["--object-store-memory", str(cluster.OBJECT_STORE), "--include-dashboard", str(dashboard).lower(), "--disable-usage-stats"]
    done = subprocess.run(command, env={**cluster.QUIET, **SLOW, **os.environ}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"Ray could not be started: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return cluster.find("auto")


def _stop_cluster(session: str | None) -> None:
    """End the processes of the cluster that `up` has started, known by its session folder; others on this machine live on."""
    if not session:
        return
    import psutil

    mine = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(session in word for word in process.info["cmdline"] or ()):
            mine.append(process)
    for stop in ("terminate", "kill"):
        for process in mine:
            with contextlib.suppress(psutil.Error):
                getattr(process, stop)()
        mine = psutil.wait_procs(mine, timeout=10)[1]


def _free(host: str, port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
        return True


def _any_port(host: str) -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return one.getsockname()[1]
