"""`heliostat predict` and `heliostat models`: JSON lines in a pipe, one sentence for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from heliostat.cli import _build
from heliostat.errors import HeliostatError
from heliostat.models import ModelStore


@pytest.fixture(scope="module")
def home(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of `mood`; the first is the champion."""
    folder = tmp_path_factory.mktemp("home")
    store = ModelStore(folder / "models")
    for _ in range(2):
        store.add("mood", tiny_checkpoint, run_id="run-1", data_key="0123", scores={"macro_f1": (0.5, 0.4, 0.6)})
    store.promote("mood", 1, "champion")
    return folder


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line in this process, with what it printed."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(home))
    return lambda *arguments: CliRunner().invoke(_build(), [str(each) for each in arguments])


def lines(done: Result) -> list[Any]:
    assert done.exception is None
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_texts_records_and_files_get_the_same_answers(call: Callable[..., Result], tmp_path: Path) -> None:
    texts = lines(call("predict", "mood@champion", "rain again", "a lovely day"))
    assert [set(row) for row in texts] == [{"label", "probabilities"}] * 2
    [record] = lines(call("predict", "mood:1", "--json", '{"text": "rain again"}'))
    assert record["probabilities"] == pytest.approx(texts[0]["probabilities"], abs=1e-5)
    (tmp_path / "in.csv").write_text("text\nrain again\na lovely day\n")
    done = call("predict", "mood", "--file", tmp_path / "in.csv", "--out", tmp_path / "out.jsonl")
    assert (done.exception, done.stdout) == (None, "")
    assert "2 of 2 records answered" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["predicted_label"] for row in rows] == [row["label"] for row in texts]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mood", "a", "--cluster"), "--cluster answers a --file"),
        (("mood", "--file", "a.csv", "--out", "b.csv", "--cluster", "--threads", "2"), "takes no --threads"),
        (("mood@champoin", "rain"), "Did you mean 'champion'?"),
        (("mod", "rain"), "Did you mean 'mood'?"),
        (("mood",), "Give one of them"),
        (("mood", "rain", "--json", "{}"), "Give one of them"),
        (("mood", "--json", "[1]"), "one JSON object"),
        (("mood", "--json", '{"txet": "rain"}'), "Did you mean 'text'?"),
        (("mood", ""), "text: should have at least 1 character"),
        (("mood", "--file", "in.csv"), "go together"),
        (("mood", "--file", "none.csv", "--out", "out.csv"), "there is no file 'none.csv'"),
        (("./none", "rain"), "does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(call: Callable[..., Result], arguments: tuple[str, ...], sentence: str) -> None:
    error = call("predict", *arguments).exception
    assert isinstance(error, HeliostatError)
    assert sentence in str(error)


def test_a_mistake_leaves_the_process_with_2_and_no_traceback(home: Path) -> None:
    command = [sys.executable, "-m", "heliostat", "predict", "mod", "rain"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HELIOSTAT_HOME": str(home)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'mood'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_listed_shown_promoted_and_exported(call: Callable[..., Result], tmp_path: Path) -> None:
    listed = lines(call("models", "list"))
    assert [(row["model"], row["aliases"]) for row in listed] == [("mood:1", ["champion"]), ("mood:2", [])]
    shown = json.loads(call("models", "show", "mood@champion").stdout)
    assert (shown["version"], shown["data_key"], shown["scores"]["macro_f1"]["low"]) == (1, "0123", 0.4)
    promoted = call("models", "promote", "mood", "2", "canary")
    assert promoted.stdout == "mood@canary is now mood:2.\n"
    again = call("models", "promote", "mood", "1", "canary")
    assert again.stdout == "mood@canary is now mood:1 (was mood:2).\n"
    exported = call("models", "export", "mood@canary", tmp_path / "out")
    assert exported.exception is None
    [answer] = lines(call("predict", tmp_path / "out", "rain"))
    assert answer["label"] in ("glad", "plain", "sad")
    refused = call("models", "export", "mood@canary", tmp_path / "out")
    assert "not empty" in str(refused.exception)


def test_a_terminal_gets_tables(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    answered = call("predict", "mood@champion", "[bold]rain").stdout
    assert "[bold]rain" in answered  # what a user typed is no markup
    assert "glad 0." in answered
    assert "Made for tests." in answered
    listed = call("models", "list").stdout
    assert "mood:1" in listed
    assert "0.500 [0.400, 0.600]" in listed
    shown = call("models", "show", "mood@champion").stdout
    assert "Intended use" in shown
    assert "library_name" not in shown


def test_a_model_of_several_fields_asks_for_a_record() -> None:
    from heliostat.cli.predict import text_field
    from heliostat.heads.classification import Text
    from heliostat.plugin import Record

    class Pair(Record):
        premise: str
        claim: str

    class Noted(Record):
        text: str
        note: str = ""

    assert (text_field(Text), text_field(Noted)) == ("text", "text")
    with pytest.raises(HeliostatError, match=r"--json .*premise"):
        text_field(Pair)
