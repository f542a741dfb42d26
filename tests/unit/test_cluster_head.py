"""Heads as people name them, jobs that are sent and followed, and how their ends are told."""

from __future__ import annotations

import _thread
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from heliostat.cluster.head import connect, head_url
from heliostat.cluster.jobs import Job, follow
from heliostat.cluster.order import Order
from heliostat.cluster.submit import entrypoint, submit
from heliostat.errors import ClusterError


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


class _Slow:
    """A head that is still taking the job when somebody types Ctrl-C."""

    def submit_job(self, **_: Any) -> str:
        _thread.interrupt_main()
        time.sleep(60)
        raise AssertionError("nobody waits for it")


def test_ctrl_c_while_the_head_takes_the_job_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from heliostat.cli.submit import command

    monkeypatch.setattr("heliostat.cluster.head.connect", lambda *_: _Slow())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have it ignored
    try:
        with pytest.raises(typer.Exit) as ended:
            command(["train", "sentiment/tiny"], installed=True, address="http://head:8265")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.exit_code == 130
    said = capsys.readouterr().err
    assert "The head may have taken the job" in said
    assert re.search(r"Stop it: heliostat jobs stop train-sentiment-tiny-\S+ --address http://head:8265", said)


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
