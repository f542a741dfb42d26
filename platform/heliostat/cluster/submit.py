"""An order -> a job on a cluster, by Ray's Jobs API."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from heliostat.cluster.order import Order
from heliostat.cluster.parcel import distributions_of, pack
from heliostat.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MOST_MB = 64.0
"""MB of files that travel with a job, at most; what is larger belongs where all nodes see it."""
STOP_PATIENCE_S = 60
"""Seconds that a stopped job has to save, before Ray kills it. Ray's own 3 are less than a checkpoint takes."""
AGENT_PATIENCE_S = 90.0
"""Seconds in which a head that has just started must find its agent."""
TAKE_PATIENCE_S = 300.0
"""Seconds in which what travels must be there and the head must take the job."""
_QUIET_S = 15.0


def submit(
    client: JobSubmissionClient,
    order: Order,
    *,
    home: str | None = None,
    env: Mapping[str, str] | None = None,
    python: str = "python",
    installed: bool = False,
    most_mb: float = MOST_MB,
    job: str | None = None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> str:
    """Send the order with all that it takes along; the id of the job, which Ray starts at once.

    `home` is `HELIOSTAT_HOME` there, `job` the id where the caller has made one (`job_id`). With `installed` neither
    platform nor plugins travel, and those of the cluster must have the versions of these.

    Raises ClusterError when the cluster does not take the job.
    """
    distributions = distributions_of(order.plugins)
    needs = [*order.needs, *(f"{each.name}=={each.version}" for each in distributions if installed)]
    job = job or job_id(order)
    with tempfile.TemporaryDirectory(prefix="heliostat-job-") as folder:
        parcel = Path(folder) / "parcel"
        parcel.mkdir()
        pack(parcel, [] if installed else distributions, order.items, most_mb)
        runtime_env: dict[str, Any] = {"env_vars": _environment(home, env or {})}
        if any(parcel.iterdir()):
            runtime_env["working_dir"] = str(parcel)
        words = {
            "entrypoint": entrypoint(order, job, python, needs),
            "submission_id": job,
            "runtime_env": runtime_env,
            "metadata": {"heliostat": shlex.join(["heliostat", order.verb, *order.words])},
        }
        return _sent(client, words, on_wait)


def entrypoint(order: Order, job: str, python: str, needs: list[str]) -> str:
    """The shell command of the job. `exec`: signals and exit code are those of Python, not of a shell around it."""
    options = [word for need in needs for word in ("--needs", need)]
    options += ["--fetch", order.fetch] if order.fetch else []
    columns = max(80, min(160, shutil.get_terminal_size((110, 24)).columns))
    words = [python, "-m", "heliostat.cluster.start", job, *options, "--", order.verb, *order.words]
    return f"exec env COLUMNS={columns} {shlex.join(words)}"


def job_id(order: Order) -> str:
    """A new id that says what the job does: `train-sentiment-20260102-030405-ab12`."""
    name = re.sub(r"[^a-z0-9.-]+", "-", order.name.lower()).strip("-.")[:40] or "model"
    return f"{order.verb}-{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _environment(home: str | None, env: Mapping[str, str]) -> dict[str, str]:
    own = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S)}
    return own | ({"HELIOSTAT_HOME": home} if home else {}) | dict(env)


def _sent(client: JobSubmissionClient, words: Mapping[str, Any], on_wait: Callable[[str], None]) -> str:
    """Submit, again and again while the head has no agent yet: one that has just started says so for some seconds."""
    deadline = time.monotonic() + AGENT_PATIENCE_S
    while True:
        try:
            return _taken(client, words, on_wait)
        except ClusterError:
            raise
        except Exception as error:  # Ray raises RuntimeError for an answer, and what its HTTP library raises
            said = " ".join(str(error).split())
            if "No available agent" not in said or time.monotonic() > deadline:
                raise ClusterError(f"the cluster does not take the job: {said[-600:]}") from error
        on_wait("the head has just started, and has no agent for jobs yet")
        time.sleep(1.0)


def _taken(client: JobSubmissionClient, words: Mapping[str, Any], on_wait: Callable[[str], None]) -> str:
    """The id of the job, once the head has taken it. Ray's client would wait for ever for an agent that hangs."""
    answers: Queue[str | Exception] = Queue()

    def send() -> None:
        try:
            answers.put(str(client.submit_job(**words)))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=send, daemon=True, name="submit").start()
    try:
        answer = _first(answers, on_wait)
    except Empty:
        raise ClusterError(
            f"the head has not taken the job within {TAKE_PATIENCE_S:g} s: its agent hangs. What it says is in "
            "/tmp/ray/session_latest/logs/dashboard_agent.log there. A head with --node-ip-address=127.0.0.1 on a "
            "machine with a network takes no jobs: give it another address."
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _first(answers: Queue[str | Exception], on_wait: Callable[[str], None]) -> str | Exception:
    try:
        return answers.get(timeout=_QUIET_S)
    except Empty:
        on_wait("the job is sent, and the head has not taken it yet")
    return answers.get(timeout=TAKE_PATIENCE_S - _QUIET_S)
