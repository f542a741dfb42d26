"""XML as a source: records by the name of their elements, whatever stands around and inside them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from heliostat.data.sources import open_source
from heliostat.errors import DataError, RejectedRecord

ARTICLES = """<?xml version="1.0"?>
<!DOCTYPE Set PUBLIC "-//NOBODY//DTD Set//EN" "https://nowhere.invalid/set.dtd">
<Set made="2026"><Head><Name>not a record</Name></Head>
  <Article Status="done"><Title>One</Title><Author>A</Author><Author>B</Author><Note/></Article>
  <Group><Article Status="new">
    <Title lang="en">Low H<sub>2</sub>O <i>in vitro</i></Title><Article>inner</Article></Article></Group>
  <!-- a remark -->
  <Article Status="bare"/>
</Set>"""


def rows(path: Path, options: str = "") -> list[dict[str, object]]:
    return [row for _, row in open_source(f"{path}{options}").rows() if isinstance(row, dict)]


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    path = tmp_path / "articles.xml"
    path.write_text(ARTICLES, encoding="utf-8")
    return path


def test_each_element_of_the_name_is_a_record_wherever_it_stands(articles: Path) -> None:
    first, second, third = rows(articles, "#records=Article")
    assert first == {"@Status": "done", "Title": "One", "Author": ["A", "B"], "Note": None, "Article": None}
    assert second["Title"] == {"@lang": "en", "#text": "Low H2O in vitro"}
    assert second["Article"] == "inner", "an element of the name inside a record belongs to it"
    assert third == {"@Status": "bare", "Title": None, "Author": None, "Note": None, "Article": None}


def test_columns_say_what_they_hold(articles: Path) -> None:
    assert open_source(f"{articles}#records=Article").columns() == {
        "@Status": "string", "Title": "mixed", "Author": "list", "Note": "string", "Article": "string"
    }  # fmt: skip


def test_without_a_name_the_children_of_the_root_are_records(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<all xmlns='urn:x'><one><a>1</a></one><two><a>2</a></two><three>3</three><four/></all>")
    source = open_source(str(path))
    found = [row for _, row in source.rows()]
    assert found[:3] == [{"a": "1", "#text": None}, {"a": "2", "#text": None}, {"a": None, "#text": "3"}]
    assert isinstance(found[3], RejectedRecord)


def test_a_gzipped_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "articles.xml.gz"
    path.write_bytes(gzip.compress(ARTICLES.encode()))
    assert len(rows(path, "#records=Article")) == 3


def test_places_count_the_records(articles: Path) -> None:
    assert [str(place) for place, _ in open_source(f"{articles}#records=Article").rows()] == [
        "articles.xml, record 1", "articles.xml, record 2", "articles.xml, record 3"
    ]  # fmt: skip


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "many.xml"
    with path.open("w") as file:
        file.write("<all>")
        for number in range(20_000):
            file.write(f"<r><n>{number}</n><t>{'word ' * 20}</t></r>")
        file.write("</all>")
    tracemalloc.start()
    assert sum(1 for _ in open_source(f"{path}#records=r").rows()) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < path.stat().st_size


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (ARTICLES, "#records=Artikle", "no element is named 'Artikle'.*Did you mean 'Article'"),
        (ARTICLES[:300], "#records=Article", "is no XML, or only the beginning"),
        ("a,b\n1,2\n", "", "is no XML"),
        ("<all/>", "", "no child"),
        ("", "", "empty"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, text: str, options: str, said: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        open_source(f"{path}{options}").columns()


def test_entities_that_grow_without_bound_are_stopped(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    path = tmp_path / "bomb.xml"
    path.write_text(f'<!DOCTYPE all [<!ENTITY e0 "lol">{entities}]><all><r><t>&e9;</t></r></all>')
    with pytest.raises(DataError, match="is no XML"):
        list(open_source(str(path)).rows())


def test_nothing_is_fetched_from_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    path = tmp_path / "a.xml"
    path.write_text(f'<!DOCTYPE all [<!ENTITY e SYSTEM "{secret.as_uri()}">]><all><r a="1"><t>x&e;y</t></r></all>')
    with pytest.raises(DataError, match="undefined entity"):
        rows(path)


def test_records_is_refused_where_it_has_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    with pytest.raises(DataError, match="'records' has no effect"):
        open_source(f"{path}#records=a")
