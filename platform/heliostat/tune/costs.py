"""What a trained model costs: how long an answer takes, and how large it is."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

from heliostat.component import Row
from heliostat.data.prepared import Prepared
from heliostat.evaluate.table import question
from heliostat.predict import Predictor

_EXAMPLES = 24
"""Examples of the valid split whose answers are timed."""
_LONGEST_S = 3.0
"""Seconds after which no more are begun."""


def measured(checkpoint: Path, names: Collection[str], prepared: Prepared) -> dict[str, float]:
    """Those of `run.MEASURED` that are asked for, of a checkpoint and the data that it was trained on."""
    if not names:
        return {}
    import torch

    threads = torch.get_num_threads()
    predictor = Predictor.load(checkpoint, threads=1)
    found = {
        "parameters": lambda: float(sum(each.numel() for each in predictor.model.parameters())),
        "size_mb": lambda: sum(path.stat().st_size for path in checkpoint.glob("[eh]*/*.safetensors")) / 1e6,
        "latency_ms": lambda: _latency_ms(predictor, list(islice(prepared.examples("valid"), _EXAMPLES))),
    }
    costs = {name: round(found[name](), 4) for name in names}
    torch.set_num_threads(threads)
    return costs


def _latency_ms(predictor: Predictor, examples: Sequence[Row]) -> float:
    """The median of answers to one example at a time, the quickest of three of each: neighbours make the others slow.

    To two digits: a third would differ when it is taken again, and put trials that are as fast ahead of each other.
    """
    times: list[float] = []
    began = time.perf_counter()
    for asked in [question(predictor.head, example) for example in examples]:
        predictor.predict([asked])  # warms up
        times.append(min(_ms(predictor, asked) for _ in range(3)))
        if time.perf_counter() - began > _LONGEST_S:
            break
    return float(f"{median(times):.2g}")


def _ms(predictor: Predictor, asked: Row) -> float:
    start = time.perf_counter()
    predictor.predict([asked])
    return 1e3 * (time.perf_counter() - start)
