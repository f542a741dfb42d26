"""Cleaning of single texts, duplicates, classes and words: what is changed, what is left, and that it ends."""

from __future__ import annotations

import itertools
import pickle
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.batch import Draws
from heliostat.data.augment import Augmenter, swapped
from heliostat.data.balance import balanced, copy_id
from heliostat.data.clean import Cleaner
from heliostat.data.collate import collate
from heliostat.data.drawn import drawn
from heliostat.data.duplicates import repeats
from heliostat.data.languages import identifier, other_language
from heliostat.data.markup import in_one_form, single_spaced, without_html
from heliostat.data.redaction import redact
from heliostat.encoders.text import TextEncoder
from heliostat.errors import DataError, RunError
from heliostat.features import FeatureSpec
from heliostat.heads.classification import Classification
from heliostat.run.cleaning import AugmentSettings, BalanceSettings, CleanSettings

ALL = CleanSettings(
    normalise=("html", "unicode", "space"), redact=("email", "phone", "iban", "card", "ssn"), duplicates="near"
)
EVERYTHING = Cleaner(ALL, ("text",), frozenset({"text"}))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("I <3 it, x < y & y > z", "I <3 it, x < y & y > z"),
        ("soft <b>and</b> warm<br/>but&nbsp;small", "soft and warm\nbut small"),
        ("a <!-- hidden <b> --> b <script>if (a < b) {}</script>c", "a b c"),
        ("Tom &amp;amp;amp; Jerry &#38;lt;3", "Tom & Jerry <3"),
        ("cafe\u0301 \ufb01ne \uff11\uff12 zero\u200bwidth\u00ad", "caf\u00e9 fine 12 zerowidth"),
        ("  many \t blanks \r\n\r\n and lines\x00 ", "many blanks\nand lines"),
        ("<script>never closed", "never closed"),
    ],
)
def test_normal_forms(text: str, clean: str) -> None:
    assert EVERYTHING.text(text) == clean


def test_each_normal_form_does_its_own_and_no_more() -> None:
    assert without_html("<i>a</i>  b") == "a  b"
    assert in_one_form("<i>\uff41</i>  b") == "<i>a</i>  b"
    assert single_spaced(" <i>\uff41</i>  b ") == "<i>\uff41</i> b"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Write to anna.b+x@mail.example.co.uk.", "Write to [EMAIL]."),
        ("pay DE89 3704 0044 0532 0130 00 TODAY", "pay [IBAN] TODAY"),
        ("or gb82west12345698765432", "or [IBAN]"),
        ("not DE89370400440532013001", "not DE89370400440532013001"),
        ("card 4111 1111 1111 1111 123 ok", "card [CARD] 123 ok"),
        ("12 5500-0000-0000-0004", "12 [CARD]"),
        ("order 4111111111111112", "order 4111111111111112"),
        ("ssn 123-45-6789, not 000-12-3456 or 987-65-4321", "ssn [SSN], not 000-12-3456 or 987-65-4321"),
        ("call +49 (0)30 1234567 or (415) 555-2671", "call [PHONE] or [PHONE]"),
        ("0171/1234567, 01 42 68 53 00", "[PHONE], [PHONE]"),
        ("size 34-28-36, 5'4 130 lbs, 2024-01-02, 12.05.2024, $1,000.99, 0123", None),
        ("\uff14\uff11\uff11\uff11 1111 1111 1111", "[CARD]"),
    ],
)
def test_personal_data_go_and_other_numbers_stay(text: str, clean: str | None) -> None:
    assert EVERYTHING.text(text) == (text if clean is None else clean)


def luhn_digit(body: str) -> str:
    """The check digit, computed apart from the library."""
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(body)))
    return str(-total % 10)


digits = st.text("0123456789", min_size=11, max_size=17)


@given(st.sampled_from("23456"), digits, st.sampled_from(["", " ", "-"]), st.integers(1, 9))
def test_a_card_number_goes_and_one_with_another_check_digit_stays(first: str, body: str, gap: str, off: int) -> None:
    number = first + body
    right = luhn_digit(number)
    wrong = str((int(right) + off) % 10)

    def grouped(text: str) -> str:
        return gap.join(text[start : start + 4] for start in range(0, len(text), 4))

    assert redact(f"my card {grouped(number + right)}, ok", "card") == ("my card [CARD], ok", 1)
    if gap == "":
        assert redact(number + wrong, "card") == (number + wrong, 0)


@given(st.text("0123456789", min_size=18, max_size=18), st.sampled_from(["", " "]))
def test_an_iban_goes_and_one_with_another_check_digit_stays(account: str, gap: str) -> None:
    check = 98 - int(f"{account}131400") % 97  # D is 13, E is 14
    iban = f"DE{check:02d}{account}"
    text = gap.join(iban[start : start + 4] for start in range(0, 22, 4))
    assert redact(f"to {text} please", "iban") == ("to [IBAN] please", 1)
    other = f"DE{(check + 1) % 97:02d}{account}"
    assert redact(other, "iban") == (other, 0)


marked = st.lists(
    st.one_of(
        st.sampled_from(
            ["&amp;", "&#38;", "lt;", "&lt;", "<", ">", "b", "/", "<br>", "<!--", "-->", "<script>", "\u200b"]
        ),
        st.sampled_from(
            ["\u0301", "e", " ", "\n", "\ufb01", "a@b.de", "+49 30 1234567", "4111 1111", "-", "1", "[EMAIL]"]
        ),
        st.text(max_size=4),
    ),
    max_size=25,
).map("".join)


@settings(max_examples=400)
@given(marked)
def test_to_clean_what_is_clean_changes_nothing(text: str) -> None:
    once = EVERYTHING.text(text)
    assert EVERYTHING.text(once) == once


def test_a_long_hostile_text_comes_to_an_end() -> None:
    hostile = ["<", "&amp;", "&#38;", "<script>", "<!--", "1 ", "a@", "+1 ", "(415) ", "0"]
    for piece in hostile:
        text = piece * (20_000 // len(piece))
        assert len(EVERYTHING.text(text)) <= len(text)


def test_what_was_done_is_counted() -> None:
    row = {"text": "<b>a@b.de</b> or c@d.fr", "label": "<b>"}
    values, touched = EVERYTHING(row)
    assert values == {"text": "[EMAIL] or [EMAIL]", "label": "<b>"}
    assert touched == {"html": 1, "redact email": 2}
    assert EVERYTHING.emptied({"text": "<br>"}, EVERYTHING({"text": "<br>"}).values) == "text"
    assert EVERYTHING.emptied({"text": ""}, {"text": ""}) is None


def test_a_text_in_another_language_is_told_and_a_short_one_stays() -> None:
    assert other_language("Das Kleid passt sehr gut und ist wirklich schön.", ["en"], None) == "de"
    assert other_language("Das Kleid passt sehr gut und ist wirklich schön.", ["en", "de"], None) is None
    assert other_language("Runs small", ["en"], None) is None
    with pytest.raises(DataError, match="'xx' is not known"):
        other_language("Runs small", ["xx"], None)


def test_a_library_that_is_not_installed_is_named_before_the_first_record(monkeypatch: pytest.MonkeyPatch) -> None:
    EVERYTHING.require()
    for name in ("stdnum", "stdnum.iban", "py3langid", "py3langid.langid"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r"pip install heliostat\[clean\]"):
        EVERYTHING.require()
    identifier.cache_clear()
    with pytest.raises(DataError, match=r"pip install heliostat\[clean\]"):
        identifier(("en",))


def test_what_cleans_can_be_sent_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING  # noqa: S301  our own bytes


LONG = "the dress is lovely and warm and it fits me very well although the sleeves are a little long for me"


def test_the_first_of_equal_texts_stays_unless_valid_or_test_has_it() -> None:
    train = [LONG, "short and odd", LONG.upper(), f"{LONG}!", "held out text", None, None]
    found = repeats(train, ["Held  out text"], near=True)
    assert (found.exact, found.near, found.held_out) == ({2, 4}, {3}, 1)
    found = repeats(train, ["Held  out text"], near=False)
    assert (found.exact, found.near) == ({2, 4}, set())


@given(
    st.lists(st.sampled_from("abcdef"), min_size=2, max_size=60),
    st.floats(1.0, 4.0),
    st.sampled_from(["over", "under"]),
)
def test_classes_are_within_the_ratio_afterwards(classes: list[str], within: float, by: str) -> None:
    ids = [hash((place, "x")) % 2**63 for place in range(len(classes))]
    chosen = BalanceSettings.model_validate({"by": by, "within": within})
    times = balanced(classes, ids, chosen)
    before, after = Counter(classes), Counter()
    for name, count in zip(classes, times, strict=True):
        after[name] += count
    assert set(after) == set(before)
    assert all(after[name] >= before[name] if by == "over" else after[name] <= before[name] for name in before)
    assert max(after.values()) <= within * min(after.values()) + (1e-9 if by == "under" else within)
    assert times == balanced(classes, ids, chosen)


def test_copies_have_ids_of_their_own_and_targets_that_are_no_class_are_refused() -> None:
    assert len({copy_id(5, copy) for copy in range(100)}) == 100
    assert copy_id(5, 0) == 5
    with pytest.raises(DataError, match=r"data\.balance needs one class"):
        balanced([1.5, 2.5], [1, 2], BalanceSettings(by="over"))


KNOWN = ["the lovely green dress fits me very well today", "awful sleeves and a terribly thin fabric"]
WORDS = [*KNOWN, "greendress lovelythin sleevefits the", "me awfully todaydress"] * 4


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    made = TextEncoder(TextEncoder.Config(preset="tiny", vocab_size=300))
    made.fit([{"text": text} for text in KNOWN * 4])
    return made


def augmented(
    encoder: TextEncoder, ids: list[int], texts: list[str], epoch: int = 0, **rates: float
) -> list[list[int]]:
    batch = collate(encoder.encode([{"text": text} for text in texts]), np.array(ids, dtype=np.uint64))
    changed = Augmenter(AugmentSettings(**rates), encoder.spec())(batch, Draws(7, epoch)).ragged("input_ids")
    assert changed.lengths == batch.ragged("input_ids").lengths
    return [piece.tolist() for piece in changed.split()]


def test_hidden_words_are_whole_and_about_as_many_as_asked(encoder: TextEncoder) -> None:
    plain = [encoded["input_ids"].tolist() for encoded in encoder.encode([{"text": text} for text in WORDS])]
    vocabulary = encoder.spec().vocabulary
    assert vocabulary is not None
    starts, special = vocabulary.starts_word(), set(vocabulary.special_ids)
    hidden = words = 0
    for epoch in range(20):
        for before, after in zip(plain, augmented(encoder, [*range(16)], WORDS, epoch, drop=0.3), strict=True):
            for place, (one, other) in enumerate(zip(before, after, strict=True)):
                if one in special:
                    assert one == other
                    continue
                assert other in (one, vocabulary.mask_id)
                if starts[one]:
                    words, hidden = words + 1, hidden + (other != one)
                else:
                    assert (other == vocabulary.mask_id) == (after[place - 1] == vocabulary.mask_id)
    assert hidden / words == pytest.approx(0.3, abs=0.03)


def test_swapped_words_are_the_same_words_with_special_tokens_in_place(encoder: TextEncoder) -> None:
    vocabulary = encoder.spec().vocabulary
    assert vocabulary is not None
    before = augmented(encoder, [*range(16)], WORDS, drop=1e-12)
    after = augmented(encoder, [*range(16)], WORDS, swap=0.5)
    assert before != after
    for one, other in zip(before, after, strict=True):
        assert sorted(one) == sorted(other)
        assert (one[0], one[-1]) == (other[0], other[-1])
        assert sorted(vocabulary.text(one).split()) == sorted(vocabulary.text(other).split())


def test_what_is_drawn_hangs_on_the_example_and_the_epoch_alone(encoder: TextEncoder) -> None:
    rates = {"drop": 0.2, "swap": 0.2}
    whole = augmented(encoder, [*range(16)], WORDS, **rates)
    turned = augmented(encoder, [*reversed(range(16))], WORDS[::-1], **rates)
    assert whole == turned[::-1]
    assert whole[3:5] == augmented(encoder, [3, 4], WORDS[3:5], **rates)
    assert whole != augmented(encoder, [*range(16)], WORDS, 1, **rates)


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_swap_is_a_permutation_within_each_example(examples: list[list[int]], dice: object) -> None:
    # each example: the sizes of its words, 0 for a special token
    first, special, owner, place = [], [], [], 0
    for number, words in enumerate(examples):
        for size in words:
            for _ in range(max(1, size)):
                first.append(place)
                special.append(size == 0)
                owner.append(number)
            place = len(first)
    chosen = np.array([dice.random() < 0.7 for _ in first], dtype=bool)  # type: ignore[attr-defined]
    came_from = swapped(np.array(first, dtype=np.int64), np.array(special, dtype=bool), np.array(owner), chosen)
    assert sorted(came_from) == list(range(len(first)))
    assert all(owner[source] == owner[place] for place, source in enumerate(came_from))
    assert all(source == place for place, source in enumerate(came_from) if special[place])
    inside = [(a, b) for a, b in itertools.pairwise(range(len(first))) if first[a] == first[b]]
    home = {int(source): place for place, source in enumerate(came_from)}
    assert all(home[b] == home[a] + 1 for a, b in inside)


def test_only_an_encoder_of_words_can_be_augmented(encoder: TextEncoder) -> None:
    with pytest.raises(RunError, match="reads none"):
        Augmenter(AugmentSettings(swap=0.1), FeatureSpec(8))
    assert drawn.__defaults__ == (None,)  # validation augments nothing unless asked
    assert Classification.needs is not None
