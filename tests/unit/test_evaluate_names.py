"""What a report calls its metrics and its slices."""

from __future__ import annotations

import pandas as pd

from heliostat.evaluate.evaluation import by_class
from heliostat.evaluate.page import metric_name
from heliostat.evaluate.report import overall
from heliostat.evaluate.slices import groups
from heliostat.heads.classification_metrics import classification_metrics
from heliostat.heads.hierarchy_metrics import OfTop
from heliostat.heads.item_relations import Relations
from heliostat.heads.ranking_metrics import ranking_metrics


def test_only_metrics_of_a_class_are_told_as_such() -> None:
    of_classes = classification_metrics(("good", "at_10"))
    apart = by_class(of_classes)
    assert apart == ("precision_good", "precision_at_10", "recall_good", "recall_at_10")
    assert by_class({name: OfTop(metric) for name, metric in of_classes.items()}) == apart
    assert metric_name("recall_at_10", apart) == "recall of at_10"
    ranking = ranking_metrics(10, Relations(("a", "b")))
    assert by_class(ranking) == ()
    assert "recall_at_10" in overall(ranking, by_class(ranking))
    assert metric_name("recall_at_10") == "recall at 10"


def test_ranges_of_large_close_values_have_names_of_their_own() -> None:
    found = groups(pd.Series([20_260_100_000.0 + number for number in range(100)]))
    assert list(found.value_counts()) == [20] * 5
    assert groups(pd.Series(range(100))).iloc[-1] == "80 to 99"


def test_different_numbers_are_different_slices() -> None:
    found = groups(pd.Series([1_234_567.0, 1_234_568.0, 0.1, 3.0]))
    assert list(found) == ["1234567", "1234568", "0.1", "3"]
