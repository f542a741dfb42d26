"""Validation apart from training: the same scores, while updates go on, whatever dies meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import RunError, Stopped, TrainError
from heliostat.run import Run, check
from heliostat.train.assignment import Assignment, Evaluator
from heliostat.train.evaluator import ChildProcess
from heliostat.train.loop import Outcome, fit
from heliostat.train.worker import LocalWorker, set_threads

Make = Callable[..., tuple[Run, Prepared]]


@pytest.fixture(scope="module")
def make(toy_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make(validation="apart", ...) is a run of 27 updates and 6 validations, and its prepared data."""
    home = tmp_path_factory.mktemp("home")
    set_threads(1)

    def make(**train: Any) -> tuple[Run, Prepared]:
        values = {
            "name": "toy",
            "data": {
                "adapter": "core.columns",
                "source": str(toy_rows),
                "split": {"valid": 0.2, "test": 0.1},
            },
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300},
            "head": "core.classification",
            "train": {
                **{"epochs": 3, "evaluations_per_epoch": 2, "tokens_per_batch": 160, "log_every": 1, "lr": 1e-2},
                **{"ema": 0.8, "checkpoint_every": 1, "keep_checkpoints": 1, "select": "loss", "trackers": []},
                **{"on_nan": "rollback"},  # which saves a checkpoint before the first update
                **train,
            },
        }
        run = check(values)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    return make


@pytest.fixture(scope="module")
def inline(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """The same run, validated between its updates."""
    folder = tmp_path_factory.mktemp("inline")
    outcome = fit(*make(), LocalWorker(), folder)
    assert outcome.best.step < outcome.step  # so that which one is chosen, and kept, says something
    return outcome, folder


class Apart(LocalWorker):
    """A worker whose evaluators are made by `start`."""

    def __init__(self, start: Callable[[Assignment], Evaluator], asked: Callable[[], bool] = lambda: False) -> None:
        super().__init__(asked)
        self.start = start

    def evaluator(self, assignment: Assignment) -> Evaluator:
        return self.start(assignment)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The validations in the journal by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted((row for row in rows if "valid/loss" in row), key=lambda row: int(row["step"]))


def _scored(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "validations.jsonl").read_text().splitlines()]


def _there(folder: Path) -> list[int]:
    """The steps of the whole checkpoints."""
    return sorted(int(path.parent.name[5:]) for path in (folder / "checkpoints").glob("step-*/manifest.json"))


def _weights(folder: Path) -> dict[str, str]:
    path = checkpoint.newest(folder / "checkpoints")
    assert path
    files = checkpoint.verify(path)["files"]
    return {name: file["sha256"] for name, file in files.items() if name.endswith("safetensors")}


def _assert_same(folder: Path, outcome: Outcome, inline: tuple[Outcome, Path]) -> None:
    """The same scores, the same choice, the same weights, the same checkpoints kept."""
    expected, other = inline
    assert [row["step"] for row in _rows(folder)] == _scored(folder) == [row["step"] for row in _rows(other)]
    for row, inline_row in zip(_rows(folder), _rows(other), strict=True):
        assert row == pytest.approx(inline_row, rel=1e-5)
    assert outcome.best.step == expected.best.step
    assert outcome.best.score == pytest.approx(expected.best.score, rel=1e-6)
    assert _weights(folder) == _weights(other)
    assert _there(folder) == _there(other)


def test_updates_go_on_without_waiting_and_nothing_is_lost(
    make: Make, inline: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """An evaluator that does not begin before the last update is made: it finds every checkpoint, and chooses alike."""
    seen: list[list[int]] = []
    run, prepared = make(validation="apart")

    class Late:
        """Begins when the last checkpoint is there."""

        def __init__(self, assignment: Assignment) -> None:
            self.assignment = assignment
            self.child: ChildProcess | None = None

        def is_running(self) -> bool:
            there = _there(tmp_path)
            if self.child is None and there and there[-1] == inline[0].step:
                seen.append(there)
                self.child = ChildProcess(self.assignment)
            return self.child is None or self.child.is_running()

        def stop(self) -> None:
            if self.child:
                self.child.stop()

    outcome = fit(run, prepared, Apart(Late), tmp_path)
    assert set(seen[0]) >= {row["step"] for row in _rows(inline[1])}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last_update = max(place for place, row in enumerate(rows) if "loss" in row)
    assert all(place > last_update for place, row in enumerate(rows) if "valid/loss" in row)
    _assert_same(tmp_path, outcome, inline)


@pytest.mark.fault(
    "the evaluator of train.validation=apart is killed",
    seen="one sentence; another one is started, four times in a row at most",
    lost="nothing: what is left to score is scored by --resume",
    proof="each validation once, the same scores",
)
def test_killed_evaluators_and_a_stopped_run_lose_and_repeat_nothing(
    make: Make, inline: tuple[Outcome, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, prepared = make(validation="apart")
    children: list[ChildProcess] = []

    class Dying(ChildProcess):
        """The first two are killed: one before it has begun, one after its first score."""

        def __init__(self, assignment: Assignment) -> None:
            super().__init__(assignment)
            children.append(self)
            self.is_first, self.is_second = len(children) == 1, len(children) == 2

        def is_running(self) -> bool:
            path = tmp_path / "validations.jsonl"
            if self.is_first or (self.is_second and path.exists() and path.read_text()):
                self._process.kill()
                self._process.wait()
            return super().is_running()

    asked = iter(range(1, 1000))
    with pytest.raises(Stopped, match="step 9"):
        fit(run, prepared, Apart(Dying, lambda: next(asked) >= 9), tmp_path)
    assert all(not child.is_running() for child in children)
    with (tmp_path / "validations.jsonl").open("a") as file:
        file.write('{"step": 99, "sco')  # what a kill in mid-line leaves
    outcome = fit(run, prepared, Apart(Dying), tmp_path)
    assert len(children) >= 3
    assert all(not child.is_running() for child in children)
    assert "evaluator of checkpoints ended and is started again; see" in capfd.readouterr().err
    _assert_same(tmp_path, outcome, inline)


@pytest.mark.fault(
    "a checkpoint is damaged before it is scored apart",
    seen="one sentence with its step",
    lost="its score: another one is chosen",
    proof="all the others are scored",
)
def test_a_broken_checkpoint_costs_its_own_score_only(
    make: Make, inline: tuple[Outcome, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, prepared = make(validation="apart")

    class Breaking(ChildProcess):
        """Begins after the first validation is due, whose checkpoint it damages."""

        def __init__(self, assignment: Assignment) -> None:
            self.assignment, self.begun = assignment, False

        def is_running(self) -> bool:
            first = _rows(inline[1])[0]["step"]
            if not self.begun and (_there(tmp_path) or [0])[-1] > first:
                weights = checkpoint.step_folder(tmp_path / "checkpoints", first) / "head" / "model.safetensors"
                data = bytearray(weights.read_bytes())
                data[-1] ^= 1
                weights.write_bytes(data)
                self.begun = True
                super().__init__(self.assignment)
            return not self.begun or super().is_running()

    outcome = fit(run, prepared, Apart(Breaking), tmp_path)
    expected = _rows(inline[1])[1:]
    assert [row["step"] for row in _rows(tmp_path)] == [row["step"] for row in expected]
    best = min(expected, key=lambda row: float(row["valid/loss"]))
    assert outcome.best.step == best["step"]
    said = capfd.readouterr().err
    assert said.count("has no validation: checkpoint") == 1
    assert "sha256 differs" in said


class Dead:
    """An evaluator that never is."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment

    def is_running(self) -> bool:
        return False

    def stop(self) -> None:
        """There is nothing to stop."""


def test_without_an_evaluator_training_goes_on_and_a_resume_validates(
    make: Make, inline: tuple[Outcome, Path], tmp_path: Path
) -> None:
    run, prepared = make(validation="apart")
    with pytest.raises(TrainError, match=r"ended 4 times without a score; see .* are kept, .*--resume"):
        fit(run, prepared, Apart(Dead), tmp_path)
    assert _weights(tmp_path) == _weights(inline[1])
    _assert_same(tmp_path, fit(run, prepared, LocalWorker(), tmp_path), inline)


def test_a_score_that_no_head_gives_ends_the_run(make: Make, tmp_path: Path) -> None:
    run, prepared = make(validation="apart", select="macro_f2", epochs=200)
    with pytest.raises(TrainError, match=r"no validation score 'macro_f2'\. There are: loss, accuracy, macro_f1"):
        fit(run, prepared, LocalWorker(), tmp_path)


def test_patience_needs_scores_at_once(make: Make) -> None:
    with pytest.raises(RunError, match=r"patience has no effect beside validation: apart"):
        make(validation="apart", patience=2)
