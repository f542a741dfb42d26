"""The file of a run: found by its name, changed by the command line, shown so that it reads back equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.errors import PluginError, RunError
from heliostat.run import TimeSplit, check, load, locate, nested, read, render, runs
from heliostat.yaml12 import parse


def test_precedence_is_class_file_command_line(wine: Path) -> None:
    run = load("wine/default", ["train.lr=3e-4", "data.split.by=time", "data.split.column=day", "head.note=no"])
    assert run.train.lr == 3e-4
    assert run.data.split == TimeSplit(by="time", column="day")
    assert run.head.settings.note == "no"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.lr", "train.lr: an override takes the form key=value, as in train.lr=3e-4."),
        ("=3", "=3: an override takes the form key=value"),
        ("train..lr=3", "train..lr=3: an override takes the form"),
        ("train.lr=[1", "train.lr: is no YAML"),
        ("train.lr.x=1", "train.lr.x: 'train.lr' holds a single value: set it whole, as in train.lr=value."),
        ("evaluate.slices.0=a", "holds a list: set it whole, as in evaluate.slices=[a, b]."),
        ("train.epohcs=3", "train.epohcs: no such setting. Did you mean 'epochs'?"),
        ("tain.lr=1", "tain: no such setting. Did you mean 'train'?"),
        ("train=fast", "train: is a section with settings of its own (key: value); found 'fast'."),
        ("train.lr=", "train.lr: should be a valid number; found nothing."),
    ],
)
def test_an_override_that_leads_nowhere(wine: Path, override: str, sentence: str) -> None:
    with pytest.raises(RunError) as caught:
        load("wine/default", ["evaluate.slices=[stars]", override])
    assert sentence in str(caught.value)


def test_mistakes_of_overrides_and_of_the_file_come_together(wine: Path) -> None:
    with pytest.raises(RunError) as caught:
        load("wine/default", ["train.epohcs=3", "train.lr=-1", "seed", "head.dropout=0.1", "head.dropout=0.2"])
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("default.yaml: 4 mistakes")
    assert {line.partition(":")[0] for line in lines[1:]} == {"train.epohcs", "train.lr", "seed", "head.dropout"}


def test_an_override_goes_through_an_empty_section_and_a_short_component(wine: Path) -> None:
    run = load("wine/empty_section", ["scaling.num_workers=2", "data.adapter.best=5"])
    assert run.scaling.num_workers == 2
    assert run.data.adapter.settings.best == 5  # type: ignore[attr-defined]


def test_an_empty_section_says_what_it_is(wine: Path) -> None:
    with pytest.raises(RunError, match="scaling: is a section with settings of its own"):
        load("wine/empty_section")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("wine/defualt", "Did you mean 'wine/default'?"),
        ("wien/default", "no plugin is named 'wien'. Did you mean 'wine'?"),
        ("nowhere.yaml", "there is no run file 'nowhere.yaml'."),
        ("qqqq", "there is no run 'qqqq'. There are:"),
    ],
)
def test_a_reference_that_leads_nowhere(wine: Path, reference: str, sentence: str) -> None:
    with pytest.raises((RunError, PluginError)) as caught:
        locate(reference)
    assert sentence in str(caught.value)


def test_runs_of_plugins_are_found_without_importing_them(install: Callable[..., Path]) -> None:
    package = install("boom", "raise RuntimeError", {"tiny": "name: boom"})
    assert runs()["boom/tiny"] == package / "runs" / "tiny.yaml"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: \xff\xfe", "is not UTF-8 text."),
        (b"a: 1\na: 2", "a: stands twice"),
        (b"name: [", "is no YAML"),
        (b"", "a run is a mapping"),
        (b"- name", "a run is a mapping"),
    ],
)
def test_a_file_that_is_no_run(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(RunError, match=sentence) as caught:
        load(str(path), ["train.lr=1"])
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(wine: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("\ufeff" + (wine / "runs" / "default.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert load(str(path)).name == "wine"


def test_a_folder_is_no_run_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(RunError, match=r"there is no run file|cannot be read"):
        load(str(tmp_path / "x.yaml"))


def test_shown_run_reads_back_equal_and_says_where_values_came_from(wine: Path) -> None:
    overrides = ["train.epochs=0.5", "head.note='1e-3'", "data.source='a: b #c'"]
    run, path = load("wine/default", overrides), locate("wine/default")
    text = render(run, [(nested(overrides), "command line"), (read(path), "default.yaml")])
    assert check(parse(text, "")) == run
    notes = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in text.splitlines()}
    assert notes["epochs"] == notes["note"] == "command line"
    assert notes["lr"] == notes["dropout"] == "default.yaml"
    assert notes["seed"] == ""


@settings(deadline=None)  # the first example waits for imports
@given(note=st.text(), slices=st.lists(st.text(), max_size=3), lr=st.floats(min_value=1e-300, max_value=1e300))
def test_every_run_renders_to_yaml_that_reads_back(note: str, slices: list[str], lr: float) -> None:
    values = {
        "name": "x",
        "data": {"adapter": "core.given", "source": "s" + note},
        "evaluate": {"slices": slices},
        "train": {"lr": lr},
    }
    from heliostat.run.text import _flow

    assert parse(f"key: {_flow(values)}", "") == {"key": values}
