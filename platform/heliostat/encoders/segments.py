"""The encoder of texts that belong together: all are read at once, and each gets a vector that knows its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Row
from heliostat.encoders.text import TextEncoder
from heliostat.errors import DataError
from heliostat.features import SegmentFeatures, TokenFeatures
from heliostat.plugin import Encoded

if TYPE_CHECKING:
    from heliostat.encoders.text_module import TextModule

SEGMENTS = "segments"
"""The column that says how many tokens each text has in its example, the mark at its end included."""


class SegmentsEncoder(TextEncoder):
    """A list of texts, as the sentences of an abstract -> a vector for each, read in the light of the others.

    The texts stand in one sequence, `[CLS] first [SEP] second [SEP]`, and a text is the mean of its tokens and its mark
    (after Cohan et al. 2019, who take the mark alone).
    """

    class Config(TextEncoder.Config):
        """Settings of the text encoder; `max_tokens` bounds all texts together."""

        fields: Annotated[tuple[str, ...], Field(min_length=1, max_length=1)] = ("texts",)
        """The field of an example that holds the list."""
        max_tokens: Annotated[int, Field(ge=8, le=8192)] = 512
        """Tokens of all texts together; where there are more, the longest texts are cut until they fit."""

        @field_validator("blank")
        @classmethod
        def _no_blank(cls, value: str | None) -> None:
            if value is not None:
                rule = "has no effect on core.segments, which fills no blanks. Leave it out."
                raise PydanticCustomError("no_effect", "{rule}", {"rule": rule})

    gives: ClassVar[type[TokenFeatures]] = SegmentFeatures

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """`input_ids` of each example, and `segments`, the tokens of each of its texts.

        Raises DataError for an example without texts, or with more than there is room for.
        """
        tokenizer = self._fitted()[1]
        lists = [self._parts(example) for example in examples]
        around = tokenizer.encode("").ids
        begin, end = around[:-1], around[-1:]
        # With the special ones that the tokenizer adds to each, which are taken off again: texts are cut here.
        flat = [text for texts in lists for text in texts]
        ids = [tokens.ids[len(begin) : len(tokens.ids) - len(end)] for tokens in self._read(flat)]
        rows, first = [], 0
        for texts in lists:
            rows.append(self._row(ids[first : first + len(texts)], begin, end))
            first += len(texts)
        return rows

    def _row(self, texts: Sequence[npt.NDArray[np.int32]], begin: list[int], end: list[int]) -> Encoded:
        room = self.config.max_tokens - len(begin) - len(texts) * len(end)
        if room < len(texts):
            raise DataError(f"an example has {len(texts)} texts, and encoder.max_tokens={self.config.max_tokens}.")
        lengths = fitted([len(text) for text in texts], room)
        if any(len(text) + len(end) == 0 for text in texts):
            raise DataError(f"an example has a text in {self.config.fields[0]} without a token.")
        self.truncated += any(len(text) > length for text, length in zip(texts, lengths, strict=True))
        cut = (text[:length] for text, length in zip(texts, lengths, strict=True))
        pieces = [begin, *(piece for text in cut for piece in (text, end))]
        return {
            "input_ids": np.concatenate(pieces, dtype=np.int32, casting="unsafe"),
            SEGMENTS: np.array([length + len(end) for length in lengths], dtype=np.int32),
        }

    def _parts(self, example: Row) -> tuple[str, ...]:
        field = self.config.fields[0]
        texts = example.get(field)
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"encoder.fields names '{field}', which must be a list of one text or more.")
        return tuple(texts)

    def module_type(self) -> type[TextModule]:
        """The module that gives a vector for each text."""
        from heliostat.encoders.segments_module import SegmentsModule

        return SegmentsModule


def fitted(lengths: Sequence[int], room: int) -> list[int]:
    """The lengths, the longest of them lowered to one height until their sum fits into `room`."""
    if sum(lengths) <= room:
        return list(lengths)
    left, height = room, 0
    for place, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - place)
        if length > share:
            height = share
            break
        left -= length
    cut = [min(length, height) for length in lengths]
    spare = room - sum(cut)
    for place, length in enumerate(lengths):  # what the division left over goes to the first that are cut
        if spare and length > cut[place]:
            cut[place] += 1
            spare -= 1
    return cut
