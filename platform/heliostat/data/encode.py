"""Examples -> encoded examples: the encoder's columns beside the head's targets, a bad one with its reason instead."""

from __future__ import annotations

from collections.abc import Sequence

from heliostat.batch import Encoded
from heliostat.component import Row
from heliostat.data.examples import BAD_RECORD, where
from heliostat.errors import DataError
from heliostat.plugin import Encoder, TaskHead

CHUNK = 1000
"""Examples that an encoder gets at once."""


def encode(encoder: Encoder, head: TaskHead, examples: Sequence[Row]) -> list[Encoded | str]:
    """The encoded examples in order; the reason, as text, in place of one that cannot be encoded.

    Raises DataError when encoder and head give a column of the same name, or another count than they were given.
    """
    try:
        return list(_merged(encoder, head, examples))
    except (DataError, *BAD_RECORD) as error:
        if isinstance(error, _Misfit) or len(examples) == 0:
            raise
        if len(examples) == 1:
            return [str(error) if isinstance(error, DataError) else f"{where(error)}, in encoding"]
    return [one for example in examples for one in encode(encoder, head, [example])]


def inputs_of(encoder: Encoder, head: TaskHead, examples: Sequence[Row]) -> list[Encoded]:
    """What a model reads of each example, in shards and in requests: the encoder's columns and the head's own."""
    own = zip(encoder.encode(examples), head.read(examples), strict=True)
    return [{**values, **read} for values, read in own]


class _Misfit(DataError):
    """The components do not fit each other: no fault of a record."""


def _merged(encoder: Encoder, head: TaskHead, examples: Sequence[Row]) -> list[Encoded]:
    inputs, targets = inputs_of(encoder, head, examples), head.encode(examples, encoder.spec())
    for component, encoded in ((encoder, inputs), (head, targets)):
        if len(encoded) != len(examples):
            name = type(component).__name__
            raise _Misfit(
                f"{name}.encode gave {len(encoded)} results for {len(examples)} examples; it must give one each."
            )
    clash = sorted(set(inputs[0]) & set(targets[0])) if examples else []
    if clash:
        raise _Misfit(
            f"{type(encoder).__name__} and {type(head).__name__} both give a column '{clash[0]}'. Rename the head's: "
            "input columns and target columns stand side by side in a batch."
        )
    return [{**values, **target} for values, target in zip(inputs, targets, strict=True)]
