"""What a sweep writes down: one file for the sweep, one for each trial, each written whole or not at all."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from heliostat.component import closest
from heliostat.data.fingerprint import write_whole
from heliostat.errors import TrainError
from heliostat.home import home
from heliostat.train.policy import rank


class Aim(NamedTuple):
    """Something that trials are compared by."""

    name: str
    is_error: bool = False
    """Whether less of it is better."""

    @property
    def sign(self) -> float:
        """What makes a value of it greater where it is better."""
        return -1.0 if self.is_error else 1.0


State = Literal["running", "finished", "stopped", "failed"]
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


@dataclass(frozen=True)
class Point:
    """One validation of a trial."""

    epochs: float
    """Passes over the train split that were done."""
    progress: float
    """Share of the trial that was done."""
    step: int
    score: float
    """Greater is better: an error stands here with its sign turned."""


@dataclass(frozen=True)
class Exploit:
    """A member of a population has left its own weights for those of a better one."""

    member: int
    donor: int
    step: int
    """The update after which both stood; the member goes on from here with the donor's weights and optimiser."""
    score: float
    """The member's own at that step; greater is better."""
    donor_score: float
    before: Mapping[str, Any]
    """The member's settings until then."""
    taken: Mapping[str, Any]
    """The donor's settings, from which `after` comes."""
    after: Mapping[str, Any]
    checkpoint: str = ""
    """The SHA-256 of the manifest that was handed over, which holds those of all its files; equal on both sides."""

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Dotted key -> the member's value before and after, where they differ; None where it has none."""
        keys = dict.fromkeys([*self.before, *self.after])
        both = {key: (self.before.get(key), self.after.get(key)) for key in keys}
        return {key: (old, new) for key, (old, new) in both.items() if old != new}


@dataclass(frozen=True)
class Trial:
    """One trial. A record that is not `running` never changes again."""

    number: int
    values: Mapping[str, Any]
    """The searched settings, by their dotted keys."""
    state: State = "running"
    is_default: bool = False
    """Whether these are the values of the run itself."""
    curve: tuple[Point, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    """The journal's row of the best validation, as `valid/loss`."""
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""
    """Why it ended early, or what went wrong."""
    exploits: tuple[Exploit, ...] = ()
    """Of a member of a population: whose weights it took over, and when. Its curve is then that of its weights."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What was measured of its best checkpoint, by the names of `run.MEASURED`; what nobody asked for is not."""

    @property
    def best(self) -> Point | None:
        """The best validation so far; the earliest of equals."""
        return max(self.curve, key=lambda point: (rank(point.score), -point.step), default=None)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will be added."""
        return self.state != "running"

    def with_point(self, point: Point, row: Mapping[str, float]) -> Trial:
        """The trial after one more validation; one of a step that stands there takes its place."""
        curve = (*(each for each in self.curve if each.step < point.step), point)
        changed = replace(self, curve=curve, steps=point.step)
        return replace(changed, scores=dict(row)) if changed.best == point else changed


class SweepFolder:
    """`home()/sweeps/<id>`: sweep.json, trials/0007.json beside trials/<id>-0007/, the folder of an ordinary run.

    A population's exchanges are written to turns/0003.json before the first of them is done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, name: str, facts: Mapping[str, Any], sweep_id: str | None = None) -> SweepFolder:
        """The folder of a new sweep over the run `name`; `facts` is what a resume needs.

        Raises TrainError when `sweep_id` is taken or no plain name.
        """
        sweep_id = sweep_id or f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if not _ID.fullmatch(sweep_id):
            raise TrainError(f"'{sweep_id}' is no sweep id. Take lower-case letters, digits, '.', '_' and '-'.")
        folder = home() / "sweeps" / sweep_id
        if (folder / "sweep.json").is_file():
            raise TrainError(
                f"the sweep '{sweep_id}' exists. Continue it with --resume {sweep_id}, or take another id."
            )
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        _write(folder / "sweep.json", facts)
        return cls(folder)

    @classmethod
    def reopen(cls, sweep_id: str) -> SweepFolder:
        """The folder of a sweep, to be continued. Raises TrainError naming the one that was probably meant."""
        folder = home() / "sweeps" / sweep_id
        if not _ID.fullmatch(sweep_id) or not (folder / "sweep.json").is_file():
            there = sorted(path.parent.name for path in (home() / "sweeps").glob("*/sweep.json"))
            guess = closest(sweep_id, there)
            hint = (
                f"Did you mean '{guess}'?" if guess else f"There {'are: ' + ', '.join(there) if there else 'is none'}."
            )
            raise TrainError(f"there is no sweep '{sweep_id}'. {hint}")
        return cls(folder)

    @property
    def id(self) -> str:
        """What `--resume` takes."""
        return self.folder.name

    def facts(self) -> dict[str, Any]:
        """What the sweep began with."""
        facts: dict[str, Any] = json.loads((self.folder / "sweep.json").read_text(encoding="utf-8"))
        return facts

    def run_folder(self, number: int) -> Path:
        """Where a trial trains; its name is the run's id in the lineage of the model."""
        return self.folder / "trials" / f"{self.id}-{number:04}"

    def write(self, trial: Trial) -> None:
        """Keep a trial as it stands."""
        _write(self.folder / "trials" / f"{trial.number:04}.json", asdict(trial))

    def write_turn(self, turn: int, values: Mapping[str, Any]) -> None:
        """Keep what is known and decided after a population's `turn`-th validation, before anything is done."""
        _write(self.folder / "turns" / f"{turn:04}.json", values)

    def read_turn(self, turn: int) -> dict[str, Any] | None:
        """What `write_turn` kept; None where nothing was decided yet."""
        path = self.folder / "turns" / f"{turn:04}.json"
        values: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return values

    def last_turn(self) -> int:
        """The newest turn that `write_turn` kept; 0 where there is none."""
        return max((int(path.stem) for path in (self.folder / "turns").glob("*.json")), default=0)

    def read(self) -> list[Trial]:
        """Every trial, by its number. Raises TrainError for a file that is no record."""
        return [_trial(path) for path in sorted((self.folder / "trials").glob("*.json"))]


def _trial(path: Path) -> Trial:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        curve = tuple(Point(**point) for point in values["curve"])
        exploits = tuple(Exploit(**each) for each in values.get("exploits", ()))
        return Trial(**{**values, "curve": curve, "exploits": exploits})
    except (ValueError, TypeError, KeyError) as error:
        raise TrainError(
            f"{path} is damaged ({error}). Delete it, with the folder of the trial beside it (its name ends in "
            f"-{path.stem}): another trial takes its place."
        ) from None


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False).encode())
