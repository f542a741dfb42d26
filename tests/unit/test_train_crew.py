"""Who trains a run: this process, or how many workers of Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from heliostat.errors import TrainError
from heliostat.run import ScalingSettings
from heliostat.train.crew import _cores_of_container, _memory_of_container, memory_here, share_of_cores, trains_here
from heliostat.train.on_ray import placement


@pytest.mark.parametrize(
    ("asked", "here"), [("auto", True), (1, True), (2, False), ([1, 1], True), ([1, 2], False), ([2, 4], False)]
)
def test_one_worker_on_a_machine_without_a_cluster_is_this_process(
    asked: object, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert trains_here(ScalingSettings.model_validate({"num_workers": asked})) is here


def test_auto_goes_to_the_cluster_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not trains_here(ScalingSettings())
    assert trains_here(ScalingSettings(num_workers=1))


def test_auto_is_what_is_written_down_so_that_a_resume_elsewhere_decides_anew() -> None:
    assert ScalingSettings().model_dump()["num_workers"] == "auto"
    assert ScalingSettings.model_validate({"num_workers": "auto"}) == ScalingSettings()
    assert (ScalingSettings().least_workers, ScalingSettings().most_workers) == (1, 1)


def test_a_model_that_nobody_shares_is_not_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(TrainError, match="strategy: fsdp has no effect"):
        trains_here(ScalingSettings(strategy="fsdp"))


@pytest.mark.parametrize(("told", "cores"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("400000 100000\n", 4)])
def test_a_container_that_is_throttled_has_the_cores_it_may_use(told: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(told)
    assert _cores_of_container(tmp_path / "cpu.max") == cores


def test_without_a_limit_the_cores_are_those_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert _cores_of_container(tmp_path / "cpu.max") == _cores_of_container(tmp_path / "none") > 1000
    assert share_of_cores(1) >= share_of_cores(2) >= 1


def test_a_container_has_the_memory_at_which_it_is_killed(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("8589934592\n")
    assert _memory_of_container(limit) == 8 << 30
    limit.write_text("max\n")
    assert _memory_of_container(limit) == _memory_of_container(tmp_path / "none") >= memory_here() > 0


def test_a_plan_and_the_doctor_speak_of_the_containers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.cluster import machine, prices

    for module in (machine, prices):
        monkeypatch.setattr(module, "memory_here", lambda: 1 << 30)
    monkeypatch.setattr(prices, "best_products", lambda *_: 1e12)
    assert prices.this_machine("fp32").memory_gb == (1 << 30) / 1e9
    assert machine.processors()[0].found.endswith("1 GiB of memory, 1 free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 29))
    assert machine.shared_memory()[0].mend == "", "a third of a GiB is enough for one"


def test_workers_are_spread_over_the_machines_and_gpus_are_kept_together() -> None:
    assert placement(on_gpus=False) == "SPREAD"
    assert placement(on_gpus=True) == "PACK"
