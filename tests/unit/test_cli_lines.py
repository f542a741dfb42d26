"""A training that is told line by line, where no screen shows a bar."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from heliostat.cli import story


def test_a_log_gets_a_line_when_something_begins_and_now_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(story, "console", Console(file=out, width=100))
    with story.bars() as progress:
        lines = story.watcher_on(progress)
        assert isinstance(lines, story.TrainingLines)
        lines.preparing("reading", 10, 20)  # may be over in a moment
        lines.said_at -= lines.EVERY_S
        lines.preparing("reading", 15, 20)
        for _ in range(3):
            lines.training(tmp_path)
        for step in (1, 2, 3):
            row = {"step": step, "progress": step / 4, "loss": 0.5}
            (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            lines.training(tmp_path)
            if step == 2:
                lines.said_at -= lines.EVERY_S
        lines.warn("The mirror [s3] is away.")
    assert out.getvalue().split("\n")[:-1] == [
        "preparing: reading 15 of 20",
        "starting the workers",
        "training   25%  step 1  loss 0.500",
        "training   75%  step 3  loss 0.500",
        "warning   The mirror [s3] is away.",
    ]
