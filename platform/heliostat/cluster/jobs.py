"""Jobs of a cluster: which there are, what they print, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat.component import closest
from heliostat.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_STOPPED_CODE = 143
"""What a command ended by SIGTERM exits with."""
_PATIENCE_S = 60.0
"""How long the way to the head may be broken while a job is followed."""
_STOOD_S = 5.0
"""A connection that held for so long was one."""
_OF_RAY = ("Running entrypoint for job ", "Runtime env is setting up.")


class Job(NamedTuple):
    """A job as the head knows it."""

    id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    command: str
    started: float
    """Seconds since 1970; 0 before it began."""
    ended: float | None
    code: int | None
    """The exit code of its command, once it has ended by itself."""
    message: str
    """Ray's own account of the end, with the last lines that were printed."""

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.status in ENDED

    @property
    def last_words(self) -> str:
        """What was printed last, or else what Ray says of the end."""
        heading, _, printed = self.message.partition(":\n")
        text = printed if heading.startswith("Job entrypoint command failed") else self.message
        return "".join(line for line in text.splitlines(keepends=True) if not _is_of_ray(line)).strip()

    @property
    def exit_code(self) -> int:
        """What somebody who waited for the job exits with: the code of its command, 143 when it was stopped."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return _STOPPED_CODE
        return 1 if not self.code else self.code if self.code > 0 else 128 - self.code


def all_jobs(client: JobSubmissionClient) -> list[Job]:
    """The jobs that were submitted, the newest first."""
    jobs = [_job(details) for details in _asked(client.list_jobs) if details.submission_id]
    return sorted(jobs, key=lambda job: -job.started)


def find_job(client: JobSubmissionClient, job_id: str | None) -> Job:
    """The job of this id, or the newest. Raises ClusterError naming the one that was probably meant."""
    jobs = all_jobs(client)
    if job_id is None:
        if not jobs:
            raise ClusterError("this cluster has had no job yet. Send one: heliostat submit -- train RUN.")
        return jobs[0]
    found = next((job for job in jobs if job.id == job_id), None)
    if found is None:
        guess = closest(job_id, [job.id for job in jobs])
        raise ClusterError(
            f"this cluster knows no job '{job_id}'. "
            + (f"Did you mean '{guess}'?" if guess else "`heliostat jobs list` shows those that there are.")
        )
    return found


def _job(details: Any) -> Job:
    ended = details.end_time / 1e3 if details.end_time else None
    command = (details.metadata or {}).get("heliostat") or details.entrypoint
    status, message = str(getattr(details.status, "value", details.status)), details.message or ""
    return Job(
        details.submission_id,
        status,
        command,
        (details.start_time or 0) / 1e3,
        ended,
        details.driver_exit_code,
        message,
    )


def _asked(ask: Callable[..., Any], *words: str) -> Any:
    try:
        return ask(*words)
    except Exception as error:  # Ray raises RuntimeError for an answer, and what its HTTP library raises
        raise ClusterError(f"the head does not answer: {' '.join(str(error).split())[:300]}") from error


def logs(client: JobSubmissionClient, job: Job) -> str:
    """All that the job has printed."""
    text = str(_asked(client.get_job_logs, job.id))
    return "".join(line for line in text.splitlines(keepends=True) if not _is_of_ray(line))


def stop(client: JobSubmissionClient, job: Job, patience_s: float = 90.0) -> Job:
    """Ask the job to stop, and wait until it has: a training saves before it ends.

    Raises ClusterError when it has not within `patience_s`.
    """
    if job.has_ended:
        return job
    _asked(client.stop_job, job.id)
    deadline = time.monotonic() + patience_s
    while not (job := find_job(client, job.id)).has_ended:
        if time.monotonic() > deadline:
            raise ClusterError(f"{job.id} has not ended after {patience_s:g} s. See: heliostat jobs logs {job.id}")
        time.sleep(0.3)
    return job


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], Any]) -> Job:
    """Hand on what the job prints as it comes, until it ends; the job then.

    A broken connection is made again, and nothing is handed on twice. Raises ClusterError when the head is gone.
    """
    printed, broken_since = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            printed = asyncio.run(_tail(client, job_id, printed, write))
            job = find_job(client, job_id)
            if job.has_ended:
                return job
            broken_since = 0.0
        except (_Broken, ClusterError) as error:
            now = time.monotonic()
            if isinstance(error, _Broken) and (error.printed > printed or now - began > _STOOD_S):
                printed, broken_since = error.printed, 0.0
            broken_since = broken_since or now
            if now - broken_since > _PATIENCE_S:
                raise _gone(job_id, str(error)) from None
        time.sleep(0.3)


def _gone(job_id: str, why: str) -> ClusterError:
    return ClusterError(
        f"the way to the head is broken ({why}). Whether {job_id} goes on is not known from here. When the head is "
        f"there again: heliostat jobs logs {job_id} --follow."
    )


class _Broken(Exception):
    """The connection broke, after so many characters."""

    def __init__(self, printed: int, why: str) -> None:
        super().__init__(why)
        self.printed = printed


async def _tail(client: JobSubmissionClient, job_id: str, printed: int, write: Callable[[str], Any]) -> int:
    """Hand on what comes behind the first `printed` characters; how many there are now."""
    seen = 0
    try:
        async for text in client.tail_job_logs(job_id):
            new = text[max(0, printed - seen) :]
            seen += len(text)
            for line in new.splitlines(keepends=True):
                if not _is_of_ray(line):
                    write(line)
            printed = max(printed, seen)
    except Exception as error:  # whatever aiohttp raises for a connection
        raise _Broken(printed, f"{type(error).__name__}: {error}") from error
    return printed


def _is_of_ray(line: str) -> bool:
    return any(words in line for words in _OF_RAY)
