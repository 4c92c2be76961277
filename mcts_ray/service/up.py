"""Starting a service on a Ray cluster, or on one of its own that goes on running, and ending it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from mcts_ray.actors import cluster
from mcts_ray.diffusion.device import DEVICES, DTYPES, check_precision
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.reward import find_weights, parse_reward, with_absolute_folders
from mcts_ray.service import own as own_cluster
from mcts_ray.service.home import given_token, home, keep_token, make_token, read_state, write_state
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore

PORT = 8000
READY = 180.0  # seconds for everything to be there; it takes about 20 on two free cores
ANSWER = 10.0  # seconds; a service that is starting says so after 5


def check(settings: Settings, host: str, port: int | None) -> None:
    """ValueError with one sentence for what cannot be, before Ray is started."""
    state = read_state()
    if state and answers(state["url"], starting=True):
        raise ValueError(f"a service runs already at {state['url']}; end it first with `mcts-ray down`")
    for word, known, what in ((settings.device, DEVICES, "device"), (settings.dtype, DTYPES, "dtype")):
        if word not in known:
            raise ValueError(f"unknown {what} {word!r}; choose {' or '.join(known)}")
    check_precision(settings.dtype, settings.device)
    for model in settings.models:
        resolve_model(model)
    for reward in settings.rewards:
        parse_reward(reward)
    if settings.reward is not None:
        find_weights(settings.reward)
    if settings.store:
        JobStore(settings.store)
    if port is not None and not _free(host, port):
        raise ValueError(f"port {port} of {host} is taken; choose another one with --port")
    if settings.token:
        given_token()
    make_token()


def up(settings: Settings, address: str | None, host: str, port: int | None, dashboard: bool = False) -> dict[str, Any]:
    """Start the service and wait until it answers; returns what is written into MCTS_RAY_HOME. ValueError for the user's mistakes."""
    check(settings, host, port)
    reward = settings.reward and with_absolute_folders(settings.reward)
    settings = settings.model_copy(update={"store": settings.store or str(home() / "jobs"), "reward": reward})
    known, address = read_state(), cluster.find(address)
    session = known.get("session") if address and address == known.get("address") else None  # ours, though its service has gone
    own = address is None
    if own:
        address = own_cluster.start(max(os.cpu_count() or 1, (settings.workers or 1) * len(settings.models)), dashboard)
    try:
        with _joined(address):
            session = _session() if own else session
            _check_none(address)
            return _start(settings, address, session, host, port)
    except BaseException:
        if own:
            own_cluster.stop(session)
        raise


def down(address: str | None = None) -> dict[str, Any]:
    """End the service that `up` has started, and its cluster if that was its own; jobs stay in the store. ValueError if there is none,
    ConnectionError if it lives but could not be ended.

    address: of the cluster of a service that this machine may know nothing of; that cluster goes on running.
    """
    state = read_state()
    known = state.get("address")
    if address not in (None, known) and (there := _there(address)) != known:
        return _down_there(there)
    if not state:
        raise ValueError("no service is known here; there is nothing to end, unless `--address` says where")
    away = None
    try:
        with _joined(_there(known)):
            _end()
    except Exception as error:  # the cluster has gone, and the service with it; or it cannot be reached just now
        away = error
    own_cluster.stop(state.get("session"))
    if away and not state.get("session") and answers(state["url"], starting=True):
        raise ConnectionError(
            f"the service at {state['url']} still answers, but could not be ended ({_line(away)}); it is still known here, so try again"
        ) from away
    write_state(None)
    return state


def answers(url: str, starting: bool = False) -> bool:
    """Whether a service is up there. starting: or about to be."""
    try:
        with urllib.request.urlopen(url + "/healthz", timeout=ANSWER) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return starting and error.code == 503
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """A connection to the cluster."""
    mine = cluster.join(address)
    from ray import serve  # which sets up its logger

    logging.getLogger(serve.__name__).setLevel(logging.ERROR)
    try:
        yield
    finally:
        if mine:
            cluster.leave()


def _session() -> str:
    import ray

    return ray._private.worker._global_node.get_session_dir_path()


def _there(address: str) -> str:
    """The address of a cluster that answers."""
    found = cluster.find(address)
    if found is None:
        raise ValueError(f"address {address!r} names no cluster that could run a service; give HOST:PORT")
    return found


def _runs() -> bool:
    """Whether there is a service on the cluster, or what is left of one."""
    from mcts_ray.service import actor
    from mcts_ray.service.serve import deployed

    try:
        actor.handle()
        return True
    except ValueError:
        return deployed()


def _check_none(address: str) -> None:
    """ValueError if a service runs there: it is not for `up` to take over or to end."""
    if _runs():
        raise ValueError(f"a service runs already on the Ray cluster at {address}; end it first with `mcts-ray down --address {address}`")


def _start(settings: Settings, address: str, session: str | None, host: str, port: int | None) -> dict[str, Any]:
    from mcts_ray.service import actor

    if settings.token and (token := given_token()):
        keep_token(token)  # the actor takes it from there: its environment is that of the cluster
    jobs = actor.start(settings, str(home()), os.getcwd(), new=True)
    try:
        url = _serve(settings, host, port)
        _ready(jobs)
        _wait_for(url)
        state = {"url": url, "address": address, "session": session}
        write_state(state)
        return state
    except BaseException:
        _end()
        raise


def _down_there(address: str) -> dict[str, Any]:
    from mcts_ray.service.serve import listening

    with _joined(address):
        if not _runs():
            raise ValueError(f"no service runs on the Ray cluster at {address}; there is nothing to end")
        there = listening()
        _end()
    return {"url": there and _url(*there), "address": address, "session": None}


def _serve(settings: Settings, host: str, port: int | None) -> str:
    """Deploy the application; returns its URL."""
    from ray import serve
    from ray.exceptions import RayActorError

    from mcts_ray.service.serve import APP, front, listening

    there = listening()
    if there is None:
        port = port or (PORT if _free(host, PORT) else _any_port(host))
        with contextlib.suppress(RayActorError):  # a proxy that was too slow, and which Serve replaces
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    else:
        host, port = there  # Serve has one address for all of its applications
    serve.run(front(settings, str(home()), os.getcwd()), name=APP, route_prefix="/")
    return _url(host, port)


def _url(host: str, port: int) -> str:
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


def _end() -> None:
    """Take the service off the cluster; running searches write down what they have."""
    import ray
    from ray import serve

    from mcts_ray.service import actor
    from mcts_ray.service.serve import APP, listening

    if listening():
        if set(serve.status().applications) <= {APP}:
            serve.shutdown()
        else:
            serve.delete(APP)
    with contextlib.suppress(ValueError):
        jobs = actor.handle()
        with contextlib.suppress(Exception):
            ray.get(jobs.close.remote(), timeout=actor.STOP)
        ray.kill(jobs, no_restart=True)


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


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
