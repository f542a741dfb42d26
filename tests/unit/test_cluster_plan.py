"""A plan counts what is there, adds up what it holds, proposes the smallest change first, and its table is checked."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.fitting import smallest_change
from heliostat.cluster.footprint import Footprint, Parameters, footprint_of
from heliostat.cluster.memory import PROCESS_BYTES, memory_of, tokens_at_once
from heliostat.cluster.plan import exchange_s
from heliostat.cluster.prices import Machine, read_machines
from heliostat.cluster.probe import Probe
from heliostat.cluster.work import work_of
from heliostat.errors import RunError
from heliostat.run import Run, load

ROOT = Path(__file__).parents[2]
TINY = ["train.tokens_per_batch=512", "train.epochs=2.5", "train.evaluations_per_epoch=2"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from heliostat.ingest import prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield prepare(load("sentiment/tiny"))


def test_the_work_is_what_the_plan_of_batches_holds(prepared: Any) -> None:
    from heliostat.data.plan import BatchPlan

    run = load("sentiment/tiny", TINY)
    work, train = work_of(run, prepared), prepared.shards("train")
    plan = BatchPlan(train.lengths, tokens_per_batch=512, seed=run.train.seed)
    counts = [plan.num_batches(epoch) for epoch in range(3)]
    assert work.steps == counts[0] + counts[1] + round(counts[2] / 2)
    assert work.validations == 2 + 2 + 1
    assert work.examples == len(train)
    assert work.tokens == pytest.approx(2.5 * train.lengths.sum(), rel=0.02)
    assert work.longest == train.lengths.max()


@pytest.mark.parametrize(
    ("optimizer", "per_matrix"), [("adamw", 8), ("{type: sgd, momentum: 0}", 0), ("sgd", 4), ("rmsprop", 4)]
)
def test_the_optimiser_keeps_what_its_state_holds(prepared: Any, optimizer: str, per_matrix: int) -> None:
    footprint = footprint_of(load("sentiment/tiny", [f"train.optimizer={optimizer}"]), prepared)
    assert footprint.optimizer_bytes == per_matrix * footprint.trained


def test_operations_are_six_a_weight_and_token_and_those_of_attention(prepared: Any) -> None:
    from heliostat.model import build_model

    run = load("sentiment/tiny", ["train.precision=fp32"])
    footprint, parts = footprint_of(run, prepared), prepared.parts(run)
    model = build_model(parts.encoder, parts.head)
    matrices = sum(
        each.numel() for name, each in model.encoder.named_parameters() if each.ndim == 2 and "embeddings" not in name
    )
    assert 6 * matrices * 0.9 < footprint.flops < 6 * matrices * 1.6
    assert footprint.total == sum(each.numel() for each in model.parameters())
    assert 0 < footprint.layer_kept_bytes < footprint.kept_bytes
    assert footprint.num_layers > 1
    assert footprint.outside_layers + footprint.num_layers * footprint.largest_layer == footprint.total
    halves = footprint_of(load("sentiment/tiny"), prepared)
    assert halves.kept_bytes < footprint.kept_bytes, "bf16 keeps less"


@pytest.fixture
def footprint() -> Footprint:
    """Of a model of 100 million numbers in 12 layers."""
    return Footprint(
        encoder=Parameters(100_000_000, 100_000_000),
        head=Parameters(0, 0),
        optimizer_bytes=800_000_000,
        average_bytes=0,
        kept_bytes=400_000.0,
        layer_kept_bytes=360_000.0,
        layer_input_bytes=20_000.0,
        num_layers=12,
        largest_layer=7_000_000,
        outside_layers=16_000_000,
        flops=6e8,
    )


def run_of(*overrides: str, micro: int = 8192) -> Run:
    fixed = ["train.tokens_per_batch=8192", f"train.tokens_per_micro_batch={micro}"]
    return load("sentiment/pretrained", [*fixed, *overrides])


def test_the_memory_of_a_worker_adds_up(footprint: Footprint) -> None:
    run = run_of()
    alone = memory_of(run, footprint, workers=1, strategy="ddp", on_gpu=False)
    assert alone[:4] == (400_000_000, 400_000_000, 800_000_000, 0)
    assert alone.staged == 1_200_000_000
    assert alone.total == sum(alone)
    shared = memory_of(run, footprint, workers=4, strategy="ddp", on_gpu=True)
    assert shared[:3] == alone[:3], "each of several workers holds all of it"
    assert shared.staged == 0, "on a GPU a checkpoint waits in the memory of the host"
    assert shared.activations == pytest.approx(alone.activations / 4)
    sharded = memory_of(run, footprint, workers=4, strategy="fsdp", on_gpu=True)
    assert sharded[:3] == tuple(each // 4 for each in alone[:3])
    assert sharded.gathered == 2 * 2 * 30_000_000
    again = memory_of(run_of("train.activation_checkpointing=true"), footprint, workers=1, strategy="ddp", on_gpu=False)
    assert again.activations == pytest.approx(alone.activations * (40 + 20 + 30) / 400)


def test_a_pass_is_a_share_of_the_batch_a_micro_batch_or_the_longest_example() -> None:
    assert tokens_at_once(run_of(), 1) == 8192
    assert tokens_at_once(run_of(), 4) == 2048
    assert tokens_at_once(run_of(micro=512), 4) == 512
    assert tokens_at_once(run_of(micro=512), 4, longest=700) == 700


def machine(gpus: int, gpu_memory_gb: float) -> Machine:
    values = {"cpus": 8, "memory_gb": 64, "tflops": 100, "efficiency": 0.3, "name": "m"}
    return Machine.model_validate({**values, "gpus": gpus, "gpu_memory_gb": gpu_memory_gb})


def test_the_smallest_change_that_makes_room_comes_first(footprint: Footprint) -> None:
    """Smaller passes leave the result alone; an adapter, which trains something else, comes last."""
    lora = footprint._replace(encoder=footprint.encoder._replace(trained=300_000), optimizer_bytes=2_400_000)
    found = [
        smallest_change(run_of(), footprint, lora, machine(1, size), 128) for size in (8.0, 6.0, 2.9, 2.6, 1.5, 0.9)
    ]
    assert [dict(each.changes) for each in found[:2]] == [{}, {"train.tokens_per_micro_batch": 4096}]
    assert found[2].changes == {"train.tokens_per_micro_batch": 512}
    assert found[3].changes == {"train.activation_checkpointing": True, "train.tokens_per_micro_batch": 256}
    assert found[4].changes["scaling.strategy"] == "fsdp"
    assert found[4].machines == found[4].workers >= 2
    assert not found[5].fits
    assert all(each.fits for each in found[:5])


def test_an_adapter_is_proposed_where_shards_are_none(footprint: Footprint) -> None:
    lora = footprint._replace(encoder=footprint.encoder._replace(trained=300_000), optimizer_bytes=2_400_000)
    small = machine(0, 1.0).model_copy(update={"gpu_memory_gb": None, "memory_gb": (2.0e9 + PROCESS_BYTES) / 0.9e9})
    found = smallest_change(run_of(), footprint, lora, small, 128)
    assert found.changes["encoder.adapter"] == {"type": "lora"}
    assert smallest_change(run_of(), footprint, None, small, 128).fits is False


def test_an_exchange_takes_twice_the_bytes_through_the_slowest_wire() -> None:
    eight = machine(8, 80.0).model_copy(update={"link_gb_s": 100.0, "network_gbit_s": 80.0})
    assert exchange_s(1e9, 1, eight, 1) == 0.0
    assert exchange_s(1e9, 8, eight, 1) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9)
    assert exchange_s(1e9, 16, eight, 2) == pytest.approx(2 * 15 / 16 * 1e9 / 10e9)


def test_a_probe_carries_on_what_it_saw() -> None:
    steps = (3.0, 1.2, 1.1, 1.0, 1.0, *[1.0] * 13, 0.1, 9.0)
    found = Probe(1, 1, "cpu", 0.5, steps, (100.0,) * 20, (2.0, 1.0), (0.3, 0.2), 0.1, 400, 10_000)
    assert found.steady_s == 1.0, "the fastest and the slowest tenth count for nothing"
    assert found.tokens_per_s == 100.0
    told = sum(steps) + 80 + (2 + 1 + 1) + (0.3 + 0.2 + 0.2)
    assert found.seconds(100, 3) == pytest.approx(0.5 + told + 0.1)
    assert found._replace(num_workers=2).seconds(100, 3) == pytest.approx(0.5 + 1.05 * told + 0.1)
    assert found.seconds(2, 1) == pytest.approx(0.5 + 4.2 + 2 + 0.3 + 0.1)
    grown = found._replace(step_bytes=tuple(round(1000 * math.sqrt(number)) for number in range(1, 21)))
    assert grown.most_bytes(20) == 10_000
    assert grown.most_bytes(400) == pytest.approx(10_000 + 1000 * (20 - math.sqrt(20)), abs=5)


def test_the_table_of_machines_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    found = read_machines(ROOT / "cluster" / "machines.yaml")
    assert len(found) >= 8
    assert {each.gpus for each in found} >= {0, 1, 8}
    path = tmp_path / "machines.yaml"
    path.write_text("machines: {a: {cpus: 4, memory_gb: 8, tflops: 1, efficency: 0.2}}")
    with pytest.raises(RunError, match=r"a\.efficency: no such setting\. Did you mean 'efficiency'\?"):
        read_machines(path)
    path.write_text("machines: {a: {cpus: 4, memory_gb: 8, tflops: 1, efficiency: 0.2, gpus: 2}}")
    with pytest.raises(RunError, match=r"a\.gpu_memory_gb: is needed where there are gpus"):
        read_machines(path)
    path.write_text("a: {cpus: 4}")
    with pytest.raises(RunError, match="holds one key, 'machines'"):
        read_machines(path)
    with pytest.raises(RunError, match=r"nowhere\.yaml: cannot be read"):
        read_machines(tmp_path / "nowhere.yaml")


def test_the_command_probes_and_prints_what_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from heliostat.cli import _build

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    words = ["plan", "sentiment/tiny", "train.epochs=4", "--on", str(ROOT / "cluster" / "machines.yaml")]
    done = CliRunner().invoke(_build(), [*words, "--probe", "--json"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    told = json.loads(done.stdout)
    here = told["machines"][0]
    assert here["is_measured"]
    assert here["seconds"] > 0
    assert len(told["probe"]["step_s"]) == min(20, told["work"]["steps"])
    assert told["probe"]["peak_bytes"] > 10e6
    assert told["recommended"]["usd"] > 0, "a machine that has a price"
    assert list(tmp_path.glob("runs/*")) == [], "the probe leaves nothing behind"
    plain = CliRunner().invoke(_build(), words)
    assert plain.exit_code == 0
    for word in (
        "Parameters",
        "Memory of a worker",
        "optimiser",
        "fsdp on 8",
        "aws-g6.2xlarge",
        "scaling: {num_workers: 1",
    ):
        assert word in plain.stdout


def test_the_simulation_of_two_workers_is_its_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    import scale

    free = scale.Costs(1e-3, 0.0, 0.0, gradient_bytes=1e6, latency_s=0.0, bytes_per_s=1e18)
    assert scale.two_workers(free, 1000) == pytest.approx((1000.0, 2000.0))
    slow = free._replace(bytes_per_s=1e7, update_s=0.1, beside=1.2, uneven=1.1)
    one, two = scale.two_workers(slow, 1000)
    assert one == pytest.approx(1000 / 1.1)
    assert two == pytest.approx(1000 / (500 * 1.1 * 1e-3 * 1.2 + 0.1 + 0.1))
    for network in scale.NETWORK.values():
        shares = [scale.gpus(slow, world, network)[1] for world in (8, 64, 1024)]
        assert shares == sorted(shares, reverse=True)
        assert 0 < shares[-1] < 1
    for name in ("scale", "measure", "rounds"):
        sys.modules.pop(name, None)
