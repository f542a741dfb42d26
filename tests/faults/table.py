"""The table of faults in README.md, out of the marks of the tests: `python table.py` writes it, `--check` compares."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
BEGIN, END = "<!-- written by table.py -->\n", "<!-- end -->\n"


class Row(NamedTuple):
    """One fault and the test that tries it."""

    what: str
    seen: str
    lost: str
    proof: str
    test: str
    is_slow: bool


def rows(folder: Path) -> Iterator[Row]:
    """The rows of all tests below a folder, by file and by place in it."""
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = {
                ast.unparse(mark).partition("(")[0].removeprefix("pytest.mark."): mark for mark in node.decorator_list
            }
            if isinstance(fault := marks.get("fault"), ast.Call):
                told = {str(word.arg): ast.literal_eval(word.value) for word in fault.keywords}
                looks = "is_seen" in {each.arg for each in node.args.args}
                if looks != ("`" in told["seen"]):
                    raise ValueError(f"{path}, {node.name}: what is quoted in backquotes is looked for by is_seen")
                place = f"{path.relative_to(HERE.parent)}::{node.name}"
                is_slow = "sweep" in marks or "pytestmark = [pytest.mark.sweep" in text
                yield Row(ast.literal_eval(fault.args[0]), **told, test=place, is_slow=is_slow)


def table() -> str:
    """The rows as Markdown."""
    lines = ["| fault | what the user sees | what is lost | proof | test |", "|---|---|---|---|---|"]
    for row in rows(HERE.parent):
        slow = " (slow)" if row.is_slow else ""
        lines.append(f"| {row.what} | {row.seen} | {row.lost} | {row.proof} | `{row.test}`{slow} |")
    return "\n".join(lines) + "\n"


def main(*words: str) -> int:
    """Write the table into README.md, or say whether it is there."""
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    new = f"{head}{BEGIN}{table()}{END}{rest.partition(END)[2]}"
    if "--check" in words:
        return int(new != text)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
