"""How large a model is."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from heliostat.model import count_parameters
from heliostat.tune.trials import Weight

if TYPE_CHECKING:
    from heliostat.model import Model


def weigh(model: Model) -> Weight:
    """Its parameters, and a hash of the names and shapes of all that a checkpoint of it would hold."""
    trained, total = count_parameters(model)
    shapes = sorted((name, list(tensor.shape)) for name, tensor in model.state_dict().items())
    return Weight(total, trained, hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16])
