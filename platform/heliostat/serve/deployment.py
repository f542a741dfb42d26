"""Models of the store behind one address, on Ray Serve: one application a model, changed while they answer.

With one model its application stands at `/`. With several, see `heliostat.serve.index`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from heliostat.errors import HeliostatError, ServeError
from heliostat.home import home
from heliostat.serve import applications, plans, releases
from heliostat.serve.address import free_port, is_ready, reachable
from heliostat.serve.deploy_file import DeploySettings, ModelSettings, ReplicaRange
from heliostat.serve.guard import Access
from heliostat.serve.keys import read_keys
from heliostat.serve.limits import Limits
from heliostat.serve.plans import GALLERY, GALLERY_PATH, INDEX, Unit, canary_app, shadow_app
from heliostat.serve.schema import Served
from heliostat.serve.sharing import check_bases
from heliostat.serve.token import allowed_hosts, check_address, digest, read_token

if TYPE_CHECKING:
    from heliostat.serve.proven import AskedPrecision


Page = Callable[[str, Limits, Access, Mapping[str, str]], Any]
"""(address, limits, who may ask, the Serve application of each model) -> what Serve runs at `/gallery`, as
`heliostat.demo.served.gallery`."""


def _nothing() -> None:
    """No step to report."""


@dataclass
class Deployment:
    """Models that answer. `stop` it, or use it as a context."""

    url: str
    """The address, as `http://127.0.0.1:8000`."""
    models: tuple[Served, ...]
    token: str | None = field(repr=False)
    """The bearer token that requests need; None when there is none, or where keys are asked for."""
    log: Path
    """What Ray says."""
    _ending: ExitStack = field(repr=False)
    settings: DeploySettings
    """What it was told last."""
    _cores: float = field(repr=False, default=1.0)
    _units: dict[str, Unit] = field(repr=False, default_factory=dict)
    _previous: dict[str, Unit] = field(repr=False, default_factory=dict)
    """What a model was before it was updated last."""
    _page: Page | None = field(repr=False, default=None)

    @property
    def gallery(self) -> str | None:
        """Where a page with a tab a model stands; None where there is none."""
        return f"{self.url}{GALLERY_PATH}" if self._page and self.settings.gallery else None

    def update(self, settings: DeploySettings, *, on_step: Callable[[], None] = _nothing) -> list[str]:
        """Become what `settings` say while answering; aliases are read anew. What changed, a sentence each.

        A version takes requests once its replicas have answered its golden requests, and requests never wait for one.
        Raises ServeError, StoreError or CheckpointError, and then everything is as it was.
        """
        fixed = {name: getattr(self.settings, name) for name in ("host", "port")}
        if changed := [name for name, value in fixed.items() if getattr(settings, name) != value]:
            raise ServeError(f"{' and '.join(changed)} cannot change while it runs. Stop it and serve anew.")
        releases.check_places(self.settings, settings)
        access = _access(settings, self.token)
        wanted = plans.units_of(settings, plans.find(settings), access, self._cores, self._units)
        if settings.keep_previous:
            wanted |= {app: unit for app, unit in self._units.items() if app in map(plans.previous_app, wanted)}
        return self._become(releases.Target(settings, wanted), on_step)

    def rollback(self, name: str, *, on_step: Callable[[], None] = _nothing) -> list[str]:
        """End the canary of a model; where none runs, go back to the version before its last update.

        With `keep_previous` that version answers at once, from where it was kept. What changed, a sentence each. Raises
        ServeError when there is nothing to go back to.
        """
        target = releases.rolled_back(self.settings, self._units, self._previous, name)
        check_bases([(unit.plan.served, Path(unit.plan.folder)) for unit in releases.shared_of(target.units)])
        keeper = self._units.get(plans.previous_app(name))
        if keeper and keeper.app not in target.units and applications.standing()[keeper.app]["state"] == "running":
            turned = releases.turned_to(self._units[name], keeper)
            applications.run([turned], {**self._units, name: turned})
            applications.settle([turned.application], self.log, self.settings.startup_timeout_s, on_step)
        is_back = target.units[name].plan.served != self._units[name].plan.served
        said = self._become(target, on_step, keeps=False)
        if is_back:  # going back once more would lead forward again
            del self._previous[name]
        return said

    def _become(self, target: releases.Target, on_step: Callable[[], None], *, keeps: bool = True) -> list[str]:
        old, wanted = dict(self._units), target.units
        changed = [unit for app, unit in wanted.items() if old.get(app) != unit]
        try:
            self._run(target, changed, on_step)
        except HeliostatError as error:
            if not old:
                raise
            applications.remove(_places(wanted) - _places(old))
            kept = [old[unit.app] for unit in changed if unit.app in old]
            applications.put_back([*kept, *releases.shared_of(old)], old, self.log, on_step)
            if isinstance(error, ServeError):
                raise ServeError(f"{error} All goes on as before.") from None
            raise
        applications.remove(_places(old) - _places(wanted))
        before = releases.swapped(old, wanted)
        self._previous |= {unit.app: unit for unit in before}
        self._units, self.settings = dict(wanted), target.settings
        self.models = tuple(wanted[name].plan.served for name in releases.names_of(wanted))
        self._show()
        if keeps and target.settings.keep_previous:
            keepers = [releases.kept(unit) for unit in before]
            applications.run(keepers, {})
            self._units |= {unit.app: unit for unit in keepers}
        return releases.told(old, wanted, {app: applications.title(app) for app in (*old, *wanted)})

    def _show(self) -> None:
        """Start the gallery, or tell it which models there are now. Nobody waits for it: models answer without it."""
        if self._page and self.gallery:
            units = [self._units[served.name] for served in self.models]
            places = {unit.app: unit.application for unit in units}
            limits, access = applications.widest(units), units[0].plan.access
            applications.run_targets([self._page(self.url, limits, access, places)])
        elif GALLERY in applications.standing():
            applications.remove([GALLERY])

    def _run(self, target: releases.Target, changed: Sequence[Unit], on_step: Callable[[], None]) -> None:
        """Start and change applications: those that others lead requests to come first."""
        timeout_s, names = target.settings.startup_timeout_s, releases.names_of(target.units)
        beside = [unit for unit in changed if unit.app not in names]
        models = [unit for unit in changed if unit.app in names]
        for group in (beside, models) if self._units else (changed,):
            applications.run(group, target.units)
            if self._units:
                applications.settle({unit.application for unit in group}, self.log, timeout_s, on_step)
        apps = [unit.application for unit in changed]
        if shared := releases.shared_of(target.units):  # the index is in it, and others may have come or gone
            applications.run(shared, target.units)
            apps.append(plans.SHARED)
        elif plans.has_index(target.units):
            applications.run_index([target.units[name] for name in names])
            apps.append(INDEX)
        applications.settle(apps, self.log, timeout_s, on_step)

    def status(self) -> dict[str, Any]:
        """How it stands, as plain values: address, models with their replicas, and how canaries and shadows compare."""
        from heliostat.serve.ledger import reports

        standing, told = applications.standing(), reports()
        models = []
        for settings, served in zip(self.settings.models, self.models, strict=True):
            unit, row = self._units[served.name], {**served._asdict(), "reference": settings.model}
            row |= standing.get(unit.application, {"state": "unknown", "replicas": {}, "message": ""})
            row["threads"], row["precision"], row["shared"] = unit.plan.threads, unit.plan.precision, unit.is_shared
            for kind, app, route in (
                ("canary", canary_app(served.name), unit.routes.canary),
                ("shadow", shadow_app(served.name), unit.routes.shadow),
            ):
                if route:
                    about = told.get(f"{kind} {served.name} {served.version} {route.version}", {})
                    state = standing.get(app, {}).get("state", "unknown")
                    row[kind] = {"version": route.version, "percent": route.percent, "state": state, **about}
            models.append(row)
        about = {"url": self.url, "gallery": self.gallery, "pid": os.getpid(), "log": str(self.log)}
        return {**about, "models": models}

    def describe(self, name: str) -> dict[str, Any]:
        """As `GET /v1/models/<name>`, asked without HTTP and so without a key."""
        from ray import serve as ray_serve

        handle = ray_serve.get_app_handle(self._units[name].application)
        described: dict[str, Any] = handle.describe.remote(name).result(timeout_s=30)
        return described

    def stop(self) -> None:
        """End the applications, and Ray where it is our own. No process stays behind. A second call does nothing."""
        _end(self._ending, self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _places(units: Mapping[str, Unit]) -> set[str]:
    return {unit.application for unit in units.values()}


def serve(
    references: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    threads: int | None = None,
    precision: AskedPrecision = "auto",
    token_file: Path | None = None,
    limits: Limits | None = None,
    startup_timeout_s: float = 180.0,
    on_step: Callable[[], None] = _nothing,
) -> Deployment:
    """Serve models (`sentiment@champion`, `sentiment:3`, or a checkpoint's folder) until `stop` is called.

    Port 0 takes a free one. `replicas` is per model, `threads` per replica (None shares the cores out). Returns once
    every model answers. `on_step` is called often on the way there, and what it raises ends the start. Raises
    ServeError, StoreError or CheckpointError, and then nothing is left running.
    """
    if not references:
        raise ServeError("there is no model to serve. Name one, as in 'heliostat serve sentiment@champion'.")
    scale = ReplicaRange(min=replicas, max=replicas)
    models = [ModelSettings(model=each, replicas=scale, threads=threads, precision=precision) for each in references]
    settings = DeploySettings(
        models=tuple(models), host=host, port=port, limits=limits or Limits(), startup_timeout_s=startup_timeout_s
    )
    return deploy(settings, token_file=token_file, on_step=on_step)


def deploy(
    settings: DeploySettings,
    *,
    token_file: Path | None = None,
    on_step: Callable[[], None] = _nothing,
    page: Page | None = None,
) -> Deployment:
    """Serve what `settings` (a deployment file's) say until `stop` is called; otherwise as `serve`.

    `page` makes the gallery, where the settings want one: `heliostat.demo.served.gallery`.
    """
    if token_file and settings.keys:
        raise ServeError("a token and keys were given. Keep one of them: --token-file, or --keys (`keys:` in a file).")
    check_address(settings.host, has_token=bool(token_file or settings.keys))
    token = read_token(token_file) if token_file else None
    access = _access(settings, token)
    found = plans.find(settings)
    port = free_port(settings.host, settings.port)
    log = home() / "logs" / f"serve-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    ending = ExitStack()
    url = f"http://{reachable(settings.host)}:{port}"
    try:
        cores = ending.enter_context(applications.serving_ray(log))
        on_step()
        deployment = Deployment(url, (), token, log, ending, settings, cores, _page=page)
        ending.callback(applications.start(settings.host, port, [settings.limits_of(each) for each in settings.models]))
        on_step()
        deployment._become(releases.Target(settings, plans.units_of(settings, found, access, cores, {})), on_step)
        _wait_for_answer(url, log, settings.startup_timeout_s, on_step)
    except BaseException:  # a signal too: nothing is left running
        _end(ending, log)
        raise
    return deployment


def _wait_for_answer(url: str, log: Path, timeout_s: float, on_step: Callable[[], None]) -> None:
    """Return when the address takes requests. Raises ServeError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not is_ready(url):
        on_step()
        if time.monotonic() > deadline:
            raise ServeError(f"{url} does not answer after {timeout_s:g} s. What Ray said is in {log}.")
        time.sleep(0.05)


def _access(settings: DeploySettings, token: str | None) -> Access:
    """Who may ask. Raises RunError or ServeError for a file of keys that holds none."""
    if settings.keys and not any(key.is_live(datetime.now(UTC)) for key in read_keys(settings.keys)):
        raise ServeError(
            f"{settings.keys} holds no valid key, so nobody could ask. Make one: heliostat serve key new NAME"
        )
    hosts = allowed_hosts(settings.host, settings.hosts)
    keys = str(settings.keys) if settings.keys else None
    return Access(digest(token) if token else None, hosts, keys, settings.per_minute)


def _end(ending: ExitStack, log: Path) -> None:
    # Ray prints on standard output that its controller, which Serve has just ended, is no longer there.
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        ending.close()
