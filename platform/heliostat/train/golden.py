"""The golden answers of a checkpoint: what every later copy of the model must answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from heliostat.data.clean import Cleaner
from heliostat.data.collate import collate
from heliostat.data.encode import inputs_of
from heliostat.model import Model
from heliostat.run import Parts, Run


@torch.no_grad()
def golden_answers(
    parts: Parts, model: Model, device: torch.device, run: Run | None = None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The model's answers to the head's sample records, one by one and in fp32: what every later copy must answer.

    `run` says how texts are cleaned; None cleans nothing.
    """
    cleaner = Cleaner.of(run) if run else None
    answers = []
    for sample in parts.head.samples:
        asked = parts.head.takes.model_validate(
            sample
        ).model_dump()  # as a request is: defaults and conversions included
        encoded = inputs_of(parts.encoder, parts.head, [cleaner(asked).values if cleaner else asked])
        batch = collate(encoded, np.zeros(1, dtype=np.uint64)).to(device)
        answers.append((dict(sample), model.predict(batch)[0]))
    return answers
