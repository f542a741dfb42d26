"""What plugin authors get for tests of their own: a function on real workers of one process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from heliostat.ray_session import ray_session
from heliostat.testing import run_on_workers


@pytest.fixture(scope="module", autouse=True)
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with ray_session(tmp_path_factory.mktemp("workers") / "ray.log"):
        yield


def test_a_function_runs_on_workers_that_add_up() -> None:
    def work(worker: Any) -> dict[str, Any]:
        total = worker.add_up({"sum": np.array([1.0 + worker.rank, 10.0])})
        return {
            "rank": worker.rank,
            "sum": total["sum"].tolist(),
            "ranks": worker.gather(worker.rank),
            "pid": os.getpid(),
        }

    first, second = run_on_workers(work, 2)
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["sum"] == second["sum"] == [3.0, 20.0]
    assert first["ranks"] == second["ranks"] == [0.0, 1.0]
    assert len({first["pid"], second["pid"], os.getpid()}) == 3


def test_a_workers_error_reaches_the_caller(tmp_path: Path) -> None:
    def work(worker: Any) -> None:
        raise ValueError(f"worker {worker.rank} has had enough")

    with pytest.raises(Exception, match="has had enough"):
        run_on_workers(work, 2)
    assert ray.is_initialized()
