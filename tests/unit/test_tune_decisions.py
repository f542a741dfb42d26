"""What a sweep decides, on plain values: who is proposed, who is stopped, what is refused, what goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import RunError, TrainError
from heliostat.run import TuneSettings, check
from heliostat.run.domains import dimension
from heliostat.train.policy import Continue, Stop
from heliostat.tune.policy import hopeless, leader, seconds_left
from heliostat.tune.preflight import (
    Machines,
    Places,
    check_metric,
    check_shapes,
    fitting,
    heaviest,
    largest,
    places,
)
from heliostat.tune.records import Point, State, SweepFolder, Trial
from heliostat.tune.space import Space, Values
from heliostat.tune.study import Study
from heliostat.tune.trials import Rehearsal, Weight

RUN: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv"},
    "encoder": {"type": "core.text", "preset": "tiny"},
    "head": "core.classification",
}
SPACE = Space.of(RUN, [dimension("train.lr", "log(1e-5,1e-1)"), dimension("head.dropout", "choice(0.0,0.1)")])
PARTS = 9


def study(scheduler: str = "asha", search: str = "tpe", space: Space = SPACE) -> Study:
    return Study(space, TuneSettings.model_validate({"scheduler": scheduler, "search": search}), epochs=3.0)


def trained(study: Study, number: int, values: Values, quality: float) -> Trial:
    """A trial whose score is its quality times the share of it that is done."""
    trial = Trial(number, values)
    study.begin(number, values)
    for part in range(1, PARTS + 1):
        point = Point(3.0 * part / PARTS, part / PARTS, part, quality * part / PARTS)
        trial = trial.with_point(point, {"valid/x": point.score})
        if isinstance(study.judge(number, point), Stop) and part < PARTS:
            trial = replace(trial, state="stopped")
            break
    else:
        trial = replace(trial, state="finished")
    study.end(trial)
    return trial


def swept(study: Study, quality: Callable[[Values], float], num_trials: int) -> list[Trial]:
    trials = []
    for number in range(num_trials):
        values = study.propose()
        assert values is not None
        trials.append(trained(study, number, values, quality(values)))
    return trials


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_scheduler_stops_most_of_the_bad_trials_early(scheduler: str) -> None:
    judge = study(scheduler, "random")
    good = [trained(judge, number, {"train.lr": 1e-2 + number / 1000, "head.dropout": 0.0}, 1.0) for number in range(6)]
    bad = [
        trained(judge, 6 + number, {"train.lr": 1e-5 * (2 + number), "head.dropout": 0.0}, 0.1) for number in range(16)
    ]
    early = [trial for trial in bad if trial.state == "stopped" and trial.curve[-1].progress <= 0.5]
    assert len(early) >= 8
    assert good[0].state == "finished"


def test_fifo_stops_nobody() -> None:
    trials = swept(study("fifo", "random"), lambda values: values["train.lr"], 12)
    assert {trial.state for trial in trials} == {"finished"}


def test_tpe_finds_a_better_place_than_it_began_with() -> None:
    def quality(values: Values) -> float:
        import math

        return 2.0 - abs(math.log10(values["train.lr"]) + 3.0)

    trials = swept(study("fifo"), quality, 40)
    first, last = trials[:10], trials[-10:]
    assert sum(quality(dict(t.values)) for t in last) > sum(quality(dict(t.values)) for t in first)


@pytest.mark.parametrize("search", ["tpe", "random", "sobol"])
def test_no_point_comes_twice_and_the_last_is_followed_by_none(search: str) -> None:
    few = Space.of(RUN, [dimension("head.dropout", "choice(0.0,0.1,0.2)")])
    seeker, seen = study("fifo", search, few), []
    for number in range(3):
        values = seeker.propose()
        assert values is not None
        seen.append(values["head.dropout"])
        trained(seeker, number, values, 1.0)
    assert sorted(seen) == [0.0, 0.1, 0.2]
    assert seeker.propose() is None


def test_a_grid_gives_each_point_once() -> None:
    few = Space.of(RUN, [dimension("head.dropout", "choice(0.0,0.1)"), dimension("train.epochs", "int(1,3)")])
    seeker = study("fifo", "grid", few)
    points = [seeker.propose() for _ in range(7)]
    assert points[6] is None
    assert len({str(point) for point in points[:6]}) == 6


def test_a_driver_that_goes_on_knows_what_the_first_one_knew() -> None:
    first = study("asha", "random")
    trials = [
        trained(first, number, {"train.lr": 1e-2 + number / 1e4, "head.dropout": 0.0}, 1.0) for number in range(4)
    ]
    under_way = Trial(4, {"train.lr": 1e-4, "head.dropout": 0.0})
    second = study("asha", "random")
    for trial in [*trials, under_way]:
        second.replay(trial)
    assert isinstance(second.judge(4, Point(1 / 3, 1 / 9, 1, 0.01)), Stop)
    assert second.propose() not in [trial.values for trial in trials]


def ended(number: int, state: State, reason: str = "", score: float | None = None) -> Trial:
    curve = () if score is None else (Point(1.0, 1.0, 5, score),)
    return Trial(number, {}, state, curve=curve, reason=reason, seconds=10.0)


def test_the_best_is_one_that_was_finished() -> None:
    trials = [ended(0, "finished", score=0.5), ended(1, "stopped", score=0.9), ended(2, "failed", score=0.99)]
    assert leader(trials) == trials[0]
    assert leader(trials[1:]) == trials[1]
    assert leader(trials[2:]) is None


def test_one_error_in_every_first_trial_ends_the_sweep_and_another_does_not() -> None:
    same = [ended(0, "failed", "ValueError: 17 is bad"), ended(1, "failed", "ValueError: 4.5e-3 is bad")]
    assert hopeless(same, 2, 8) == "ValueError: 17 is bad"
    assert hopeless(same[:1], 1, 8) == ""
    assert hopeless(same[:1], 1, 1) == "ValueError: 17 is bad"
    assert hopeless([same[0], ended(1, "failed", "KeyError: 'x'")], 2, 8) == ""
    assert hopeless([*same, ended(2, "finished", score=0.1)], 2, 8) == ""


def test_time_left_is_that_of_the_trials_so_far() -> None:
    assert seconds_left([Trial(0, {})], 8, 2, 0.0) is None
    assert seconds_left([ended(0, "finished"), ended(1, "stopped")], 8, 2, 6.0) == pytest.approx(27.0)


def here(cores: int) -> Machines:
    return Machines((cores,), free=cores)


def test_more_trials_than_cores_are_refused_with_the_numbers() -> None:
    settings = TuneSettings(concurrent=4)
    with pytest.raises(RunError, match=r"tune\.concurrent: is 4, and 4 cores hold 2 trials of 2 threads each"):
        places(settings, 1, 2, here(4))
    with pytest.raises(RunError, match=r"threads_per_worker: is 8 and there are 4 cores"):
        places(settings, 1, 8, here(4))
    assert places(settings, 1, None, here(8)) == Places(4, 1, 2)
    assert places(TuneSettings(), 1, None, here(8)) == Places(8, 1, 1)
    assert places(TuneSettings(trials=2), 1, None, here(8)) == Places(2, 1, 4)


def test_trials_of_several_workers_never_want_more_cores_than_there_are() -> None:
    assert places(TuneSettings(), 2, None, here(8)) == Places(4, 2, 1)
    assert places(TuneSettings(trials=2), 2, None, here(8)) == Places(2, 2, 2)
    assert places(TuneSettings(), 2, 2, here(7)) == Places(1, 2, 2)
    with pytest.raises(RunError, match=r"num_workers: is 4, and 4 cores hold 2 workers of 2 threads: .* Set it to 2"):
        places(TuneSettings(), 4, 2, here(4))
    with pytest.raises(RunError, match=r"concurrent: is 3, and 4 cores hold 2 trials of 2 workers of 1 thread\. Set"):
        places(TuneSettings(concurrent=3), 2, None, here(4))


def test_a_cluster_is_counted_by_machines_and_by_what_is_free() -> None:
    cluster = Machines((4, 4, 2), free=10, is_cluster=True)
    assert places(TuneSettings(), 2, 4, cluster) == Places(1, 2, 4)
    with pytest.raises(RunError, match="is 3, and 10 cores on 3 machines of the cluster hold 2 workers of 4 threads"):
        places(TuneSettings(), 3, 4, cluster)
    busy = cluster._replace(free=3)
    assert places(TuneSettings(), 2, None, busy) == Places(1, 2, 1)
    with pytest.raises(TrainError, match=r"1 trial of 4 workers of 1 thread cannot begin: .* 3 are free now"):
        places(TuneSettings(), 4, None, busy)
    with pytest.raises(TrainError, match="3 trials of 2 workers"):
        places(TuneSettings(concurrent=3), 2, None, busy)
    gpus = Machines((8, 8), free=16, gpus=4, free_gpus=3, is_cluster=True)
    assert places(TuneSettings(), 2, None, gpus) == Places(1, 2, 8, on_gpus=True)


def test_more_trials_than_memory_are_refused_or_fewer_begin() -> None:
    seen = [Rehearsal(("loss",), 1000, 3.0, "cpu", 900.0, free_mb=1100.0)]
    assert fitting(4, False, seen) == 2
    assert fitting(2, True, seen) == 2
    assert fitting(4, False, seen, workers=2) == 1
    with pytest.raises(RunError, match=r"is 4, and a trial holds 900 MB .* 2,000 MB are free\. Set it to 2"):
        fitting(4, True, seen)
    with pytest.raises(RunError, match="Take a smaller model"):
        fitting(4, False, [seen[0]._replace(memory_mb=2900.0, free_mb=-2400.0)])


def test_memory_is_that_of_the_largest_trial_and_not_of_the_run_as_it_stands() -> None:
    seen = Rehearsal(("loss",), 1_000_000, 3.0, "cpu", 500.0, trained=1_000_000, free_mb=2500.0)
    weighed: list[tuple[str, Any, Weight | str]] = [
        ("encoder.preset", "tiny", Weight(1_000_000, 1_000_000, "a")),
        ("encoder.preset", "base", Weight(101_000_000, 101_000_000, "b")),
        ("encoder.layers", 99, "ValueError: too many"),
    ]
    assert heaviest(weighed) == {"encoder.preset": "base"}
    need = largest(seen, [({key: value}, weight) for key, value, weight in weighed])
    assert need.memory_mb == pytest.approx(500 + 1600)
    assert fitting(2, False, [seen], need) == 1
    with pytest.raises(RunError, match=r"the largest trial, at encoder\.preset=base, holds 2,100 MB"):
        fitting(2, True, [seen], need)
    assert largest(seen, []).at == {}


def test_settings_that_change_the_weights_are_refused_to_a_population() -> None:
    seen = Rehearsal(("loss",), 10, 3.0, "cpu", 5.0, shapes="a")
    same: list[tuple[str, Weight | str]] = [("head.dropout", Weight(10, 10, "a")), ("encoder.dim", "broken")]
    check_shapes(seen, same)
    with pytest.raises(RunError, match=r"encoder\.preset: cannot change .* decides which weights a model has"):
        check_shapes(seen, [*same, ("encoder.preset", Weight(20, 20, "b"))])


def test_a_score_that_the_head_does_not_report_is_refused() -> None:
    run = check({**RUN, "train": {"select": "macrof1"}})
    with pytest.raises(
        RunError, match=r"'macrof1', which core.classification does not report. Did you mean 'macro_f1'"
    ):
        check_metric(run, "macro_f1", ["loss", "accuracy", "macro_f1"])
    assert check_metric(check(RUN), "macro_f1", ["loss", "macro_f1"]) == "macro_f1"


def test_records_read_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    folder = SweepFolder.create("toy", {"values": RUN})
    trial = Trial(3, {"train.lr": 1e-3}).with_point(Point(1.0, 0.5, 4, 0.25), {"valid/loss": 0.5})
    folder.write(trial)
    again = SweepFolder.reopen(folder.id)
    assert again.read() == [trial]
    assert again.facts() == {"values": RUN}
    assert trial.with_point(Point(1.0, 0.5, 4, 0.3), {}).curve == (Point(1.0, 0.5, 4, 0.3),)
    assert SweepFolder.create("toy", {}, "slurm-7").id == "slurm-7"
    with pytest.raises(TrainError, match=r"the sweep 'slurm-7' exists\. Continue it with --resume slurm-7"):
        SweepFolder.create("toy", {}, "slurm-7")
    with pytest.raises(TrainError, match=r"'\.\./x' is no sweep id"):
        SweepFolder.create("toy", {}, "../x")
    with pytest.raises(TrainError, match=f"Did you mean '{folder.id}'"):
        SweepFolder.reopen(folder.id[:-1])
    (folder.folder / "trials" / "0003.json").write_text("{}")
    with pytest.raises(TrainError, match=r"0003\.json is damaged .* \(its name ends in -0003\): another trial"):
        again.read()


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    odd, fair = Trial(0, {}, "finished"), Trial(1, {}, "finished").with_point(Point(1.0, 1.0, 4, 0.5), {})
    odd = odd.with_point(Point(1.0, 0.5, 4, math.nan), {})
    assert leader([odd, fair]) == fair
    again = odd.with_point(Point(2.0, 1.0, 8, 0.25), {"valid/x": 0.25})
    assert again.best == Point(2.0, 1.0, 8, 0.25)
    assert again.scores == {"valid/x": 0.25}


def test_judging_a_trial_that_leads_lets_it_go_on() -> None:
    judge = study("asha", "random")
    trained(judge, 0, {"train.lr": 1e-3, "head.dropout": 0.0}, 0.5)
    judge.begin(1, {"train.lr": 1e-2, "head.dropout": 0.0})
    assert judge.judge(1, Point(1 / 3, 1 / 9, 1, 0.9)) == Continue()
