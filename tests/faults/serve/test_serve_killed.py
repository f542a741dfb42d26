"""Replicas, the controller and the proxy of a deployment are killed while eight clients ask."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from heliostat.serve.deployment import Deployment


@pytest.mark.fault(
    "a replica of a model is killed (kill -9); it is model and ingress in one",
    seen="nothing: the proxy asks the other replica",
    lost="nothing",
    proof="no request fails, none is answered wrongly; a new replica comes",
)
def test_a_replica_is_killed(stage: Any, deployment: Deployment, load: Any) -> None:
    before = stage.replicas()
    assert len(before) == 2
    with load("kill -9 of a model replica") as found:
        for _ in range(2):
            alive = stage.replicas()
            os.kill(min(alive), signal.SIGKILL)
            stage.wait_until(lambda alive=alive: len(stage.replicas() - {min(alive)}) == 2, "a replica in its place")
            stage.wait_until(lambda: deployment.status()["models"][0]["replicas"].get("RUNNING") == 2, "two replicas")
            stage.more(found)
    assert found.plain == {}, "a plain client saw it"


@pytest.mark.fault(
    "Serve's controller is killed",
    seen="nothing",
    lost="nothing",
    proof="no request fails; the replicas are the same processes",
)
def test_the_controller_is_killed(stage: Any, deployment: Deployment, load: Any) -> None:
    kept = stage.replicas()
    with load("kill -9 of the controller") as found:
        (controller,) = stage.named("ServeController")
        os.kill(controller.pid, signal.SIGKILL)
        stage.wait_until(
            lambda: {each.pid for each in stage.named("ServeController")} - {controller.pid} != set(), "a controller"
        )
        stage.wait_until(lambda: deployment.status()["models"][0]["state"] == "running", "a controller that knows")
        stage.more(found)
    assert found.plain == {}
    assert stage.replicas() == kept, "it keeps the replicas"


@pytest.mark.fault(
    "the proxy of a deployment is killed",
    seen="connections are refused until the new one listens (4 to 12 s); clients that retry see a slow answer",
    lost="requests of clients that do not retry",
    proof="none of those with retries is lost, none answered wrongly",
)
def test_the_proxy_is_killed(stage: Any, deployment: Deployment, load: Any) -> None:
    with load("kill -9 of the proxy") as found:
        (proxy,) = stage.named("ProxyActor")
        os.kill(proxy.pid, signal.SIGKILL)
        started = time.monotonic()
        stage.wait_until(lambda: {each.pid for each in stage.named("ProxyActor")} - {proxy.pid} != set(), "a proxy")
        stage.more(found)
        print(f"\nthe proxy answered again after {time.monotonic() - started:.1f} s")
    assert set(found.plain) <= {"ConnectError", "ReadError", "RemoteProtocolError", "ConnectTimeout"}
