"""What keeps the house as it was drawn: who may import whom, how long a file may grow, which names are promised."""

from __future__ import annotations

import ast
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLATFORM = ROOT / "platform" / "heliostat"
PLUGINS = ROOT / "plugins"
SOURCES = [path.parent.relative_to(ROOT) for path in sorted(PLUGINS.glob("*/pyproject.toml"))]

MOST_FILE_LINES, MEDIAN_FILE_LINES = 300, 120
MOST_FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 50, 10
FORBIDDEN_WORDS = ("Manager", "Helper", "Handler")


@cache
def sources() -> dict[Path, str]:
    found = [*PLATFORM.rglob("*.py"), *PLUGINS.glob("*/heliostat_*/**/*.py"), *(ROOT / "demos").rglob("*.py")]
    return {path: path.read_text(encoding="utf-8") for path in sorted(found)}


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path, text in sources().items():
        yield from ((path, node) for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))


def lines_of(node: ast.AST) -> int:
    """Lines of a function's body, its docstring left out."""
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def lint_imports(folder: Path, *sources: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    path = os.pathsep.join(map(str, sources))
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )


def test_rooms_import_down_the_list() -> None:
    done = lint_imports(ROOT, ROOT / "platform", *(ROOT / each for each in SOURCES))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code and its contracts in another folder, to be spoilt."""
    skip = shutil.ignore_patterns("__pycache__", "data", "*.parquet", "*.egg-info")
    shutil.copytree(
        ROOT / "platform" / "heliostat",
        tmp_path / "platform" / "heliostat",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for each in SOURCES:
        shutil.copytree(ROOT / each, tmp_path / each, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        (
            "plugins/sentiment/heliostat_sentiment/__init__.py",
            "import heliostat.train.loop",
            "plugins come in by the door only",
        ),
        (
            "plugins/sentiment/heliostat_sentiment/__init__.py",
            "from heliostat.data import plan",
            "plugins come in by the door only",
        ),
        ("platform/heliostat/predict/__init__.py", "import heliostat_sentiment", "the platform knows no plugin"),
        ("platform/heliostat/train/loop.py", "def f():\n    import ray", "the engine and all below it know no Ray"),
        ("platform/heliostat/run/settings.py", "import heliostat.train.loop", "rooms import down the list"),
    ],
)
def test_a_planted_import_breaks_a_contract(copy: Path, file: str, planted: str, contract: str) -> None:
    with (copy / file).open("a", encoding="utf-8") as spoilt:
        spoilt.write(f"\n{planted}\n")
    done = lint_imports(copy, copy / "platform", *(copy / each for each in SOURCES))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


def test_the_planted_copy_is_sound_before_it_is_spoilt(copy: Path) -> None:
    assert lint_imports(copy, copy / "platform", *(copy / each for each in SOURCES)).returncode == 0


def test_no_file_is_long() -> None:
    lengths = {path.relative_to(ROOT): text.count("\n") for path, text in sources().items()}
    assert {path: length for path, length in lengths.items() if length > MOST_FILE_LINES} == {}
    assert statistics.median(length for length in lengths.values() if length) <= MEDIAN_FILE_LINES


def test_no_function_is_long() -> None:
    functions = list(nodes(ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = {f"{path.relative_to(ROOT)}:{node.name}": lines_of(node) for path, node in functions}  # type: ignore[attr-defined]
    assert {name: length for name, length in lengths.items() if length > MOST_FUNCTION_LINES} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION_LINES


def test_a_room_is_named_for_what_it_holds() -> None:
    names = [path.relative_to(ROOT) for path in sources()]
    assert [name for name in names if {"utils", "util", "helpers", "common", "misc"} & {*name.parts, name.stem}] == []
    classes = [(path, node.name) for path, node in nodes(ast.ClassDef)]  # type: ignore[attr-defined]
    assert [found for found in classes if found[1].endswith(FORBIDDEN_WORDS)] == []


def test_the_standard_librarys_platform_stays_visible() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform, sys; print(platform.python_version() == sys.version.split()[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_every_module_says_what_it_is() -> None:
    bare = [path for path, text in sources().items() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert bare == []


def test_nothing_reads_a_pickle() -> None:
    """Checkpoints, requests and caches are safetensors, JSON and Arrow: no file of ours can run code."""
    names = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    found = []
    for path, node in nodes(ast.Import, ast.ImportFrom, ast.Call):
        if isinstance(node, ast.Import) and names & {alias.name.partition(".")[0] for alias in node.names}:
            found.append((path, node.lineno))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in names:
            found.append((path, node.lineno))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            found.append((path, node.lineno))
    assert found == []


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a workplace in what is shipped."""
    texts = dict(sources())
    texts |= {path: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md")}
    texts |= {
        path: path.read_text(encoding="utf-8")
        for folder in ("platform", "plugins", "demos", "cluster")
        for path in (ROOT / folder).rglob("*.md")
    }
    assert [path for path, text in texts.items() if "/work/" in text or "../shared" in text] == []
