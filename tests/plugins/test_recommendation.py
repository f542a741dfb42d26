"""The recommendation plugin: its data, its runs, what it answers to odd histories, and its page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from heliostat import run as runs
from heliostat.registry import package_folder
from heliostat.testing import check_plugin

FOLDER = package_folder("recommendation")
assert FOLDER is not None
RUNS = sorted(name for name in runs.runs() if name.startswith("recommendation/"))


def read(name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    assert FOLDER is not None
    rows: list[dict[str, Any]] = pq.read_table(FOLDER / "data" / name).to_pylist()
    return rows


def test_the_carried_data_are_those_that_the_readme_counts() -> None:
    purchases, items = read("purchases.parquet"), read("items.parquet")
    assert len(purchases) == len({(row["user"], row["item"]) for row in purchases}) == 264_514
    assert len({row["user"] for row in purchases}) == 4_074
    assert len({row["item"] for row in purchases}) == 3_145
    assert len(items) == len({row["item"] for row in items}) == 3_659
    assert {row["item"] for row in purchases} < {row["item"] for row in items}
    assert all(row["text"] for row in items)
    times = [row["time"] for row in purchases]
    assert times == sorted(times)


def test_the_plugin_carries_its_runs() -> None:
    assert {f"recommendation/{name}" for name in ("tiny", "quickstart", "default", "ml-100k")} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_every_run_checks_and_round_trips(name: str) -> None:
    run = runs.load(name)
    assert runs.check(run.dump()) == run
    assert run.data.split.by == "sequence"


def test_films_are_fetched_and_not_carried() -> None:
    assert runs.load("recommendation/ml-100k").data.source.startswith("pypi:recbole==1.2.1/")
    assert FOLDER is not None
    assert sorted(path.name for path in (FOLDER / "data").glob("*.parquet")) == ["items.parquet", "purchases.parquet"]


def test_the_plugin_keeps_its_promises() -> None:
    results = check_plugin("recommendation")
    assert all(result.passed for result in results)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A model trained for seconds."""
    from heliostat.predict import Predictor
    from heliostat.train.launch import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield Predictor.load(
            train(runs.load("recommendation/tiny", ["data.engine=local", "train.max_steps=4"])).checkpoint
        )


@pytest.fixture(scope="module")
def ask(model: Any) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from heliostat.serve.app import build_app
    from heliostat.serve.schema import Served

    with TestClient(build_app(model, Served("recommendation-tiny", 1)), base_url="http://127.0.0.1") as client:
        yield lambda body: client.post("/v1/models/recommendation-tiny:predict", json={"instances": [body]})


@pytest.mark.parametrize(
    "history",
    [
        [],
        ["a product that nobody sold"],
        ["22423", "22423", "22423"],
        ["22423"] * 10_000,
        ["22423", "\u200b", "85123A\n"],
        ["22423", "a product that nobody sold"],
    ],
    ids=["a user without history", "never seen", "repeated", "long", "odd names", "known and never seen"],
)
def test_odd_histories_get_an_answer(ask: Any, history: list[str]) -> None:
    answer = ask({"history": history})
    assert answer.status_code == 200
    (prediction,) = answer.json()["predictions"]
    assert len(prediction["items"]) == 10
    assert not set(prediction["items"]) & set(history)


def test_who_has_no_history_and_who_has_an_unknown_one_get_the_same(ask: Any) -> None:
    none, unknown = (ask({"history": history}).json()["predictions"] for history in ([], ["never"]))
    assert none == unknown


def test_an_item_that_was_never_seen_changes_no_answer(ask: Any) -> None:
    alone, beside = (ask({"history": history}).json()["predictions"] for history in (["22423"], ["never", "22423"]))
    assert alone[0]["items"] == beside[0]["items"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"history": None}, 422),
        ({"history": "22423"}, 422),
        ({"history": [22423]}, 422),
        ({"history": [""]}, 422),
        ({"history": [None]}, 422),
        ({"history": ["22423"], "user": "me"}, 422),
        ({"history": ["22423"] * 10_001}, 413),
        ({"history": ["a" * 201]}, 413),
    ],
)
def test_what_is_no_history_is_refused(ask: Any, body: dict[str, Any], status: int) -> None:
    answer = ask(body)
    assert answer.status_code == status
    assert answer.json()["error"]["field"].startswith("instances[0]")


def test_the_page_offers_products_by_their_descriptions_and_says_why() -> None:
    head = runs.load("recommendation/tiny").head.build()
    assert head.demo is not None
    demo = head.demo()
    choices = demo.choices()["history"]
    assert len(choices) == 3_659
    assert ("REGENCY CAKESTAND 3 TIER (22423)", "22423") in choices
    answer = {"items": ["22423", "new"], "scores": [0.5, 0.25], "texts": ["", "<b>NEW"], "because": [["85123A"], []]}
    drawn = demo.picture(answer)
    assert "REGENCY CAKESTAND 3 TIER" in drawn
    assert drawn.count("bought together with WHITE HANGING HEART") == 1
    assert "&lt;b&gt;NEW" in drawn
    assert [demo.called(sample) for sample in head.samples][::3] == [
        "LUNCH BAG RED RETROSPOT and 2 more",
        "nothing was bought yet",
    ]
