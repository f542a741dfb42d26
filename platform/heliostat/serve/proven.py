"""The models that a replica answers with: read, and held to the golden answers of their checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from heliostat.errors import CheckpointError
from heliostat.predict import SharedPredictors
from heliostat.predict.predictor import Precision, Predictor

log = logging.getLogger(__name__)

AskedPrecision = Literal["auto", "fp32", "bf16"]
"""Number format of the matrix products. `auto`: bf16 where this machine multiplies in it, and the golden answers come
out right; else fp32."""

_WARM_S = 2.0
"""How long a replica prepares its products before it takes requests."""
Proven = TypeVar("Proven")


def proven(folder: Path, threads: int, precision: AskedPrecision, most_tokens: int = 8192) -> Predictor:
    """A predictor that has answered its golden requests as when they were written. Raises CheckpointError."""
    return _proven(partial(_alone, folder, threads, most_tokens), precision)


def proven_together(
    folders: Sequence[Path], threads: int, precision: AskedPrecision, most_tokens: int = 8192
) -> SharedPredictors:
    """The same of models that share an encoder. Raises CheckpointError, too, for those that cannot."""
    return _proven(partial(_together, folders, threads, most_tokens), precision)


def _proven(read: Callable[[Precision], Proven], precision: AskedPrecision) -> Proven:
    # In a thread that ends. OpenMP keeps its threads for each thread that computed, and once they are more than cores
    # those of the one that predicts fall asleep between two operations: 8 ms more for an answer of 6.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_in_one_format, read, precision).result()


def _in_one_format(read: Callable[[Precision], Proven], precision: AskedPrecision) -> Proven:
    if precision == "auto" and multiplies_bf16():
        try:
            return read("bf16")
        except CheckpointError as error:
            log.warning("not in bf16: %s", error)
    return read("bf16" if precision == "bf16" else "fp32")


def _alone(folder: Path, threads: int, most_tokens: int, precision: Precision) -> Predictor:
    predictor = Predictor.load(folder, threads=threads, precision=precision)
    _make_ready([predictor], most_tokens)
    return predictor


def _together(folders: Sequence[Path], threads: int, most_tokens: int, precision: Precision) -> SharedPredictors:
    together = SharedPredictors.load(folders, threads=threads, precision=precision)
    _make_ready(together.predictors, most_tokens)
    return together


def _make_ready(predictors: Sequence[Predictor], most_tokens: int) -> None:
    from heliostat.encoders.products import warm
    from heliostat.train.memory import keep_memory

    keep_memory()
    for predictor in predictors:
        predictor.check_golden()
    warm(predictors[0].model, most_tokens, _WARM_S)  # of several they are the same


def multiplies_bf16() -> bool:
    """Whether products in bf16 are the faster ones: on GPUs, and on CPUs that have units for them."""
    import torch

    has = torch.cpu.get_capabilities()
    return bool(torch.cuda.is_available() or has.get("amx_bf16") or has.get("avx512_bf16"))
