"""The Ray Serve application: `mcts_ray.service.serve:app`, whose `args` are the fields of `Settings`.

Its replicas are thin: they check tokens and bodies and pass calls on to the jobs actor, which they start if nobody has. A replica
that dies loses the connections it had, and no search.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import serve

from mcts_ray.service import actor
from mcts_ray.service.app import make_app
from mcts_ray.service.settings import Settings

APP = "mcts-ray"


@serve.deployment(name="front", max_ongoing_requests=1000, health_check_period_s=5, ray_actor_options={"num_cpus": 0})
@serve.ingress()
class Front:
    """The HTTP edge."""

    async def __init__(self, args: dict[str, Any], folder: str | None = None, cwd: str | None = None) -> None:
        self.settings = Settings(**args)
        jobs = actor.start(self.settings, folder, cwd)
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


def listening() -> tuple[str, int] | None:
    """Host and port of Serve on this cluster, or None if it does not run."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None
    options = serve.context._get_global_client().http_config
    return options.host, options.port
