"""Rounds of a benchmark: the sides take turns, A B A B, each turn in a process of its own; what was found is kept.

A script names its cases, says what a turn of a side does, and which rows of the table the rounds give:

    if __name__ == "__main__":
        run(Benchmark("loader", __file__, CASES, turn, rows))

`results/NAME.json` is written after every turn. Started again with the same settings, code and machine, a benchmark
goes on where it was interrupted, and is done where it was done; `--fresh` measures anew, `--quick` tries everything in
a minute or two and keeps its figures apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from measure import Facts, in_words, machine, others_load

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heliostat-benchmarks"
QUIET = 0.08
"""Share of all cores that other processes may use while a time is measured."""
APART = ("cli", "cluster", "demo", "serve", "testing")
"""Packages of heliostat that no training runs: a change there leaves the figures of training as they are."""
PATIENCE_S = 120.0
"""How long a benchmark waits for that."""
Settings = Mapping[str, Any]


class Row(NamedTuple):
    """A row of the table."""

    what: str
    beside: str
    ours: str
    theirs: str
    faster: str
    """How many times, with its interval."""
    cpu: str
    """The same in CPU seconds."""
    equal: str
    """What was held equal, or how far apart it ended."""
    goal: str


class Case(NamedTuple):
    """Sides that are set against each other. The first is ours."""

    sides: tuple[str, ...]
    full: Settings
    quick: Settings
    """What differs in a quick trial."""
    rounds: int = 3
    by_default: bool = True
    """Whether it runs where no case is named."""


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder."""

    name: str
    script: str
    cases: Mapping[str, Case]
    turn: Callable[[str, str, Settings], dict[str, Any]]
    """turn(case, side, settings): what it found; `wall_s` and `cpu_s` at least. Runs in a fresh process.

    Its settings hold the number of the `round` besides, from 0."""
    rows: Callable[[str, Sequence[Facts], Settings], list[Row]]
    """rows(case, rounds, settings)."""
    pythons: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    """side -> the interpreter that it runs with, where that is another environment."""
    rooms: tuple[str, ...] = ()
    """Packages of heliostat that it measures, of those that training does not run (`APART`)."""


def run(benchmark: Benchmark) -> None:
    """The command line of a benchmark. Exits with 3 where the machine is busy, 4 where its time ran out."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__, allow_abbrev=False)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(benchmark.cases)}; all of them by default")
    parser.add_argument("--quick", action="store_true", help="a trial; its figures mean nothing")
    parser.add_argument("--fresh", action="store_true", help="measure anew what was measured")
    parser.add_argument("--busy", action="store_true", help="measure although other processes compute")
    parser.add_argument("--rounds", type=int, help="how many of each case in all, in place of its own number")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="after which no turn begins; the next start goes on"
    )
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--told", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.turn:
        settings, out = json.loads(asked.told[0]), Path(asked.told[1])
        case, side = asked.turn
        out.write_text(json.dumps(benchmark.turn(case, side, settings)), encoding="utf-8")
        sys.stdout.flush()
        os._exit(0)  # threads of Ray, gloo or a data loader may stand in the way of an orderly end
    unknown = sorted(set(asked.cases) - set(benchmark.cases))
    if unknown:
        parser.error(f"no case '{unknown[0]}'; there are {', '.join(benchmark.cases)}")
    names = asked.cases or [name for name, case in benchmark.cases.items() if case.by_default]
    session = _Session(benchmark, asked.quick, asked.busy or asked.quick, asked.minutes, asked.rounds)
    sys.exit(session.measure(names, asked.fresh))


class _Session:
    """One start of a benchmark."""

    def __init__(self, benchmark: Benchmark, quick: bool, busy: bool, minutes: float, count: int | None = None) -> None:
        self.benchmark, self.quick, self.busy, self.count = benchmark, quick, busy, count
        self.deadline = time.monotonic() + 60 * minutes
        folder = RESULTS / "quick" if quick else RESULTS
        self.path = folder / f"{benchmark.name}.json"
        self.basis: dict[str, Any] = {"code": code_fingerprint(benchmark), "machine": machine()}

    def measure(self, names: Sequence[str], fresh: bool) -> int:
        """All turns that are missing. Returns the exit code."""
        found = self._found()
        print(f"{self.benchmark.name}: {in_words(self.basis['machine'])}", flush=True)
        for name in names:
            case = self.benchmark.cases[name]
            settings = {**case.full, **(case.quick if self.quick else {})}
            kept = found["cases"].get(name, {})
            if fresh or kept.get("settings") != settings:
                kept = {"settings": settings, "rounds": []}
            found["cases"][name] = kept
            code = self._rounds(name, case, kept, found)
            if code:
                return code
        for each in found["cases"].values():
            for row in each.get("rows", []):
                print("  " + "  |  ".join(row))
        return 0

    def _rounds(self, name: str, case: Case, kept: dict[str, Any], found: dict[str, Any]) -> int:
        rounds, count = kept["rounds"], self.count or (1 if self.quick else case.rounds)
        for number in range(count):
            if number == len(rounds):
                rounds.append({})
            for side in case.sides:
                if side in rounds[number]:
                    continue
                if time.monotonic() > self.deadline:
                    print("the time is up; what was measured is kept. Start again to go on.")
                    return 4
                if not self.busy and not _is_quiet():
                    print("other processes compute; what was measured is kept. Start again, or --busy.")
                    return 3
                facts = self._turn(name, side, {**kept["settings"], "round": number})
                if facts is None:
                    print("the time is up; what was done is kept. Start again to go on.")
                    return 4
                rounds[number][side] = facts
                kept["busy"] = kept.get("busy", False) or self.busy
                print(f"  {name} {number + 1}/{count} {side}: {_told(facts)}", flush=True)
                whole = [each for each in rounds if all(one in each for one in case.sides)]
                if whole:
                    kept["rows"] = [list(row) for row in self.benchmark.rows(name, whole, kept["settings"])]
                self._keep(found)
        return 0

    def _turn(self, case: str, side: str, settings: Settings) -> dict[str, Any] | None:
        """What one turn found, in a process of its own; None where its time was up and it will go on."""
        python = self.benchmark.pythons.get(side, lambda: sys.executable)()
        log = CACHE / "logs" / f"{self.benchmark.name}-{case}-{side}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        environment.setdefault("HELIOSTAT_HOME", str(CACHE / "home"))
        environment["BENCHMARK_DEADLINE"] = str(time.time() + self.deadline - time.monotonic())
        with tempfile.TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as output:
            out = Path(folder) / "facts.json"
            command = [python, self.benchmark.script, "--turn", case, side, "--told", json.dumps(settings), str(out)]
            code = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
            if code == 4:
                return None
            if code or not out.exists():
                tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                sys.exit(f"{case}, {side}: the turn ended with {code}. Its log, {log}, ends with\n{tail}")
            facts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return facts

    def _found(self) -> dict[str, Any]:
        """What earlier starts measured with this code on this machine."""
        if self.path.is_file():
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if all(found.get(key) == value for key, value in self.basis.items()):
                return found
        return {"name": self.benchmark.name, "quick": self.quick, **self.basis, "cases": {}}

    def _keep(self, found: dict[str, Any]) -> None:
        found["date"] = time.strftime("%Y-%m-%d")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.path.with_suffix(".staged")
        staged.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        staged.replace(self.path)


def code_fingerprint(benchmark: Benchmark) -> str:
    """The hash of what is measured and of the benchmark itself: figures of other code are not continued."""
    import heliostat

    root = Path(str(heliostat.__file__)).parent
    apart = {*APART} - {*benchmark.rooms}
    engine = [path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] not in apart]
    script = Path(benchmark.script)
    own = {script, *script.parent.glob(f"{script.stem.partition('_')[0]}_*.py")}  # serve_adapters: all of serve
    files = [*engine, *sorted(own), *(HERE / name for name in ("ours.py", "trainer.py", "language.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _is_quiet() -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while (load := others_load()) > QUIET:
        if time.monotonic() > deadline:
            print(f"other processes use {load:.0%} of the cores")
            return False
    return True


def _told(facts: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in facts.items() if isinstance(value, (int, float))}
    return ", ".join(f"{key} {value:,.4g}" for key, value in plain.items())
