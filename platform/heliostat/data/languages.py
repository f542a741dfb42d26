"""The language of a text, told offline by the bytes that are typical of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from heliostat.component import closest
from heliostat.errors import DataError

CERTAIN = 0.8
"""Probability from which a text counts as surely in a language, where the run names none."""


def other_language(text: str, kept: Sequence[str], certainty: float | None) -> str | None:
    """The language that a text is surely in, where that is none of `kept`; else None.

    Raises DataError for a language that is not known, or when the library that tells them is not installed.
    """
    language, probability = identifier(tuple(kept)).classify(text)
    return str(language) if language not in kept and probability >= (certainty or CERTAIN) else None


@cache
def identifier(kept: tuple[str, ...]) -> Any:
    """What tells languages; each process reads it once. Checks that it knows those that are kept."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise DataError("data.clean.languages tells them with py3langid: pip install heliostat[clean].") from None
    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    unknown = [language for language in kept if language not in found.labels]
    if unknown:
        guess = closest(unknown[0], sorted(found.labels))
        hint = f"Did you mean '{guess}'? " if guess else ""
        raise DataError(f"data.clean.languages: '{unknown[0]}' is not known. {hint}It takes ISO 639 codes, as en, de.")
    return found
