"""The help desk plugin: its data, its adapter on edge rows, the pages that its head names, and every run it carries."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from heliostat import run as runs
from heliostat.errors import RejectedRecord
from heliostat.plugin import DataAdapter, TaskHead
from heliostat.registry import find, package_folder

FOLDER = package_folder("helpdesk")
assert FOLDER is not None
RUNS = sorted(name for name in runs.runs() if name.startswith("helpdesk/"))
PRODUCTS = {
    "base": 937, "basic": 4_663, "calc": 5_057, "chart": 501,
    "draw": 318, "impress": 1_351, "math": 710, "writer": 3_787,
}  # fmt: skip
KNOWN = [
    {"text": "Merge the cells.", "label": "calc", "page": "a", "title": "Cells"},
    {"text": "Merge the selected cells.", "label": "calc", "page": "a", "title": "Cells"},
    {"text": "Print the slides.", "label": "impress", "page": "b", "title": "Printing"},
    {"text": "Split the cells of a table.", "label": "writer", "page": "c", "title": "Tables"},
]


def examples(rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    kind = find("helpdesk.pages", DataAdapter)  # type: ignore[type-abstract]
    source = kind(kind.Config(**settings))
    return [example for row in rows for example in source.examples(iter([row]))]


def head(**settings: Any) -> Any:
    kind = find("helpdesk.product", TaskHead)  # type: ignore[type-abstract]
    return kind(kind.Config(**settings))


def titles(fitted: Any, text: str) -> list[str]:
    (columns,) = fitted.read([{"text": text}])
    return [KNOWN[place]["title"] for place in columns.values() if place >= 0]


def test_the_carried_paragraphs_are_those_that_the_readme_counts() -> None:
    import pyarrow.parquet as pq

    assert FOLDER is not None
    path = FOLDER / "data" / "paragraphs.parquet"
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == len({row["text"].casefold() for row in rows}) == 17_324, "each text stands once"
    assert len({row["page"] for row in rows}) == 1_548
    assert Counter(row["product"] for row in rows) == PRODUCTS
    assert Counter(row["kind"] for row in rows) == {"paragraph": 16_137, "heading": 1_187}
    readme = (FOLDER / "data" / "README.md").read_text(encoding="utf-8")
    assert all(f"{count:,}" in readme for count in (17_324, 1_548, 16_137, 1_187, *PRODUCTS.values()))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "27ebbfc188ff9db77c8f29224195d275fa2f26c0b4bc208285013c4e6098f889"
    )
    assert len(examples(rows)) == len(rows)


def test_columns_are_settings_and_a_ticket_needs_no_title() -> None:
    row = {"subject": "Slow", "body": " It  hangs. ", "queue": "db", "ticket": 0}
    names = {"text": "body", "product": "queue", "page": "ticket"}
    assert examples([row], **names, title=None) == [{"text": "It hangs.", "label": "db", "page": "0", "title": "0"}]
    assert examples([row], **names, title="subject")[0]["title"] == "Slow"
    assert examples([{**row, "subject": None}], **names, title="subject")[0]["title"] == "0"


@pytest.mark.parametrize("field", ["text", "product", "page"])
@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_row_without_text_product_or_page_is_rejected(field: str, value: str | None) -> None:
    row = {"text": "Merge.", "product": "calc", "page": "a", "title": "Cells", field: value}
    with pytest.raises(RejectedRecord, match=f"{field}: is missing"):
        examples([row])


def test_the_nearest_pages_are_named_once_each_and_the_nearest_first(tmp_path: Path) -> None:
    fitted = head()
    fitted.fit(KNOWN)
    assert titles(fitted, "merge cells") == ["Cells", "Tables"]
    assert titles(fitted, "PRINT slides") == ["Printing"]
    assert titles(fitted, "zzz") == []
    assert titles(fitted, "?!") == []
    fitted.save(tmp_path)
    loaded = head()
    loaded.load(tmp_path)
    assert titles(loaded, "merge cells") == ["Cells", "Tables"]


def test_a_head_that_names_no_pages_keeps_no_text(tmp_path: Path) -> None:
    fitted = head(pages=0)
    fitted.fit(KNOWN)
    assert fitted.read([{"text": "merge cells"}]) == [{}]
    fitted.save(tmp_path)
    assert not any("Merge" in path.read_text(encoding="utf-8") for path in tmp_path.iterdir())


def test_the_page_escapes_what_it_shows() -> None:
    page = {"title": "<b>", "page": "a", "product": "calc", "text": "=A1<B1"}
    drawn = head().demo().picture({"pages": [page]})
    assert "&lt;b&gt;" in drawn
    assert "=A1&lt;B1" in drawn


def test_every_run_keeps_pages_together() -> None:
    assert {"helpdesk/tiny", "helpdesk/quickstart", "helpdesk/default"} <= set(RUNS)
    assert all(runs.load(name).data.split.model_dump()["key"] == ("page",) for name in RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_every_run_checks_and_round_trips(name: str) -> None:
    run = runs.load(name)
    assert runs.check(run.dump()) == run


def test_samples_fit_the_record_that_the_head_takes() -> None:
    for sample in head().samples:
        assert head().takes.model_validate(sample).model_dump() == sample


@pytest.fixture(scope="module")
def ask(answering: Any) -> Any:
    """ask(record) is the reply of a model trained for seconds."""
    return answering("helpdesk/tiny", 3)


@pytest.mark.parametrize(
    ("record", "status", "code"),
    [
        ({"text": "How do I merge two cells?"}, 200, ""),
        ({"text": "zzz qqq"}, 200, ""),
        ({"text": "<b>%1</b> =A1<B1"}, 200, ""),
        ({"text": "合并单元格"}, 200, ""),
        ({"text": "cells " * 800}, 200, ""),
        ({"text": "a" * 5_001}, 413, "text_too_long"),
        ({"text": ""}, 422, "empty_text"),
        ({"text": " \t"}, 422, "empty_text"),
        ({"text": None}, 422, "wrong_type"),
        ({}, 422, "missing_field"),
        ({"text": "cells", "product": "calc"}, 422, "unknown_field"),
    ],
    ids=[
        "question", "unknown words", "tags", "another script", "more words than are read", "a sign too long", "empty",
        "blank", "null", "no text", "unknown field",
    ],
)  # fmt: skip
def test_over_http_odd_questions_are_answered_or_clearly_refused(
    ask: Any, record: dict[str, Any], status: int, code: str
) -> None:
    reply = ask(record)
    assert reply.status_code == status, reply.text
    if status == 200:
        (row,) = reply.json()["predictions"]
        assert row["label"] in PRODUCTS
        assert len({page["page"] for page in row["pages"]}) == len(row["pages"]) <= 3
    else:
        assert reply.json()["error"]["code"] == code


def test_the_plugin_keeps_its_promises() -> None:
    from heliostat.testing import check_plugin

    assert all(result.passed for result in check_plugin("helpdesk"))
