"""Personal data in texts, found by their form and checked where they have check digits, behind placeholders.

Names, addresses and numbers written in words are not found. IBANs are checked by their country's form and their check
digits (ISO 13616), card numbers by the Luhn digit (ISO/IEC 7812), US social security numbers by the ranges that are
given out; e-mail addresses and phone numbers by their shape alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from heliostat.errors import DataError
from heliostat.run.cleaning import Personal

ORDER: tuple[Personal, ...] = ("email", "iban", "card", "ssn", "phone")
"""What has check digits goes before what has none, or a card number would count as one of a phone."""

_EMAIL = re.compile(r"[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2} ?[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_NUMBER = re.compile(r"(?<!\d)\d+(?:[ -]\d+)*(?!\d)")
_SSN = re.compile(r"(?<![\d-])\d{3}([- ])\d{2}\1\d{4}(?![\d-])")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?:\+|00)[1-9](?:[ ()./-]{0,2}\d){6,14}"  # +49 (0)30 1234567, 0041 44 123 45 67
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"  # (415) 555-2671
    r"|\(?0\d{1,4}\)?[ /-]\d{3,8}(?:[ -]\d{2,6}){0,3}"  # 030 1234567, 01 42 is too short
    r"|0\d(?: \d{2}){4}"  # 01 42 68 53 00
    r")(?![\w-])"
)
_CARD_DIGITS = range(13, 20)
_ISSUERS = range(2, 7)
"""First digits of the cards that people pay with."""


class Found(NamedTuple):
    """Where one piece of personal data stands in a text."""

    start: int
    end: int


def redact(text: str, kind: Personal) -> tuple[str, int]:
    """The text with each piece of this kind behind a placeholder, and how many there were.

    Raises DataError when the library that knows the check digits is not installed.
    """
    pieces, place = [], 0
    for start, end in _FINDERS[kind](text):
        pieces += [text[place:start], f"[{kind.upper()}]"]
        place = end
    return "".join([*pieces, text[place:]]), len(pieces) // 2


def _emails(text: str) -> Iterator[Found]:
    if "@" in text:
        yield from (Found(*match.span()) for match in _EMAIL.finditer(text))


def _phones(text: str) -> Iterator[Found]:
    for match in _PHONE.finditer(text):
        if 7 <= sum(letter.isdigit() for letter in match[0]) <= 16:
            yield Found(*match.span())


def _ibans(text: str) -> Iterator[Found]:
    """The longest valid beginning of each candidate: what follows may be words in capitals."""
    iban = _stdnum("iban")
    place = 0
    while match := _IBAN.search(text, place):
        place = match.start() + 2
        for end in range(match.end(), match.start() + 14, -1):
            if not text[end - 1].isalnum() or text[end : end + 1].isalnum():
                continue
            if _has_check_digits(text[match.start() : end]) and iban(text[match.start() : end]):
                yield Found(match.start(), end)
                place = end
                break


def _has_check_digits(candidate: str) -> bool:
    """The remainder of ISO 7064 that an IBAN has: a quick look before its country's form is checked."""
    plain = candidate.replace(" ", "").replace("-", "")
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def _cards(text: str) -> Iterator[Found]:
    """Runs of digit groups whose digits, 13 to 19 of them, pass the Luhn check and begin as cards do."""
    luhn = _stdnum("luhn")
    for match in _NUMBER.finditer(text):
        groups = [each.span() for each in re.finditer(r"\d+", match[0])]
        first = 0
        while first < len(groups):
            last = _last_of_card(match[0], groups, first, luhn)
            if last is None:
                first += 1
                continue
            yield Found(match.start() + groups[first][0], match.start() + groups[last][1])
            first = last + 1


def _last_of_card(run: str, groups: list[tuple[int, int]], first: int, luhn: Callable[[str], bool]) -> int | None:
    """The group with which the longest card number ends that begins with group `first`."""
    digits, found = "", None
    if int(run[groups[first][0]]) not in _ISSUERS:
        return None
    for index in range(first, len(groups)):
        start, end = groups[index]
        if len(digits) + end - start >= _CARD_DIGITS.stop:
            break
        digits += "".join(str(int(digit)) for digit in run[start:end])
        if len(digits) in _CARD_DIGITS and luhn(digits):
            found = index
    return found


def _ssns(text: str) -> Iterator[Found]:
    valid = _stdnum("us.ssn")
    yield from (Found(*match.span()) for match in _SSN.finditer(text) if valid(match[0].replace(" ", "-")))


def require(kinds: Sequence[Personal]) -> None:
    """Raise DataError when what these kinds need is not installed: told at the start, not over the first record."""
    for kind, module in {"iban": "iban", "card": "luhn", "ssn": "us.ssn"}.items():
        if kind in kinds:
            _stdnum(module)


_FINDERS: dict[Personal, Callable[[str], Iterator[Found]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ssn": _ssns,
    "phone": _phones,
}


def _stdnum(name: str) -> Callable[[str], bool]:
    from importlib import import_module

    try:
        valid: Callable[[str], bool] = import_module(f"stdnum.{name}").is_valid
    except ImportError:
        raise DataError("data.clean.redact checks digits with python-stdnum: pip install heliostat[clean].") from None
    return valid
