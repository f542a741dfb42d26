"""Naming a plugin's components and checking their settings imports nothing that computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "ray", "transformers", "pandas", "scipy", "sklearn", "sacrebleu", "gradio"}
RUNS = (
    *("sentiment/default", "translation/default", "medical/default", "medical/roles", "finance/default"),
    *("recommendation/default", "helpdesk/default"),
)


@pytest.mark.parametrize("run", RUNS)
def test_describing_a_plugin_imports_nothing_heavy(run: str) -> None:
    code = (
        f"import sys; from heliostat.run import load, build; build(load('{run}'));"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
