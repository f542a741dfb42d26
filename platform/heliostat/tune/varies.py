"""Which settings of a run may differ between its trials."""

from __future__ import annotations

_SAME = "changes nothing of what is learned"
_REASONS = {
    "name": "names the model in the store",
    "data.balance": "",
    "data": "decides which examples are learned from and scored on, so scores of trials could not be compared",
    "evaluate": "shapes the report and not the model",
    "scaling": "says who shares the work: the loss does not depend on it",
    "tune": "is the search itself",
    "train.seed": "would make luck look like a setting: train the best run with several seeds instead",
    "train.select": "is what trials are compared by: set tune.metric",
    "train.evaluations_per_epoch": "is set by tune.validations",
    "train.validation": "must be inline in a sweep, whose scheduler waits for the scores",
    "train.tokens_per_micro_batch": "bounds memory: the gradient does not depend on it",
    "train.activation_checkpointing": "bounds memory: the gradient does not depend on it",
    "train.trackers": _SAME,
    "train.mirror": _SAME,
    "train.log_every": _SAME,
    "train.check_every": _SAME,
    "train.checkpoint_every": _SAME,
    "train.keep_checkpoints": _SAME,
}
"""The most specific key counts; an empty reason lets it vary."""


def why_not(key: str) -> str:
    """The reason why a dotted key cannot be searched; empty for one that can."""
    parts = key.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((_REASONS[prefix] for prefix in prefixes if prefix in _REASONS), "")
