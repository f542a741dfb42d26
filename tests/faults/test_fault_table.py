"""The table of README.md is what the tests say of themselves, and a leak is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from heliostat.testing import leftovers


def test_the_readme_holds_the_rows_of_the_tests() -> None:
    """`python tests/faults/table.py` writes them."""
    script = Path(__file__).with_name("table.py")
    assert subprocess.run([sys.executable, str(script), "--check"]).returncode == 0


def test_a_process_whose_parent_died_is_found(ring: str) -> None:
    before = leftovers.strays(ring)
    leave = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0).pid)"
    parent = subprocess.Popen([sys.executable, "-c", leave], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = parent.stdout.readline().strip()
    parent.wait(30)
    found = [each for each in leftovers.strays(ring) if each not in before]
    parent.communicate()  # its input ends, and so does the child
    assert [each.startswith(f"process {pid}: ") for each in found] == [True]


def test_what_the_dead_left_in_a_home_is_found(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    for name in ("checkpoints/step-00000003", "checkpoints/step-00000006", "ray-abc", "beats"):
        (run / name).mkdir(parents=True)
    (run / "checkpoints" / "step-00000003" / "manifest.json").touch()
    (run / "beats" / "rank-0.json").touch()
    left = ["beats/rank-0.json", "checkpoints/step-00000006", "ray-abc"]
    assert leftovers.folders(tmp_path) == [f"runs/mine/{name}" for name in left]
