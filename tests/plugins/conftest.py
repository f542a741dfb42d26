"""What tests of several plugins ask of: a model trained for seconds, behind its HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], Ask]]:
    """answering("medical/tiny", 3) trains so many steps and gives ask(record, verb="predict"): replies to requests."""
    from fastapi.testclient import TestClient

    from heliostat import run as runs
    from heliostat.predict import Predictor
    from heliostat.serve.app import build_app
    from heliostat.serve.schema import Served
    from heliostat.train.launch import train

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))

        def answering(name: str, steps: int) -> Ask:
            trained = train(runs.load(name, ["data.engine=local", f"train.max_steps={steps}"]))
            app = build_app(Predictor.load(trained.checkpoint), Served("asked", 1))
            client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
            stack.enter_context(client)
            return lambda record, verb="predict": client.post(f"/v1/models/asked:{verb}", json={"instances": [record]})

        yield answering
