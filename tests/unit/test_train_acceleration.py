"""Compiled layers and TF32: what is in effect is told, and what cannot be is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heliostat import checkpoint
from heliostat.data.prepare import prepare
from heliostat.data.prepared import Prepared
from heliostat.errors import TrainError
from heliostat.run import Run, check
from heliostat.train import acceleration
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads

Make = Callable[..., tuple[Run, Prepared]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make(compile=True, ...) is a run of four updates without dropout in fp32, and its prepared data."""
    home = tmp_path_factory.mktemp("home")
    with (home / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"{'word ' * (number % 11)}{number}", "ab"[number % 2]] for number in range(90))
    set_threads(1)

    def make(**train: Any) -> tuple[Run, Prepared]:
        run = check(
            {
                "name": "toy",
                "data": {"adapter": "core.columns", "source": str(home / "rows.csv")},
                "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "dropout": 0.0},
                "head": {"type": "core.classification", "dropout": 0.0},
                "train": {
                    **{"max_steps": 4, "epochs": 9, "tokens_per_batch": 160, "log_every": 1, "lr": 3e-3},
                    **{"precision": "fp32", "trackers": [], **train},
                },
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    return make


def _losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("valid/loss")) for row in rows]


def _in_effect(folder: Path) -> dict[str, Any]:
    path = checkpoint.newest(folder / "checkpoints")
    assert path
    told: dict[str, Any] = checkpoint.load_state(path).trainer["in_effect"]
    return told


@pytest.mark.sweep
def test_compiled_layers_give_the_same_loss_and_an_ordinary_checkpoint(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the code that is written in the end, which takes minutes: a compiler is asked for no more than a line."""
    from torch._dynamo.utils import counters

    from heliostat.predict import Predictor

    fit(*make(), LocalWorker(), tmp_path / "eager")
    counters.clear()
    monkeypatch.setattr(acceleration, "BACKEND", "aot_eager")
    fit(*make(compile=True), LocalWorker(), tmp_path / "compiled")
    assert _losses(tmp_path / "compiled") == pytest.approx(_losses(tmp_path / "eager"), rel=1e-4)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["recompile_limit"]
    assert _in_effect(tmp_path / "eager")["compiled_layers"] == 0
    assert _in_effect(tmp_path / "compiled")["compiled_layers"] == 2
    paths = [checkpoint.newest(tmp_path / name / "checkpoints") for name in ("eager", "compiled")]
    files = [set(checkpoint.verify(path)["files"]) for path in paths if path]
    assert files[0] == files[1]
    assert paths[1]
    Predictor.load(paths[1]).check_golden()


def test_without_a_compiler_the_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    code = (
        "import torch; from torch import nn; from heliostat.train.acceleration import compile_layers;"
        "from heliostat.errors import TrainError;"
        "model = nn.Module(); model.encoder = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))\n"
        "try: compile_layers(model, torch.device('cpu'))\n"
        "except TrainError as error: print(error)"
    )
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("train.compile needs a C++ compiler and the headers of Python, and nothing compiles")
    assert done.stdout.strip().endswith("Install them, or leave train.compile out.")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may compute in TF32")
def test_tf32_is_refused_where_nothing_computes_in_it(make: Make, tmp_path: Path) -> None:
    run, prepared = make(precision="tf32")
    with pytest.raises(TrainError, match=r"train\.precision=tf32 has no effect on cpu: .* Take fp32 or bf16"):
        fit(run, prepared, LocalWorker(), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is a format of GPUs")
def test_tf32_is_in_effect_on_a_gpu_and_ends_with_its_run(make: Make, tmp_path: Path) -> None:
    fit(*make(precision="tf32"), LocalWorker(), tmp_path / "tf32")
    fit(*make(precision="fp32"), LocalWorker(), tmp_path / "fp32")
    assert _in_effect(tmp_path / "tf32")["matmul"] == "high"
    assert _in_effect(tmp_path / "fp32")["matmul"] == "highest"
    assert _losses(tmp_path / "tf32") == pytest.approx(_losses(tmp_path / "fp32"), rel=1e-2)
