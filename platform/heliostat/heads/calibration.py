"""How a score becomes an honest probability: fitted on the valid split, kept as a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NEAR_0 = 1e-6
_MOST_STEPS = 200
"""Steps of a staircase that are kept: bounds what a checkpoint holds."""


class Calibration(NamedTuple):
    """p' = stairs(sigmoid(slope * log-odds(p) + shift)); without stairs the second part is left out."""

    slope: float
    shift: float
    below: tuple[float, ...] = ()
    """Risks at which the staircase has its corners, rising."""
    above: tuple[float, ...] = ()
    """What they become; in between along straight lines."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """What `_asdict` gave, read back from JSON."""
        return cls(values["slope"], values["shift"], tuple(values["below"]), tuple(values["above"]))


def log_odds(shares: Floats) -> Floats:
    """log(p / (1 - p)), kept finite."""
    inside = np.clip(shares, _NEAR_0, 1.0 - _NEAR_0)
    return np.asarray(np.log(inside / (1.0 - inside)))


def fit_calibration(risks: Floats, events: npt.NDArray[np.bool_], kind: Literal["platt", "isotonic"]) -> Calibration:
    """Platt: a logistic regression on the log-odds (Platt 1999); isotonic: the best rising staircase (Zadrozny 2002).

    Where all of the valid split is one of the two, nothing can be learned and nothing is changed.
    """
    if events.all() or not events.any():
        return Calibration(1.0, 0.0)
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=_NEAR_0, y_max=1 - _NEAR_0, out_of_bounds="clip").fit(risks, events)
        places = np.unique(np.linspace(0, len(fitted.X_thresholds_) - 1, _MOST_STEPS).round().astype(int))
        below, above = fitted.X_thresholds_[places], fitted.y_thresholds_[places]
        return Calibration(1.0, 0.0, tuple(below.tolist()), tuple(above.tolist()))
    from sklearn.linear_model import LogisticRegression

    line = LogisticRegression(C=1e6, max_iter=1000).fit(log_odds(risks)[:, None], events)
    slope = float(line.coef_[0, 0])
    if slope <= 0.0:  # a model that ranks the valid split no better than chance: only its level is mended
        rate = float(events.mean())
        return Calibration(1.0, float(np.log(rate / (1 - rate)) - log_odds(risks).mean()))
    return Calibration(slope, float(line.intercept_[0]))
