"""The table of the benchmarks is what their files give; medians, crossings and ranks are what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_the_tables_of_the_readmes_are_what_the_results_give() -> None:
    import table

    for path, made in table.readmes().items():
        text = path.read_text(encoding="utf-8")
        assert made == text, f"{path}: python tests/benchmarks/table.py writes it"


def test_every_script_is_named_in_the_readme() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    scripts = [path for path in FOLDER.glob("*.py") if "run(Benchmark(" in path.read_text(encoding="utf-8")]
    assert len(scripts) >= 8
    assert [path.name for path in scripts if f"`{path.name}`" not in text] == []


def test_a_table_has_a_row_for_each_row_of_a_result_and_names_the_machine(tmp_path: Path) -> None:
    import table

    machine = {"cpu": "A CPU", "cores": 2, "amx": True, "memory_gb": 8, "libraries": {"torch": "2.13.0"}}
    row = ["fine-tuning", "Trainer | defaults", "5 tokens/s", "1 tokens/s", "5.0×", "4.0×", "same", "5×"]
    found = {
        "name": "finetune",
        "date": "2026-11-23",
        "machine": machine,
        "cases": {"same": {"rows": [row], "rounds": [{}, {}], "busy": True}, "unfinished": {"rounds": []}},
    }
    (tmp_path / "finetune.json").write_text(json.dumps(found))
    lines = table.render(tmp_path).splitlines()
    assert lines[2] == "| fine-tuning | Trainer / defaults | 5 tokens/s | 1 tokens/s | 5.0× | 4.0× | same | 5× | 2 |"
    said = "A CPU, 2 cores with AMX, 8 GB (torch 2.13.0): finetune (2026-11-23, on a busy machine)."
    assert lines[-1] == f"Measured on {said}"


def test_a_ratio_is_the_median_over_rounds_of_the_ratio_within_a_round() -> None:
    from measure import faster

    rounds = [{"a": {"wall_s": 1.0}, "b": {"wall_s": 4.0}}, {"a": {"wall_s": 10.0}, "b": {"wall_s": 50.0}}]
    rounds += [{"a": {"wall_s": 2.0}, "b": {"wall_s": 12.0}}]
    found = faster(rounds, "a", "b")
    assert found.value == 5.0
    assert found.low == pytest.approx(4.0)
    assert found.high == pytest.approx(6.0)
    assert found.times() == "5.0× (4.0, 6.0)"


@pytest.mark.parametrize(
    ("target", "seconds"),
    [(5.0, 15.0), (6.0, 10.0), (9.0, 0.0), (3.9, None)],
    ids=["between", "at", "at once", "never"],
)
def test_a_target_is_crossed_on_the_line_between_two_validations(target: float, seconds: float | None) -> None:
    from causal import crossing

    curve = [(0.0, 0.0, 9.0), (10.0, 20.0, 6.0), (20.0, 40.0, 4.0)]
    assert crossing(curve, target, 0) == seconds


def test_an_interrupted_benchmark_goes_on_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rounds

    made: list[tuple[str, str]] = []

    def turn(session: Any, case: str, side: str, settings: Any) -> dict[str, Any] | None:
        made.append((case, side))
        return None if len(made) == 4 else {"wall_s": float(len(made)), "cpu_s": 1.0}

    monkeypatch.setattr(rounds, "RESULTS", tmp_path)
    monkeypatch.setattr(rounds._Session, "_turn", turn)
    case = rounds.Case(("ours", "theirs"), {"steps": 5}, {})
    row = rounds.Row("what", "beside", "1", "2", "2×", "2×", "same", "5×")
    rows = lambda name, found, settings: [row._replace(ours=str(len(found)))]  # noqa: E731
    benchmark = rounds.Benchmark("tried", str(FOLDER / "table.py"), {"one": case}, lambda *_: {}, rows)
    session = lambda: rounds._Session(benchmark, quick=False, busy=True, minutes=1.0)  # noqa: E731
    assert session().measure(["one"], fresh=False) == 4
    assert session().measure(["one"], fresh=False) == 0
    assert made == [("one", side) for side in ("ours", "theirs", "ours", "theirs", "theirs", "ours", "theirs")]
    found = json.loads((tmp_path / "tried.json").read_text(encoding="utf-8"))
    assert [sorted(each) for each in found["cases"]["one"]["rounds"]] == [["ours", "theirs"]] * 3
    assert found["cases"]["one"]["rows"][0][2] == "3"
    assert session().measure(["one"], fresh=False) == 0
    assert len(made) == 7, "it was done"


@pytest.fixture(autouse=True)
def _forget() -> Any:
    names = {path.stem for path in FOLDER.glob("*.py")}
    yield
    for name in names & set(sys.modules):
        del sys.modules[name]
