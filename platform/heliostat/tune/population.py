"""Population-based training (Jaderberg et al. 2017): who leaves its weights for whose, and how it goes on.

A population trains in turns. After each, when all members stand at the same update, those at the bottom take over the
weights, the optimiser and the position of one at the top, and its settings, changed a little (pbt) or as a model of
what settings have brought so far proposes (pb2, `tune/bandit.py`). The run as it stands is a member, too: others may
take over its weights, and it keeps its own to the end, as what the others are held against.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from heliostat.errors import TrainError
from heliostat.run import TuneSettings
from heliostat.run.domains import Choice, Dimension, Range
from heliostat.train.policy import rank
from heliostat.tune.bandit import Seen, proposed
from heliostat.tune.records import Exploit, SweepFolder, Trial
from heliostat.tune.space import Space, Values, is_run, random_value

_RESAMPLED = 0.25
"""How often a setting is drawn anew instead of changed a little, as in the paper."""
_FACTORS = (0.8, 1.2)
_TRIED = 50
"""Settings that are drawn in search of some that are others than the donor's and make a whole run."""


class Leg(NamedTuple):
    """From which update on weights were trained with which settings."""

    step: int
    member: int
    values: Mapping[str, Any]


def exchanges(
    space: Space, settings: TuneSettings, turn: int, members: Sequence[Trial], seen: Sequence[Seen]
) -> list[Exploit]:
    """Who takes over from whom after the `turn`-th validation of all `members`.

    A pure function of what it is told, so that a driver that goes on decides as the one before it would have.
    """
    dice = random.Random(f"{settings.seed} {turn}")
    ranked = sorted(members, key=lambda each: (-rank(each.curve[-1].score), each.number))
    count = min(max(1, int(len(ranked) * settings.quantile)), len(ranked) // 2)
    top = ranked[:count]
    losers = [each for each in ranked[count:] if not each.is_default][-count:] if count else []
    exploits: list[Exploit] = []
    for member in losers:
        donor = dice.choice(top)
        own, better = member.curve[-1], donor.curve[-1]
        if rank(better.score) > rank(own.score):
            after = _changed(space, settings, turn, donor, dice, seen, [each.after for each in exploits])
            told = (own.step, own.score, better.score)
            exploits.append(Exploit(member.number, donor.number, *told, dict(member.values), dict(donor.values), after))
    return exploits


def gains(turn: int, members: Sequence[Trial]) -> list[Seen]:
    """What the turn has brought each member; nothing is known of the first, before which nobody had a score."""
    return [
        Seen(turn, dict(each.values), each.curve[-2].score, each.curve[-1].score - each.curve[-2].score)
        for each in members
        if len(each.curve) > 1
    ]


def perturbed(space: Space, values: Mapping[str, Any], dice: random.Random) -> Values:
    """The settings `values` changed a little: times 0.8 or 1.2, the neighbour of a choice, or now and then anew."""

    def draw(each: Dimension) -> Any:
        if each.key not in values or dice.random() < _RESAMPLED:
            return random_value(each, dice)
        return _nudged(each, values[each.key], dice)

    for _ in range(_TRIED):
        drawn = space.drawn(draw)
        if drawn != values and is_run(space, drawn):
            return drawn
    return dict(values)


def schedule(trials: Mapping[int, Trial], number: int, until: float = math.inf) -> list[Leg]:
    """Which settings the weights of a member were trained with, in turn, up to the update `until`."""
    member = trials[number]
    before = [each for each in member.exploits if each.step < until]
    if not before:
        first = member.exploits[0].before if member.exploits else member.values
        return [Leg(0, number, first)]
    return [*schedule(trials, before[-1].donor, before[-1].step), Leg(before[-1].step, number, before[-1].after)]


def check_exploits(trials: Sequence[Trial], folder: SweepFolder) -> None:
    """Raise TrainError with the reason when no member of a population that is over took over from another."""
    if not any(trial.exploits for trial in trials):
        raise TrainError(
            f"the population ended without an exploit: {why_none(trials, folder.last_turn())}. Nobody learned from "
            f"another, so this was a random search; its trials are kept in {folder.folder}."
        )


def why_none(trials: Sequence[Trial], turns: int) -> str:
    """Why a population ended without an exploit."""
    if turns == 0:
        longest = max((len(trial.curve) for trial in trials), default=0)
        if longest <= 1 and any(trial.state == "finished" for trial in trials):
            return "its members validate once, at their end: set tune.validations to 2 or more"
        return "its members did not come to the end of a turn: they failed, or tune.time_s was over"
    if sum(trial.state != "failed" for trial in trials) < 2:
        return "fewer than two members were left: the others failed"
    return f"in {turns} turn{'s' if turns > 1 else ''} no member scored below one at the top: they are all alike"


def _changed(
    space: Space,
    settings: TuneSettings,
    turn: int,
    donor: Trial,
    dice: random.Random,
    seen: Sequence[Seen],
    others: Sequence[Mapping[str, Any]],
) -> Values:
    values = perturbed(space, donor.values, dice)
    if settings.scheduler != "pb2":
        return values
    ranges = {each.key: each.domain for each in space.dimensions if isinstance(each.domain, Range)}
    here = {key: domain for key, domain in ranges.items() if key in values}
    start = donor.curve[-1].score
    found = {**values, **proposed(here, seen, turn + 1, start, others, dice.randrange(2**31))}
    return found if is_run(space, found) else values


def _nudged(each: Dimension, value: Any, dice: random.Random) -> Any:
    domain = each.domain
    if isinstance(domain, Choice):
        place = next((place for place, option in enumerate(domain.options) if Choice((option,)).holds(value)), 0)
        near = [near for near in (place - 1, place + 1) if 0 <= near < len(domain.options)]
        return domain.options[dice.choice(near)] if near else value
    moved = value * dice.choice(_FACTORS)
    if domain.step is not None:
        steps = max(1, round(abs(moved - value) / domain.step))
        moved = value + math.copysign(steps * domain.step, moved - value)
    moved = min(max(moved, domain.low), domain.high)
    return int(moved) if domain.is_whole else round(moved, 12) if domain.step is not None else moved
