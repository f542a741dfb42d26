"""The one table of predictions that every metric, interval, slice and paired test reads.

Columns: `id`, `target_<field>` for each target field of the head, the model's prediction (`label`,
`probability_<class>`, ...), the same fields of each baseline behind its name (`core_tfidf_label`, ...), and
`slice_<column>` for each slice. Plain values only, no text of the examples: the file may be handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.component import Row, closest
from heliostat.errors import DataError
from heliostat.plugin import TaskHead

if TYPE_CHECKING:
    import pandas as pd

MODEL = "model"
"""What the evaluated model is called among the models of a table; baselines go by their address."""


@dataclass(frozen=True)
class Predictions:
    """The table, and which of its columns belong to which model."""

    table: pd.DataFrame
    targets: tuple[str, ...]
    """Columns that every model shares: `id`, the targets and the slices."""
    fields: Mapping[str, Mapping[str, str]]
    """For each model, the name of a prediction field -> its column."""

    def view(self, model: str) -> pd.DataFrame:
        """The table as a metric expects it: targets, and the predictions of one model under their plain names."""
        names = {column: field for field, column in self.fields[model].items()}
        return self.table[[*self.targets, *names]].rename(columns=names)

    def views(self) -> dict[str, pd.DataFrame]:
        """The view of each model, the evaluated one first."""
        return {model: self.view(model) for model in self.fields}

    def write(self, path: Path) -> None:
        """Write the table as parquet."""
        self.table.to_parquet(path, index=False)


def question(head: TaskHead, example: Row) -> Row:
    """The fields of an example that the head takes: no targets, no slices."""
    return {name: example[name] for name in head.takes.model_fields if name in example}


def flatten(row: Row) -> Row:
    """A prediction with each mapping spread over columns: `{probabilities: {a: .9}}` becomes `{probability_a: .9}`."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat.update({f"{_singular(name)}_{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def _singular(name: str) -> str:
    return f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")


def tabulate(
    head: TaskHead,
    ids: Sequence[Any],
    examples: Sequence[Row],
    answers: Mapping[str, Sequence[Row]],
    slices: Sequence[str],
) -> Predictions:
    """The table from the examples and each model's answers, all in the same order. `answers` begins with MODEL.

    Raises DataError for a slice that no example carries.
    """
    import pandas as pd

    columns: dict[str, Any] = {"id": pd.array(ids, dtype="uint64")}
    columns |= {f"target_{name}": [example.get(name) for example in examples] for name in head.target_fields}
    check_slices(slices, examples)
    columns |= {f"slice_{name}": [example.get(name) for example in examples] for name in slices}
    shared = tuple(columns)
    fields: dict[str, dict[str, str]] = {}
    for model, rows in answers.items():
        flat = pd.DataFrame([flatten(row) for row in rows])
        prefix = "" if model == MODEL else f"{model.replace('.', '_')}_"
        fields[model] = {str(name): f"{prefix}{name}" for name in flat.columns}
        columns |= {f"{prefix}{name}": flat[name].to_numpy() for name in flat.columns}
    return Predictions(pd.DataFrame(columns), shared, fields)


def carried(name: str, examples: Sequence[Row]) -> bool:
    """Whether any example has a field or column of this name."""
    return any(name in example for example in examples)


def check_slices(slices: Sequence[str], examples: Sequence[Row]) -> None:
    """Raises DataError for a slice that no example carries."""
    for name in slices:
        if not carried(name, examples):
            there = sorted({field for example in examples[:100] for field in example})
            guess = closest(name, there)
            hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(there)}."
            raise DataError(f"evaluate.slices: no example carries a column '{name}'. {hint}")
