"""How large a model is."""

from __future__ import annotations

import hashlib
import json

import torch

from heliostat.model import Model, build_model, count_parameters
from heliostat.run import Parts
from heliostat.tune.trials import Weight


def weight_of(model: Model) -> Weight:
    """Its parameters, and a hash of the names and shapes of all that a checkpoint of it would hold."""
    trained, total = count_parameters(model)
    shapes = sorted((name, list(tensor.shape)) for name, tensor in model.state_dict().items())
    return Weight(total, trained, hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16])


def weigh(parts: Parts) -> Weight:
    """How large their model is, built without its numbers where that can be: then it takes no memory and no time."""
    try:
        with torch.device("meta"):
            return weight_of(build_model(parts.encoder, parts.head))
    except Exception:  # a pretrained model, or a module that computes while it is built
        return weight_of(build_model(parts.encoder, parts.head))
