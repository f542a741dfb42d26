"""Classes in a tree: paths that never contradict themselves, losses among siblings, scores level by level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heliostat.batch import Batch
from heliostat.errors import DataError, RunError
from heliostat.features import FeatureSpec, PooledFeatures
from heliostat.heads.hierarchy import Hierarchy
from heliostat.heads.tree import Tree

PATHS = [("fruit", "apple"), ("fruit", "pear"), ("fruit", "pear"), ("tool", "saw"), ("tool", "axe"), ("sea", "sea")]
EXAMPLES: list[dict[str, Any]] = [{"text": path[1], "path": list(path)} for path in PATHS]
SPEC = FeatureSpec(8)


def head(**settings: Any) -> Hierarchy:
    made = Hierarchy(Hierarchy.Config(levels=("kind", "thing"), dropout=0.0, **settings))
    made.fit(EXAMPLES)
    return made


def batch_of(made: Hierarchy, examples: list[dict[str, Any]]) -> Batch:
    rows = made.encode(examples, SPEC)
    columns = {name: torch.tensor([int(row[name]) for row in rows]) for name in rows[0]}  # type: ignore[arg-type]
    return Batch(np.arange(len(rows), dtype=np.uint64), columns)


def features(count: int) -> PooledFeatures:
    torch.manual_seed(3)
    return PooledFeatures(torch.randn(count, 8) * 20)


def test_a_tree_knows_its_classes_and_their_parents() -> None:
    tree = head().tree
    assert tree == Tree(
        (("fruit", "sea", "tool"), ("apple", "axe", "pear", "saw", "sea")), ((0, 0, 0), (0, 2, 0, 2, 1))
    )
    assert tree.numbers(("tool", "saw")) == [2, 3]
    assert tree.numbers(("tool", "hammer")) == [2, -1]
    assert tree.numbers(("air", "saw")) == [-1, -1], "below a class that is not known nothing is"


def test_a_class_below_two_parents_is_refused() -> None:
    with pytest.raises(DataError, match="'pear' lies below"):
        head().fit([*EXAMPLES, {"text": "x", "path": ["tool", "pear"]}])


@pytest.mark.parametrize("path", [["fruit"], "fruit", ["fruit", "pear", "more"]])
def test_a_path_of_another_length_is_refused(path: Any) -> None:
    with pytest.raises(DataError, match=r"head.levels \(kind, thing\)"):
        head().encode([{"text": "x", "path": path}], SPEC)


def test_answers_go_down_the_tree() -> None:
    made = head()
    module = made.module(SPEC).eval()
    below = {
        child: made.tree.labels[0][parent]
        for child, parent in zip(made.tree.labels[1], made.tree.parents[1], strict=True)
    }
    for row in module.predict(features(200), batch_of(made, EXAMPLES)):  # type: ignore[operator]
        kind, thing = row["path"]
        assert below[thing] == kind
        assert row["probabilities"][kind] == max(row["probabilities"].values())
        assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert sum(row["choices"][1].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["confidences"][1] <= row["confidences"][0] + 1e-6
        made.gives.model_validate(row)


def test_the_loss_is_the_cross_entropy_among_siblings() -> None:
    made = head()
    module = made.module(SPEC).eval()
    batch, given = batch_of(made, EXAMPLES), features(len(EXAMPLES))
    answers = module.predict(given, batch)  # type: ignore[operator]
    found = module.loss(given, batch)  # type: ignore[operator]
    assert float(found["kind"]) == pytest.approx(
        -sum(np.log(row["probabilities"][path[0]]) for row, path in zip(answers, PATHS, strict=True)), rel=1e-4
    )
    joint = -sum(np.log(row["choices"][1][path[1]]) for row, path in zip(answers, PATHS, strict=True))
    assert float(found["kind"] + found["thing"]) == pytest.approx(joint, rel=1e-3)


def test_what_train_has_not_is_learned_from_no_more() -> None:
    made = head()
    module = made.module(SPEC)
    strange = [{"text": "x", "path": ["tool", "hammer"]}, {"text": "y", "path": ["air", "wind"]}]
    batch = batch_of(made, [*EXAMPLES, *strange])
    assert made.counts(batch) == {"kind": 7.0, "thing": 6.0}
    loss = module.loss(features(8), batch)  # type: ignore[operator]
    sum(loss.values()).backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in module.parameters() if weight.grad is not None)


def test_tallies_add_up_and_match_the_report() -> None:
    made = head()
    module = made.module(SPEC).eval()
    many = [EXAMPLES[place % len(EXAMPLES)] for place in range(40)]
    answers = module.predict(features(40), batch_of(made, many))  # type: ignore[operator]
    whole = made.tally(batch_of(made, many), answers)
    halves = [made.tally(batch_of(made, many[part]), answers[part]) for part in (slice(0, 13), slice(13, 40))]
    for level in whole:
        np.testing.assert_array_equal(whole[level], halves[0][level] + halves[1][level])
    table = pd.DataFrame({"target_path": [row["path"] for row in many], "path": [row["path"] for row in answers]})
    for label in made.tree.labels[0]:
        table[f"probability_{label}"] = [row["probabilities"][label] for row in answers]
    scores, metrics = made.scores(whole), made.metrics()
    for name in ("macro_f1", "accuracy", "thing_macro_f1", "thing_accuracy"):
        assert metrics[name](table) == pytest.approx(scores[name])
    counts = np.random.default_rng(1).integers(0, 3, (4, 40)).astype(np.float64)
    for name, metric in metrics.items():
        drawn = [table.loc[np.repeat(np.arange(40), row.astype(int))].reset_index(drop=True) for row in counts]
        expected = [metric(one) for one in drawn]
        np.testing.assert_allclose(metric.resampled(table, counts), expected, err_msg=name)  # type: ignore[attr-defined]


def test_what_is_fitted_comes_back(tmp_path: Path) -> None:
    made = head(decide="macro_f1")
    module = made.module(SPEC).eval()
    answers = module.predict(features(len(EXAMPLES)), batch_of(made, EXAMPLES))  # type: ignore[operator]
    assert made.calibrate(EXAMPLES, answers)
    made.save(tmp_path)
    again = Hierarchy(made.config)
    again.load(tmp_path)
    assert (again.tree, again.top.decision, again.top.label_weights) == (
        made.tree,
        made.top.decision,
        made.top.label_weights,
    )


def test_the_baseline_answers_with_paths() -> None:
    from heliostat.baselines.tfidf_paths import TfidfPathsBaseline

    baseline = TfidfPathsBaseline()
    baseline.fit(EXAMPLES, head())
    answers = baseline.predict([{"text": "apple"}, {"text": "saw"}, {"text": "sea"}])
    assert [row["path"] for row in answers] == [["fruit", "apple"], ["tool", "saw"], ["sea", "sea"]]
    for row in answers:
        Hierarchy.gives.model_validate(row)


def test_levels_have_names_of_their_own() -> None:
    from heliostat.run import check

    run = {"name": "x", "data": {"adapter": "core.columns", "source": "x.csv"}}
    run["encoder"] = {"type": "core.text", "preset": "tiny"}  # type: ignore[assignment]
    with pytest.raises(RunError, match="names of their own"):
        check({**run, "head": {"type": "core.hierarchy", "levels": ["a", "a"]}})
