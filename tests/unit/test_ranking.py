"""The ranking head: what each place learns, full and sampled softmax, full ranking without seen items, its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import ndcg_score

from heliostat.batch import Batch, Draws
from heliostat.cooccurrence import ease, history_matrix
from heliostat.data.collate import collate
from heliostat.encoders.items import ItemEncoder
from heliostat.heads.item_relations import Relations
from heliostat.heads.ranking import NEGATIVES, NO_TARGET, TARGETS, Ranking
from heliostat.heads.ranking_metrics import Coverage, Diversity, ndcg, ranking_metrics, recall, reciprocal_rank
from heliostat.model import Model

TRAIN = [{"history": [f"i{(start * 2 + step) % 9}" for step in range(6)], "next": []} for start in range(9)]


class Small:
    """A fitted encoder and head, and their model."""

    def __init__(self, **settings: Any) -> None:
        torch.manual_seed(3)
        reads = {"texts": settings.pop("texts")} if "texts" in settings else {}
        self.encoder = ItemEncoder(ItemEncoder.Config(dim=16, dropout=0.0, max_history=4, **reads))
        self.head = Ranking(Ranking.Config(**{"k": 3, **settings}))
        self.head.fit(TRAIN)
        self.encoder.fit(TRAIN)
        self.model = Model(self.encoder.module(), self.head.module(self.encoder.spec()))

    def batch(self, examples: list[dict[str, Any]], epoch: int = 0) -> Batch:
        encoded = [
            {**one, **other}
            for one, other in zip(
                self.encoder.encode(examples), self.head.encode(examples, self.encoder.spec()), strict=True
            )
        ]
        batch = collate(encoded, np.arange(len(examples), dtype=np.uint64))
        return self.head.prepare(batch, Draws(7, epoch), self.encoder.spec())

    def answers(self, *histories: list[str]) -> list[dict[str, Any]]:
        encoded = self.encoder.encode([{"history": history} for history in histories])
        self.model.eval()
        with torch.no_grad():
            return self.model.predict(collate(encoded, np.zeros(len(histories), dtype=np.uint64)))


def table_of_texts(folder: Path) -> str:
    (folder / "items.csv").write_text("item,text\ni1,red bag\ni2,red cup\nnew,red bag\n", encoding="utf-8")
    return str(folder / "items.csv")


def test_every_place_learns_the_next_item_and_the_last_one_nothing() -> None:
    small = Small()
    batch = small.batch([{"history": ["i1", "i2", "i3"], "next": []}, {"history": [], "next": []}])
    numbers = small.encoder.catalogue.numbers(["i1", "i2", "i3"])
    assert batch.ragged(TARGETS).values.tolist() == [*numbers, NO_TARGET, NO_TARGET]
    assert small.head.counts(batch) == {"loss": 3.0}


def test_what_came_after_a_history_is_learned_from_its_last_state_alone() -> None:
    small = Small()
    batch = small.batch([{"history": ["i1", "i2"], "next": ["i3", "i4", "never"]}])
    assert small.head.counts(batch) == {"loss": 2.0}
    features = small.model.encoder(batch)
    logits = F.linear(features.pooled, features.embedding[1:])
    wanted = torch.tensor(small.encoder.catalogue.numbers(["i3", "i4"])) - 1
    by_hand = F.cross_entropy(logits.expand(2, -1), wanted, reduction="sum")
    torch.testing.assert_close(small.model(batch)["loss"], by_hand)


def test_the_loss_is_the_softmax_over_the_whole_catalogue() -> None:
    small = Small()
    batch = small.batch(TRAIN)
    features = small.model.encoder(batch)
    logits = F.linear(features.states, features.embedding[1:])  # nobody takes START
    targets = batch.ragged(TARGETS).values
    by_hand = F.cross_entropy(logits[targets > 0], targets[targets > 0] - 1, reduction="sum")
    torch.testing.assert_close(small.model(batch)["loss"], by_hand)


def test_new_items_are_no_wrong_answers_in_training_and_may_be_what_came_after(tmp_path: Path) -> None:
    small = Small(texts=table_of_texts(tmp_path))
    new = small.encoder.catalogue.numbers(["new"])[0]
    features = small.model.eval().encoder(small.batch(TRAIN))
    logits = F.linear(features.states, features.embedding[1:new])
    targets = small.batch(TRAIN).ragged(TARGETS).values
    by_hand = F.cross_entropy(logits[targets > 0], targets[targets > 0] - 1, reduction="sum")
    torch.testing.assert_close(small.model(small.batch(TRAIN))["loss"], by_hand)
    after = small.batch([{"history": ["i2"], "next": ["new", "i3"]}])
    found = small.model.validate(after, predict=False)
    assert small.head.counts(after) == {"loss": 2.0}
    assert bool(found.losses["loss"].isfinite())
    answers = small.answers(["i2", "i3", "i4"])
    assert len(answers[0]["items"]) == 3


def test_a_horizon_draws_a_later_item_anew_each_epoch_and_the_same_again() -> None:
    small = Small(horizon=3)
    first, again, later = (small.batch(TRAIN, epoch).ragged(TARGETS).values for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    batch = small.batch(TRAIN)
    for items, targets in zip(batch.ragged("items").split(), batch.ragged(TARGETS).split(), strict=True):
        for place, target in enumerate(targets[:-1].tolist()):
            assert target in items[place + 1 : place + 4].tolist()
        assert targets[-1] == NO_TARGET


def test_targets_and_negatives_do_not_depend_on_the_batch() -> None:
    small = Small(horizon=3, negatives=4)
    whole = small.batch(TRAIN)
    part = small.batch(TRAIN[:2])
    for column in (TARGETS, NEGATIVES):
        assert torch.equal(torch.cat(whole.ragged(column).split()[:2]), part.ragged(column).values)
    drawn = whole.ragged(NEGATIVES)
    assert drawn.lengths == tuple(4 * length for length in whole.ragged("items").lengths)
    assert 1 <= int(drawn.values.min()) <= int(drawn.values.max()) <= 9


def test_sampled_softmax_estimates_the_full_one() -> None:
    full, sampled = Small(), Small(negatives=512)
    sampled.model.load_state_dict(full.model.state_dict())
    expected = float(full.model(full.batch(TRAIN))["loss"].detach())
    found = float(sampled.model(sampled.batch(TRAIN))["loss"].detach())
    assert found == pytest.approx(expected, rel=0.05)


def test_seen_items_are_never_answered_not_even_those_of_long_ago() -> None:
    small = Small(k=9)
    history = ["i0", "i1", "i2", "i3", "i4", "i5"]  # max_history is 4
    (answer,) = small.answers(history)
    ranked = [item for item, score in zip(answer["items"], answer["scores"], strict=True) if score > 0]
    assert sorted(ranked) == ["i6", "i7", "i8"]
    assert sum(answer["scores"]) == pytest.approx(1.0, abs=1e-5)
    assert answer["scores"] == sorted(answer["scores"], reverse=True)


def test_seen_items_may_be_answered_where_the_run_says_so() -> None:
    (answer,) = Small(k=9, exclude_seen=False).answers(["i0", "i1"])
    assert len(answer["items"]) == 9


def test_an_empty_history_and_unknown_items_get_an_answer() -> None:
    empty, unknown = Small().answers([], ["never", "seen"])
    assert empty["items"] == unknown["items"]
    assert len(empty["items"]) == 3
    assert empty["because"] == [[], [], []]


def test_a_history_of_everything_leaves_nothing_to_answer() -> None:
    (answer,) = Small().answers([f"i{number}" for number in range(9)])
    assert answer["items"] == []
    assert answer["scores"] == []


def test_reasons_are_items_of_the_history_that_went_with_the_answer() -> None:
    (answer,) = Small(k=3, reasons=2).answers(["i0", "i1", "i2"])
    for item, because in zip(answer["items"], answer["because"], strict=True):
        assert 0 < len(because) <= 2
        assert set(because) <= {"i0", "i1", "i2"}
        assert item not in because


def test_the_linear_term_adds_the_weighted_scores_of_ease() -> None:
    plain, linear = Small(k=9), Small(k=9, linear={"weight": 2.0, "l2": 5.0, "fade": 0.5})
    linear.model.load_state_dict(plain.model.state_dict())
    catalogue = plain.encoder.catalogue
    histories = [catalogue.numbers(example["history"]) for example in TRAIN]
    weights = ease(history_matrix(histories, catalogue.size), 5.0)
    one, two = catalogue.numbers(["i1", "i2"])
    added = 2.0 * (0.5 * weights[one] + weights[two])
    scores = []
    for small in (plain, linear):
        (answer,) = small.answers(["i1", "i2"])
        logs = dict(zip(answer["items"], np.log(answer["scores"]), strict=True))
        scores.append(np.array([logs[name] for name in ("i3", "i5", "i8")]))
    gained = scores[1] - scores[0]
    expected = added[catalogue.numbers(["i3", "i5", "i8"])]
    np.testing.assert_allclose(gained - gained[0], expected - expected[0], atol=1e-4)


def test_validation_scores_equal_the_metrics_of_the_report() -> None:
    small = Small()
    examples: list[dict[str, Any]] = [
        {"history": ["i0", "i1"], "next": ["i2", "i5"]},
        {"history": ["i4"], "next": ["i8", "never"]},
        {"history": [], "next": ["i1", "i2", "i3", "i4"]},
    ]
    small.model.eval()
    with torch.no_grad():
        found = small.model.validate(small.batch(examples), predict=True)
    scores = small.head.scores({name: value.numpy() for name, value in found.measures.items()})
    table = pd.DataFrame(found.predictions).assign(target_next=[example["next"] for example in examples])
    metrics = small.head.metrics()
    for name in ("ndcg_at_3", "recall_at_3", "mrr_at_3"):
        assert scores[name] == pytest.approx(metrics[name](table))
    assert small.head.selects == "ndcg_at_3"


def test_ndcg_is_that_of_scikit_learn() -> None:
    items = [f"i{number}" for number in range(20)]
    targets = ["i1", "i4", "i15"]
    relevance = np.array([[float(item in targets) for item in items]])
    expected = ndcg_score(relevance, -np.arange(20.0)[None], k=10)
    assert ndcg(items, targets, 10) == pytest.approx(expected)
    assert recall(items, targets, 10) == pytest.approx(2 / 3)
    assert reciprocal_rank(items, targets, 10) == 0.5
    assert reciprocal_rank(items, ["i15"], 10) == 0.0


def test_a_row_without_a_target_counts_in_no_mean_and_resamples_weigh_rows() -> None:
    table = pd.DataFrame({"items": [["a", "b"], ["c", "d"], ["a", "c"]], "target_next": [["a"], [], ["d"]]})
    metric = ranking_metrics(2, Relations(("a", "b", "c", "d")))["recall_at_2"]
    assert metric(table) == 0.5
    counts = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    found = metric.resampled(table, counts)  # type: ignore[attr-defined]
    assert found[0] == 0.5
    assert found[1] == 1.0
    assert np.isnan(found[2])


def test_coverage_counts_the_items_of_all_answers_and_has_no_bootstrap_interval() -> None:
    table = pd.DataFrame({"items": [["a", "b"], ["b", "c"]]})
    coverage = Coverage(2, 10)
    assert coverage(table) == pytest.approx(0.3)
    assert np.isnan(coverage.resampled(table, np.array([[2.0, 0.0], [0.0, 2.0]]))).all()


def test_answers_of_items_that_go_together_are_less_diverse() -> None:
    histories = [["a", "b"]] * 5 + [["c", "d"]] * 5
    diversity = Diversity(2, Relations.fit(histories, None))
    assert diversity(pd.DataFrame({"items": [["a", "b"]]})) == pytest.approx(0.0)
    assert diversity(pd.DataFrame({"items": [["a", "c"]]})) == pytest.approx(1.0)


def test_what_is_fitted_is_saved(tmp_path: Path) -> None:
    small = Small(linear={"weight": 1.0})
    small.head.save(tmp_path)
    again = Ranking(small.head.config)
    again.load(tmp_path)
    assert again.relations.names == small.head.relations.names
    assert again.relations.similar("i0") == small.head.relations.similar("i0")
    np.testing.assert_array_equal(again.relations.linear["values"], small.head.relations.linear["values"])


def test_what_is_learned_after_a_history_leaves_the_sampled_softmax_as_it_is(tmp_path: Path) -> None:
    small, after = (
        Small(texts=table_of_texts(tmp_path), negatives=4),
        [{"history": ["i2", "new"], "next": ["new", "i3"]}],
    )
    small.model.encoder.text_only = 0.0
    together, first, second = (small.model(small.batch(each))["loss"] for each in ([*TRAIN, *after], TRAIN, after))
    torch.testing.assert_close(together, first + second)
    assert small.head.counts(small.batch(after)) == {"loss": 2.0}
    held_out = small.batch([{"history": ["i2", "new", "i3"], "next": []}])  # by a split that cuts no sequence
    assert small.head.counts(held_out) == {"loss": 2.0}, "nothing that is learned against is the new item"
    assert bool(small.model.eval()(held_out)["loss"].isfinite())


def test_gradients_of_sampled_items_are_the_same_whatever_threads_do() -> None:
    small, threads = Small(negatives=512), torch.get_num_threads()
    batch, found = small.batch(TRAIN), []
    torch.set_num_threads(4)
    try:
        for _ in range(6):
            small.model.zero_grad()
            small.model(batch)["loss"].backward()
            found.append([weights.grad.clone() for weights in small.model.parameters()])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, first) for each in found for one, first in zip(each, found[0], strict=True))


def test_the_linear_term_holds_the_items_of_histories_alone(tmp_path: Path) -> None:
    texts = table_of_texts(tmp_path)
    small, plain = Small(k=10, texts=texts, linear={"weight": 2.0, "l2": 5.0}), Small(k=10, texts=texts)
    assert small.encoder.catalogue.size == 11
    assert small.model.head.get_buffer("linear").shape == (10, 10)
    plain.model.load_state_dict(small.model.state_dict())
    assert small.answers(["new"]) == plain.answers(["new"]), "what has a text alone says nothing linear"
    assert small.answers(["i1"])[0]["scores"] != plain.answers(["i1"])[0]["scores"]
