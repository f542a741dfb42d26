"""What a deployment becomes when a version comes or goes, and how that is told: decisions, apart from doing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from heliostat.errors import ServeError
from heliostat.serve.deploy_file import DeploySettings, ModelSettings
from heliostat.serve.guard import Access
from heliostat.serve.plans import Unit, canary_app, previous_app, shadow_app
from heliostat.serve.switch import CanaryRoute, Routes


class Target(NamedTuple):
    """What a deployment is to become."""

    settings: DeploySettings
    units: dict[str, Unit]


def names_of(units: Iterable[str]) -> list[str]:
    """The models among applications; the others stand beside them."""
    return [app for app in units if not app.startswith("_")]


def shared_of(units: Mapping[str, Unit]) -> list[Unit]:
    """The models that share an encoder."""
    return [unit for unit in units.values() if unit.is_shared]


def check_places(old: DeploySettings, new: DeploySettings) -> None:
    """Raises ServeError where a model that runs would move into, or out of, what shares an encoder."""
    before, after = (frozenset(each.shared.models if each.shared else ()) for each in (old, new))
    if bool(before) != bool(after):
        raise ServeError("shared cannot begin or end while it runs. Stop it and serve anew.")
    names = [{model.model.partition("@")[0].partition(":")[0] for model in each.models} for each in (old, new)]
    if moved := sorted((before ^ after) & names[0] & names[1]):
        raise ServeError(
            f"shared: {moved[0]} cannot move {'out of' if moved[0] in before else 'into'} it while it runs. Take it "
            "out of models and update; then put it back."
        )


def rolled_back(settings: DeploySettings, units: Mapping[str, Unit], previous: Mapping[str, Unit], name: str) -> Target:
    """Without the model's canary; where it has none, with the version before its last update.

    Raises ServeError when there is nothing to go back to.
    """
    names = names_of(units)
    if name not in names:
        raise ServeError(f"there is no model '{name}' here. There is: {', '.join(names)}.")
    place, unit = names.index(name), units[name]
    model = settings.models[place]
    if model.canary:
        without = {app: each for app, each in units.items() if app != canary_app(name)}
        without[name] = unit._replace(routes=unit.routes.model_copy(update={"canary": None}))
        return Target(_with_model(settings, place, model.model_copy(update={"canary": None})), without)
    if name not in previous:
        raise ServeError(f"{name} runs no canary, and was not updated since this deployment began.")
    before = previous[name]
    version = before.plan.served.version
    pinned = {"model": f"{name}:{version}" if version else before.plan.folder, "shadow": None}
    beside = (shadow_app(name), previous_app(name))
    found = {app: each for app, each in units.items() if app not in beside}
    found[name] = before._replace(prefix=unit.prefix, routes=Routes())
    return Target(_with_model(settings, place, model.model_copy(update=pinned)), found)


def _with_model(settings: DeploySettings, place: int, model: ModelSettings) -> DeploySettings:
    models = (*settings.models[:place], model, *settings.models[place + 1 :])
    return settings.model_copy(update={"models": models})


def swapped(old: Mapping[str, Unit], new: Mapping[str, Unit]) -> list[Unit]:
    """What the models were whose version changes."""
    return [old[app] for app in names_of(new) if app in old and old[app].plan.served != new[app].plan.served]


def kept(unit: Unit) -> Unit:
    """The application that keeps a version which no longer answers."""
    plan = unit.plan._replace(access=Access())
    return unit._replace(app=previous_app(unit.app), plan=plan, prefix=None, routes=Routes(), is_shared=False)


def turned_to(unit: Unit, keeper: Unit) -> Unit:
    """A model whose requests are all answered by another application."""
    route = CanaryRoute(app=keeper.app, version=keeper.plan.served.version, percent=100.0, by="content")
    return unit._replace(routes=Routes(canary=route))


def told(old: Mapping[str, Unit], new: Mapping[str, Unit], titles: Mapping[str, str]) -> list[str]:
    """What changed, a sentence each, for people."""
    said = []
    for app, unit in new.items():
        before, version = old.get(app), unit.plan.served.version
        if before is None:
            said.append(f"{titles[app]}: version {version} answers")
        elif before.plan.served != unit.plan.served:
            said.append(f"{titles[app]}: version {before.plan.served.version} -> {version}")
        elif before != unit:
            said.append(f"{titles[app]}: settings changed")
    return [*said, *(f"{titles[app]}: ended" for app in old if app not in new)]
