"""A checkpoint and examples in, predictions out: the last room with a model in it.

load("sentiment@champion").predict([{"text": "Fits beautifully."}])
"""

from __future__ import annotations

from heliostat.predict.predictor import Predictor, load
from heliostat.predict.replay import Replay
from heliostat.predict.shared import SharedPredictors

__all__ = ["Predictor", "Replay", "SharedPredictors", "load"]
