"""Baselines: they answer in the head's form, learn what is there, and say what they lack."""

from __future__ import annotations

import pytest

from heliostat.baselines.majority import MajorityBaseline
from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.component import Row, Settings
from heliostat.errors import DataError
from heliostat.heads.classification import Classification
from heliostat.plugin import Field, Record, TaskHead
from heliostat.registry import find

TRAIN: list[Row] = [
    *({"text": f"lovely soft fabric, fits well {place}", "label": "good"} for place in range(12)),
    *({"text": f"itchy, cheap and badly sewn {place}", "label": "bad"} for place in range(8)),
]


def head(labels: tuple[str, ...] = ("bad", "good")) -> Classification:
    return Classification(Classification.Config(labels=labels))


def fitted_head(labels: tuple[str, ...] = ("bad", "good")) -> Classification:
    made = head(labels)
    made.fit(TRAIN)
    return made


class Titled(Record):
    title: str = Field(description="The headline.")
    body: str | None = Field(default=None, description="The rest.")
    stars: int = Field(default=0, description="Not a text.")


def test_it_learns_and_answers_in_the_form_of_the_head() -> None:
    baseline = TfidfBaseline()
    baseline.fit(TRAIN, fitted_head())
    answers = baseline.predict([{"text": "soft, lovely, well"}, {"text": "cheap, itchy"}])
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    for answer in answers:
        Classification.gives.model_validate(answer)
        assert list(answer["probabilities"]) == ["bad", "good"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)


def test_a_class_that_train_lacks_has_probability_zero() -> None:
    baseline = TfidfBaseline()
    baseline.fit(TRAIN, fitted_head(("bad", "mixed", "good")))
    (answer,) = baseline.predict([{"text": "lovely"}])
    assert list(answer["probabilities"]) == ["bad", "mixed", "good"]
    assert answer["probabilities"]["mixed"] == 0.0


def test_two_fits_give_the_same_answers() -> None:
    answers = []
    for _ in range(2):
        baseline = TfidfBaseline()
        baseline.fit(TRAIN, fitted_head())
        answers.append(baseline.predict(TRAIN))
    assert answers[0] == answers[1]


def test_all_text_fields_of_the_record_are_read_and_a_missing_one_is_empty() -> None:
    made = fitted_head()
    made.takes = Titled  # type: ignore[misc]
    train = [{"title": "top", "body": row["text"], "label": row["label"]} for row in TRAIN]
    baseline = TfidfBaseline()
    baseline.fit(train, made)
    assert baseline.fields == ("title", "body")
    by_body, without = baseline.predict(
        [{"title": "top", "body": "cheap, itchy"}, {"title": "lovely soft", "body": None}]
    )
    assert by_body["label"] == "bad"
    assert without["label"] == "good"


def test_no_examples_no_answers() -> None:
    baseline = TfidfBaseline()
    baseline.fit(TRAIN, fitted_head())
    assert baseline.predict([]) == []


class Numbers(Record):
    amount: float = Field(description="No text.")


@pytest.mark.parametrize(
    ("takes", "train", "word"),
    [
        (Numbers, TRAIN, "has no str field"),
        (None, TRAIN[:12], "two classes"),
        (None, [{"text": "a"}, {"text": "b"}], "two classes"),
        (None, [{"text": " ", "label": "good"}, {"text": "", "label": "bad"}], "finds no terms"),
    ],
)
def test_what_it_cannot_learn_from_is_an_error_with_a_reason(
    takes: type[Record] | None, train: list[Row], word: str
) -> None:
    made = head()
    if takes:
        made.takes = takes  # type: ignore[misc]
    with pytest.raises(DataError, match=word):
        TfidfBaseline().fit(train, made)


def test_the_majority_answers_the_most_frequent_class() -> None:
    baseline = MajorityBaseline()
    baseline.fit(TRAIN, fitted_head())
    answers = baseline.predict([{"text": "itchy"}, {"text": "cheap"}])
    assert answers == [{"label": "good", "probabilities": {"bad": 0.4, "good": 0.6}}] * 2


def test_the_majority_needs_labels() -> None:
    with pytest.raises(DataError, match="label"):
        MajorityBaseline().fit([{"text": "a"}], head())


def test_both_are_found_by_their_address_and_check_their_settings() -> None:
    from heliostat.plugin import Baseline

    assert find("core.tfidf", Baseline) is TfidfBaseline
    assert find("core.majority", Baseline) is MajorityBaseline
    with pytest.raises(ValueError, match="Did you mean 'strength'"):
        TfidfBaseline.Config.model_validate({"strenght": 2})


def test_describing_them_needs_no_heavy_library() -> None:
    import subprocess
    import sys

    code = "import sys, heliostat.core; print([m for m in ('torch', 'ray', 'sklearn', 'pandas') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_head_of_another_kind_is_fine_while_it_has_labels_in_its_examples() -> None:
    class Plain(TaskHead):
        takes = Classification.takes

        class Config(Settings):
            pass

    baseline = TfidfBaseline()
    baseline.fit(TRAIN, Plain())
    assert baseline.labels == ("bad", "good")
