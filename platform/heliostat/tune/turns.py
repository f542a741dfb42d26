"""The turns of a population: who is due, and what is handed over when all stand at one validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from heliostat import checkpoint
from heliostat.tune.bandit import Seen
from heliostat.tune.handover import hand_over
from heliostat.tune.plan import Plan
from heliostat.tune.population import exchanges, gains
from heliostat.tune.records import Exploit, SweepFolder, Trial


class Turns:
    """A turn is what members train between two validations.

    What is exchanged after a turn is written down before it is done, so that a driver which goes on does the rest of
    it and decides nothing anew.
    """

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self.plan, self.folder = plan, folder

    def recovered(self, trials: Mapping[int, Trial]) -> Iterator[Trial]:
        """The members that are not as their records say, after an earlier driver: as they are.

        What it had not handed over is handed over, and points of which no checkpoint was kept are taken back.
        """
        trials = dict(trials)
        for trial in self._done(self.folder.last_turn(), trials):
            trials[trial.number] = trial
            yield trial
        for trial in trials.values():
            if not trial.has_ended and (settled := self.settled(trial)) != trial:
                yield settled

    def settled(self, trial: Trial) -> Trial:
        """The member without points of which no checkpoint was kept: it will come by them again."""
        kept = checkpoint.newest(self.folder.run_folder(trial.number) / "checkpoints") if trial.curve else None
        step = int(kept.name.rpartition("-")[2]) if kept else 0
        curve = tuple(point for point in trial.curve if point.step <= step)
        return trial if curve == trial.curve else replace(trial, curve=curve, steps=step)

    def due(self, members: Mapping[int, Trial]) -> tuple[int, list[int]]:
        """The turns that all members have behind them, and who has not been in the next one yet."""
        turn = min((len(each.curve) for each in members.values()), default=0)
        return turn, [number for number, each in members.items() if len(each.curve) == turn]

    def exchanged(self, turn: int, members: Mapping[int, Trial]) -> Iterator[Trial]:
        """The members that take over from others, when they have. All members stand after the `turn`-th validation."""
        if self.folder.read_turn(turn) is None:
            seen = [*self._seen(turn), *(new := gains(turn, list(members.values())))]
            exploits = exchanges(self.plan.space, self.plan.settings, turn, list(members.values()), seen)
            told = {"exploits": [asdict(each) for each in exploits], "seen": [each._asdict() for each in new]}
            self.folder.write_turn(turn, told)
        yield from self._done(turn, members)

    def _seen(self, turn: int) -> list[Seen]:
        """What earlier turns brought."""
        told = [self.folder.read_turn(earlier) or {} for earlier in range(1, turn)]
        return [Seen(**each) for turn in told for each in turn.get("seen", ())]

    def _done(self, turn: int, trials: Mapping[int, Trial]) -> Iterator[Trial]:
        """Hand over what is due after a turn; what has been is left alone."""
        for each in (self.folder.read_turn(turn) or {}).get("exploits", ()):
            exploit = Exploit(**each)
            member, donor = trials[exploit.member], trials[exploit.donor]
            if any(earlier.step == exploit.step for earlier in member.exploits):
                continue
            folders = (self.folder.run_folder(donor.number), self.folder.run_folder(member.number))
            exploit = replace(exploit, checkpoint=hand_over(*folders, exploit.step))
            yield replace(
                member,
                values=exploit.after,
                curve=donor.curve,
                scores=donor.scores,
                steps=donor.steps,
                exploits=(*member.exploits, exploit),
            )
