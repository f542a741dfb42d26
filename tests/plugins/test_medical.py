"""The medical plugin: its data, its adapters on edge rows, its heads, and every run it carries."""

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

FOLDER = package_folder("medical")
assert FOLDER is not None
RUNS = sorted(name for name in runs.runs() if name.startswith("medical/"))

XML = """<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID Version="1">11</PMID><Article><Journal><JournalIssue><PubDate><Year>1999</Year>
</PubDate></JournalIssue></Journal><Abstract>
<AbstractText Label="AIMS" NlmCategory="OBJECTIVE">We ask why birds sing at dawn. It is not known.</AbstractText>
<AbstractText Label="WAYS" NlmCategory="METHODS">Ten birds were heard, with CO<sub>2</sub> at 5 %.</AbstractText>
<AbstractText Label="END" NlmCategory="CONCLUSIONS">They sing for joy.</AbstractText></Abstract><Language>eng</Language>
</Article><MeshHeadingList><MeshHeading><DescriptorName UI="D0">Animals</DescriptorName>
<QualifierName>song</QualifierName></MeshHeading>
<MeshHeading><DescriptorName UI="D1">Songbirds</DescriptorName></MeshHeading></MeshHeadingList>
</MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>12</PMID><Article><Abstract><AbstractText>One text. Without roles.</AbstractText>
</Abstract><Language>eng</Language></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>13</PMID><Article><Abstract>
<AbstractText NlmCategory="METHODS">Some.</AbstractText><AbstractText NlmCategory="UNASSIGNED">Others.</AbstractText>
<AbstractText NlmCategory="RESULTS">More.</AbstractText></Abstract><Language>eng</Language></Article>
</MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>14</PMID><Article><Abstract><AbstractText>Ein Text.</AbstractText></Abstract>
<Language>ger</Language></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>15</PMID><Article><Language>eng</Language></Article></MedlineCitation></PubmedArticle>
</PubmedArticleSet>"""


def adapter(name: str, **settings: Any) -> DataAdapter:
    kind = find(f"medical.{name}", DataAdapter)  # type: ignore[type-abstract]
    return kind(kind.Config(**settings))


@pytest.fixture
def citations(tmp_path: Path) -> list[dict[str, Any]]:
    from heliostat.data.sources import open_source

    path = tmp_path / "pubmed.xml"
    path.write_text(XML, encoding="utf-8")
    found = open_source(f"{path}#records=PubmedArticle").rows()
    return [row for _, row in found if isinstance(row, dict)]


def examples(source: DataAdapter, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [example for row in rows for example in source.examples(iter([row]))]


def test_the_carried_diagnoses_are_those_that_the_readme_counts() -> None:
    import pyarrow.parquet as pq

    assert FOLDER is not None
    rows = pq.read_table(FOLDER / "data" / "diagnoses.parquet").to_pylist()
    assert len(rows) == len({row["text"].lower() for row in rows}) == 59_563
    assert [len({row[name] for row in rows}) for name in ("chapter", "section", "category")] == [22, 285, 1_918]
    assert Counter(row["kind"] for row in rows) == {"title": 46_140, "inclusion": 12_523, "includes": 900}
    readme = (FOLDER / "data" / "README.md").read_text(encoding="utf-8")
    assert all(number in readme for number in ("59,563", "1,918", "46,140", "12,523"))
    made = examples(adapter("diagnoses"), rows)
    assert len(made) == len(rows)
    assert {len(example["path"]) for example in made} == {2}
    assert all(len({row[above] for row in rows if row[below] == name}) == 1 for above, below, name in (
        ("chapter", "section", "I20-I25 Ischemic heart diseases"), ("section", "category", rows[0]["category"])
    ))  # fmt: skip


def test_a_diagnosis_without_text_or_place_is_rejected() -> None:
    whole = {"text": " Old  scar ", "chapter": "L", "section": "L1", "category": "L11"}
    (example,) = examples(adapter("diagnoses", with_category=True), [whole])
    assert example == {"text": "Old scar", "path": ["L", "L1", "L11"], "category": "L11"}
    for field in ("text", "chapter", "section", "category"):
        with pytest.raises(RejectedRecord, match="missing"):
            examples(adapter("diagnoses"), [{**whole, field: None}])


def test_sentences_have_the_role_of_their_section(citations: list[dict[str, Any]]) -> None:
    assert examples(adapter("role_sentences"), citations) == [
        {
            "texts": [
                "We ask why birds sing at dawn.",
                "It is not known.",
                "Ten birds were heard, with CO2 at 5 %.",
                "They sing for joy.",
            ],
            "labels": ["objective", "objective", "methods", "conclusions"],
            "document": "11",
            "year": "1999",
        }
    ]
    assert examples(adapter("role_sentences", max_sentences=3), citations) == []


def test_abstracts_to_pretrain_on_hold_no_heading_of_a_section(citations: list[dict[str, Any]]) -> None:
    made = examples(adapter("abstracts", min_words=4), citations)
    assert {example["document"] for example in made} == {"11", "12"}
    assert not any(word in str(made) for word in ("AIMS", "OBJECTIVE", "METHODS"))
    assert made[-1] == {"text": "One text.", "next": "Without roles.", "document": "12"}
    german = examples(adapter("abstracts", min_words=1, language="ger", give="chunks"), citations)
    assert [example["text"] for example in german] == ["Ein Text."]


def test_headings_are_those_that_count(citations: list[dict[str, Any]]) -> None:
    (example,) = examples(adapter("headings"), citations)
    assert example["labels"] == ["Animals"]
    assert example["text"].startswith("We ask why")
    (other,) = examples(adapter("headings", headings=("Songbirds", "Mice")), citations)
    assert other["labels"] == ["Songbirds"]


def test_a_citation_without_a_number_is_rejected() -> None:
    row = {"MedlineCitation": {"Article": {"Language": "eng", "Abstract": {"AbstractText": "x"}}}}
    with pytest.raises(RejectedRecord, match="PMID"):
        examples(adapter("abstracts"), [row])
    with pytest.raises(RejectedRecord, match="no citation"):
        examples(adapter("abstracts"), [{"MedlineCitation": None}])


def test_pretraining_learns_from_no_abstract_that_roles_and_headings_choose_or_test_on() -> None:
    from heliostat.data.split import key_of

    names = ("pretrain", "roles", "roles-pretrained", "roles-minilm", "mesh")
    splits = [runs.load(f"medical/{name}").data.split for name in names]
    assert len({split.model_dump_json() for split in splits}) == 1
    sources = {runs.load(f"medical/{name}").data.source for name in names}
    assert len(sources) == 1
    values = {"document": "12345", "text": "one", "next": "two"}
    others = {"document": "12345", "texts": ["another"]}
    assert key_of(splits[0], values, ("text", "next")) == key_of(splits[1], others, ("texts",))


def test_runs_from_scratch_and_from_our_pretraining_differ_in_their_beginning_alone() -> None:
    scratch, pretrained = (runs.load(f"medical/{name}").dump() for name in ("roles", "roles-pretrained"))
    assert (scratch["encoder"].pop("preset"), pretrained["encoder"].pop("preset")) == ("mini", None)
    assert (scratch["encoder"].pop("pretrained"), pretrained["encoder"].pop("pretrained")) == (
        None,
        "medical-lm@champion",
    )
    assert (scratch.pop("name"), pretrained.pop("name")) == ("medical-roles-scratch", "medical-roles-pretrained")
    assert scratch == pretrained
    assert runs.load("medical/pretrain").encoder.type == "core.text"


@pytest.mark.parametrize("name", RUNS)
def test_every_run_checks_and_round_trips(name: str) -> None:
    run = runs.load(name)
    assert runs.check(run.dump()) == run
    assert run.name.startswith("medical")


@pytest.mark.parametrize("name", ["chapters", "roles", "mesh"])
def test_heads_are_private_carry_the_notice_and_have_samples(name: str) -> None:
    head = find(f"medical.{name}", TaskHead)()  # type: ignore[type-abstract]
    assert head.private
    assert head.notice == "Not for clinical decisions."
    for sample in head.samples:
        assert head.takes.model_validate(sample).model_dump() == sample


def test_the_page_of_roles_colours_sentences() -> None:
    head = find("medical.roles", TaskHead)()  # type: ignore[type-abstract]
    assert head.demo is not None
    answer = {"labels": ["methods", "results"], "probabilities": [{}, {}]}
    page = head.demo()
    assert page.marks({"texts": ["We did.", "It was."]}, answer) == [("We did. ", "methods"), ("It was. ", "results")]
    assert page.bars(answer) == {"methods": 0.5, "results": 0.5}


def test_nothing_of_an_abstract_is_carried() -> None:
    """The abstracts are their publishers': only their sources' addresses and hashes are in the package."""
    assert FOLDER is not None
    assert sorted(path.name for path in (FOLDER / "data").iterdir() if not path.name.startswith("__")) == [
        "README.md", "build.py", "diagnoses.parquet"
    ]  # fmt: skip
    digest = hashlib.sha256((FOLDER / "data" / "diagnoses.parquet").read_bytes()).hexdigest()
    assert digest == "38d447f525f84d7ea778c7daabc86dec9eecf4a8252b262b189e6ca715917832"


@pytest.fixture(scope="module")
def ask(answering: Any) -> Any:
    """ask(record) is the reply of a model trained for seconds."""
    return answering("medical/tiny", 3)


@pytest.mark.parametrize(
    ("record", "status", "code"),
    [
        ({"text": "zzz qqq"}, 200, ""),
        ({"text": "<b>Old</b> scar %1"}, 200, ""),
        ({"text": "骨折"}, 200, ""),
        ({"text": "pain " * 399}, 200, ""),
        ({"text": "a" * 2_001}, 413, "text_too_long"),
        ({"text": ""}, 422, "empty_text"),
        ({"text": " \t"}, 422, "empty_text"),
        ({"text": None}, 422, "wrong_type"),
        ({}, 422, "missing_field"),
        ({"text": "scar", "chapter": "L"}, 422, "unknown_field"),
    ],
    ids=[
        "unknown words", "tags", "another script", "more words than are read", "a sign too long", "empty", "blank",
        "null", "no text", "unknown field",
    ],
)  # fmt: skip
def test_over_http_odd_diagnoses_are_answered_or_clearly_refused_and_not_logged(
    ask: Any, caplog: pytest.LogCaptureFixture, record: dict[str, Any], status: int, code: str
) -> None:
    reply = ask(record)
    assert reply.status_code == status, reply.text
    if status == 200:
        (row,) = reply.json()["predictions"]
        assert len(row["path"]) == 2
    else:
        assert reply.json()["error"]["code"] == code
    assert not [said for said in caplog.records if said.name.startswith("heliostat")]


def test_the_plugin_keeps_its_promises() -> None:
    from heliostat.testing import check_plugin

    results = check_plugin("medical")
    assert all(result.passed for result in results)
