"""A run is checked whole: each value that cannot be is named, with the rule and the way out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from heliostat.errors import RunError
from heliostat.run import HashSplit, Run, build, check, load

VALUES: dict[str, Any] = {
    "name": "wine",
    "data": {"adapter": {"type": "wine.rows"}, "source": "reviews.csv"},
    "encoder": {"type": "wine.pooled"},
    "head": {"type": "wine.scores"},
}


def changed(**dotted: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    for key, value in dotted.items():
        *parents, last = key.split("__")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return values


def sentences(values: Any) -> dict[str, str]:
    with pytest.raises(RunError) as caught:
        check(values)
    return {problem.key: problem.rule for problem in caught.value.problems}


def test_a_run_is_read_with_the_defaults_of_its_classes(wine: Path) -> None:
    run = load("wine/default")
    assert (run.train.lr, run.train.epochs, run.head.settings.dropout) == (1e-3, 3.0, 0.2)  # type: ignore[attr-defined]
    assert isinstance(run.data.split, HashSplit)
    parts = build(run)
    assert parts.adapter.columns() == {"text": "text"}
    assert parts.head.config.dropout == 0.2


def test_all_mistakes_at_once_each_with_key_rule_and_way_out(wine: Path) -> None:
    found = sentences(
        {
            "name": "../wine",
            "data": {"adapter": "wine.row", "split": {"by": "tme"}},
            "encoder": "wine.rows",
            "head": {"type": "wine.scores", "dropuot": 0.1, "loss": "msse"},
            "train": {"lr": -1, "epohcs": 3, "optimizer": {"betas": [0.9]}, "clip_norm": float("inf")},
            "scaling": 2,
            "sclaing": {},
        }
    )
    assert found["name"].startswith("may hold lower-case letters")
    assert found["name"].endswith("found '../wine'.")
    assert found["data.adapter"] == "the plugin 'wine' has no adapter 'row'. Did you mean 'wine.rows'?"
    assert found["data.source"].startswith("is required and has no default. It holds: `path`")
    assert "hash, time, date, last, column, sequence. Did you mean 'time'?" in found["data.split"]
    assert found["encoder"].startswith("'wine.rows' is an adapter, and an encoder is needed here.")
    assert found["head.dropuot"] == "no such setting. Did you mean 'dropout'?"
    assert found["head.loss"] == "should be 'mse' or 'mae'; found 'msse'. Its default is 'mse'."
    assert found["train.lr"] == "should be greater than 0; found -1. Its default is 0.0005."
    assert found["train.epohcs"] == "no such setting. Did you mean 'epochs'?"
    assert found["train.optimizer.betas.1"] == "is missing."
    assert found["train.clip_norm"].startswith("should be a finite number; found inf.")
    assert found["scaling"] == "is a section with settings of its own (key: value); found 2."
    assert found["sclaing"] == "no such setting. Did you mean 'scaling'?"
    assert len(found) == 13


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__epochs", True),
        ("train__epochs", "3"),
        ("train__max_steps", True),
        ("train__max_steps", "1_0"),
        ("train__max_steps", 1.0),
        ("train__max_steps", 0),
        ("train__seed", -1),
        ("train__seed", 2**31),
        ("train__lr", float("nan")),
        ("train__warmup", 1.0),
        ("train__precision", "fp16"),
        ("train__optimizer__betas", [True, 0.9]),
        ("train__optimizer__betas", 0.9),
        ("train__optimizer", 3),
        ("train__optimizer", "adam"),
        ("head__weights", ["1"]),
        ("head__weights", "12"),
        ("head__note", 5),
        ("data__source", ""),
        ("data__source", None),
        ("data__limit", 0),
        ("data__max_rejected", 1),
        ("data__split__valid", -0.1),
        ("scaling__num_workers", 0),
        ("evaluate__slices", "stars"),
        ("evaluate__resamples", None),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_was_found(wine: Path, key: str, value: Any) -> None:
    found = sentences(changed(**{key: value}))
    assert len(found) == 1
    ((where, rule),) = found.items()
    assert where.startswith(key.replace("__", "."))
    assert "found " in rule


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../a", "/etc", "a\\b", "A", "a b", "a\n", "-a", "a.", "é", "a" * 65, "nul\0", "~", "$HOME"],
)
def test_a_name_that_could_leave_its_folder_is_refused(wine: Path, name: str) -> None:
    assert "lower-case letters" in sentences(changed(name=name))["name"]


@pytest.mark.parametrize("name", ["wine", "translation-en-de", "m.2_x", "a", "7", "a" * 64])
def test_a_plain_name_is_taken(wine: Path, name: str) -> None:
    assert check(changed(name=name)).name == name


def test_a_setting_without_effect_is_an_error(wine: Path) -> None:
    assert sentences(changed(data__split={"by": "last", "key": "u", "order": "t", "valid": 0.2})) == {
        "data.split.valid": "no such setting. There are: by, key, order."
    }
    assert "data.split.key" in sentences(changed(data__split={"by": "column", "column": "c", "key": ["x"]}))


def test_splits_leave_something_to_train_on(wine: Path) -> None:
    assert "leave something to train on" in sentences(changed(data__split={"valid": 0.5, "test": 0.5}))["data.split"]


def test_an_encoder_and_a_head_that_do_not_fit_are_refused(wine: Path) -> None:
    rule = sentences(changed(head__type="wine.tokens"))[""]
    assert rule.startswith("wine.tokens needs TokenFeatures and wine.pooled gives PooledFeatures.")
    assert rule.endswith("Choose an encoder that gives TokenFeatures.")


@pytest.mark.parametrize("values", [None, [], "x", 3])
def test_what_is_no_mapping_is_no_run(wine: Path, values: Any) -> None:
    assert "a run is a mapping" in sentences(values)[""]


def test_a_run_is_frozen(wine: Path) -> None:
    run = check(VALUES)
    for target, name in [(run, "name"), (run.train, "lr"), (run.head, "type"), (run.head.settings, "dropout")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, name, "x")


def test_a_dumped_run_is_plain_json_and_reads_back_equal(wine: Path) -> None:
    run = load("wine/default", ["head.weights=[0.5, 2]", "evaluate.baselines=[core.tfidf]", "data.split.key=[text]"])
    again = check(json.loads(json.dumps(run.dump())))
    assert again == run
    assert again.dump() == run.dump()


def test_the_json_schema_knows_the_settings_of_installed_components(wine: Path) -> None:
    schema = Run.model_json_schema()
    heads = schema["$defs"]["HeadSpec"]["anyOf"]
    assert {"core.classification", "wine.scores", "wine.tokens"} <= set(heads[0]["enum"])
    assert "wine.pooled" not in heads[0]["enum"]
    form = next(form for form in heads[1:] if form["title"] == "wine.scores")
    assert form["properties"]["type"]["const"] == "wine.scores"
    assert form["properties"]["loss"]["enum"] == ["mse", "mae"]
    assert form["additionalProperties"] is False
    adapters = schema["$defs"]["AdapterSpec"]["anyOf"]
    assert next(form for form in adapters[1:] if form["title"] == "wine.rows")["description"] == "Rows as they are."
    assert schema["$defs"]["TrainSettings"]["properties"]["lr"]["description"] == "Peak learning rate."
    assert schema["properties"]["name"]["pattern"].startswith("^[a-z0-9]")
    assert "source" in schema["$defs"]["DataSettings"]["required"]
