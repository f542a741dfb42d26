"""Population-based bandits, PB2 (Parker-Holder, Nguyen and Roberts 2020): settings by a Gaussian process that forgets.

What a turn brings, the change of the score, is modelled over the numbers that are searched and the score from which the
turn began, with a kernel in which older turns count less: k = exp(-|x - x'|² / 2l²) (1 - e)^(|t - t'| / 2) (Bogunovic
et al. 2016). The next settings maximise the mean plus k standard deviations; what others have just been given narrows
the deviation as if it had been seen (Desautels et al. 2014), so that no two get the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from heliostat.run.domains import Range

Floats = npt.NDArray[np.float64]
FEWEST = 4
"""Turns of members below which the settings stay as they were drawn."""
_CANDIDATES = 2000
_LENGTHS = (0.15, 0.3, 0.6, 1.2)
_FORGETTING = (0.0, 0.05, 0.15, 0.4)
_NOISE = (0.01, 0.1, 0.5)
"""Of the variance of the gains; where the likelihood is greatest is what is taken."""


class Seen(NamedTuple):
    """What a turn brought a member."""

    turn: int
    values: Mapping[str, Any]
    start: float
    """Its score before the turn."""
    gain: float


class _Model(NamedTuple):
    length: float
    forgetting: float
    noise: float

    def covariance(self, left: Floats, right: Floats) -> Floats:
        """Between points [n, 1 + d], whose first column is the turn."""
        apart = ((left[:, None, 1:] - right[None, :, 1:]) ** 2).sum(-1)
        age = np.abs(left[:, None, 0] - right[None, :, 0])
        return cast(Floats, np.exp(-apart / (2 * self.length**2)) * (1 - self.forgetting) ** (age / 2))

    def factor(self, points: Floats) -> Floats:
        """The Cholesky factor of the covariance of noisy points."""
        noisy = self.covariance(points, points) + self.noise * np.eye(len(points))
        return cast(Floats, np.linalg.cholesky(noisy))

    def likelihood(self, points: Floats, gains: Floats) -> float:
        """The logarithm of the marginal likelihood, but for a constant."""
        factor = self.factor(points)
        half = np.linalg.solve(factor, gains)
        return float(-0.5 * half @ half - np.log(np.diag(factor)).sum())


def proposed(
    ranges: Mapping[str, Range],
    seen: Sequence[Seen],
    turn: int,
    start: float,
    others: Sequence[Mapping[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """The numbers that promise most to a member that begins `turn` at the score `start`; none where little is known.

    `others` are the settings that members have just been given for the same turn.
    """
    rows = [each for each in seen if math.isfinite(each.gain) and math.isfinite(each.start)]
    if len(rows) < FEWEST or not ranges:
        return {}
    gains, starts = (np.array(column) for column in zip(*((each.gain, each.start) for each in rows), strict=True))
    gains = (gains - gains.mean()) / (gains.std() or 1.0)
    low, span = starts.min(), (starts.max() - starts.min()) or 1.0

    def points(turns: Sequence[int], scores: Sequence[float], numbers: Floats) -> Floats:
        begun = (np.asarray(scores) - low) / span
        return np.column_stack([np.asarray(turns, dtype=np.float64), begun, numbers])

    known = points([each.turn for each in rows], list(starts), np.array([_unit(ranges, each.values) for each in rows]))
    model = max(
        (_Model(*each) for each in product(_LENGTHS, _FORGETTING, _NOISE)),
        key=lambda model: model.likelihood(known, gains),
    )
    drawn = np.random.default_rng(seed).random((_CANDIDATES, len(ranges)))
    candidates = points([turn] * _CANDIDATES, [start] * _CANDIDATES, drawn)
    mean, _ = _posterior(model, known, gains, candidates)
    given = np.array([_unit(ranges, each) for each in others]).reshape(len(others), len(ranges))
    pending = points([turn] * len(others), [start] * len(others), given)
    _, deviation = _posterior(model, np.vstack([known, pending]), np.zeros(len(known) + len(pending)), candidates)
    kappa = math.sqrt(0.2 + max(0.0, math.log(0.4 * len(rows))))
    best = drawn[int(np.argmax(mean + kappa * deviation))]
    return {key: _number(domain, float(share)) for (key, domain), share in zip(ranges.items(), best, strict=True)}


def _posterior(model: _Model, known: Floats, gains: Floats, candidates: Floats) -> tuple[Floats, Floats]:
    """The mean and the standard deviation at each candidate."""
    factor = model.factor(known)
    across = np.linalg.solve(factor, model.covariance(known, candidates))
    mean: Floats = across.T @ np.linalg.solve(factor, gains)
    return mean, np.sqrt(np.maximum(1e-12, 1.0 - (across**2).sum(0)))


def _unit(ranges: Mapping[str, Range], values: Mapping[str, Any]) -> list[float]:
    """Where values lie in their ranges, from 0 to 1; in the middle for one that does not exist there."""
    return [_share(domain, values[key]) if key in values else 0.5 for key, domain in ranges.items()]


def _share(domain: Range, value: float) -> float:
    low, high = (math.log(domain.low), math.log(domain.high)) if domain.is_log else (domain.low, domain.high)
    at = math.log(value) if domain.is_log else value
    return (at - low) / (high - low) if high > low else 0.5


def _number(domain: Range, share: float) -> Any:
    if domain.is_log:
        value = math.exp(math.log(domain.low) + share * (math.log(domain.high) - math.log(domain.low)))
    else:
        value = domain.low + share * (domain.high - domain.low)
    if domain.step is not None and not domain.is_log:
        value = domain.low + round((value - domain.low) / domain.step) * domain.step
    value = min(max(value, domain.low), domain.high)
    return round(value) if domain.is_whole else round(value, 12) if domain.step is not None else value
