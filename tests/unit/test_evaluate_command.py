"""`heliostat evaluate` and `compare` over models of this machine and files of others: what is shown and refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from heliostat.cli import _build
from heliostat.errors import HeliostatError


@pytest.fixture
def call(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line over two runs that ended with the same tiny checkpoint, and a labelled file beside them."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{word} day {place},{'glad' if word == 'lovely' else 'sad'}"
        for place in range(40)
        for word in ("lovely", "rainy")
    ]
    (tmp_path / "lines.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("line,mood\na lovely sun,glad\nwe lost,sad\nrain,plain\nrain,sad\n")
    for run in ("one", "two"):
        folder = tmp_path / "home" / "runs" / run
        shutil.copytree(tiny_checkpoint, folder / "checkpoints" / "step-00000006")
        shutil.copy(tiny_checkpoint / "run.json", folder / "run.json")
        (folder / "metrics.jsonl").touch()
        (folder / "outcome.json").write_text('{"best": [6, 0.5], "step": 6}')
    return lambda *arguments: CliRunner().invoke(_build(), [str(each) for each in arguments])


def test_two_runs_are_compared_by_their_ids(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call("compare", "one", "two")
    assert done.exception is None, done.output
    assert "0 answers differ" in done.output
    assert (tmp_path / "compare-one-two" / "compare.html").is_file()


def test_a_labelled_file_is_scored_with_columns_of_its_own(call: Callable[..., Result], tmp_path: Path) -> None:
    # tiny.lines gives records as they are, so the file has to have its names.
    text = (tmp_path / "other.csv").read_text().replace("line,mood", "text,label")
    (tmp_path / "named.csv").write_text(text)
    done = call("evaluate", "one", "--data", "named.csv", "evaluate.resamples=50")
    assert done.exception is None, done.output
    said = json.loads((tmp_path / "report-mood-named.csv" / "report.json").read_text())
    assert (said["split"], said["rows"], said["run_id"]) == ("named.csv", 4, "one")
    assert said["interval"]["resamples"] == 50
    assert said["baselines"]
    assert said["leakage"]["named.csv/train"]["checked"] == 4
    assert set(said["counts"]) == {"train", "valid", "named.csv"}
    done = call("compare", "one", "two", "--data", "named.csv", "evaluate.resamples=60")
    assert done.exception is None, done.output
    assert "4 examples of named.csv" in done.output
    said = json.loads((tmp_path / "compare-one-two" / "compare.json").read_text())
    assert said["interval"]["resamples"] == 60


def test_the_runs_own_rows_are_scored_beside_other_baselines(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call("evaluate", "one", "evaluate.resamples=70", "evaluate.baselines=[core.majority]")
    assert done.exception is None, done.output
    said = json.loads((tmp_path / "report-mood-test" / "report.json").read_text())
    assert said["interval"]["resamples"] == 70
    assert list(said["baselines"]) == ["core.majority"]


def test_a_file_is_scored_though_the_models_own_data_are_gone(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("text,label\na lovely sun,glad\nwe lost,sad\n")
    (tmp_path / "lines.csv").unlink()
    done = call("evaluate", "one", "--data", "other.csv")
    assert done.exception is None, done.output
    assert "own data are not here" in done.output
    assert json.loads((tmp_path / "report-mood-other.csv" / "report.json").read_text())["baselines"] == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "other.csv"), "records are no examples"),
        (("--data", "nothing.csv"), "nothing.csv"),
        (("--data", "other.csv", "train.lr=1.0"), "train: made the model"),
        (("data.adapter=core.columns",), "Name one with --data"),
        (("--data", "other.csv", "--split", "valid"), "--split"),
    ],
)
def test_what_cannot_be_scored_is_refused(call: Callable[..., Result], arguments: Sequence[str], sentence: str) -> None:
    done = call("evaluate", "one", *arguments)
    assert isinstance(done.exception, HeliostatError)
    assert sentence in str(done.exception)


def test_a_run_that_has_not_ended_is_named(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "home" / "runs" / "two" / "outcome.json").unlink()
    done = call("compare", "one", "two")
    assert isinstance(done.exception, HeliostatError)
    assert "'two' has not ended" in str(done.exception)


@pytest.fixture
def by_shop(call: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """The same, where the run of the model has slices by a column `shop`, and named.csv has no such column."""
    checkpoint = tmp_path / "home" / "runs" / "one" / "checkpoints" / "step-00000006"
    run, manifest = (json.loads((checkpoint / name).read_text()) for name in ("run.json", "manifest.json"))
    run["evaluate"]["slices"] = ["shop"]
    content = json.dumps(run).encode()
    manifest["files"]["run.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "run.json").write_bytes(content)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    lines = (tmp_path / "lines.csv").read_text().splitlines()
    (tmp_path / "lines.csv").write_text("\n".join([f"{lines[0]},shop", *(f"{line},north" for line in lines[1:])]))
    (tmp_path / "named.csv").write_text("text,label\na lovely sun,glad\nwe lost,sad\n")
    return call


def test_slices_of_the_run_that_a_file_has_no_column_for_are_left_out(
    by_shop: Callable[..., Result], tmp_path: Path
) -> None:
    done = by_shop("evaluate", "one", "--data", "named.csv", "evaluate.baselines=[]", "evaluate.resamples=20")
    assert done.exception is None, done.output
    assert "named.csv has no column shop: no slices by it." in done.output
    said = json.loads((tmp_path / "report-mood-named.csv" / "report.json").read_text())
    assert (said["baselines"], said["slices"], said["run"]["evaluate"]["slices"]) == ({}, [], [])
    done = by_shop("compare", "one", "two", "--data", "named.csv")
    assert done.exception is None, done.output


def test_slices_that_are_asked_for_must_be_there_before_anything_is_predicted(
    by_shop: Callable[..., Result], tmp_path: Path
) -> None:
    done = by_shop("evaluate", "one", "--data", "named.csv", "evaluate.slices=[shop]")
    assert "evaluate.slices: no example carries a column 'shop'" in str(done.exception)
    assert not (tmp_path / "report-mood-named.csv").exists()


def test_an_alias_that_is_none_is_told_before_anything_is_trained(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call("train", "sentiment/tiny", "--alias", "My Model")
    assert "'My Model' is no alias" in str(done.exception)
    assert sorted(path.name for path in (tmp_path / "home" / "runs").iterdir()) == ["one", "two"]


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_predicted(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    for arguments in (("evaluate", "one"), ("compare", "one", "two")):
        done = call(*arguments, "--out", tmp_path / "taken" / "report")
        assert isinstance(done.exception, HeliostatError)
        assert f"{tmp_path / 'taken'}" in str(done.exception)
        assert "Name a folder where this is a file." in str(done.exception)


def test_settings_that_mean_nothing_to_a_comparison_are_refused(call: Callable[..., Result]) -> None:
    done = call("compare", "one", "two", "--data", "other.csv", "evaluate.slices=[text]")
    assert "evaluate.slices: has no effect on this command" in str(done.exception)
