"""Polarity: a text in, one of three attitudes out."""

from __future__ import annotations

from typing import ClassVar

from heliostat.plugin import Classification, Demo, Field, Record, Row


class Review(Record):
    """A text whose writer has an attitude."""

    text: str = Field(min_length=1, max_length=20_000, description="A review, title first, or a sentence of one.")


class PolarityDemo(Demo):
    """The page of a polarity model."""

    title: ClassVar[str] = "What does this review say?"
    description: ClassVar[str] = (
        "Negative stands for one or two stars of five, neutral for three, positive for four or five. "
        "The model has read English reviews of women's clothing; of other things it knows less."
    )


class Polarity(Classification):
    """One logit a polarity, over the pooled text."""

    class Config(Classification.Config):
        """Settings of the head."""

        labels: tuple[str, ...] | None = ("negative", "neutral", "positive")

    takes: ClassVar[type[Record]] = Review
    demo: ClassVar[type[Demo] | None] = PolarityDemo
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "Lovely. The fabric is soft, it fits like a glove, and I have already ordered a second one in blue."},
        {"text": "It's okay. The colour is pretty, but the sleeves are a little short. I might keep it, I might not."},
        {"text": "So disappointed! The seam came apart after one wash and the zip never closed. It goes back."},
        {"text": "I wanted to love this dress and the cut is beautiful, but on me it looked like a sack. Returned."},
        {"text": "Runs large. Size down and it is perfect."},
        {"text": "meh"},
    )
