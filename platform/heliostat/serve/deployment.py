"""Models of the store behind one address, on Ray Serve: one application a model.

With one model its application stands at `/`. With several, see `heliostat.serve.index`. The HTTP host is always written
out: Serve's own default would be every address of the machine in some of its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from heliostat.errors import ServeError
from heliostat.home import home
from heliostat.serve.guard import Access
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.serve.token import allowed_hosts, check_address, digest, read_token

if TYPE_CHECKING:
    from heliostat.predict.predictor import Precision

INDEX = "_index"
"""The Serve application above several models; no model's name starts with '_'."""

OVERLOAD = 8
"""Serve hands a replica this many times what its queue holds, so that the replica itself says 503, in our shape."""


@dataclass
class Deployment:
    """Models that answer. `stop` it, or use it as a context."""

    url: str
    """The address, as `http://127.0.0.1:8000`."""
    models: tuple[Served, ...]
    token: str | None = field(repr=False)
    """The bearer token that requests need; None when there is none."""
    log: Path
    """What Ray says."""
    _ending: ExitStack = field(repr=False)

    def stop(self) -> None:
        """End the applications, and Ray where it is our own. No process stays behind. A second call does nothing."""
        _end(self._ending, self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(
    references: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    threads: int | None = None,
    precision: Precision = "fp32",
    token_file: Path | None = None,
    limits: Limits | None = None,
    startup_timeout_s: float = 180.0,
    on_step: Callable[[], None] = lambda: None,
) -> Deployment:
    """Serve models (`sentiment@champion`, `sentiment:3`, or a checkpoint's folder) until `stop` is called.

    Port 0 takes a free one. `replicas` is per model, `threads` per replica (None shares the cores out). Returns once
    every model answers. `on_step` is called often on the way there, and what it raises ends the start. Raises
    ServeError, StoreError or CheckpointError, and then nothing is left running.
    """
    limits = limits or Limits()
    check_address(host, has_token=token_file is not None)
    token = read_token(token_file) if token_file else None
    access = Access(digest(token) if token else None, allowed_hosts(host))
    found = _found(references)
    port = _free_port(host, port)
    log = home() / "logs" / f"serve-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    ending = ExitStack()
    try:
        cores = ending.enter_context(_ray(log))
        on_step()
        plans = _plans(found, cores / (len(found) * replicas), threads, precision, limits, access)
        ending.callback(_start(host, port, limits))
        on_step()
        _run(plans, replicas, cores, limits, access)
        url = f"http://{_reachable(host)}:{port}"
        _wait([plan.served.name for plan in plans], url, log, startup_timeout_s, on_step)
    except BaseException:  # a signal too: nothing is left running
        _end(ending, log)
        raise
    return Deployment(url, tuple(plan.served for plan in plans), token, log, ending)


def _end(ending: ExitStack, log: Path) -> None:
    # Ray prints on standard output that its controller, which Serve has just ended, is no longer there.
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        ending.close()


def _found(references: Sequence[str]) -> list[tuple[Served, Path]]:
    """The models asked for. Raises ServeError when two of them would have one address."""
    from heliostat.checkpoint import verify
    from heliostat.models import ModelStore

    found: list[tuple[Served, Path]] = []
    for reference in references:
        if "/" in reference or reference.startswith((".", "~")):
            folder = Path(reference).expanduser().absolute()
            verify(folder)
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            found.append((Served(run["name"], 0), folder))
        else:
            version = ModelStore().resolve(reference)
            found.append((Served(version.name, version.version), version.folder.absolute()))
    names = [served.name for served, _ in found]
    if not names:
        raise ServeError("there is no model to serve. Name one, as in 'heliostat serve sentiment@champion'.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ServeError(f"{twice}: asked for twice; one version answers under a name.")
    return found


def _free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Serve would share a taken port without a word, so it is tried here first."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
            probe.listen(1)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServeError(
                f"{host}:{port} cannot be used: {reason}. Give another --port (0 takes a free one)."
            ) from None
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """A host under which this machine reaches itself."""
    wide = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    bare = host.strip("[]")
    return wide.get(bare, f"[{bare}]" if ":" in bare else bare)


@contextlib.contextmanager
def _ray(log: Path) -> Iterator[float]:
    """A Ray to work on, and the cores that are free there. Raises ServeError when it serves already."""
    import ray

    from heliostat.ray_session import ray_session

    with ray_session(log):
        with contextlib.suppress(ValueError):
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
            raise ServeError("this Ray serves already, at an address of its own. Stop that, or use another Ray.")
        cores = float(ray.available_resources().get("CPU", 0.0))
        if cores < 0.1:
            raise ServeError(f"Ray has no core free ({cores:g}). Wait for what runs there to end, or use another Ray.")
        yield cores


def _plans(
    found: list[tuple[Served, Path]],
    share: float,
    threads: int | None,
    precision: Precision,
    limits: Limits,
    access: Access,
) -> list[Any]:
    from heliostat.serve.replica import ReplicaPlan

    count = threads or max(1, int(share))
    return [ReplicaPlan(served, str(folder), count, precision, limits.model_dump(), access) for served, folder in found]


def _start(host: str, port: int, limits: Limits) -> Callable[[], None]:
    """Start Serve's proxy on this address; returns what ends it."""
    from ray import serve as ray_serve

    http = {
        "host": host.strip("[]"),
        "port": port,
        # The replica answers 504 by itself; this is for a replica that no longer answers at all.
        "request_timeout_s": limits.timeout_s + limits.body_timeout_s + 5.0,
    }
    ray_serve.start(proxy_location="HeadOnly", http_options=http, logging_config=_quiet())
    return lambda: ray_serve.shutdown()


def _quiet() -> dict[str, Any]:
    return {"log_level": "WARNING", "enable_access_log": False}


def _run(plans: Sequence[Any], replicas: int, cores: float, limits: Limits, access: Access) -> None:
    """Start every application, without waiting for it."""
    from ray import serve as ray_serve

    from heliostat.serve.replica import Index, Replica

    share = int(100 * cores / (len(plans) * replicas)) / 100  # cores that a replica asks for: all together they fit
    deployment = ray_serve.deployment(
        Replica,
        name="Replica",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": share},
        max_ongoing_requests=OVERLOAD * limits.max_waiting,
        max_queued_requests=limits.max_waiting,
        max_constructor_retry_count=1,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=limits.timeout_s,
        logging_config=_quiet(),
    )
    targets = [
        ray_serve.RunTarget(deployment.bind(plan), plan.served.name, _prefix(plan.served.name, len(plans)))
        for plan in plans
    ]
    ray_serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    if len(plans) > 1:
        handles = {plan.served.name: ray_serve.get_app_handle(plan.served.name) for plan in plans}
        index = ray_serve.deployment(Index, name="Index", ray_actor_options={"num_cpus": 0}, logging_config=_quiet())
        target = ray_serve.RunTarget(index.bind(handles, limits.model_dump(), access), INDEX, "/")
        ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _prefix(name: str, count: int) -> str:
    return "/" if count == 1 else f"/v1/models/{name}:predict"


def _wait(names: Sequence[str], url: str, log: Path, timeout_s: float, on_step: Callable[[], None]) -> None:
    """Return when every application runs and the address answers. Raises ServeError with what a replica said."""
    from ray import serve as ray_serve

    wanted = {*names, INDEX} if len(names) > 1 else set(names)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        on_step()
        applications = ray_serve.status().applications
        for name, state in applications.items():
            if name in wanted and state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                said = [state.message, *(each.message for each in state.deployments.values())]
                raise ServeError(_sentence(name, "\n".join(said), log))
        running = {name for name, state in applications.items() if state.status == "RUNNING"}
        if wanted <= running and _is_ready(url):
            return
        time.sleep(0.1)
    raise ServeError(f"{', '.join(names)}: not ready after {timeout_s:g} s. What Ray said is in {log}.")


def _sentence(name: str, said: str, log: Path) -> str:
    """The sentence of our own error inside Ray's traceback, or the last line of it."""
    ours = re.findall(r"heliostat\.errors\.\w+: (.+)", said)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = ours[-1] if ours else (lines[-1] if lines else "its replica did not start")
    return f"{name} takes no traffic: {reason} What Ray said is in {log}."


def _is_ready(url: str) -> bool:
    import httpx

    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=2.0).status_code == 200
    return False
