"""The gallery as an application of Ray Serve, beside the models that it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from heliostat.demo.routes import GalleryRoutes
from heliostat.serve.guard import Access
from heliostat.serve.limits import Limits
from heliostat.serve.model import every_answer
from heliostat.serve.options import quiet, versioned
from heliostat.serve.plans import GALLERY, GALLERY_PATH
from heliostat.serve.replica import BehindServe


@serve.ingress()
class Gallery:
    """One process, which imports Gradio once somebody opens the page."""

    def __init__(self, url: str, limits: dict[str, Any], access: Access) -> None:
        self._places: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        self._routes = GalleryRoutes(url, Limits.model_validate(limits), access, self._recently)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = self._routes.app()
        app.add_middleware(BehindServe)
        return app

    def reconfigure(self, told: Mapping[str, Any]) -> None:
        """Called by Serve when models come or go."""
        self._places = dict(told["models"])
        self._routes.names = tuple(self._places)

    async def _recently(self, name: str) -> list[Any]:
        place = self._places[name]
        if place not in self._handles:
            self._handles[place] = DeploymentHandle("Replica", place)
        return await every_answer(self._handles[place], "recent", name)


def gallery(url: str, limits: Limits, access: Access, models: Mapping[str, str]) -> Any:
    """What Serve runs at `/gallery` for the models behind `url`, by the Serve application of each.

    Other models change it in place.
    """
    values = [url, limits.model_dump(), sorted(access.hosts or ()), access._replace(hosts=None)]
    code = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    deployment = serve.deployment(
        Gallery,
        name="Gallery",
        # Where the proxy runs: a loopback address means the same machine to both.
        ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
        max_ongoing_requests=512,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=2.0,
        user_config={"models": dict(models)},
        logging_config=quiet(),
    )
    application = versioned(deployment, code).bind(url, limits.model_dump(), access)
    return serve.RunTarget(application, GALLERY, GALLERY_PATH)
