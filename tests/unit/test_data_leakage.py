"""Leakage: what is planted is found, what is different is not."""

from __future__ import annotations

import random
from collections.abc import Iterator

from heliostat.data import leakage as leaks
from heliostat.data.leakage import leakage, signatures

WORDS = [
    f"{a}{b}" for a in ("dress", "fit", "color", "size", "love", "sleeve", "waist") for b in ("", "s", "ing", "ed")
]


def review(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=60))


def test_planted_duplicates_are_found() -> None:
    draw = random.Random(1)
    train = [(number, review(draw)) for number in range(400)]
    same = [(1000 + number, f"  {train[number][1].upper()} ") for number in range(10)]
    near = [(2000 + number, train[50 + number][1] + " returned") for number in range(40)]
    other = [(3000 + number, review(draw)) for number in range(100)]
    found = leakage({"train": train, "valid": other, "test": [*same, *near, *other]})
    leak = found["test/train"]
    assert (leak["checked"], leak["exact"], leak["near"]) == (150, 10, 40)
    assert leak["pairs"][0] == [1000, 0]
    assert [2000, 50] in leak["pairs"]
    assert found["test/valid"]["exact"] == 100
    assert found["valid/train"]["exact"] == found["valid/train"]["near"] == 0


def test_short_and_empty_texts() -> None:
    found = leakage({"train": [(1, "ok"), (2, "")], "valid": [], "test": [(3, "OK"), (4, "no"), (5, "")]})
    assert (found["test/train"]["exact"], found["test/train"]["near"]) == (2, 0)
    assert found["valid/train"]["checked"] == 0


class Anew:
    """Texts that are made each time they are read."""

    def __init__(self, count: int, changed: str = "") -> None:
        self.count, self.changed = count, changed

    def __iter__(self) -> Iterator[tuple[int, str]]:
        draw = random.Random(3)
        letters = "abcdefghijklmnopqrstuvwxyz"
        return ((number, "".join(draw.choices(letters, k=200)) + self.changed) for number in range(self.count))


def test_texts_that_are_never_held_are_found_wherever_they_stand() -> None:
    count = 2 * leaks._CHUNK_TEXTS + 50
    found = leakage({"train": Anew(count), "valid": Anew(3), "test": Anew(count, " indeed")})
    assert (found["test/train"]["checked"], found["test/train"]["exact"]) == (count, 0)
    assert found["test/train"]["near"] > 0.99 * count
    assert found["test/train"]["pairs"] == [[number, number] for number in range(20)]
    assert found["valid/train"]["exact"] == 3


def test_rows_are_compared_whole_alone() -> None:
    train = [(number, f"{number} and the same for all of them, all of them") for number in range(50)]
    found = leakage({"train": train, "valid": [], "test": [*train[:2], (99, train[3][1] + "!")]}, near=False)
    assert (found["test/train"]["exact"], found["test/train"]["near"]) == (2, 0)


def test_signature_of_a_text_does_not_depend_on_its_neighbours() -> None:
    texts = ["abc", "a longer text with several shingles", "", "abc", "x" * 5000]
    together = signatures(texts)
    for text, bands in zip(texts, together, strict=True):
        assert (signatures([text])[0] == bands).all()
    assert (together[0] == together[3]).all()
    assert (together[0] != together[1]).all()


def test_share_of_found_pairs_is_what_the_formula_says() -> None:
    draw = random.Random(2)
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = ["".join(draw.choices(letters, k=400)) for _ in range(300)]
    # Ten changed letters out of 400 touch about fifty shingles of each side: a similarity of about .78.
    changed = [text[:200] + "".join(draw.choices(letters, k=1)) + text[201:] for text in texts]
    shared = (signatures(texts) == signatures(changed)).any(axis=1)
    assert shared.mean() > 0.99
