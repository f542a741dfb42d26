"""The pure parts of the training engine: schedule, policy, timetable, average, optimiser state, truth, journal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from heliostat.data.plan import BatchPlan
from heliostat.errors import TrainError
from heliostat.run.settings import TrainSettings
from heliostat.train.ema import MovingAverage
from heliostat.train.journal import Journal
from heliostat.train.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from heliostat.train.policy import (
    MAX_LEFT_OUT,
    MAX_ROLLBACKS,
    Continue,
    LeaveOut,
    RollBack,
    Stop,
    Validation,
    after_nan,
    after_validation,
    best,
)
from heliostat.train.progress import Position, Timetable
from heliostat.train.schedule import lr_factor
from heliostat.train.staging import Staging
from heliostat.train.truth import Seen, check_truth, checksum, odd_ranks
from heliostat.train.worker import LocalWorker


@given(st.floats(0, 1), st.floats(0, 0.9), st.sampled_from(["constant", "linear", "cosine", "wsd"]))
def test_lr_factor_stays_between_zero_and_one(progress: float, warmup: float, schedule: str) -> None:
    assert 0.0 <= lr_factor(progress, warmup=warmup, schedule=schedule) <= 1.0


def test_lr_rises_then_falls() -> None:
    at = [lr_factor(p, warmup=0.2, schedule="linear") for p in (0.1, 0.2, 0.6, 1.0)]
    assert at == pytest.approx([0.5, 1.0, 0.5, 0.0])
    assert lr_factor(0.6, warmup=0.2, schedule="cosine") == pytest.approx(0.5)
    assert lr_factor(1.0, warmup=0.2, schedule="constant") == 1.0


def test_wsd_stays_at_the_peak_and_falls_at_the_end() -> None:
    at = [lr_factor(p, warmup=0.1, schedule="wsd", decay=0.4) for p in (0.05, 0.1, 0.59, 0.7, 1.0)]
    assert at == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])
    assert lr_factor(0.79, warmup=0.0, schedule="wsd") == 1.0
    assert lr_factor(0.9, warmup=0.0, schedule="wsd") < 1.0


def test_policy_stops_when_nothing_gets_better() -> None:
    history = [Validation(1, 0.5), Validation(2, 0.7), Validation(3, 0.6), Validation(4, 0.7)]
    assert best(history) == Validation(2, 0.7)
    assert after_validation(history, patience=None) == Continue()
    assert after_validation(history[:3], patience=2) == Continue()
    decision = after_validation(history, patience=2)
    assert isinstance(decision, Stop)
    assert "0.7000 at step 2" in decision.reason


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    history = [Validation(1, math.nan), Validation(2, 0.5), Validation(3, math.nan)]
    assert best(history) == Validation(2, 0.5)
    assert after_validation(history, patience=2) == Continue()


def test_policy_of_a_gradient_that_is_not_finite() -> None:
    assert isinstance(after_nan("stop", set(), 5, 0), Stop)
    assert after_nan("skip", {1, 2}, 5, 0) == LeaveOut()
    assert isinstance(after_nan("skip", set(range(100)), 100, 0), Stop)
    assert after_nan("skip", set(range(100 - MAX_LEFT_OUT + 2, 100)), 100, 0) == LeaveOut()
    assert after_nan("rollback", set(), 5, MAX_ROLLBACKS - 1) == RollBack()
    assert isinstance(after_nan("rollback", set(), 5, MAX_ROLLBACKS), Stop)


def _walk(timetable: Timetable) -> list[Position]:
    positions = [Position(0, 0, 0)]
    while positions[-1].step < timetable.num_steps:
        positions.append(timetable.next(positions[-1]))
    return positions


def test_timetable_covers_fractions_of_epochs_and_max_steps() -> None:
    plan = BatchPlan(np.full(100, 10, np.int32), tokens_per_batch=100, seed=1)
    half = Timetable.of(TrainSettings(epochs=1.5), plan)
    assert half.steps_of_epoch == (10, 10)
    assert half.num_steps == 15
    assert Timetable.of(TrainSettings(epochs=3, max_steps=7), plan).num_steps == 7
    assert _walk(half)[10] == Position(10, 1, 0)


def test_timetable_validates_at_even_shares_and_at_the_end() -> None:
    plan = BatchPlan(np.full(100, 10, np.int32), tokens_per_batch=100, seed=1)
    timetable = Timetable.of(
        TrainSettings(epochs=1.5, evaluations_per_epoch=2, checkpoint_every=4, check_every=None), plan
    )
    walk = _walk(timetable)
    assert [after.step for after in walk[1:] if timetable.validates(after)] == [5, 10, 15]
    assert [after.step for after in walk[1:] if timetable.checkpoints(after)] == [4, 8, 12]
    assert not any(timetable.proves(after) for after in walk)
    proven = Timetable.of(TrainSettings(epochs=1.5, check_every=4), plan)
    assert [after.step for after in walk[1:] if proven.proves(after)] == [1, 4, 8, 10, 12, 15]
    assert not any(Timetable.of(TrainSettings(check_every=None), plan).proves(after) for after in walk)


def test_progress_is_strictly_inside_the_schedule() -> None:
    plan = BatchPlan(np.full(20, 10, np.int32), tokens_per_batch=100, seed=1)
    timetable = Timetable.of(TrainSettings(epochs=1), plan)
    shares = [timetable.progress(position) for position in _walk(timetable)[:-1]]
    assert shares == [0.25, 0.75]


def test_average_swaps_in_and_out_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    average = MovingAverage(model, decay=0.9)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(model, step=1000)
    raw = model.weight.detach().clone()
    with average.in_place(model):
        assert torch.allclose(model.weight, before + 0.1)
    assert torch.equal(model.weight, raw)


def test_optimizer_state_goes_out_and_back() -> None:
    torch.manual_seed(0)
    twins = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2)]
    twins[1].load_state_dict(twins[0].state_dict())
    first = build_optimizer(twins[0], TrainSettings())
    inputs = torch.randn(8, 4)
    for _ in range(3):
        twins[0](inputs).square().sum().backward()
        first.step()
        first.zero_grad()
    second = build_optimizer(twins[1], TrainSettings())
    twins[1].load_state_dict(twins[0].state_dict())
    load_optimizer_tensors(second, twins[1], optimizer_tensors(first, twins[0]))
    for model, optimizer in zip(twins, (first, second), strict=True):
        model(inputs).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(twins[0].parameters(), twins[1].parameters(), strict=True))


def test_a_staged_copy_stays_as_it_is_until_the_next_one_takes_its_memory() -> None:
    staging, weight = Staging(), torch.arange(6.0)
    first = staging.copy("weight", weight)
    weight += 1.0
    assert first.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert staging.copy("other", weight).data_ptr() != first.data_ptr()
    second = staging.copy("weight", weight)
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second, weight)
    assert staging.copy("weight", weight[:2]).shape == (2,)


def test_only_matrices_decay() -> None:
    optimizer = build_optimizer(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), TrainSettings(weight_decay=0.1))
    decays = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {(4, 4): 0.1, (4,): 0.0}


class _Strays(LocalWorker):
    """A worker whose two neighbours answer with other weights."""

    world_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.world_size = 3

    def gather(self, value: float) -> list[float]:
        return [value, value, value + 1]


def test_truth_names_the_rank_that_drifted() -> None:
    model = nn.Linear(3, 3)
    check_truth(LocalWorker(), model, Seen(), step=1)
    with pytest.raises(
        TrainError, match=r"after step 5 the weights of rank 2 differ from those of rank 0, first in 'w"
    ):
        check_truth(_Strays(), model, Seen(), step=5)


def test_the_odd_ranks_are_those_outside_the_majority() -> None:
    assert odd_ranks([1.0, 1.0, 1.0]) == []
    assert odd_ranks([2.0, 1.0, 1.0]) == [0]
    assert odd_ranks([1.0, 2.0]) == [1]


def test_truth_misses_no_example_and_sees_one_that_came_twice() -> None:
    ids = np.array([3, 2**63 + 5, 9], np.uint64)
    model, seen = nn.Linear(3, 3), Seen()
    seen.expect(ids)
    seen.add(ids[:1])
    seen.add(ids[1:])
    check_truth(LocalWorker(), model, seen, step=1)
    seen.expect(ids)
    seen.add(ids[:2])
    with pytest.raises(TrainError, match=r"saw 2 examples instead of the 3 of the plan .* \(rank 0 2\)"):
        check_truth(LocalWorker(), model, seen, step=2)
    seen.expect(ids)
    seen.add(ids[[0, 0, 1]])
    with pytest.raises(TrainError, match=r"saw other examples than the 3 of the plan"):
        check_truth(LocalWorker(), model, seen, step=3)


def test_checksum_sees_one_changed_bit() -> None:
    model = nn.Linear(300, 30)
    before = checksum(model)
    with torch.no_grad():
        model.weight[7, 11] = torch.nextafter(model.weight[7, 11], torch.tensor(math.inf))
    assert checksum(model) != before


def test_journal_drops_rows_beyond_the_step_it_goes_on_from(tmp_path: Path) -> None:
    journal = Journal(tmp_path, is_writer=True)
    journal.open(0)
    for step in (1, 2, 3):
        journal.write({"step": step, "epoch": 0, "loss": 1.0 / step})
    journal.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the process died here
    again = Journal(tmp_path, is_writer=True)
    again.open(2)
    again.write({"step": 3, "epoch": 0, "loss": 0.25})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.25)]
