"""Finding a Ray cluster, joining it, or starting one for the length of a search.

Where the cluster is: `address`, else RAY_ADDRESS, else one that `ray start` has started on this machine, else a new one on
this machine. An address is probed by TCP first, since Ray takes half a minute to say that nobody is there.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

PROBE = 5.0  # seconds
OBJECT_STORE = 2**30  # bytes, of a cluster of our own
_holders = 0  # of the connection that `join` has made
QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour that Ray announces for its next release, without the announcement
    "RAY_USAGE_STATS_ENABLED": "0",
}


def probe(address: str) -> None:
    """ValueError unless a Ray head, or at least something that speaks its protocol, answers at `address` ("host:port")."""
    try:
        parts = urlsplit(f"ray-head://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or "/" in address:
        raise ValueError(f"address {address!r} is not of the form host:port, as in 127.0.0.1:6379")
    advice = "start one with `ray start --head`, or leave --address out"
    try:
        socket.create_connection((host, port), timeout=PROBE).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ValueError(f"no Ray cluster answers at {address} ({reason}); {advice}") from None
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(PROBE)
        except grpc.FutureTimeoutError:
            raise ValueError(f"what listens at {address} is no Ray cluster; {advice}") from None


def demands_token(address: str) -> bool:
    """Whether the cluster turns away who brings no token."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=PROBE)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def find(address: str | None = None) -> str | None:
    """The address to join, probed; None if a cluster is to be started. ValueError if the one asked for does not answer.

    Where none is named, that of a connection which this process has goes before a cluster that runs on this machine.
    """
    asked = address or os.environ.get("RAY_ADDRESS") or "auto"
    if asked == "local":
        return None
    if asked != "auto":
        probe(asked)
        return asked
    if there := _connected():
        return there
    known = started_here()
    try:
        if known:
            probe(known)
            return known
    except ValueError:  # what is written there outlives a cluster that crashed
        pass
    if address == "auto":
        raise ValueError("no Ray cluster runs on this machine; start one with `ray start --head`, or leave --address out")
    return None


def _connected() -> str | None:
    """The address of the cluster that this process is connected to."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().gcs_address if ray and ray.is_initialized() else None


def join(address: str | None, workers: int = 1) -> bool:
    """Connect this process to the cluster at `address` as found, or to a new one with room for `workers`.

    Returns whether `leave` is to be called: a connection that the process had before is left as it is. ValueError if that one
    is to another cluster.
    """
    global _holders
    os.environ |= {name: value for name, value in QUIET.items() if name not in os.environ}
    import ray

    if there := _connected():
        if address and address.rpartition(":")[2] != there.rpartition(":")[2]:
            raise ValueError(f"this process is connected to the Ray cluster at {there}, not {address}; call ray.shutdown() first")
        _holders += bool(_holders)
        return bool(_holders)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, address, workers)
    finally:
        if threading.current_thread() is threading.main_thread() and on_sigterm is not None:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler would end the process, with what was found
    _holders = 1
    return True


def _connect(ray, address: str | None, workers: int) -> None:
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"namespace": "mcts_ray", "log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address:  # Ray uses this user's token when it starts a cluster, but not when it joins one by its address
        if demands_token(address) and not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise ValueError(
                f"the Ray cluster at {address} demands its token; put it into RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token"
            )
        ray.init(address=address, **quiet)
    else:
        cpus = max(workers, os.cpu_count() or 1)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)


def leave() -> None:
    """End the connection, unless others still hold it; a cluster that `join` has started ends with it."""
    global _holders
    _holders -= 1
    if not _holders:
        import ray

        ray.shutdown()


def started_here() -> str | None:
    """The address that the last `ray start` on this machine has written down."""
    file = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    try:
        return file.read_text().strip() or None
    except OSError:
        return None
