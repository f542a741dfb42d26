"""A training's process keeps what it frees."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from heliostat.train.memory import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else None
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(20_000_000)
before = faults()
for _ in range(5):
    np.ones(20_000_000)
print(kept, faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_a_block_that_was_freed_is_not_cleared_again() -> None:
    found = {}
    for how in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        found[how] = done.stdout.split()
    if found["keep"][0] == "False":
        pytest.skip("this C library has no mallopt")
    assert int(found["keep"][1]) < 0.1 * int(found["leave"][1])
