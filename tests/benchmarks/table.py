"""The tables of both READMEs, here and of the project, from the JSON files of results/.

`python tests/benchmarks/table.py` writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README, PROJECT = HERE / "README.md", HERE.parents[1] / "README.md"
BEGIN, END = "<!-- table: made by tests/benchmarks/table.py -->", "<!-- end of table -->"
HEADINGS = ("what", "beside", "ours", "theirs", "times faster (95 %)", "in CPU seconds", "held equal", "goal (floor)")
_INTERVAL = re.compile(r"(?<=[×%]) \([^)]*\)$")
"""What a single round does not have."""
_RATIOS = (4, 5)
"""The columns with intervals."""
SHORT = (0, 1, 4, 6)
"""The columns of the project's README."""
NO_PEER = ("plan", "scale")
"""Benchmarks of ours beside ours: not in the project's README."""
ORDER = (
    "finetune",
    "pretrain",
    "causal",
    "ray_overhead",
    "checkpoint",
    "recovery",
    "tune",
    "recommend",
    "serve",
    "serve_adapters",
    "loader",
    "gpu",
    "plan",
    "scale",
)


def results(folder: Path) -> list[dict[str, Any]]:
    """What every benchmark found, in the order of the issue that asks for them."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    places = {name: place for place, name in enumerate(ORDER)}
    return sorted(found, key=lambda each: (places.get(each["name"], len(ORDER)), each["name"]))


def render(folder: Path, columns: Sequence[int] = range(len(HEADINGS)), without: Collection[str] = ()) -> str:
    """The table, some of its columns, and the machines that it was measured on."""
    found = [each for each in results(folder) if each["name"] not in without]
    if not found:
        return "Nothing is measured yet: `make bench`.\n"
    lines = [_line([*(HEADINGS[column] for column in columns), "rounds"]), "|" + "---|" * (len(columns) + 1)]
    machines: dict[str, list[str]] = {}
    for each in found:
        for case in each["cases"].values():
            rounds = len(case["rounds"])
            for row in case.get("rows", []):
                cells = [_told(row[column], column, rounds) for column in columns]
                lines.append(_line([*cells, str(rounds)]))
        is_busy = any(case.get("busy") for case in each["cases"].values())
        when = f"{each['name']} ({each['date']}{', on a busy machine' if is_busy else ''})"
        machines.setdefault(_machine(each["machine"]), []).append(when)
    lines += ["", *(f"Measured on {words}: {', '.join(names)}." for words, names in machines.items())]
    return "\n".join(lines) + "\n"


def _told(cell: str, column: int, rounds: int) -> str:
    return _INTERVAL.sub("", cell) if rounds == 1 and column in _RATIOS else cell


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _machine(found: dict[str, Any]) -> str:
    device = f"{found['gpu']}, " if found.get("gpu") else ""
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    cpu = f"{found['cpu']}, {found['cores']} cores {'with' if found['amx'] else 'without'} AMX"
    return f"{device}{cpu}, {found['memory_gb']} GB ({libraries})"


def put(text: str, table: str) -> str:
    """`text` with `table` between the two marks. Raises ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}.")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def readmes() -> dict[Path, str]:
    """Both READMEs with the tables that the results give."""
    tables = {README: render(HERE / "results"), PROJECT: render(HERE / "results", SHORT, NO_PEER)}
    return {path: put(path.read_text(encoding="utf-8"), table) for path, table in tables.items()}


if __name__ == "__main__":
    for path, text in readmes().items():
        path.write_text(text, encoding="utf-8")
