"""How a run cleans its texts, which of its train examples it leaves out or repeats, and what it draws anew."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Settings, closest
from heliostat.features import TokenFeatures
from heliostat.plugin import TaskHead

Personal = Literal["email", "phone", "iban", "card", "ssn"]
"""Kinds of personal data that can be found by their form: IBANs, card numbers and US social security numbers with
their check digits or rules."""

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def _says_nothing(key: str, way_out: str) -> PydanticCustomError:
    sentence = f"{key} changes nothing as it stands: leave it out, or {way_out}."
    return PydanticCustomError("no_effect", "{sentence}", {"sentence": sentence})


class CleanSettings(Settings):
    """What is done to texts before anything else reads them, and which examples are left out.

    What changes a text (`normalise`, `redact`) is done to every request of the served model, too.
    """

    normalise: tuple[Literal["html", "unicode", "space"], ...] = ()
    """`html`: tags, comments and entities become text. `unicode`: NFKC, without control and invisible characters.
    `space`: runs of blanks become one."""
    redact: tuple[Personal, ...] = ()
    """Kinds of personal data that become a placeholder, as [EMAIL]. They are found by their form: names are not."""
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ()
    """Languages (ISO 639, as `en`) that are kept; an example that is surely in another is left out of every split."""
    certainty: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Probability from which an example counts as surely in another language; None takes 0.8. Short texts rarely reach
    it, and stay."""
    duplicates: Literal["exact", "near"] | None = None
    """Leave out train examples whose text stands in valid, in test or earlier in train: equal but for case and space,
    or near (0.8 of their 5-character pieces in common), too. Valid and test keep all of theirs."""
    fields: tuple[str, ...] | None = None
    """Fields to clean; None takes every text that the head takes. Name a target to clean it beside them, and a list of
    texts to clean each."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.normalise or self.redact or self.languages or self.duplicates):
            raise _says_nothing("data.clean", "name normalise, redact, languages or duplicates")
        if self.certainty is not None and not self.languages:
            raise _says_nothing("certainty", "name the languages that are kept")
        if self.fields is not None and not (self.normalise or self.redact):
            raise _says_nothing("fields", "name what is done to them with normalise or redact")
        return self

    @property
    def changes_texts(self) -> bool:
        """Whether requests are changed as well."""
        return bool(self.normalise or self.redact)


class BalanceSettings(Settings):
    """Even out the classes of the train split by repeating or leaving out examples; valid and test stay."""

    by: Literal["over", "under"]
    """`over` repeats examples of rare classes, `under` leaves out some of frequent ones."""
    within: Annotated[float, Field(ge=1.0)] = 1.0
    """How many times as frequent as the rarest class the most frequent one may be afterwards."""


class AugmentSettings(Settings):
    """Changes to the words of train examples, drawn anew in each epoch; nothing else is ever augmented."""

    drop: Share = 0.0
    """Share of the words that are hidden behind the mask token."""
    swap: Share = 0.0
    """Share of the words that change places with the next one."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.drop or self.swap):
            raise _says_nothing("train.augment", "set drop or swap")
        return self


def text_fields(head: type[TaskHead]) -> tuple[str, ...]:
    """The fields of a head's record that hold a text."""
    fields = head.takes.model_fields.items()
    return tuple(name for name, field in fields if str in kinds_of(field.annotation))


def _lists_of_texts(head: type[TaskHead]) -> tuple[str, ...]:
    """The fields of a head's record that hold a list of texts: sentences, or names that must stay as they are."""
    fields = ((name, kinds_of(field.annotation)) for name, field in head.takes.model_fields.items())
    lists = [(name, kind) for name, kinds in fields for kind in kinds if get_origin(kind) in (list, tuple, set)]
    return tuple(dict.fromkeys(name for name, kind in lists if any(str in kinds_of(each) for each in get_args(kind))))


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """The types that a field may hold: the members of unions, without their limits (`Annotated`)."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for option in get_args(annotation) for kind in kinds_of(option))
    return (annotation,)


def check_cleaning(clean: CleanSettings | None, head: type[TaskHead]) -> None:
    """Raise for a field that the examples of this head do not have, or a head that reads no text."""
    if clean is None:
        return
    there = [*head.takes.model_fields, *head.target_fields]
    for name in clean.fields or ():
        if name not in there:
            guess = closest(name, there)
            hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(there)}."
            raise PydanticCustomError(
                "field", "{sentence}", {"sentence": f"data.clean.fields: {head.__name__} has no field '{name}'. {hint}"}
            )
    lists = _lists_of_texts(head)
    if lists and clean.changes_texts and clean.fields is None:
        sentence = (
            f"data.clean: {head.__name__} takes lists of texts ({', '.join(lists)}), and whether they are to be "
            "cleaned cannot be told from here. Name all fields to clean in data.clean.fields."
        )
        raise PydanticCustomError("field", "{sentence}", {"sentence": sentence})
    if not text_fields(head) and not clean.fields:
        sentence = f"data.clean has no effect with {head.__name__}, which takes no text. Leave it out."
        raise PydanticCustomError("no_effect", "{sentence}", {"sentence": sentence})


def check_augment(augment: AugmentSettings | None, head: type[TaskHead]) -> None:
    """Raise for a head whose targets are the very words that would be changed."""
    if augment is not None and issubclass(head.needs, TokenFeatures):
        sentence = (
            f"train.augment changes words, and {head.__name__} learns from each of them. Leave it out, or take a head "
            "over pooled features, as core.classification."
        )
        raise PydanticCustomError("augment", "{sentence}", {"sentence": sentence})
