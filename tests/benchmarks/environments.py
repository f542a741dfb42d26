"""Environments of peers that cannot live beside Heliostat: made once, with pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from rounds import CACHE


def python_of(pins: Path, without_dependencies: tuple[str, ...] = ()) -> str:
    """The interpreter of the environment that holds what `pins` lists, made anew where the list has changed.

    `without_dependencies` come last, without what they name beside them.
    """
    place = CACHE / pins.stem
    python, mark = place / "venv" / "bin" / "python", place / "installed.txt"
    if not mark.exists() or mark.read_text(encoding="utf-8") != pins.read_text(encoding="utf-8"):
        print(f"  making an environment in {place}", flush=True)
        shutil.rmtree(place / "venv", ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(pins)], check=True)
        if without_dependencies:
            subprocess.run([*pip, "--no-deps", *without_dependencies], check=True)
        mark.write_text(pins.read_text(encoding="utf-8"), encoding="utf-8")
    return str(python)
