"""From settings to what Serve shall run: which checkpoint behind which application. Pure but for reading the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.errors import ServeError
from heliostat.serve.deploy_file import DeploySettings, ModelSettings, ReplicaRange
from heliostat.serve.guard import Access
from heliostat.serve.proven import AskedPrecision
from heliostat.serve.schema import Served
from heliostat.serve.sharing import check_bases, check_shared
from heliostat.serve.switch import CanaryRoute, Routes, ShadowRoute

INDEX = "_index"
"""The Serve application above several models; no model's name starts with '_'."""
SHARED = "_shared"
"""The Serve application of the models that share an encoder; the index is in it."""
GALLERY, GALLERY_PATH = "_gallery", "/gallery"
"""The Serve application of the pages of all models, and where it stands."""
SILENT = {"lines": False}
"""What canaries and shadows note: nothing, as the version in use notes what they answer."""
_ROOM = 4
"""Replicas ask for a fourth of their share of the cores: an update starts new ones beside them, canaries more."""


class ReplicaPlan(NamedTuple):
    """All that a replica needs to start, as plain values that travel."""

    served: Served
    folder: str
    """The checkpoint, at the same path on every node."""
    threads: int
    precision: AskedPrecision
    limits: dict[str, Any]
    access: Access
    requests: dict[str, Any] | None = None
    """What is noted of requests, as a RequestLog."""


class Unit(NamedTuple):
    """A version of a model: one Serve application, or one of several models in one."""

    app: str
    plan: ReplicaPlan
    replicas: ReplicaRange
    cpus: float
    """Cores that each replica asks Ray for."""
    prefix: str | None
    """The route that leads to it; None for one that is asked by another replica only."""
    routes: Routes = Routes()
    """What its replicas are told while they run."""
    is_shared: bool = False
    """Whether it stands in one application with others."""

    @property
    def application(self) -> str:
        """The Serve application that it is, or stands in."""
        return SHARED if self.is_shared else self.app

    @property
    def code(self) -> str:
        """Changes with whatever needs a new process."""
        access = {**self.plan.access._asdict(), "hosts": sorted(self.plan.access.hosts or ())}
        values = [{**self.plan._asdict(), "access": access}, self.cpus]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class Found(NamedTuple):
    """A model of the settings, and where its versions lie."""

    settings: ModelSettings
    served: Served
    folder: Path
    canary: tuple[Served, Path] | None = None
    shadow: tuple[Served, Path] | None = None


def canary_app(name: str) -> str:
    """The application of a model's canary."""
    return f"_canary.{name}"


def shadow_app(name: str) -> str:
    """The application of a model's shadow."""
    return f"_shadow.{name}"


def previous_app(name: str) -> str:
    """The application that keeps the version before a model's last update."""
    return f"_previous.{name}"


def find(settings: DeploySettings) -> list[Found]:
    """The models asked for, verified. Raises StoreError, CheckpointError, and ServeError for two of one name."""
    found = [_found(model) for model in settings.models]
    names = [each.served.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ServeError(f"{twice}: asked for twice; one version answers under a name.")
    if settings.shared:
        check_shared(settings.shared, {each.served.name: each.settings for each in found})
        check_bases([(each.served, each.folder) for each in found if each.served.name in settings.shared.models])
    return found


def _found(model: ModelSettings) -> Found:
    served, folder = resolve(model.model)
    canary = _beside(served, "canary", model.canary.version) if model.canary else None
    shadow = _beside(served, "shadow", model.shadow.version) if model.shadow else None
    return Found(model, served, folder, canary, shadow)


def _beside(served: Served, kind: str, version: str) -> tuple[Served, Path]:
    """Another version of a model that answers. Raises ServeError when it is the same one, or another model."""
    other, folder = resolve(_reference(served, kind, version))
    if other == served:
        raise ServeError(f"{served.name}: its {kind} is version {other.version}, which answers already.")
    return other, folder


def _reference(served: Served, kind: str, version: str) -> str:
    """The reference of another version of the same model."""
    name = version.partition("@")[0].partition(":")[0]
    if version.isdecimal():
        return f"{served.name}:{version}"
    if name != version and name not in ("", served.name):
        raise ServeError(f"{served.name}: its {kind} is '{version}', another model. Name a version of {served.name}.")
    return version if name == served.name and name != version else f"{served.name}@{version.removeprefix('@')}"


def resolve(reference: str) -> tuple[Served, Path]:
    """The version at a reference, and its checkpoint. Raises StoreError or CheckpointError."""
    from heliostat.checkpoint import verify
    from heliostat.models import ModelStore

    if "/" in reference or reference.startswith((".", "~")):
        folder = Path(reference).expanduser().absolute()
        verify(folder)
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return Served(run["name"], 0), folder
    version = ModelStore().resolve(reference)  # its replica verifies it
    return Served(version.name, version.version), version.folder.absolute()


def units_of(
    settings: DeploySettings, found: Sequence[Found], access: Access, cores: float, before: Mapping[str, Unit]
) -> dict[str, Unit]:
    """The applications of a deployment, by name.

    What is shared out (threads, cores) stays for an application that runs already (`before`), so that a model that
    joins others restarts none of them.
    """
    members, noted = settings.shared.models if settings.shared else (), settings.requests.model_dump()
    count = sum(each.settings.replicas.max for each in found if each.served.name not in members)
    count += settings.shared.replicas.max if settings.shared else 0
    alone = len(found) == 1 and not has_index(before)
    units = {}
    for each in found:
        name, share = each.served.name, cores / count
        old, is_shared = before.get(name), name in members
        its = settings.shared if settings.shared and is_shared else each.settings
        threads = its.threads or (old.plan.threads if old else max(1, int(share)))
        cpus = old.cpus if old else max(0.01, int(100 * share / _ROOM) / 100)
        limits = settings.limits_of(each.settings).model_dump()
        prefix = "/" if alone else f"/v1/models/{name}:predict"
        plan = ReplicaPlan(each.served, str(each.folder), threads, its.precision, limits, access, noted)
        units[name] = Unit(name, plan, its.replicas, cpus, prefix, _routes(each), is_shared)
        one = ReplicaRange(max=1)
        for app, other in ((canary_app(name), each.canary), (shadow_app(name), each.shadow)):
            if other is not None:
                beside = plan._replace(served=other[0], folder=str(other[1]), access=Access(), requests=SILENT)
                replicas = its.replicas if app == canary_app(name) else one
                units[app] = Unit(app, beside, replicas, cpus, None)
    return units


def has_index(units: Mapping[str, Unit]) -> bool:
    """Whether an index stands above these applications."""
    return any(unit.prefix not in (None, "/") for unit in units.values())


def _routes(found: Found) -> Routes:
    name, settings = found.served.name, found.settings
    canary = shadow = None
    if found.canary and settings.canary:
        version, share = found.canary[0].version, settings.canary
        canary = CanaryRoute(app=canary_app(name), version=version, percent=share.percent, by=share.by)
    if found.shadow and settings.shadow:
        shadow = ShadowRoute(app=shadow_app(name), version=found.shadow[0].version, percent=settings.shadow.percent)
    return Routes(canary=canary, shadow=shadow)
