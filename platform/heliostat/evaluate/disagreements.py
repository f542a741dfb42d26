"""The examples to which two models give different answers, the most confident disagreements first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from heliostat.component import Row
from heliostat.evaluate.mistakes import MAX_CHARACTERS, shown
from heliostat.evaluate.table import question
from heliostat.plugin import TaskHead

MAX_SHOWN = 50
_ALIKE = 1e-3
"""Numbers that differ by less, of their size, count as the same answer: other batches round differently."""


class Disagreement(NamedTuple):
    """One example that two models answer differently."""

    id: int
    distance: float
    """How far the answers lie apart. Probabilities: their total variation, so that 1 is two sure models that contradict
    each other. Texts and lists: 1 less what they share. Else the difference of the numbers."""
    target: str
    first: str
    second: str
    """The answers, shortened; empty for a head whose records are private and whose answer is a text."""
    right: str
    """Which of the two answers the target: `first`, `second`, `neither`; empty where answers are no targets."""
    text: str
    """The record, shortened; empty for a head whose records are private."""


class Disagreements(NamedTuple):
    """How often two models differ, who is right then, and the examples that tell most."""

    num_differing: int
    right: Mapping[str, int]
    """`first`, `second` and `neither`, each with its examples; empty where answers are no targets."""
    shown: Sequence[Disagreement]


def disagreements(
    head: TaskHead, ids: Sequence[Any], examples: Sequence[Row], first: Sequence[Row], second: Sequence[Row]
) -> Disagreements:
    """Where the answers differ, for examples in the same order. Equal labels with other probabilities are the same."""
    first, second = [_bare(answer) for answer in first], [_bare(answer) for answer in second]
    apart = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if differ(one, other)]
    named = _have_names(head, examples)
    sides = [_right(head, examples[place], first[place], second[place]) if named else "" for place in apart]
    counts = {side: sides.count(side) for side in ("first", "second", "neither")} if any(sides) else {}
    far = sorted(
        ((distance(first[place], second[place]), -place, side) for place, side in zip(apart, sides, strict=True)),
        reverse=True,
    )
    found = [
        Disagreement(
            id=int(ids[-place]),
            distance=gap,
            target=_target(head, examples[-place]),
            first=_answer(head, first[-place]),
            second=_answer(head, second[-place]),
            right=side,
            text="" if head.private else shown(question(head, examples[-place])),
        )
        for gap, place, side in far[:MAX_SHOWN]
    ]
    return Disagreements(len(apart), counts, found)


def _bare(answer: Row) -> Row:
    """The answer without lists of records (the other texts of a search), which say how it was found."""
    return {
        name: value
        for name, value in answer.items()
        if not (isinstance(value, (list, tuple)) and any(isinstance(inner, Mapping) for inner in value))
    }


def _have_names(head: TaskHead, examples: Sequence[Row]) -> bool:
    """Whether targets are names of classes, which recur: of free texts nobody asks which answer is right."""
    if getattr(head, "labels", None):
        return True
    different = {str([example.get(name) for name in head.target_fields]) for example in examples}
    return 2 * len(different) <= len(examples)


def differ(first: Row, second: Row) -> bool:
    """Whether two answers say different things: by their names and texts, or by their numbers where they have none."""
    words = [name for name, value in first.items() if not isinstance(value, (float, Mapping))]
    if words:
        return any(first[name] != second.get(name) for name in words)
    return any(gap > _ALIKE * max(1.0, size) for gap, size in _gaps(first, second))


def distance(first: Row, second: Row) -> float:
    """How far two answers lie apart; see `Disagreement.distance`."""
    shared = [(value, second[name]) for name, value in first.items() if name in second]
    spread = [_total_variation(one, other) for one, other in shared if _is_spread(one) and _is_spread(other)]
    if spread:
        return max(spread)
    words = [_unshared(one, other) for one, other in shared if isinstance(one, (str, list, tuple))]
    return max([*words, *(gap for gap, _ in _gaps(first, second))], default=0.0)


def _is_spread(value: Any) -> bool:
    """Whether it is numbers by their names, as probabilities are; a record of texts beside an answer is none."""
    return isinstance(value, Mapping) and all(isinstance(inner, Real) for inner in value.values())


def _gaps(first: Row, second: Row) -> Iterator[tuple[float, float]]:
    """The difference of each number of two answers, and its size."""
    for name, value in first.items():
        pairs = (
            [(inner, second.get(name, {}).get(key)) for key, inner in value.items()]
            if isinstance(value, Mapping)
            else [(value, second.get(name))]
        )
        for one, other in pairs:
            if isinstance(one, Real) and isinstance(other, Real):
                yield abs(float(one) - float(other)), abs(float(one))


def _total_variation(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Half the sum of the gaps for probabilities that add up to 1; else the widest gap, as of several labels."""
    gaps = [abs(float(first.get(key, 0.0)) - float(second.get(key, 0.0))) for key in {*first, *second}]
    adds_up = abs(sum(map(float, first.values())) - 1.0) < 0.01
    return sum(gaps) / 2 if adds_up else max(gaps, default=0.0)


def _unshared(first: Any, second: Any) -> float:
    """1 less the share of a text, or of a list's entries, that two answers have in common."""
    if isinstance(first, str):
        from rapidfuzz.distance import Indel

        return Indel.normalized_distance(first, str(second))
    one, other = ({str(each) for each in value} for value in (first, second))
    return 1.0 - len(one & other) / max(1, len(one | other))


def _right(head: TaskHead, example: Row, first: Row, second: Row) -> str:
    """Which answer is the target, for targets that are a name or a set of names."""
    names = [name for name in head.target_fields if isinstance(first.get(name), (str, list, tuple))]
    if not names:
        return ""
    one, other = (all(_same(answer[name], example.get(name)) for name in names) for answer in (first, second))
    return "first" if one else "second" if other else "neither"


def _same(answer: Any, target: Any) -> bool:
    if isinstance(answer, str):
        return bool(answer == target)
    return isinstance(target, (list, tuple)) and sorted(map(str, answer)) == sorted(map(str, target))


def _target(head: TaskHead, example: Row) -> str:
    return _plain({name: example.get(name) for name in head.target_fields}, head)


def _answer(head: TaskHead, answer: Row) -> str:
    sure = [max(value.values()) for value in answer.values() if value and _is_spread(value)]
    words = _plain({name: value for name, value in answer.items() if not isinstance(value, Mapping)}, head)
    return f"{words} ({sure[0]:.2f})" if len(sure) == 1 and words else words


def _plain(values: Row, head: TaskHead) -> str:
    """The values as one short text. Of a private head's, the names of classes stay and free texts go."""
    if head.private and any(isinstance(value, str) and len(value) > MAX_CHARACTERS // 4 for value in values.values()):
        return ""
    spelled = {name: _spelled(value) for name, value in values.items()}
    return shown({name: value for name, value in spelled.items() if value})


def _spelled(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_spelled, value))
    return "" if value is None else str(value)
