"""Which settings of a run may differ between its trials."""

from __future__ import annotations

from collections.abc import Mapping

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
    return _reason(key, _REASONS)


_PLACE = "decides which examples come when, and members of a population must stand at the same update"
_WHOLE = "holds for a whole training"
_MIDWAY = {
    "train": _WHOLE,
    "train.lr": "",
    "train.layer_decay": "",
    "train.weight_decay": "",
    "train.clip_norm": "",
    "train.schedule": "",
    "train.decay": "",
    "train.warmup": "",
    "train.augment": "",
    "train.optimizer": "decides what the optimiser remembers: what a donor's remembers would not fit",
    "train.optimizer.type": "decides what the optimiser remembers: what a donor's remembers would not fit",
    **{f"train.optimizer.{name}": "" for name in ("lr", "betas", "eps", "momentum", "alpha")},
    **{f"train.optimizer.{name}": "" for name in ("nesterov", "newton_schulz_steps")},
    "train.epochs": _PLACE,
    "train.max_steps": _PLACE,
    "train.tokens_per_batch": _PLACE,
    "train.ema": "decides what a checkpoint holds",
    "encoder.pretrained": "is where weights begin: it changes nothing later",
    "data": "decides which examples are learned from, and those of a training stay the same",
}
"""As above, of changes in the middle of a training; what is not named may change if it leaves data and shapes alone."""


def why_not_midway(key: str) -> str:
    """The reason why a dotted key cannot change in the middle of a training; empty where none is known.

    Whether it leaves the data and the shapes of the weights alone is found out when runs are built.
    """
    return _reason(key, _MIDWAY)


def _reason(key: str, reasons: Mapping[str, str]) -> str:
    parts = key.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((reasons[prefix] for prefix in prefixes if prefix in reasons), "")
