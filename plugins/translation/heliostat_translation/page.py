"""The page of a translation model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from heliostat.plugin import Demo, Row


class TranslationDemo(Demo):
    """Source, translation, the nearest pair that was trained on, and how probable each beam is."""

    title: ClassVar[str] = "Software help, translated"
    description: ClassVar[str] = (
        "The model has read the help of an office suite; of other texts it knows little. The bars show the texts that "
        "the search found, with the geometric mean of the probabilities of their tokens."
    )

    def bars(self, answer: Row) -> Mapping[str, float]:
        """Each text that was found, with the mean probability of its tokens."""
        return {beam["answer"]: math.exp(min(0.0, beam["score"])) for beam in answer["beams"]}
