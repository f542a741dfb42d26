"""Baselines of item ranking, against the formulas they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from heliostat.baselines.items import EaseBaseline, ItemKnnBaseline, PopularBaseline
from heliostat.cooccurrence import cosine, ease, history_matrix, strongest
from heliostat.errors import DataError
from heliostat.heads.ranking import Ranking

TRAIN: list[dict[str, Any]] = [
    {"history": ["tea", "cup"]}, {"history": ["tea", "cup", "pot"]}, {"history": ["cup", "tea"]},
    {"history": ["saw", "nail"]}, {"history": ["saw", "nail", "tea"]},
]  # fmt: skip
HEAD = Ranking(Ranking.Config(k=2))


def test_popular_items_come_first_and_seen_ones_not_at_all() -> None:
    baseline = PopularBaseline()
    baseline.fit(TRAIN, HEAD)
    nothing, tea = baseline.predict([{"history": []}, {"history": ["tea"]}])
    assert nothing["items"] == ["tea", "cup"]
    assert tea["items"] == ["cup", "nail"]
    HEAD.gives.model_validate(tea)


@pytest.mark.parametrize("kind", [ItemKnnBaseline, EaseBaseline])
def test_what_was_taken_together_comes_first(kind: type[Any]) -> None:
    baseline = kind(kind.Config(l2=1.0)) if kind is EaseBaseline else kind()
    baseline.fit(TRAIN, HEAD)
    saw, cup, unknown = baseline.predict([{"history": ["saw"]}, {"history": ["cup"]}, {"history": ["never"]}])
    assert saw["items"][0] == "nail"
    assert cup["items"][0] == "tea"
    assert len(unknown["items"]) == 2


def test_baselines_without_histories_say_so() -> None:
    with pytest.raises(DataError, match="reads the list 'history'"):
        PopularBaseline().fit([{"text": "a"}], HEAD)


def test_ease_solves_its_own_regression() -> None:
    rng = np.random.default_rng(0)
    histories = [rng.choice(8, size=4, replace=False).tolist() for _ in range(30)]
    matrix = history_matrix(histories, 8)
    weights = ease(matrix, 3.0)
    dense = matrix.toarray().astype(np.float64)
    assert np.diag(weights).tolist() == [0.0] * 8
    for item in range(8):  # column by column: ridge regression of an item on all others
        others = [other for other in range(8) if other != item]
        part = dense[:, others]
        expected = np.linalg.solve(part.T @ part + 3.0 * np.eye(7), part.T @ dense[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-5)


def test_cosines_of_items_and_their_strongest() -> None:
    matrix = history_matrix([[0, 1], [0, 1], [0, 2], [1, 1]], 3)
    similar = cosine(matrix).toarray()
    assert similar[0, 1] == pytest.approx(2 / 3)
    assert similar[0, 2] == pytest.approx(1 / np.sqrt(3))
    assert similar[1, 2] == similar[0, 0] == 0.0
    assert strongest(cosine(matrix), 1).toarray()[0].tolist() == pytest.approx([0.0, 2 / 3, 0.0])


def test_ease_refuses_a_catalogue_that_it_cannot_invert() -> None:
    with pytest.raises(DataError, match="more than 20,000"):
        ease(history_matrix([[0, 30_000]], 30_001), 1.0)
