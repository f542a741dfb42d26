"""What Serve runs for a deployment: how it starts, how its applications change, and how they stand.

The HTTP host is always written out: Serve's own default would be every address of the machine in some of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from heliostat.errors import ServeError
from heliostat.serve.front import SETTING
from heliostat.serve.lane import ROOT
from heliostat.serve.limits import Limits
from heliostat.serve.options import options, quiet, versioned
from heliostat.serve.plans import INDEX, SHARED, Unit

ENVIRONMENT = {
    **SETTING,
    # A proxy that died is noticed at the third look: after 3 s, where Serve by itself takes 30.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1.0",
}
"""What Serve's controller and proxy must find in their environment; a Ray that is not our own has it from elsewhere."""
_GRACE_S = 5.0
_STARTING_S = 30.0
_AUTOSCALING = {
    "upscale_delay_s": 3.0,
    "downscale_delay_s": 120.0,
    "metrics_interval_s": 1.0,
    "look_back_period_s": 5.0,
}


@contextlib.contextmanager
def serving_ray(log: Path) -> Iterator[float]:
    """A Ray to work on, and the cores that are free there. Raises ServeError when it serves already."""
    import ray

    from heliostat.ray_session import ray_session

    with (
        TemporaryDirectory(prefix="heliostat-") as lanes,  # which only this user may enter
        _environment({**ENVIRONMENT, ROOT: lanes}),
        ray_session(log),
    ):
        with contextlib.suppress(ValueError):
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
            raise ServeError("this Ray serves already, at an address of its own. Stop that, or use another Ray.")
        cores = float(ray.available_resources().get("CPU", 0.0))
        if cores < 0.1:
            raise ServeError(f"Ray has no core free ({cores:g}). Wait for what runs there to end, or use another Ray.")
        yield cores


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These variables for what is started meanwhile, where nobody has set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def start(host: str, port: int, limits: Iterable[Limits]) -> Callable[[], None]:
    """Start Serve's proxy on this address; returns what ends it."""
    from ray import serve as ray_serve

    from heliostat.serve.ledger import end_ledger

    longest_s = max(each.timeout_s + each.body_timeout_s for each in limits) + _GRACE_S
    http = {
        "host": host.strip("[]"),
        "port": port,
        # The replica answers 504 by itself; this is for a replica that no longer answers at all.
        "request_timeout_s": longest_s,
    }
    ray_serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet())

    def end() -> None:
        _drain(longest_s)
        ray_serve.shutdown()
        end_ledger()

    return end


def _drain(timeout_s: float) -> None:
    """End all applications and wait until they have answered what they had at hand: Serve's own end does not."""
    deadline = time.monotonic() + timeout_s
    remove(
        sorted(_applications(), key=lambda app: app not in (INDEX, SHARED))
    )  # it would say that there is no such model
    while _applications() and time.monotonic() < deadline:
        time.sleep(0.05)


def run(units: Sequence[Unit], whole: Mapping[str, Unit]) -> None:
    """Start applications, or change those that run, without waiting for them; `whole` is all that shall run.

    New replicas come up and answer their golden requests before old ones end; those that fail take nobody's place.
    What needs no new process (the number of replicas, where requests go) changes in place.
    """
    from ray import serve as ray_serve

    targets = [ray_serve.RunTarget(_application(unit), unit.app, unit.prefix) for unit in units if not unit.is_shared]
    if any(unit.is_shared for unit in units):
        targets.append(ray_serve.RunTarget(_shared_application(whole), SHARED, "/"))
    run_targets(targets)


def run_targets(targets: Sequence[Any]) -> None:
    """The same for applications that are built already (`ray.serve.RunTarget`)."""
    from ray import serve as ray_serve

    if targets:
        ray_serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _application(unit: Unit) -> Any:
    from heliostat.serve.replica import Replica

    return _deployment(Replica, unit, unit.plan.limits, unit.routes.model_dump(mode="json"), unit.code).bind(unit.plan)


def _shared_application(whole: Mapping[str, Unit]) -> Any:
    """The models that share an encoder, and above them the index, which knows the others, too."""
    from heliostat.serve.shared_replica import SharedReplica

    members = [unit for unit in whole.values() if unit.is_shared]
    models = [unit for unit in whole.values() if unit.prefix is not None]
    told = {
        "names": [unit.app for unit in models],
        "others": [unit.app for unit in models if not unit.is_shared],
        "routes": {unit.app: unit.routes.model_dump(mode="json") for unit in members},
        "limits": widest(models).model_dump(),
    }
    code = hashlib.sha256("".join(unit.code for unit in members).encode()).hexdigest()[:16]
    bounds = {
        "max_waiting": sum(unit.plan.limits["max_waiting"] for unit in members),
        "timeout_s": max(unit.plan.limits["timeout_s"] for unit in members),
    }
    return _deployment(SharedReplica, members[0], bounds, told, code).bind([unit.plan for unit in members])


def widest(models: Sequence[Unit]) -> Limits:
    """The largest of each limit: what stands above models lets through what one takes, and each holds its own."""
    limits = [unit.plan.limits for unit in models]
    return Limits.model_validate({key: max(each[key] for each in limits) for key in limits[0]})


def _deployment(kind: type, unit: Unit, limits: Mapping[str, Any], told: Mapping[str, Any], code: str) -> Any:
    from ray import serve as ray_serve

    scale = unit.replicas
    autoscaling = {
        "min_replicas": scale.min,
        "max_replicas": scale.max,
        "target_ongoing_requests": scale.target,
        **_AUTOSCALING,
    }
    count = {"num_replicas": scale.max} if scale.min == scale.max else {"autoscaling_config": autoscaling}
    # Serve counts what goes its own way, and scales by that.
    by_lane = unit.prefix is not None and scale.min == scale.max
    deployment = ray_serve.deployment(
        kind,
        ray_actor_options={"num_cpus": unit.cpus},
        max_constructor_retry_count=1,
        max_surge_percent=100,
        user_config={**told, "by_lane": by_lane},
        **options(limits),
        **count,
    )
    return versioned(deployment, code)


def run_index(models: Sequence[Unit]) -> None:
    """Start the application above several models, or change it."""
    from ray import serve as ray_serve

    from heliostat.serve.replica import Index

    limits, access = widest(models), models[0].plan.access
    handles = {unit.app: ray_serve.get_app_handle(unit.app) for unit in models}
    values = [list(handles), limits.model_dump(), sorted(access.hosts or ()), access._replace(hosts=None)]
    code = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    index = ray_serve.deployment(
        Index, name="Index", ray_actor_options={"num_cpus": 0}, max_surge_percent=100, logging_config=quiet()
    )
    run_targets([ray_serve.RunTarget(versioned(index, code).bind(handles, limits.model_dump(), access), INDEX, "/")])


def remove(apps: Iterable[str]) -> None:
    """End applications once they have answered what they have at hand, without waiting for it."""
    from ray import serve as ray_serve

    for app in apps:
        ray_serve.delete(app, _blocking=False)


def settle(apps: Collection[str], log: Path, timeout_s: float, on_step: Callable[[], None]) -> None:
    """Return when every application runs as it was told last. Raises ServeError with what a replica said."""
    deadline = time.monotonic() + timeout_s
    while True:
        on_step()
        found = _applications()
        for name in apps:
            if name in found and found[name].status == "DEPLOY_FAILED":
                said = [found[name].message, *(each.message for each in found[name].deployments.values())]
                raise ServeError(_sentence(name, "\n".join(said), log))
        if all(name in found and found[name].status == "RUNNING" for name in apps):
            return
        if time.monotonic() > deadline:
            late = ", ".join(title(name) for name in apps if name not in found or found[name].status != "RUNNING")
            raise ServeError(f"{late}: not ready after {timeout_s:g} s. What Ray said is in {log}.")
        time.sleep(0.05)


def _applications() -> dict[str, Any]:
    """What Serve tells of its applications; nothing while its controller is being started anew."""
    import ray
    from ray import serve as ray_serve

    try:
        return dict(ray_serve.status().applications)
    except ray.exceptions.RayError:
        return {}


def put_back(units: Sequence[Unit], whole: Mapping[str, Unit], log: Path, on_step: Callable[[], None]) -> None:
    """Make applications what they were before a change that failed; their old replicas answer all the while."""
    apps, deadline = {unit.application for unit in units}, time.monotonic() + _STARTING_S
    # A replica that still starts may fail too, and Serve would hold that against the version that comes back.
    while any(standing().get(app, {}).get("replicas", {}).get("STARTING") for app in apps):
        on_step()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    run(units, whole)
    with contextlib.suppress(ServeError):
        settle(apps, log, _STARTING_S, on_step)


def _sentence(name: str, said: str, log: Path) -> str:
    """The sentence of our own error inside Ray's traceback, or the last line of it."""
    ours = re.findall(r"heliostat\.errors\.\w+: (.+)", said)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = ours[-1] if ours else (lines[-1] if lines else "its replica did not start")
    return f"{title(name)} takes no traffic: {reason} What Ray said is in {log}."


def title(app: str) -> str:
    """What a person calls an application."""
    if app == SHARED:
        return "what shares an encoder"
    kind, _, name = app.partition(".")
    kinds = {"_canary": "the canary of", "_shadow": "the shadow of", "_previous": "the previous version of"}
    return f"{kinds[kind]} {name}" if kind in kinds else app


def standing() -> dict[str, dict[str, Any]]:
    """How each application stands: Serve's word for it, its replicas by state, and what is wrong if something is."""
    found = {}
    for name, application in _applications().items():
        replicas: dict[str, int] = {}
        for each in application.deployments.values():
            replicas |= {str(getattr(state, "value", state)): count for state, count in each.replica_states.items()}
        state = str(getattr(application.status, "value", application.status))
        found[name] = {"state": state.lower(), "replicas": replicas, "message": application.message}
    return found
