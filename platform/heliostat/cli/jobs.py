"""`heliostat jobs`: what runs on a cluster, what it prints, and how to stop it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from heliostat.cluster.jobs import Job

app = typer.Typer(help="Jobs of a cluster: list, status, logs, stop.", no_args_is_help=True)

ADDRESS = typer.Option(
    help="The head's dashboard, as http://head:8265; by default RAY_API_SERVER_ADDRESS, RAY_ADDRESS or this machine."
)
TOKEN_FILE = typer.Option(
    help="The file with the cluster's token; by default RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."
)
_ID = typer.Argument(metavar="[JOB]", help="The job's id; without it, the newest job.")


@app.command("list")
def list_jobs(
    address: Annotated[str | None, ADDRESS] = None,
    token_file: Annotated[Path | None, TOKEN_FILE] = None,
) -> None:
    """The jobs of the cluster, the newest first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from heliostat.cluster.jobs import all_jobs

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("job", "status", "took"):
        table.add_column(heading, no_wrap=True)
    table.add_column("command", overflow="fold")
    for job in all_jobs(_client(address, token_file)):
        table.add_row(job.id, job.status, _took(job), escape(job.command))
    console = Console()
    console.print(table if table.row_count else "This cluster has had no job yet.")


@app.command()
def status(
    job_id: Annotated[str | None, _ID] = None,
    address: Annotated[str | None, ADDRESS] = None,
    token_file: Annotated[Path | None, TOKEN_FILE] = None,
) -> None:
    """How a job stands; of one that failed, why."""
    from heliostat.cluster.jobs import find_job

    job = find_job(_client(address, token_file), job_id)
    code = f" with exit code {job.exit_code}" if job.status == "FAILED" else ""
    typer.echo(f"{job.id}  {job.status}{code}  began {_clock(job.started)}, took {_took(job)}")
    typer.echo(f"  {job.command}")
    if job.status == "FAILED":
        typer.echo(job.last_words)


@app.command()
def logs(
    job_id: Annotated[str | None, _ID] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and exit with its code.")
    ] = False,
    address: Annotated[str | None, ADDRESS] = None,
    token_file: Annotated[Path | None, TOKEN_FILE] = None,
) -> None:
    """What a job has printed."""
    from heliostat.cluster.jobs import find_job
    from heliostat.cluster.jobs import logs as printed

    client = _client(address, token_file)
    job = find_job(client, job_id)
    if follow:
        raise typer.Exit(follow_job(client, job.id, address))
    sys.stdout.write(printed(client, job))


@app.command()
def stop(
    job_id: Annotated[str | None, _ID] = None,
    address: Annotated[str | None, ADDRESS] = None,
    token_file: Annotated[Path | None, TOKEN_FILE] = None,
) -> None:
    """Stop a job: a training saves a checkpoint and ends."""
    from heliostat.cluster.jobs import find_job
    from heliostat.cluster.jobs import stop as stop_job

    client = _client(address, token_file)
    job = find_job(client, job_id)
    if job.has_ended:
        typer.echo(f"{job.id} had ended before: {job.status}.")
        return
    job = stop_job(client, job)
    typer.echo(f"{job.id} has ended: {job.status}. What it printed: heliostat jobs logs {job.id}{at(address)}")


def follow_job(client: JobSubmissionClient, job_id: str, address: str | None) -> int:
    """Print what a job prints until it ends; its exit code. Ctrl-C leaves the job alone and says how to go on: 130."""
    from heliostat.cluster.jobs import follow

    try:
        job = follow(client, job_id, _write)
    except KeyboardInterrupt:
        tell_left("The job goes on.", job_id, address)
        return 130
    if job.status != "SUCCEEDED":
        code = f" with exit code {job.exit_code}" if job.status == "FAILED" else ""
        print(f"{job.id} has ended: {job.status}{code}.{_hint(job)}", file=sys.stderr)
    return job.exit_code


def tell_left(what: str, job_id: str, address: str | None) -> None:
    """Say of a job that is left alone what becomes of it, how to see it again and how to stop it."""
    where = at(address)
    print(
        f"\n{what} See it again: heliostat jobs logs {job_id} --follow{where}\n"
        f"Stop it: heliostat jobs stop {job_id}{where}",
        file=sys.stderr,
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _hint(job: Job) -> str:
    """What is behind a failure before our own code could say so."""
    if job.code is None and job.status == "FAILED":
        return f" {job.message.strip()[-1500:]}"
    if job.code == 127:
        return " The head's PATH has no such Python: start Ray in an activated environment, or give --python."
    if "No module named heliostat" in job.message or "No module named 'heliostat" in job.message:
        return " The cluster has no heliostat of this version: leave --installed out, or install it on every node."
    return ""


def _client(address: str | None, token_file: Path | None) -> JobSubmissionClient:
    from heliostat.cluster.head import connect

    return connect(address, token_file)


def at(address: str | None) -> str:
    """The option that leads to the same cluster, behind a command; nothing where none was given."""
    return f" --address {address}" if address else ""


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "not yet"


def _took(job: Job) -> str:
    took = max(0.0, (job.ended or time.time()) - job.started) if job.started else 0.0
    return f"{took:.0f} s" if took < 600 else f"{took / 60:.0f} min"
