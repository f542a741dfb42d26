"""What every page and card of a model of this domain carries."""

NOTICE = "Not for clinical decisions."
