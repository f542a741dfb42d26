"""Which engine prepares: decided from a setting and a size, without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

from heliostat.ingest import LARGE_SOURCE_BYTES, choose_engine


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_the_run_has_the_last_word(engine: str) -> None:
    assert choose_engine(engine, 10 * LARGE_SOURCE_BYTES) == engine  # type: ignore[arg-type]
    assert choose_engine(engine, 1) == engine  # type: ignore[arg-type]


def test_auto_goes_by_size() -> None:
    assert choose_engine("auto", LARGE_SOURCE_BYTES) == "local"
    assert choose_engine("auto", LARGE_SOURCE_BYTES + 1) == "ray"


def test_choosing_imports_neither_ray_nor_torch() -> None:
    code = """
import sys
from heliostat.ingest import choose_engine
choose_engine("auto", 1)
print("ray" in sys.modules, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
