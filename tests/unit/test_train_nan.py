"""A gradient that is not finite: the run stops, leaves the update out, or goes back; each resumes exactly."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from heliostat import checkpoint
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import Stopped, TrainError
from heliostat.run import Run, check
from heliostat.testing.distribution import on_path, write_dist_info
from heliostat.train.loop import fit
from heliostat.train.policy import MAX_ROLLBACKS
from heliostat.train.worker import LocalWorker, set_threads

_PLUGIN = '''
"""A classification whose loss is not a number for examples that are cursed."""

from __future__ import annotations

from heliostat.plugin import Classification, Registry


class Brittle(Classification):
    """Breaks on an example whose text is longer than any other."""

    def module(self, spec):
        from heliostat.heads.classification_module import ClassificationModule

        class Module(ClassificationModule):
            def loss(self, features, batch):
                terms = super().loss(features, batch)
                cursed = self.training and max(batch.ragged("input_ids").lengths) > 100
                return {"loss": terms["loss"] * float("nan")} if cursed else terms

        settings = self.config
        return Module(
            spec.dim, self.labels, self.label_weights, dropout=settings.dropout, label_smoothing=0.0, gamma=0.0,
            decision=None,
        )


def register(registry: Registry) -> None:
    registry.add("head", Brittle)
'''


@pytest.fixture(scope="module")
def brittle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[Run, Prepared]]]:
    """brittle(on_nan="skip", cursed=1) is a run of some 12 updates, in each epoch one or more of which break."""
    site, home = tmp_path_factory.mktemp("brittle"), tmp_path_factory.mktemp("home")
    (site / "heliostat_brittle").mkdir()
    (site / "heliostat_brittle" / "__init__.py").write_text(_PLUGIN, encoding="utf-8")
    write_dist_info(site, "brittle", "heliostat_brittle:register")
    set_threads(1)

    def make(cursed: int = 1, **train: Any) -> tuple[Run, Prepared]:
        source = home / f"rows-{cursed}.csv"
        with source.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "split"])
            for number in range(100):
                text = f"word {number} " * (60 if number < cursed else 3)
                writer.writerow(
                    [text, "ab"[number % 2], "train" if number < 80 else "valid" if number < 90 else "test"]
                )
        run = check(
            {
                "name": "brittle",
                "data": {
                    "adapter": "core.columns",
                    "source": str(source),
                    "split": {"by": "column", "column": "split"},
                },
                "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.1},
                "head": "brittle.head",
                "train": {"epochs": 2, "tokens_per_batch": 160, "log_every": 1, "seed": 5, **train},
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    with ExitStack() as stack:
        stack.enter_context(on_path(site))
        yield make


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _newest(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The hashes of the newest checkpoint, and where its training stood."""
    path = checkpoint.newest(folder / "checkpoints")
    assert path is not None
    files = checkpoint.verify(path)["files"]
    hashes = {name: files[name]["sha256"] for name in sorted(files) if name.endswith((".safetensors", "trainer.json"))}
    return hashes, checkpoint.load_state(path).trainer


@pytest.mark.fault(
    "a gradient is not finite, train.on_nan=stop",
    seen="one sentence with the settings to change; exit code 2",
    lost="nothing before it",
    proof="the sentence names them, the last checkpoint is kept",
)
def test_stop_names_the_settings_that_help(brittle: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = brittle(on_nan="stop")
    with pytest.raises(TrainError, match=r"not finite at step \d+: lower train\.lr .* train\.on_nan=skip"):
        fit(run, prepared, LocalWorker(), tmp_path)


@pytest.mark.fault(
    "the same with train.on_nan=skip",
    seen="left_out in the curves; 20 in a row end the run",
    lost="that update",
    proof="just the updates that break are left out",
)
def test_skip_leaves_out_one_update_an_epoch(brittle: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = brittle(on_nan="skip")
    outcome = fit(run, prepared, LocalWorker(), tmp_path)
    rows = [row for row in _rows(tmp_path) if "loss" in row]
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
    assert rows[-1]["left_out"] == 2
    assert len(rows) == outcome.step - 2
    assert len(_newest(tmp_path)[1]["left_out"]) == 2


@pytest.mark.fault(
    "the same with train.on_nan=rollback",
    seen="the curves go back to the last checkpoint that was due; three times to one checkpoint end the run",
    lost="every batch from there up to the one that failed",
    proof="just those batches are left out",
)
def test_rollback_leaves_out_all_batches_since_the_checkpoint(
    brittle: Callable[..., tuple[Run, Prepared]], tmp_path: Path
) -> None:
    skipped, prepared = brittle(on_nan="skip", checkpoint_every=4)
    fit(skipped, prepared, LocalWorker(), tmp_path / "skip")
    broken = _newest(tmp_path / "skip")[1]["left_out"]
    run, prepared = brittle(on_nan="rollback", checkpoint_every=4)
    outcome = fit(run, prepared, LocalWorker(), tmp_path / "back")
    left_out = _newest(tmp_path / "back")[1]["left_out"]
    saved = {0, *range(4, outcome.step, 4), outcome.step // 2}  # every fourth step, and the end of the first epoch
    expected = {step for last in broken for step in range(max(s for s in saved if s <= last), last + 1)}
    assert set(left_out) == expected
    assert len(left_out) > len(broken)
    steps = [row["step"] for row in _rows(tmp_path / "back") if "loss" in row]
    assert steps == [step + 1 for step in range(outcome.step) if step not in left_out]


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_run_that_was_stopped_ends_bit_identical(
    brittle: Callable[..., tuple[Run, Prepared]], tmp_path: Path, on_nan: str
) -> None:
    run, prepared = brittle(on_nan=on_nan, ema=0.9, checkpoint_every=4)
    whole = fit(run, prepared, LocalWorker(), tmp_path / "whole")
    for stop_at in (2, whole.step // 2, whole.step - 2):
        folder = tmp_path / f"stopped-{stop_at}"
        asked = iter(range(1, 1000))
        with pytest.raises(Stopped):
            fit(run, prepared, LocalWorker(lambda asked=asked, at=stop_at: next(asked) == at), folder)
        fit(run, prepared, LocalWorker(), folder)
        assert _newest(folder)[0] == _newest(tmp_path / "whole")[0]


def test_a_run_in_which_everything_breaks_ends(brittle: Callable[..., tuple[Run, Prepared]], tmp_path: Path) -> None:
    run, prepared = brittle(cursed=80, on_nan="skip", epochs=3)
    with pytest.raises(TrainError, match="left out 20 updates in a row"):
        fit(run, prepared, LocalWorker(), tmp_path / "skip")
    run, prepared = brittle(cursed=80, on_nan="rollback", epochs=3)
    with pytest.raises(TrainError, match=f"went back {MAX_ROLLBACKS} times to one checkpoint"):
        fit(run, prepared, LocalWorker(), tmp_path / "back")
