from __future__ import annotations

import inspect
import pickle

import pytest

from heliostat import errors
from heliostat.errors import ExampleProblem, HeliostatError, PredictError, Problem, RunError, Stopped


def test_every_error_of_a_user_derives_from_one_and_stands_in_the_tree() -> None:
    found = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
    assert len(found) >= 11
    for cls in found:
        assert issubclass(cls, HeliostatError)
        assert cls.__name__ in (errors.__doc__ or "")


def test_a_run_error_counts_and_lists_its_problems() -> None:
    error = RunError([Problem("train.lr", "is odd."), Problem("", "is no run.")], source="run.yaml")
    assert str(error) == "run.yaml: 2 mistakes\ntrain.lr: is odd.\nis no run."
    assert str(RunError([Problem("a", "b")], source="x")).startswith("x: 1 mistake\n")
    assert str(RunError([Problem("a", "b")])) == "a: b"
    assert error.exit_code == 2


def test_somebody_who_stops_a_run_chooses_the_exit_code() -> None:
    assert (Stopped("by Ctrl-C").exit_code, Stopped("by SIGTERM", exit_code=143).exit_code) == (130, 143)


@pytest.mark.parametrize(
    "error",
    [
        RunError([Problem("a", "b")], source="x"),
        Stopped("ended", exit_code=143),
        PredictError([ExampleProblem(0, "text", "is missing")]),
        errors.DataError("no data"),
    ],
)
def test_an_error_crosses_to_another_process_whole(error: HeliostatError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.exit_code == error.exit_code
