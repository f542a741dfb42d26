"""XML files, gzipped or not: each element of one name is a record, read one after the other in little memory.

A record becomes a row as XML is commonly turned into dictionaries: a child by its name, an attribute as `@name`, text
beside attributes as `#text`, children of one name as a list. An element that mixes text with markup, as
`low <sub>x</sub> levels`, is the text without the markup. Namespaces are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.component import Row, closest
from heliostat.data.packed import unpacked
from heliostat.errors import DataError, RejectedRecord

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def columns(path: Path, name: str, records: str | None) -> dict[str, str]:
    """Every attribute and child that any record has, with what it holds. Reads the whole file.

    Raises DataError when it is no XML, or when no element has the name `records`.
    """
    kinds: dict[str, str] = {}
    others: Counter[str] = Counter()
    for element, is_record in _elements(path, name, records):
        if not is_record:
            others[_local(element.tag)] += 1
            continue
        for key, kind in _kinds(element).items():
            kinds[key] = kind if kinds.get(key, kind) == kind else "mixed"
    if not kinds:
        raise _no_records(name, records, others)
    return kinds


def rows(path: Path, name: str, records: str | None) -> Iterator[tuple[int, Row | RejectedRecord]]:
    """The records in order, numbered from 1; one that is empty is there as RejectedRecord.

    `records` is the name of their elements; None takes the children of the root. Raises DataError for what is no XML.
    """
    found = (element for element, is_record in _elements(path, name, records) if is_record)
    for number, element in enumerate(found, 1):
        value = value_of(element)
        if value is None:
            yield number, RejectedRecord("the element is empty")
        else:
            yield number, value if isinstance(value, dict) else {"#text": value}


def value_of(element: Element) -> Any:
    """An element as plain values: a text or None for one without children and attributes, else a dictionary."""
    row: dict[str, Any] = {f"@{_local(key)}": text for key, text in element.attrib.items()}
    text = (element.text or "").strip()
    is_mixed = len(element) > 0 and bool(text or any((child.tail or "").strip() for child in element))
    if is_mixed:
        text = "".join(element.itertext()).strip()
    else:
        for child in element:
            _add(row, _local(child.tag), value_of(child))
    if not row:
        return text or None
    return {**row, "#text": text} if text else row


def _add(row: dict[str, Any], key: str, value: Any) -> None:
    if key not in row:
        row[key] = value
    elif isinstance(row[key], list):
        row[key].append(value)
    else:
        row[key] = [row[key], value]


def _kinds(element: Element) -> dict[str, str]:
    """What the columns of a record hold, without making its values."""
    kinds = {f"@{_local(key)}": "string" for key in element.attrib}
    for child in element:
        key = _local(child.tag)
        kinds[key] = "list" if key in kinds else "struct" if len(child) or child.attrib else "string"
    if (element.text or "").strip():
        kinds["#text"] = "string"
    return kinds


def _elements(path: Path, name: str, records: str | None) -> Iterator[tuple[Element, bool]]:
    """The elements outside of records, and each record when it is whole (True); they are forgotten afterwards."""
    from xml.etree.ElementTree import ParseError, iterparse

    open_elements: list[Element] = []
    record_depth: int | None = None
    with unpacked(path) as file:
        try:
            # The parser is Python's expat: it fetches no entity from outside, and stops one that grows without bound.
            for event, element in iterparse(file, ("start", "end")):
                if event == "start":
                    open_elements.append(element)
                    is_record = len(open_elements) == 2 if records is None else _local(element.tag) == records
                    if is_record and record_depth is None:
                        record_depth = len(open_elements)
                    continue
                if record_depth is None or len(open_elements) == record_depth:
                    yield element, record_depth is not None
                    element.clear()
                    if len(open_elements) > 1:
                        open_elements[-2].clear()
                    record_depth = None
                open_elements.pop()
        except ParseError as error:
            raise DataError(f"{name}: is no XML, or only the beginning of one ({error}).") from None
        except (OSError, EOFError) as error:
            raise DataError(f"{name}: cannot be read ({error}). Make or fetch it anew.") from None


def _local(tag: Any) -> str:
    return str(tag).rpartition("}")[2]


def _no_records(name: str, records: str | None, others: Counter[str]) -> DataError:
    if records is None:
        return DataError(f"{name}: the root has no child that could be a record.")
    there = [tag for tag, _ in others.most_common(8)]
    guess = closest(records, [tag for tag in others if 2 * len(tag) > len(records)])
    hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(there)}."
    return DataError(f"{name}: no element is named '{records}', which the option 'records' asks for. {hint}")
