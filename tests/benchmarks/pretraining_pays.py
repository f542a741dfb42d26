"""Does pretraining pay? The paired difference between two runs on the same test rows, with its 95 % interval.

    heliostat data fetch medical/pretrain
    heliostat train medical/pretrain --run-id lm
    heliostat train medical/roles --run-id roles-scratch
    heliostat train medical/roles-pretrained --run-id roles-pretrained
    python tests/benchmarks/pretraining_pays.py roles-pretrained roles-scratch

Both runs must differ in where their encoder starts and in nothing else; the script refuses others. It reads the tables
of predictions that the reports kept, so it trains nothing and asks no model.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd

from heliostat.errors import HeliostatError
from heliostat.evaluate.intervals import compare
from heliostat.home import home
from heliostat.run import build, check

RESAMPLES = 2000
STARTS = {"preset", "pretrained"}
"""Settings of the encoder that say where it starts."""


def settings(run: str) -> dict[str, Any]:
    """The resolved run, without what names it and where its encoder starts."""
    found: dict[str, Any] = json.loads((home() / "runs" / run / "run.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in found.items() if key != "name"}
    return {**kept, "encoder": {key: value for key, value in found["encoder"].items() if key not in STARTS}}


def table(run: str) -> pd.DataFrame:
    """The predictions of a run on its test split, by example."""
    return pd.read_parquet(home() / "runs" / run / "report" / "predictions.parquet").sort_values(
        "id", ignore_index=True
    )


def head_of(run: str) -> Any:
    """The head of a run as it was fitted."""
    folder = home() / "runs" / run
    head = build(check(json.loads((folder / "run.json").read_text(encoding="utf-8")))).head
    newest = max((folder / "checkpoints").glob("step-*"))
    head.load(newest / "head")
    return head


def main(pretrained: str, scratch: str) -> int:
    """Print the scores of both and their difference; 0 where the interval of the main score lies above zero."""
    one, other = settings(pretrained), settings(scratch)
    differing = sorted(key for key in one | other if one.get(key) != other.get(key))
    if differing:
        raise HeliostatError(f"{pretrained} and {scratch} differ in {', '.join(differing)}; only encoder starts may.")
    tables = {pretrained: table(pretrained), scratch: table(scratch)}
    if not tables[pretrained]["id"].equals(tables[scratch]["id"]):
        raise HeliostatError(f"{pretrained} and {scratch} were tested on other examples.")
    head = head_of(pretrained)
    found = compare(tables, head.metrics(), RESAMPLES)
    print(f"{len(tables[scratch])} test examples, {RESAMPLES} paired resamples")
    for name, difference in found.differences[scratch].items():
        print(f"{name:24} {found.scores[pretrained][name]!s:24} {found.scores[scratch][name]!s:24} {difference!s}")
    difference = found.differences[scratch][head.selects]
    print(f"pretraining {'pays' if difference.low > 0 else 'does not show'}: {head.selects} {difference.value:+.4f}")
    print(f"  95 % interval [{difference.low:+.4f}, {difference.high:+.4f}]")
    return 0 if difference.low > 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:3]))
    except (HeliostatError, FileNotFoundError) as error:
        print(f"error {error}", file=sys.stderr)
        sys.exit(2)
