"""Canaries, shadows, updates, ways back and bad versions while eight clients ask."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from heliostat.errors import ServeError
from heliostat.serve.applications import standing
from heliostat.serve.deployment import Deployment


@pytest.mark.fault(
    "a canary's replica is killed, and the canary ended",
    seen="nothing",
    lost="nothing",
    proof="no request fails; the version in use keeps its processes",
)
def test_a_canary_comes_and_goes(stage: Any, deployment: Deployment, load: Any) -> None:
    kept = stage.replicas()
    with load("a canary of 30 %, and its end") as found:
        deployment.update(stage.settings(canary={"version": 2, "percent": 30}))
        stage.more(found, 100)
        stage.more(found, 20, version=2)
        # Ray writes a process's title anew around each call: a look may come in between.
        canary: list[psutil.Process] = []

        def is_there() -> bool:
            canary.extend(stage.named("ServeReplica:_canary.mood:Replica"))
            return bool(canary)

        stage.wait_until(is_there, "the canary's process")
        os.kill(canary[0].pid, signal.SIGKILL)  # a canary that dies costs nobody an answer
        stage.more(found, 100)
        started = time.monotonic()
        deployment.rollback("mood")
        seconds = time.monotonic() - started
        by_canary = found.answers[2]
        stage.more(found, 50)
        assert found.answers[2] <= by_canary + stage.num_clients
        print(f"\nthe canary ended in {seconds:.2f} s")
    assert found.plain == {}
    assert stage.replicas() == kept, "the version in use answers all the while, from the same processes"


def test_a_shadow_is_compared_and_answers_nobody(stage: Any, deployment: Deployment, load: Any) -> None:
    with load("a shadow") as found:
        deployment.update(stage.settings(shadow={"version": 2}))
        stage.more(found, 100)
        stage.wait_until(lambda: deployment.status()["models"][0]["shadow"].get("records", 0) >= 60, "comparisons")
        report = deployment.status()["models"][0]["shadow"]
        deployment.update(stage.settings())
    assert found.plain == {}
    assert set(found.answers) == {1}
    print(f"\n{report}")
    assert report["difference"]["max"] > 1e-3
    assert 0.0 <= report["agreement"] <= 1.0
    assert report["failed"] == 0


@pytest.mark.fault(
    "a model is updated under load, and taken back",
    seen="nothing",
    lost="nothing",
    proof="no request fails; no answer holds rows of two versions",
)
@pytest.mark.parametrize(
    ("replicas", "keeps"),
    [pytest.param(1, False, marks=pytest.mark.sweep), (2, True)],
    ids=["one replica", "two, and one kept"],
)
def test_a_rolling_update_and_back(stage: Any, deployment: Deployment, load: Any, replicas: int, keeps: bool) -> None:
    deployment.update(stage.settings(replicas=replicas))
    with load(
        f"a rolling update and back, {replicas} replicas, the version before {'kept' if keeps else 'loaded anew'}"
    ) as found:
        started = time.monotonic()
        wanted = stage.settings(model="mood:2", replicas=replicas).model_copy(update={"keep_previous": keeps})
        assert deployment.update(wanted) == ["mood: version 1 -> 2"]
        there = time.monotonic()
        by_old = found.answers[1]
        stage.more(found, 50)
        assert found.answers[1] <= by_old + stage.num_clients
        if keeps:
            stage.wait_until(lambda: len(stage.named("ServeReplica:_previous.mood:Replica")) == 2, "the version before")
            stage.wait_until(lambda: standing()["_previous.mood"]["state"] == "running", "the version before")
        back = time.monotonic()
        said = deployment.rollback("mood")
        assert said[0] == "mood: version 2 -> 1"
        done = time.monotonic()
        stage.more(found, 50, version=1)
    print(
        f"\nupdate {there - started:.2f} s, back {done - back:.2f} s, last answer of 2 at {found.last[2] - back:.2f} s"
    )
    assert found.plain == {}
    assert set(found.answers) == {1, 2}
    deployment.update(stage.settings())


@pytest.mark.fault(
    "an update to a model that fails its golden requests",
    seen="one sentence with the request that failed: `All goes on as before`",
    lost="nothing",
    proof="every answer is the old version's, from the same processes",
)
def test_a_bad_version_takes_no_traffic(
    stage: Any, deployment: Deployment, load: Any, is_seen: Callable[[str], None]
) -> None:
    kept = stage.replicas()
    with load("an update to a version that fails its golden requests") as found:
        with pytest.raises(ServeError, match=r"golden request 0.*All goes on as before") as refused:
            deployment.update(stage.settings(model="mood:3"))
        assert "\n" not in str(refused.value)
        is_seen(str(refused.value))
        with pytest.raises(ServeError, match="the canary of mood takes no traffic"):
            deployment.update(stage.settings(canary={"version": 3, "percent": 50}))
        stage.more(found)
    assert found.plain == {}
    assert set(found.answers) == {1}
    assert stage.replicas() == kept
    assert deployment.status()["models"][0]["state"] == "running"
