"""Where a model came from: the run whose curves and id the report shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.cli.scored import find_origin
from heliostat.errors import StoreError


def test_a_checkpoint_inside_a_run_brings_its_id_and_curves(tmp_path: Path) -> None:
    checkpoint = tmp_path / "sentiment-1" / "checkpoints" / "step-00000012"
    checkpoint.mkdir(parents=True)
    (tmp_path / "sentiment-1" / "metrics.jsonl").touch()
    origin = find_origin(f"{checkpoint}/")
    assert origin == ("sentiment-1", tmp_path / "sentiment-1" / "metrics.jsonl")


def test_a_checkpoint_that_was_moved_away_has_neither(tmp_path: Path) -> None:
    assert find_origin(str(tmp_path / "copied")) == (None, None)


def test_an_unknown_model_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    with pytest.raises(StoreError, match="sentiment"):
        find_origin("sentiment@champion")
