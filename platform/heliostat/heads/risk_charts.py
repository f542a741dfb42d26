"""What a report draws of a risk: whether it is calibrated, and what deciding by it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heliostat.heads.risk_metrics import BINS, bin_of
from heliostat.plugin import Chart

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]
Points = tuple[list[float], list[float]]

_LEAST_ROWS = 30
"""Rows below which a bin's share of events says more about chance."""


def risk_charts(
    views: Mapping[str, pd.DataFrame], event: str, cost_of_miss: float, cost_of_alarm: float
) -> list[Chart]:
    """Calibration by bins of risk; net benefit and cost by threshold, of every model beside acting always or never."""
    read = {
        model: (
            view["target_label"].to_numpy(dtype=object) == event,
            view[f"probability_{event}"].to_numpy(dtype=np.float64),
        )
        for model, view in views.items()
    }
    events = next(iter(read.values()))[0]
    thresholds = np.linspace(0.01, 0.8, 80)
    chosen = cost_of_alarm / (cost_of_alarm + cost_of_miss)
    benefits = {model: curve(thresholds, net_benefit(*each, thresholds)) for model, each in read.items()}
    costs = {
        model: curve(thresholds, mean_cost(*each, thresholds, cost_of_miss, cost_of_alarm))
        for model, each in read.items()
    }
    everyone = net_benefit(events, np.ones(len(events)), thresholds)
    return [
        Chart(
            "Calibration of the risk",
            f"risk of '{event}', mean of the bin",
            "share that it happened to",
            {model: _calibration(*each) for model, each in read.items()},
            "On the dashed line the risk is what happens; above it the model is too hopeful. Bins of 30 rows or more.",
            diagonal=True,
        ),
        Chart(
            "Decision curve",
            "risk from which one acts",
            "net benefit a record",
            {
                **benefits,
                "act on all": curve(thresholds, np.maximum(everyone, -0.05)),
                "act on none": ([0.0, 0.8], [0.0, 0.0]),
            },
            "Events found less alarms in vain, these weighed by the odds of the threshold (Vickers and Elkin 2006).",
        ),
        Chart(
            "Cost by threshold",
            "risk from which one acts",
            "mean cost a record",
            costs,
            f"A missed '{event}' costs {cost_of_miss:g}, an alarm in vain {cost_of_alarm:g}; with honest risks the "
            f"least cost lies at {chosen:.2f}.",
        ),
    ]


def curve(x: Values, y: Values) -> Points:
    """Points of a line as plain lists."""
    return x.tolist(), y.tolist()


def net_benefit(events: npt.NDArray[np.bool_], risks: Values, thresholds: Values) -> Values:
    """True alarms less false ones times the odds of the threshold, a record: [thresholds]."""
    found, vain = _alarms(events, risks, thresholds)
    return (found - vain * thresholds / (1.0 - thresholds)) / len(events)


def mean_cost(
    events: npt.NDArray[np.bool_], risks: Values, thresholds: Values, cost_of_miss: float, cost_of_alarm: float
) -> Values:
    """What a record costs on average when one acts above each threshold: [thresholds]."""
    found, vain = _alarms(events, risks, thresholds)
    costs: Values = ((float(events.sum()) - found) * cost_of_miss + vain * cost_of_alarm) / len(events)
    return costs


def _alarms(events: npt.NDArray[np.bool_], risks: Values, thresholds: Values) -> tuple[Values, Values]:
    """Events and others whose risk is above each threshold."""
    of_events, of_others = np.sort(risks[events]), np.sort(risks[~events])
    found = len(of_events) - np.searchsorted(of_events, thresholds, side="right")
    vain = len(of_others) - np.searchsorted(of_others, thresholds, side="right")
    return found.astype(np.float64), vain.astype(np.float64)


def _calibration(events: npt.NDArray[np.bool_], risks: Values) -> Points:
    places = bin_of(risks)
    rows = np.bincount(places, minlength=BINS)
    filled = rows >= min(_LEAST_ROWS, int(rows.max()))
    means = np.bincount(places, risks, BINS)[filled] / rows[filled]
    return curve(means, np.bincount(places, events.astype(np.float64), BINS)[filled] / rows[filled])
