"""Search spaces: how they are written, what they refuse, and that each point is a run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from heliostat.errors import RunError
from heliostat.run import check
from heliostat.run.domains import Choice, Condition, Range, dimension, is_domain
from heliostat.tune.plan import planned
from heliostat.tune.space import Space

RUN: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv"},
    "encoder": {"type": "core.text", "preset": "tiny"},
    "head": "core.classification",
}


def space(**written: Any) -> Space:
    return Space.of(RUN, [dimension(key.replace("__", "."), each) for key, each in written.items()])


def mistakes(**written: Any) -> dict[str, str]:
    with pytest.raises(RunError) as caught:
        space(**written)
    return {problem.key: problem.rule for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("written", "domain"),
    [
        ("log(1e-5,1e-2)", Range(1e-5, 1e-2, None, True)),
        ("uniform(0, 0.3)", Range(0, 0.3)),
        ("quniform(0,0.3,0.1)", Range(0, 0.3, 0.1)),
        ("int(2,8)", Range(2, 8, 1, False, True)),
        ("logint(8,512)", Range(8, 512, 1, True, True)),
        ("qint(2048,16384,2048)", Range(2048, 16384, 2048, False, True)),
        ("choice(mini, small)", Choice(("mini", "small"))),
        ("choice({type: lora, rank: 8}, null)", Choice(({"type": "lora", "rank": 8}, None))),
        ([1, 2], Choice((1, 2))),
    ],
)
def test_domains_read_as_they_are_written(written: Any, domain: Any) -> None:
    assert dimension("key", written).domain == domain


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("choise(a,b)", "Did you mean 'choice'?"),
        ("log(0,1)", "numbers above 0"),
        ("uniform(1,0)", "low <= high"),
        ("int(1,2.5)", "whole numbers"),
        ("qint(1,10,4)", "leads from 1 to 10"),
        ("uniform(1)", "2 numbers"),
        ("choice(a,a)", "twice"),
        (3, "takes a domain"),
        ("choice(a", "takes a domain"),
    ],
)
def test_a_domain_that_cannot_be_read_says_what_it_takes(written: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        dimension("key", written)


def test_a_condition_names_the_choices_under_which_a_setting_exists() -> None:
    assert dimension("a.b", "int(1,4) if encoder.preset=mini|small").condition == Condition(
        "encoder.preset", ("mini", "small")
    )
    assert is_domain("int(1,4) if encoder.preset=mini|small")
    assert is_domain("log(1e-5,1e-2")
    assert not is_domain("3e-4")
    assert not is_domain("notes (old).csv")


def test_all_mistakes_come_at_once_with_the_way_out() -> None:
    found = mistakes(
        train__lrr="log(1e-5,1e-2)",
        encoder__preset="choice(tiny,minni)",
        name="choice(a,b)",
        train__warmup="uniform(0,1)",
    )
    assert found["train.lrr"] == "no such setting. Did you mean 'lr'?"
    assert "found 'minni'" in found["encoder.preset"]
    assert found["name"] == "cannot be searched: it names the model in the store."
    assert "less than 1" in found["train.warmup"]


@pytest.mark.parametrize(
    "key", ["data.split.valid", "scaling.num_workers", "train.seed", "evaluate.resamples", "tune.seed"]
)
def test_what_cannot_vary_says_why(key: str) -> None:
    assert mistakes(**{key.replace(".", "__"): "int(1,2)"})[key].startswith("cannot be searched: it ")


def test_a_space_of_one_point_and_an_empty_one_are_refused() -> None:
    assert "one point" in mistakes(train__lr="choice(1e-3)")["tune.space"]
    assert "is empty" in mistakes()["tune.space"]


def test_points_that_make_no_run_are_named_with_the_condition_that_is_missing() -> None:
    found = mistakes(head__loss="choice(focal,cross_entropy)", head__gamma="uniform(1,3)")
    assert "has no effect beside loss: cross_entropy" in found["head"]
    assert "under a condition" in found["head"]


def test_a_conditional_setting_exists_only_under_its_choice() -> None:
    both = space(
        head__gamma="quniform(1,3,1) if head.loss=focal",
        head__loss="choice(focal,cross_entropy)",
        head__label_smoothing="choice(0.0,0.1) if head.loss=cross_entropy",
    )
    points = list(both.points())
    assert both.size() == len(points) == 5
    assert {"head.loss": "focal", "head.gamma": 2.0} in points
    assert {"head.loss": "cross_entropy", "head.label_smoothing": 0.1} in points
    assert all(both.run(point).name == "toy" for point in points)
    assert both.default(check(RUN)) == {"head.loss": "cross_entropy", "head.label_smoothing": 0.0}


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("head.los=focal", "Did you mean 'head.loss'?"),
        ("head.loss=focl", "which is no choice"),
        ("train.lr=1", "must then be a choice"),
        ("head.gamma=1", "only under itself"),
    ],
)
def test_a_condition_on_nothing_is_refused(condition: str, told: str) -> None:
    gamma = "choice(1,2)" if condition.startswith("head.gamma") else "uniform(1,3)"
    found = mistakes(
        head__loss="choice(focal,cross_entropy)", train__lr="log(1e-4,1e-2)", head__gamma=f"{gamma} if {condition}"
    )
    assert told in found["head.gamma"]


def test_the_run_itself_is_a_point_where_it_lies_inside() -> None:
    inside = space(train__lr="log(1e-5,1e-2)", train__tokens_per_batch="qint(2048,16384,2048)")
    assert inside.default(check(RUN)) == {"train.lr": 5e-4, "train.tokens_per_batch": 8192}
    assert space(train__lr="log(1e-3,1e-2)").default(check(RUN)) is None


def test_a_plan_takes_the_space_of_the_file_or_of_the_head() -> None:
    assert "train.lr" in {each.key for each in planned(RUN).space.dimensions}
    plan = planned({**RUN, "tune": {"space": {"head.dropout": [0.0, 0.1]}, "search": "grid"}})
    assert [each.key for each in plan.space.dimensions] == ["head.dropout"]
    assert plan.total == 2
    assert (plan.run.train.trackers, plan.run.scaling.num_workers) == ((), 1)


def test_a_grid_over_endless_values_is_refused() -> None:
    with pytest.raises(RunError, match=r"train\.lr: has no countable values"):
        planned({**RUN, "tune": {"space": {"train.lr": "log(1e-5,1e-2)"}, "search": "grid"}})
    with pytest.raises(RunError, match=r"tune\.search: a grid of more than 20,000 points"):
        planned({**RUN, "tune": {"space": {"train.tokens_per_batch": "int(1000,99000)"}, "search": "grid"}})


def test_a_space_that_cannot_be_read_is_a_mistake_of_the_run() -> None:
    with pytest.raises(RunError, match=r"tune.*there is no domain 'lg'"):
        check({**RUN, "tune": {"space": {"train.lr": "lg(1,2)"}}})
