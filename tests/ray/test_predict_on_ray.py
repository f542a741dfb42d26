"""Files answered by actors of Ray Data: row by row what one process answers, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from heliostat.errors import CheckpointError, DataError
from heliostat.predict import Predictor, tables
from heliostat.predict.tables import predict_file
from heliostat.serve import files
from heliostat.serve.files import predict_file_on_ray

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables, "_CHUNK", 16)
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """200 records: some empty, one line that is none."""
    lines = [
        {"n": n, "text": "" if n % 37 == 5 else f"the bus {n} is {'late' if n % 2 else 'lovely'}" + " again" * (n % 9)}
        for n in range(200)
    ]
    path = tmp_path / "asked.jsonl"
    written = [json.dumps(line) for line in lines]
    path.write_text("\n".join([*written[:70], "{broken", *written[70:]]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_it_is_the_file_that_one_process_writes(
    ending: str, source: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / f"here.{ending}", tmp_path / f"there.{ending}"
    seen: list[int] = []
    expected = predict_file(Predictor.load(tiny_checkpoint, threads=1), str(source), here)
    result = predict_file_on_ray(tiny_checkpoint, str(source), there, on_progress=seen.append)
    assert result == expected
    assert (result.num_rows, result.num_answered, result.num_unreadable) == (201, 194, 1)
    assert seen[-1] == 200
    assert seen == sorted(seen)
    read = pd.read_parquet if ending == "parquet" else lambda path: pd.read_json(path, lines=True)
    pd.testing.assert_frame_equal(read(here), read(there), rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []


@pytest.mark.sweep
def test_a_job_that_died_goes_on(
    source: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_answers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict_file_on_ray(tiny_checkpoint, str(source), out)
    assert not out.exists()
    parts = sorted(next(tmp_path.glob(".out.jsonl.parts-*")).iterdir())
    assert len(parts) == 13
    parts[3].unlink()
    marked = [json.dumps([{"label": "kept from before", "probabilities": {}}, ""])] * 16
    parts[7].write_text("\n".join(marked) + "\n", encoding="utf-8")
    predict_file_on_ray(tiny_checkpoint, str(source), out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    kept = [row["n"] for row in rows if row.get("predicted_label") == "kept from before"]
    assert kept == list(range(111, 127)), "the chunk that was there was taken, and no other"
    assert [row["n"] for row in rows] == list(range(200))
    assert all("predicted_label" in row or "prediction_problem" in row for row in rows)


def test_another_file_shares_no_part(source: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    asked = tables.Asked.of(files._head_of(tiny_checkpoint), str(source), tmp_path / "out.jsonl")
    key = files._key(tiny_checkpoint, asked, "fp32")
    assert files._key(tiny_checkpoint, asked, "bf16") != key
    source.write_text(source.read_text(encoding="utf-8").replace("late", "soon"), encoding="utf-8")
    assert files._key(tiny_checkpoint, asked, "fp32") != key


def test_what_cannot_be_asked_is_said_before_anything_starts(
    source: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="ending tells no format"):
        predict_file_on_ray(tiny_checkpoint, str(source), tmp_path / "out.xlsx")
    with pytest.raises(DataError, match="there is no file"):
        predict_file_on_ray(tiny_checkpoint, str(tmp_path / "none.csv"), tmp_path / "out.csv")
    with pytest.raises(CheckpointError):
        predict_file_on_ray(tmp_path, str(source), tmp_path / "out.csv")
    other = tmp_path / "other.csv"
    other.write_text("words\na\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'text'"):
        predict_file_on_ray(tiny_checkpoint, str(other), tmp_path / "out.csv")
