"""Plugins that are real for as long as a test lasts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from heliostat.testing.distribution import on_path, write_dist_info

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """install("wine", code, runs={"tiny": "..."}) makes an importable, declared plugin; returns its package."""
    site = tmp_path / "site"
    with ExitStack() as stack:

        def install(plugin: str, code: str, runs: dict[str, str] | None = None, register: str | None = None) -> Path:
            package = site / f"heliostat_{plugin}"
            (package / "runs").mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").write_text(textwrap.dedent(code), encoding="utf-8")
            for name, text in (runs or {}).items():
                (package / "runs" / f"{name}.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
            write_dist_info(site, plugin, register or f"heliostat_{plugin}:register")
            stack.enter_context(on_path(site))
            return package

        yield install
