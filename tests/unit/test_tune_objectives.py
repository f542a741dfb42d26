"""Several objectives: what is refused, which trials no other beats, who is proposed next, what a domain reaches to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from heliostat.errors import RunError
from heliostat.heads.classification import Classification
from heliostat.run import TuneSettings, check
from heliostat.run.domains import dimension
from heliostat.train.policy import Continue
from heliostat.tune.objectives import aims_of, check_objectives, chosen, front, kept
from heliostat.tune.plan import planned
from heliostat.tune.records import Aim, Point, State, Trial
from heliostat.tune.space import Space
from heliostat.tune.study import Study

AIMS = (Aim("macro_f1"), Aim("latency_ms", is_error=True))
ONE = AIMS[:1]
RUN: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv"},
    "encoder": {"type": "core.text", "preset": "tiny"},
    "head": "core.classification",
}


def trial(
    number: int, score: float, latency: float | None, state: State = "finished", *, default: bool = False
) -> Trial:
    costs = {} if latency is None else {"latency_ms": latency}
    curve, scores = (Point(1.0, 1.0, 5, score),), {"valid/macro_f1": score}
    return Trial(number, {}, state, is_default=default, curve=curve, scores=scores, costs=costs)


def refusal(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        TuneSettings.model_validate(settings)
    return str(caught.value)


def test_several_metrics_stop_no_trial_early() -> None:
    assert TuneSettings.model_validate({"metric": ["macro_f1", "size_mb"]}).scheduler == "fifo"
    assert TuneSettings.model_validate({"metric": ["macro_f1"]}).scheduler == "asha"
    assert TuneSettings.model_validate({"metric": "macro_f1"}).metrics == ("macro_f1",)
    assert "scheduler: asha compares by one score" in refusal(metric=["macro_f1", "size_mb"], scheduler="asha")


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("latency_ms", "Put a validation score first, as metric: [macro_f1, latency_ms]"),
        (["size_mb", "macro_f1"], "Put a validation score first"),
        (["macro_f1", "macro_f1"], "names macro_f1 twice"),
        ([], "names nothing"),
    ],
)
def test_metrics_that_cannot_be_compared_by_are_refused(metric: Any, told: str) -> None:
    assert told in refusal(metric=metric)


def test_a_metric_that_nobody_reports_is_refused_with_those_there_are() -> None:
    scores = ["loss", "accuracy", "macro_f1"]
    check_objectives(("macro_f1", "latency_ms", "accuracy"), scores)
    with pytest.raises(RunError, match=r"'latency', which nobody reports\. Did you mean 'latency_ms'"):
        check_objectives(("macro_f1", "latency"), scores)


def test_the_front_holds_whom_no_other_beats_and_the_knee_is_near_the_best_of_each() -> None:
    slow, fast, middle = trial(0, 0.9, 10.0, default=True), trial(1, 0.5, 1.0), trial(2, 0.85, 2.0)
    beaten, unknown = trial(3, 0.8, 3.0), trial(4, 0.99, None)
    like_middle, failed = trial(5, 0.85, 2.0), trial(6, 0.99, 0.1, "failed")
    trials = [slow, fast, middle, beaten, unknown, like_middle, failed]
    assert front(trials, AIMS) == [slow, middle, fast]
    assert chosen(trials, AIMS) == middle
    assert chosen([beaten, slow], ONE) == slow
    assert chosen([failed], AIMS) is None
    assert kept(trials, AIMS) == {0, 1, 2}
    assert kept([slow, trial(7, 0.95, None)], ONE) == {0, 7}, "the run as it stood is set beside the best"


def test_a_loss_and_a_cost_are_better_when_they_are_less() -> None:
    settings = TuneSettings.model_validate({"metric": ["loss", "size_mb", "accuracy"]})
    aims = aims_of("loss", settings, Classification().is_error)
    assert [aim.is_error for aim in aims] == [True, True, False]
    assert "refit trains with one choice" in refusal(scheduler="pbt", refit=True)


def test_tpe_over_two_objectives_proposes_and_stops_nobody() -> None:
    space = Space.of(RUN, [dimension("train.lr", "log(1e-5,1e-1)"), dimension("head.dropout", "choice(0.0,0.1)")])
    study = Study(space, TuneSettings.model_validate({"metric": ["macro_f1", "latency_ms"]}), epochs=3.0, aims=AIMS)
    for number in range(14):
        values = study.propose()
        assert values is not None
        study.begin(number, values)
        assert study.judge(number, Point(0.3, 0.1, 1, -float(number))) == Continue()
        study.end(trial(number, values["train.lr"], 1.0 + number, "failed" if number == 3 else "finished"))
    assert len(study.behind.best_trials) >= 1


@pytest.mark.parametrize(
    ("written", "value", "reaches"),
    [
        ("log(1e-4,1e-2)", 5e-2, "log(0.0001,0.05)"),
        ("choice(1024,2048)", 76800, "choice(1024,2048,76800)"),
        ("quniform(0,0.3,0.1)", 0.4, "quniform(0,0.4,0.1)"),
        ("quniform(0,0.3,0.1)", 0.05, "uniform(0,0.3)"),
        ("int(2,6)", 8.0, "int(2,8)"),
        ("int(2,6) if a.b=x|y", 3.0, "int(2,6) if a.b=x|y"),
        ("log(1e-4,1e-2)", None, "log(0.0001,0.01)"),
        ("log(1e-4,1e-2)", 0.0, "log(0.0001,0.01)"),
    ],
)
def test_a_declared_domain_reaches_to_what_the_run_says(written: str, value: Any, reaches: str) -> None:
    assert str(dimension("key", written).widened(value)) == reaches
    assert dimension("key", reaches) == dimension("key", str(dimension("key", reaches)))


def test_the_run_itself_is_found_in_a_choice_that_spells_it_otherwise() -> None:
    space = Space.of(
        RUN,
        [dimension("train.optimizer", "choice({type: muon, lr: 0.02},adamw)"), dimension("train.epochs", "int(1,4)")],
    )
    assert space.default(check(RUN)) == {"train.optimizer": "adamw", "train.epochs": 3}
    far = planned({**RUN, "train": {"lr": 0.2, "tokens_per_batch": 999}})
    assert far.space.default(far.run), "a declared space reaches to the run"
