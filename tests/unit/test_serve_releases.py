"""What a deployment becomes when a version is taken back: decisions, without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from heliostat.errors import ServeError
from heliostat.serve.applications import widest
from heliostat.serve.deploy_file import DeploySettings, ReplicaRange, check_deployment
from heliostat.serve.guard import Access
from heliostat.serve.limits import Limits
from heliostat.serve.plans import ReplicaPlan, Unit
from heliostat.serve.releases import kept, rolled_back, swapped, told, turned_to
from heliostat.serve.schema import Served
from heliostat.serve.switch import CanaryRoute, Routes, ShadowRoute


def unit(app: str, version: int, prefix: str | None = "/", **routes: Any) -> Unit:
    served = Served(app.rpartition(".")[2], version)
    plan = ReplicaPlan(served, f"/store/{version}", 1, "fp32", {}, Access(hosts=frozenset({"localhost"})))
    return Unit(app, plan, ReplicaRange(max=2), 0.25, prefix, Routes(**routes))


CANARY = CanaryRoute(app="_canary.mood", version=4, percent=10)
SHADOW = ShadowRoute(app="_shadow.mood", version=5, percent=100)


def settings(**model: Any) -> DeploySettings:
    return check_deployment({"models": [{"model": "mood@champion", **model}, "temper"]})


def test_a_canary_ends_and_the_shadow_stays() -> None:
    now = settings(canary={"version": 4, "percent": 10}, shadow={"version": 5})
    mood = unit("mood", 3, canary=CANARY, shadow=SHADOW)
    units = {
        each.app: each
        for each in (mood, unit("_canary.mood", 4, None), unit("_shadow.mood", 5, None), unit("temper", 1))
    }
    target = rolled_back(now, units, {"mood": unit("mood", 2)}, "mood")
    assert set(target.units) == {"mood", "_shadow.mood", "temper"}
    assert target.units["mood"] == mood._replace(routes=Routes(shadow=SHADOW))
    assert target.units["mood"].code == mood.code  # no process is started anew
    assert (target.settings.models[0].canary, target.settings.models[0].model) == (None, "mood@champion")
    assert target.settings.models[0].shadow is not None


def test_without_a_canary_the_version_before_comes_back() -> None:
    before, now = unit("mood", 2), unit("mood", 3, "/v1/models/mood:predict", shadow=SHADOW)
    units = {each.app: each for each in (now, unit("_shadow.mood", 5, None), kept(before), unit("temper", 1))}
    target = rolled_back(settings(shadow={"version": 5}), units, {"mood": before}, "mood")
    assert set(target.units) == {"mood", "temper"}
    assert target.units["mood"].plan.served.version == 2
    assert target.units["mood"].prefix == "/v1/models/mood:predict"
    assert target.units["mood"].routes == Routes()
    assert target.settings.models[0].model == "mood:2"
    assert target.settings.models[1].model == "temper"
    assert [each.plan.served.version for each in swapped(units, target.units)] == [3]
    titles = {app: app for app in units}
    assert told(units, target.units, titles) == ["mood: version 3 -> 2", "_shadow.mood: ended", "_previous.mood: ended"]


def test_what_cannot_be_taken_back_is_said() -> None:
    units = {"mood": unit("mood", 3), "temper": unit("temper", 1)}
    with pytest.raises(ServeError, match=r"no model 'mod' here\. There is: mood, temper"):
        rolled_back(settings(), units, {}, "mod")
    with pytest.raises(ServeError, match="no canary, and was not updated"):
        rolled_back(settings(), units, {}, "mood")


def test_a_kept_version_is_reached_by_the_others_only() -> None:
    keeper = kept(unit("mood", 2, canary=CANARY))
    assert (keeper.app, keeper.prefix, keeper.routes, keeper.plan.access) == (
        "_previous.mood",
        None,
        Routes(),
        Access(),
    )
    route = turned_to(unit("mood", 3), keeper).routes.canary
    assert route is not None
    assert (route.app, route.version, route.percent) == ("_previous.mood", 2, 100.0)


def test_what_stands_above_models_takes_what_one_of_them_takes() -> None:
    models = [
        each._replace(plan=each.plan._replace(limits=limits.model_dump()))
        for each, limits in (
            (unit("mood", 3), Limits(max_body_bytes=10, timeout_s=30)),
            (unit("temper", 1), Limits(max_body_bytes=20 << 20, timeout_s=2)),
        )
    ]
    assert widest(models) == Limits(max_body_bytes=20 << 20, timeout_s=30)
