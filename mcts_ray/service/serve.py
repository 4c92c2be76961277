"""The Ray Serve application: `mcts_ray.service.serve:app`, whose `args` are the fields of `Settings`.

Its replicas are thin: they check tokens and bodies and pass calls on to the jobs actor, which they start if nobody has, and anew if
its settings are other than theirs. A replica that dies loses the connections it had, and no search.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import serve
from ray.serve.config import BackpressureConfig

from mcts_ray import logs
from mcts_ray.service import actor
from mcts_ray.service.app import make_app
from mcts_ray.service.settings import Settings

APP = "mcts-ray"
MOST = 1000  # requests of one replica at once, and that may wait for one; those over it are answered 503


@serve.deployment(
    name="front", max_ongoing_requests=MOST, max_queued_requests=MOST, backpressure_config=BackpressureConfig(retry_after_s=5),
    health_check_period_s=5, ray_actor_options={"num_cpus": 0},
)  # fmt: skip
@serve.ingress()
class Front:
    """The HTTP edge."""

    async def __init__(self, args: dict[str, Any], folder: str | None = None, cwd: str | None = None) -> None:
        logs.set_up()  # here, since nothing else runs in its process
        self.settings = Settings(**args)
        jobs = await actor.start_with(self.settings, folder, cwd)
        self.token = await jobs.token.remote()

    def __serve_build_asgi_app__(self):
        return make_app(actor.RemoteJobs(), self.token, self.settings)


def app(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config. Raises ValidationError for settings that cannot be."""
    settings = Settings(**args)
    return Front.bind(settings.model_dump(), os.environ.get("MCTS_RAY_HOME"))


def front(settings: Settings, folder: str, cwd: str) -> serve.Application:
    """The application of `mcts-ray up`."""
    return Front.bind(settings.model_dump(), folder, cwd)


def deployed() -> bool:
    """Whether the application is on this cluster."""
    return listening() is not None and APP in serve.status().applications


def listening() -> tuple[str, int] | None:
    """Host and port of Serve on this cluster, or None if it does not run."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None
    options = serve.context._get_global_client().http_config
    return options.host, options.port
