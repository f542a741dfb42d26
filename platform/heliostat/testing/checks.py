"""The checks that every plugin passes, a stranger's too: from its settings to its demo, on its tiny run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from heliostat.errors import Stopped
from heliostat.run import Run, load
from heliostat.testing import learning, serving
from heliostat.testing.rehearsal import Fault, Rehearsal


class CheckResult(NamedTuple):
    """One check of a plugin: whether it holds, and what there is to say about it."""

    name: str
    passed: bool
    said: str
    """Figures when it passed, the reason when it did not."""


class Check(NamedTuple):
    """A promise that a plugin keeps. `needs_training` ones are not reached when an earlier one fails."""

    name: str
    holds: Callable[[Rehearsal], str]
    """Returns figures; raises when the promise is broken."""
    stops: bool
    """Whether later checks make no sense without it."""


CHECKS = (
    Check("settings read back as they were", learning.settings_round_trip, True),
    Check("raw records become a loss with gradients", learning.raw_to_loss, True),
    Check("the loss falls on the tiny run", learning.loss_falls, True),
    Check("one prediction an example, the same after save and load", learning.predicts, True),
    Check("tallies of halves add up to the whole", learning.tallies_add_up, False),
    Check("a resumed run ends bit-identical to an unbroken one", learning.resumes, False),
    Check("it is evaluated beside its baselines", learning.evaluates, False),
    Check("it serves", serving.serves, False),
    Check("its demo answers", serving.demo_answers, False),
)


def check_plugin(
    plugin: str, run: Run | None = None, *, on_result: Callable[[CheckResult], None] = lambda result: None
) -> list[CheckResult]:
    """Prove that a plugin keeps its promises, on `run` or else its own `runs/tiny.yaml`, in a temporary home.

    Returns a result for each check, and calls `on_result` as they come. Raises AssertionError naming every one that
    failed, and RunError or PluginError when the run itself cannot be read.
    """
    chosen = run or load(f"{plugin}/tiny")
    results: list[CheckResult] = []
    with _temporary_home():
        rehearsal = Rehearsal(plugin, chosen.model_copy(update={"scaling": type(chosen.scaling)(num_workers=1)}))
        for check in CHECKS:
            results.append(_result(check, rehearsal))
            on_result(results[-1])
            if check.stops and not results[-1].passed:
                break
    failures = [f"- {result.name}: {result.said}" for result in results if not result.passed]
    if failures:
        unreached = len(CHECKS) - len(results)
        more = f"\n({unreached} further checks were not reached)" if unreached else ""
        raise AssertionError(f"the plugin '{plugin}' breaks its promises:\n" + "\n".join(failures) + more)
    return results


def _result(check: Check, rehearsal: Rehearsal) -> CheckResult:
    try:
        return CheckResult(check.name, True, check.holds(rehearsal))
    except Fault as fault:
        return CheckResult(check.name, False, str(fault))
    except Stopped:
        raise
    except Exception as error:  # a stranger's code may raise anything; the check that met it failed
        return CheckResult(check.name, False, f"{type(error).__name__}: {error}{_place(error)}")


def _place(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return f" ({Path(last.filename).name}, line {last.lineno})"


@contextmanager
def _temporary_home() -> Iterator[None]:
    before = os.environ.get("HELIOSTAT_HOME")
    with tempfile.TemporaryDirectory(prefix="heliostat-check-") as folder:
        os.environ["HELIOSTAT_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["HELIOSTAT_HOME"]
            else:
                os.environ["HELIOSTAT_HOME"] = before
