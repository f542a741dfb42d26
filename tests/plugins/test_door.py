"""The door holds for what no text classifier resembles: four plugins of one file each, from raw to predictions."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from heliostat.batch import Draws
from heliostat.component import Row
from heliostat.run import Run, check
from heliostat.testing.distribution import on_path, write_dist_info
from heliostat.train.launch import TrainResult

COMPONENTS = Path(__file__).parent / "components"


def masked_rows() -> list[Row]:
    colours, animals, verbs = (
        ("red", "blue", "grey"),
        ("cat", "dog", "owl"),
        ("sleeps", "runs", "sings", "sings loudly"),
    )
    return [{"sentence": f"the {c} {a} {v}"} for c in colours for a in animals for v in verbs for _ in range(3)]


def history_rows() -> list[Row]:
    """Each user walks around a ring of ten items; the rows of all users are mixed and out of order."""
    rows = [
        {"user": f"u{user}", "time": step, "item": f"a{(user + step) % 10}"}
        for user in range(60)
        for step in range(3 + user % 6)
    ]
    random.Random(7).shuffle(rows)
    return rows


def tabular_rows() -> list[Row]:
    draw = random.Random(7)
    rows: list[Row] = []
    for _ in range(200):
        age, plan = draw.uniform(18, 90), draw.choice(["gold", "silver", "iron", ""])
        left = "yes" if age + 20 * (plan == "gold") > 55 else "no"
        rows.append(
            {
                "age": "" if draw.random() < 0.1 else f"{age:.1f}",
                "spend": f"{draw.gauss(100, 30):.2f}",
                "plan": plan,
                "left": left,
            }
        )
    rows[5]["left"] = "perhaps"
    return rows


def seq2seq_rows() -> list[Row]:
    draw = random.Random(7)
    words = ["".join(draw.choices("abcd", k=draw.randint(1, 4))) for _ in range(150)]
    return [{"from": word, "to": word.upper()} for word in words]


class Case(NamedTuple):
    name: str
    rows: Callable[[], list[Row]]
    run: dict[str, Any]
    request: Row
    """An example that no record of the source has."""


TRAIN = {"epochs": 4, "lr": 1e-2, "tokens_per_batch": 160, "precision": "fp32"}
CASES = [
    Case(
        "masked",
        masked_rows,
        {
            "data": {"adapter": "masked.sentences", "split": {"valid": 0.2, "test": 0.2}},
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 300, "max_tokens": 16, "dropout": 0.0},
            "head": {"type": "masked.words", "rate": 0.3},
            "train": {"tokens_per_micro_batch": 48, "ema": 0.9},
        },
        {"text": "the green cat flies"},
    ),
    Case(
        "history",
        history_rows,
        {"data": {"adapter": "history.events"}, "encoder": "history.items", "head": "history.next"},
        {"history": ["a3", "nobody's item", "a4"]},
    ),
    Case(
        "tabular",
        tabular_rows,
        {
            "data": {"adapter": "tabular.customers"},
            "encoder": {"type": "tabular.table", "numbers": ["age", "spend"], "categories": ["plan"]},
            "head": "tabular.leaves",
            "train": {"epochs": 8, "lr": 3e-2},
        },
        {"age": None, "plan": "a plan that nobody has"},
    ),
    Case(
        "seq2seq",
        seq2seq_rows,
        {"data": {"adapter": "seq2seq.pairs"}, "encoder": "seq2seq.letters", "head": "seq2seq.translate"},
        {"source": "abz"},
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the four plugins installed, and one Ray session for all their trainings."""
    from heliostat.ray_session import ray_session

    folder = tmp_path_factory.mktemp("door")
    site = folder / "site"
    for case in CASES:
        package = site / f"heliostat_{case.name}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text((COMPONENTS / f"{case.name}.py").read_text())
        write_dist_info(site, case.name, f"heliostat_{case.name}:register")
    with pytest.MonkeyPatch.context() as patch, on_path(site):
        patch.setenv("HELIOSTAT_HOME", str(folder / "home"))
        with ray_session(folder / "ray.log"):
            yield folder


def run_of(case: Case, folder: Path, **scaling: Any) -> Run:
    source = folder / f"{case.name}.csv"
    if not source.exists():
        rows = case.rows()
        with source.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    data = {"source": str(source), "max_rejected": 0.02, "engine": "local", **case.run["data"]}
    train = {**TRAIN, **case.run.get("train", {})}
    return check({**case.run, "name": case.name, "data": data, "train": train, "scaling": scaling})


def valid_losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["valid/loss"] for row in rows if "valid/loss" in row]


@pytest.fixture(scope="module")
def trained(home: Path) -> Callable[[Case], TrainResult]:
    """The training of a case on two Ray workers, once for all tests."""

    @functools.cache
    def on_two_workers(name: str) -> TrainResult:
        from heliostat.train.launch import train

        case = next(case for case in CASES if case.name == name)
        return train(run_of(case, home, num_workers=2, threads_per_worker=1))

    return lambda case: on_two_workers(case.name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_raw_records_to_predictions_on_two_ray_workers(case: Case, trained: Callable[[Case], TrainResult]) -> None:
    from heliostat.predict import Predictor

    result = trained(case)
    losses = valid_losses(result.folder)
    assert losses[-1] < losses[0] * 0.95
    predictor = Predictor.load(result.checkpoint)
    asked = [*predictor.head.samples, case.request]
    answers = predictor.predict(asked)
    assert len(answers) == len(asked)
    for answer in answers:
        assert predictor.head.gives.model_validate(answer).model_dump() == answer
        assert json.loads(json.dumps(answer)) == answer
    assert Predictor.load(result.checkpoint).predict(asked) == answers
    predictor.check_golden()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_workers_learn_what_one_learns(case: Case, home: Path, trained: Callable[[Case], TrainResult]) -> None:
    """The same global batches and draws: losses agree up to the order of floating-point sums."""
    from heliostat.train.launch import train

    alone = train(run_of(case, home, num_workers=1))
    np.testing.assert_allclose(valid_losses(alone.folder), valid_losses(trained(case).folder), rtol=2e-3)


def test_masks_are_drawn_anew_each_epoch_and_the_same_in_every_batch(home: Path) -> None:
    from heliostat.ingest import prepare

    run = run_of(CASES[0], home)
    prepared = prepare(run)
    parts, shards = prepared.parts(run), prepared.shards("train")
    spec = parts.encoder.spec()

    def masks(rows: list[int], epoch: int) -> dict[int, bytes]:
        batch = shards.batch(np.array(rows))
        drawn = parts.head.prepare(batch, Draws(7, epoch), spec).ragged("masked").split()
        return {row: hashlib.sha256(mask.numpy().tobytes()).digest() for row, mask in zip(rows, drawn, strict=True)}

    first = masks([0, 1, 2, 3, 4, 5], 0)
    assert {**masks([5, 0], 0), **masks([3, 2, 1, 4], 0)} == first
    assert sum(first[row] != mask for row, mask in masks([0, 1, 2, 3, 4, 5], 1).items()) >= 3


def test_the_two_terms_of_a_loss_have_counts_of_their_own(home: Path) -> None:
    from heliostat.ingest import prepare

    run = run_of(CASES[0], home)
    prepared = prepare(run)
    parts, shards = prepared.parts(run), prepared.shards("train")
    batch = parts.head.prepare(shards.batch(np.arange(10)), Draws(7, 0), parts.encoder.spec())
    counts = parts.head.counts(batch)
    assert counts["words"] == 10
    assert counts["mlm"] == int((batch.ragged("masked").values >= 0).sum()) != 10


def test_a_group_reaches_the_adapter_whole_and_in_order(home: Path) -> None:
    from heliostat.ingest import prepare

    prepared = prepare(run_of(CASES[1], home))
    histories = [row["history"] for split in ("train", "valid", "test") for row in prepared.examples(split)]  # type: ignore[arg-type]
    assert len(histories) == 60
    for history in histories:
        places = [int(item[1:]) for item in history]
        assert places == [(places[0] + step) % 10 for step in range(len(places))]


def test_the_next_item_is_learned_at_every_place(home: Path) -> None:
    from heliostat.predict import Predictor
    from heliostat.train.launch import train

    run = run_of(CASES[1]._replace(run={**CASES[1].run, "train": {"epochs": 60, "lr": 3e-2}}), home)
    predictor = Predictor.load(train(run).checkpoint)
    rows = predictor.predict([{"history": [f"a{place}"]} for place in range(10)])
    assert [row["items"][0] for row in rows] == [f"a{(place + 1) % 10}" for place in range(10)]


def test_scales_and_levels_are_fitted_on_the_train_split_only(home: Path) -> None:
    from heliostat.ingest import prepare

    run = run_of(CASES[2], home)
    prepared = prepare(run)
    ages = [row["age"] for row in prepared.examples("train") if row["age"] is not None]
    encoder: Any = prepared.parts(run).encoder
    assert encoder.scales[0] == pytest.approx((np.mean(ages), np.std(ages)))
    ((gap, unknown),) = [
        [
            row["categories"][0]
            for row in encoder.encode(
                [{"age": 1.0, "spend": None, "plan": None}, {"age": None, "spend": 1.0, "plan": "?"}]
            )
        ]
    ]
    assert (gap, unknown) == (0, 1)
    rejected = [json.loads(line) for line in (prepared.folder / "rejected.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rejected] == ["whether the customer left is neither yes nor no"]


def test_text_is_generated(home: Path) -> None:
    from heliostat.predict import Predictor
    from heliostat.train.launch import train

    run = run_of(CASES[3]._replace(run={**CASES[3].run, "train": {"epochs": 40}}), home)
    predictor = Predictor.load(train(run).checkpoint)
    assert [row["target"] for row in predictor.predict([{"source": "ab"}, {"source": "d"}, {"source": "dca"}])] == [
        "AB",
        "D",
        "DCA",
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_plugin_keeps_every_promise(case: Case, home: Path) -> None:
    from heliostat.testing import check_plugin

    results = check_plugin(case.name, run_of(case, home))
    assert [result.name for result in results if not result.passed] == []
    assert len(results) == 9
