"""The translation plugin: its data, its adapter on edge rows, marks, memory, its head, and every run it carries."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from heliostat import run as runs
from heliostat.errors import PredictError, RejectedRecord, RunError
from heliostat.plugin import DataAdapter, TaskHead
from heliostat.predict.record import check_examples
from heliostat.registry import find, package_folder

FOLDER = package_folder("translation")
assert FOLDER is not None
RUNS = sorted(name for name in runs.runs() if name.startswith("translation/"))


def adapter(**settings: Any) -> DataAdapter:
    kind = find("translation.pairs", DataAdapter)
    return kind(kind.Config(**settings))


def head(**settings: Any) -> Any:
    kind = find("translation.translate", TaskHead)
    return kind(kind.Config(**settings))


def rows_of(name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    assert FOLDER is not None
    rows: list[dict[str, Any]] = pq.read_table(FOLDER / "data" / name).to_pylist()
    return rows


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    return rows_of("pairs.parquet")


def row(**fields: Any) -> dict[str, Any]:
    return {"kind": "text", "en": "Open the ~File menu.", "de": "Öffnen Sie das Menü ~Datei.", "zh": None, **fields}


def test_the_carried_pairs_are_those_that_the_readme_counts(pairs: list[dict[str, Any]]) -> None:
    assert len(pairs) == 45_871
    found = Counter((pair["split"], pair["kind"]) for pair in pairs if pair["de"])
    assert found == {
        ("train", "text"): 21_346, ("train", "phrase"): 6_145, ("train", "ui"): 12_977,
        ("valid", "text"): 1_101, ("test", "text"): 2_779,
    }  # fmt: skip
    assert [sum(bool(pair[code]) for pair in pairs) for code in ("fr", "zh")] == [42_856, 35_121]


def test_the_split_is_by_the_hash_of_the_page_and_no_text_stands_twice(pairs: list[dict[str, Any]]) -> None:
    tested = {pair["en"].casefold() for pair in pairs if pair["split"] != "train"}
    assert not tested & {pair["en"].casefold().replace("~", "") for pair in pairs if pair["split"] == "train"}
    assert len(tested) == sum(pair["split"] != "train" for pair in pairs)
    for pair in pairs:
        share = int(hashlib.sha256(pair["file"].encode()).hexdigest()[:8], 16) / 2**32
        split = "test" if share < 0.1 else "valid" if share < 0.15 else "train"
        assert pair["split"] == ("train" if pair["kind"] == "ui" else split)


def test_the_messages_from_outside_stand_in_no_page(pairs: list[dict[str, Any]]) -> None:
    outside = rows_of("outside.parquet")
    assert len(outside) == 240
    assert len({pair["en"].casefold() for pair in pairs} & {pair["en"].casefold() for pair in outside}) < 5
    assert all(len(pair["en"].split()) >= 4 and pair["split"] == "test" for pair in outside)


def test_a_row_becomes_a_pair_without_accelerators() -> None:
    (example,) = adapter().examples(iter([row()]))
    assert example == {"text": "Open the File menu.", "answer": "Öffnen Sie das Menü Datei."}
    (kept,) = adapter(accelerators=True).examples(iter([row()]))
    assert kept["text"] == "Open the ~File menu."


@pytest.mark.parametrize(
    "given",
    [
        row(kind="ui"),
        row(de=None),
        row(de="  "),
        row(de="Öffnen Sie das Menü Datei und dann noch sehr viel anderes. " * 5),
    ],
)
def test_a_row_of_another_kind_or_without_its_like_gives_no_pair(given: dict[str, Any]) -> None:
    assert list(adapter(kinds=("text",)).examples(iter([given]))) == []


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_a_row_without_source_is_rejected(text: str | None) -> None:
    with pytest.raises(RejectedRecord, match="en: is missing"):
        list(adapter().examples(iter([row(en=text)])))


def test_a_file_without_kinds_in_other_columns_is_read() -> None:
    reader = adapter(source="from", target="to", kind=None)
    assert list(reader.examples(iter([{"from": "one", "to": "un"}]))) == [{"text": "one", "answer": "un"}]
    assert reader.columns() == {"source": "from", "target": "to"}


def test_a_language_into_itself_is_a_mistake_of_the_run() -> None:
    with pytest.raises(RunError, match="two columns"):
        runs.load("translation/tiny", ["data.adapter.target=en"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The file %1 could not be saved to <b>%2</b>.", ["%1", "<b>", "%2", "</b>"]),
        ("%(name)s has %d of %1$s, 100% sure", ["%(name)s", "%d", "%1$s"]),
        ("$(ARG1), ${name}, {0}, {} and %PRODUCTNAME", ["$(ARG1)", "${name}", "{0}", "{}", "%PRODUCTNAME"]),
        ("See https://a.b/c_d?x=1.", ["https://a.b/c_d?x=1"]),
        ('<item type="menu">File</item>', ['<item type="menu">', "</item>"]),
        ("a < b and c > d, <User Profile>, 50 %", []),
    ],
)
def test_marks_are_what_a_program_reads(text: str, found: list[str]) -> None:
    from heliostat_translation.placeholders import marks

    assert marks(text) == found


def test_a_translation_that_keeps_the_marks_comes_first_and_lost_ones_are_named() -> None:
    translate = head()
    beams = [{"answer": "Die Datei wurde gesichert.", "score": -0.1}, {"answer": "Die Datei %1.", "score": -0.4}]
    answer = translate.answer("The file %1.", beams)
    assert (answer["answer"], answer["lost"]) == ("Die Datei %1.", [])
    assert [beam["score"] for beam in answer["beams"]] == [-0.4, -0.1]
    assert translate.answer("The file %1 in %2.", beams)["lost"] == ["%2"]
    type(translate).gives.model_validate(answer)


def test_the_share_of_kept_marks_counts_texts_with_marks_only() -> None:
    import pandas as pd

    metric = head().metrics()["marks_kept"]
    table = pd.DataFrame({"answer": ["%1 a", "b", "c"], "target_answer": ["x %1", "y %2", "z"]})
    assert metric(pd.concat([table] * 5)) == 0.5
    assert math.isnan(metric(pd.concat([table] * 4)))  # of eight texts with marks it says nothing


def test_the_nearest_pair_is_remembered_saved_and_told(tmp_path: Path) -> None:
    known = [
        {"text": "Open the file menu.", "answer": "Öffnen Sie das Menü Datei."},
        {"text": "Close the big window.", "answer": "Schließen Sie das große Fenster."},
    ]
    first, second = head(), head()
    first.fit(known)
    first.save(tmp_path)
    second.load(tmp_path)
    for each in (first, second):
        nearest = each.memory.nearest("Close a window!")
        assert nearest["answer"] == "Schließen Sie das große Fenster."
        assert 0 < nearest["similarity"] < 1
        assert each.memory.nearest(known[0]["text"])["similarity"] == pytest.approx(1.0)
        assert each.memory.nearest("zzz") is None
    forgetful = head(remember=False)
    forgetful.fit(known)
    assert forgetful.memory.nearest("Close the big window.") is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"text": "Open.", "target": "fr"}, "target"),
        ({"text": "Open.", "target": "klingon"}, "target"),
        ({"text": "Open.", "source": "de"}, "source"),
        ({"text": ""}, "text"),
        ({"text": " \t"}, "text"),
        ({"text": "word " * 500}, "text"),
        ({"text": ["Open."]}, "text"),
        ({"texts": "Open."}, "texts"),
    ],
)
def test_a_request_for_another_pair_or_without_a_usable_text_is_refused(request_: dict[str, Any], field: str) -> None:
    with pytest.raises(PredictError, match=field):
        check_examples([request_], head().takes)


def test_a_request_may_name_the_pair_of_the_model() -> None:
    assert check_examples([{"text": "Open.", "source": "en", "target": "zh"}], head(target="zh").takes)
    assert check_examples([{"text": "Open."}], head(target="fr").takes)[0]["text"] == "Open."


def test_the_plugin_carries_its_runs() -> None:
    assert {f"translation/{name}" for name in ("tiny", "quickstart", "default", "en-fr", "en-zh")} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_every_run_checks_and_writes_the_language_that_it_reads(name: str) -> None:
    run = runs.load(name)
    assert runs.check(run.dump()) == run
    parts = runs.build(run)
    assert parts.adapter.config.target == parts.head.config.target  # type: ignore[attr-defined]
    assert ("zh" in name) == (parts.head.config.tokenize == "zh")  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def ask(answering: Any) -> Any:
    """ask(record) is the reply of a model trained for seconds; ask(record, "stream") that of its stream."""
    return answering("translation/tiny", 4)


ANSWERED: dict[str, dict[str, Any]] = {
    "tags and variables": {"text": "The file %1 could not be saved to <b>%2</b>."},
    "a tag that is never closed": {"text": "Press <b>OK to go on."},
    "a tag that no page has": {"text": "Click <item type='x'>here</item> and {0}."},
    "no tag at all": {"text": "The file was saved."},
    "another script": {"text": "文件已保存 🙂"},
    "one letter": {"text": "a"},
    "line breaks": {"text": "Open.\n\nClose.\t"},
    "the model's own pair": {"text": "Open.", "source": "en", "target": "de"},
    "a pair left out": {"text": "Open.", "source": None, "target": None},
}
REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "an unknown language": ({"text": "Open.", "target": "klingon"}, 422, "invalid_value", ".target"),
    "another pair": ({"text": "Open.", "target": "fr"}, 422, "invalid_value", ".target"),
    "the pair the wrong way round": (
        {"text": "Open.", "source": "de", "target": "en"},
        422,
        "invalid_value",
        ".source",
    ),
    "more letters than a text may have": ({"text": "a" * 2_001}, 413, "text_too_long", ".text"),
    "more tokens than the model reads": ({"text": "q7 " * 600}, 422, "unprocessable_record", ""),
    "no text": ({}, 422, "missing_field", ".text"),
    "an empty text": ({"text": ""}, 422, "empty_text", ".text"),
    "white space": ({"text": " \n\u2003"}, 422, "empty_text", ".text"),
    "a list of texts": ({"text": ["Open."]}, 422, "wrong_type", ".text"),
    "an unknown field": ({"text": "Open.", "beams": 9}, 422, "unknown_field", ""),
}


@pytest.mark.parametrize("name", list(ANSWERED))
def test_over_http_odd_texts_are_answered_and_lost_tags_are_named(ask: Any, name: str) -> None:
    from heliostat_translation.placeholders import lost

    reply = ask(ANSWERED[name])
    assert reply.status_code == 200, reply.text
    (row,) = reply.json()["predictions"]
    assert row["lost"] == lost(ANSWERED[name]["text"], row["answer"])
    assert row["answer"] in [beam["answer"] for beam in row["beams"]]


def test_over_http_a_tag_that_the_translation_lacks_is_never_passed_over(ask: Any) -> None:
    """A model of four steps keeps none of them, and says so of each."""
    (row,) = ask(ANSWERED["tags and variables"]).json()["predictions"]
    assert {"%1", "%2", "<b>", "</b>"} == set(row["lost"])


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.parametrize("verb", ["predict", "stream"])
def test_over_http_what_cannot_be_translated_is_a_clear_refusal(ask: Any, verb: str, name: str) -> None:
    record, status, code, field = REFUSED[name]
    reply = ask(record, verb)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["field"]) == (status, code, f"instances[0]{field}"), error
    assert "klingon" not in reply.text
    assert "q7 q7" not in reply.text
    if code == "unprocessable_record":
        assert "more than 320 tokens: shorten it" in error["message"]


def test_it_keeps_every_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heliostat.testing import check_plugin

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    results = check_plugin("translation")
    assert [(result.name, result.said) for result in results if not result.passed] == []
