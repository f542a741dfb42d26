"""The names that plugins may count on, and what they do without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import heliostat
import heliostat.plugin
from heliostat.errors import DataError
from heliostat.features import FeatureSpec
from heliostat.plugin import Classification, Column, DataAdapter, Demo, Settings

DOOR = [
    "Baseline", "Batch", "CausalFeatures", "Chart", "Classification", "Column", "Component", "DataAdapter",
    "DataError", "Decoder", "Demo", "Documents", "Draws", "Encoded", "Encoder", "EncoderModule", "FeatureSpec",
    "Features", "Field", "HeadModule", "HeliostatError", "Hierarchy", "ItemFeatures", "MeasuringModule", "Metric",
    "MultiLabel", "Name", "PooledFeatures", "Ragged", "Ranking", "Record", "Registry", "Regression", "RejectedRecord",
    "Risk", "Risky", "Row", "SegmentFeatures", "SegmentLabels", "Seq2Seq", "Seq2SeqFeatures", "Settings",
    "StreamingModule", "TabularFeatures", "Tagging", "Tally", "TaskHead", "TokenFeatures", "Vocabulary",
    "split_sentences",
]  # fmt: skip


def test_the_names_of_the_door_are_frozen() -> None:
    assert sorted(heliostat.plugin.__all__) == DOOR
    for name in DOOR:
        assert getattr(heliostat.plugin, name) is not None


def test_the_public_names_are_frozen() -> None:
    assert sorted(heliostat.__all__) == ["__version__", "load"]


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasification'"):
        _ = heliostat.plugin.Clasification


def test_the_door_imports_nothing_heavy() -> None:
    code = (
        "import sys, heliostat.plugin\n"
        "heliostat.plugin.Classification\n"
        "print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Reviews(DataAdapter):
    class Config(Settings):
        text: Column = "review"
        stars: Column | None = None
        best: int = 4


def test_settings_that_name_columns_are_told_apart() -> None:
    assert Reviews().columns() == {"text": "review"}
    assert Reviews(Reviews.Config(text="t", stars="s")).columns() == {"text": "t", "stars": "s"}


EXAMPLES = [{"text": str(place), "label": label} for place, label in enumerate("aaab")]


def test_a_classification_learns_its_labels_and_weights() -> None:
    head = Classification(Classification.Config(class_weights="balanced"))
    head.fit(iter(EXAMPLES))
    assert head.labels == ("a", "b")
    assert head.label_weights == pytest.approx((2 / 3, 2.0))
    assert head.encode([{"label": "b"}, {"label": "a"}], FeatureSpec(2)) == [{"target": 1}, {"target": 0}]


def test_a_classification_reads_back_what_it_saved(tmp_path: Path) -> None:
    head, again = Classification(), Classification()
    head.fit(EXAMPLES)
    head.save(tmp_path)
    again.load(tmp_path)
    assert (again.labels, again.label_weights) == (head.labels, head.label_weights)


@pytest.mark.parametrize(
    ("labels", "config", "sentence"),
    [
        ("aaaa", {}, "has only a"),
        ("", {}, "has only none"),
        ("abc", {"labels": ("a", "b")}, "'c' of the train split is none of head.labels"),
    ],
)
def test_a_classification_says_what_is_wrong_with_the_labels(
    labels: str, config: dict[str, tuple[str, ...]], sentence: str
) -> None:
    head = Classification(Classification.Config(**config))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=sentence):
        head.fit([{"text": "x", "label": label} for label in labels])


def test_an_unknown_label_is_answered_with_a_guess() -> None:
    head = Classification(Classification.Config(labels=("negative", "positive")))
    with pytest.raises(
        DataError, match=r"'postive' is none of the classes negative, positive. Did you mean 'positive'"
    ):
        head.encode([{"label": "postive"}], FeatureSpec(2))


def test_a_demo_shows_bars_and_the_other_fields() -> None:
    answer = {"label": "a", "probabilities": {"a": 0.75, "b": 0.25}, "tokens": [1]}
    assert Demo().bars(answer) == {"a": 0.75, "b": 0.25}
    assert Demo().details(answer) == {"tokens": [1]}
    assert list(Demo().marks({"text": "x"}, answer)) == []
    assert json.dumps(Demo().bars({"text": "x"})) == "{}"
