"""Sentiment: a review in, a polarity out."""

from __future__ import annotations

from heliostat.plugin import Registry
from heliostat_sentiment.polarity import Polarity
from heliostat_sentiment.rated import RatedSentences
from heliostat_sentiment.reviews import StarReviews


def register(registry: Registry) -> None:
    """Register two adapters and the head."""
    registry.add("reviews", StarReviews)
    registry.add("rated", RatedSentences)
    registry.add("polarity", Polarity)
