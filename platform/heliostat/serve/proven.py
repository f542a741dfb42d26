"""The model that a replica answers with: read, and held to the golden answers of its checkpoint."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from heliostat.errors import CheckpointError
from heliostat.predict.predictor import Precision, Predictor

log = logging.getLogger(__name__)

AskedPrecision = Literal["auto", "fp32", "bf16"]
"""Number format of the matrix products. `auto`: bf16 where this machine multiplies in it, and the golden answers come
out right; else fp32."""


_WARM_S = 2.0
"""How long a replica prepares its products before it takes requests."""


def proven(folder: Path, threads: int, precision: AskedPrecision, most_tokens: int = 8192) -> Predictor:
    """A predictor that has answered its golden requests as when they were written. Raises CheckpointError."""
    # In a thread that ends. OpenMP keeps its threads for each thread that computed, and once they are more than cores
    # those of the one that predicts fall asleep between two operations: 8 ms more for an answer of 6.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_in_one_format, folder, threads, precision, most_tokens).result()


def _in_one_format(folder: Path, threads: int, precision: AskedPrecision, most_tokens: int) -> Predictor:
    if precision == "auto" and multiplies_bf16():
        try:
            return _proven(folder, threads, "bf16", most_tokens)
        except CheckpointError as error:
            log.warning("not in bf16: %s", error)
    return _proven(folder, threads, "bf16" if precision == "bf16" else "fp32", most_tokens)


def _proven(folder: Path, threads: int, precision: Precision, most_tokens: int) -> Predictor:
    from heliostat.encoders.products import warm
    from heliostat.train.memory import keep_memory

    predictor = Predictor.load(folder, threads=threads, precision=precision)
    keep_memory()
    predictor.check_golden()
    warm(predictor.model, most_tokens, _WARM_S)
    return predictor


def multiplies_bf16() -> bool:
    """Whether products in bf16 are the faster ones: on GPUs, and on CPUs that have units for them."""
    import torch

    has = torch.cpu.get_capabilities()
    return bool(torch.cuda.is_available() or has.get("amx_bf16") or has.get("avx512_bf16"))
