"""What a job runs on the head: `python -m heliostat.cluster.start JOB [--needs REQUIREMENT] -- VERB WORDS...`.

It looks whether the cluster has what the job needs, brings the job's files to `HELIOSTAT_HOME/jobs/JOB`, where all
nodes see them, and becomes `heliostat VERB WORDS...` in that folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from heliostat.cluster.needs import lacking, requirements_in
from heliostat.cluster.parcel import FILES, JOB
from heliostat.errors import ClusterError, HeliostatError
from heliostat.home import home


def main(arguments: Sequence[str]) -> None:
    """Become the command of the job. Leaves with 2 when the cluster lacks what it needs."""
    split = list(arguments).index("--")
    told, words = _told(arguments[:split]), arguments[split + 1 :]
    try:
        check_needs([*requirements_in(Path.cwd()), *told.needs])
        print(f"job       {told.job} on {platform.node()}: {_versions()}")
        folder = job_folder(told.job)
        if told.fetch:
            print(f"fetching  {told.fetch.partition('#')[0]}", flush=True)
            _fetch(told.fetch)
    except HeliostatError as error:
        print(f"error {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    words = [word.replace(JOB, str(folder)) for word in words]
    sys.stdout.flush()
    # -P: what lies in the job's folder is no module. Platform and plugins are found by PYTHONPATH.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "heliostat", *words])


def _told(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m heliostat.cluster.start")
    parser.add_argument("job")
    parser.add_argument("--needs", action="append", default=[])
    parser.add_argument("--fetch")
    return parser.parse_args(options)


def _versions() -> str:
    found = (f"{name} {metadata.version(name)}" for name in ("ray", "torch"))
    return ", ".join([f"python {platform.python_version()}", *found])


def job_folder(job: str) -> Path:
    """The folder of the job: made, filled with what travelled, and the current one."""
    folder = home() / "jobs" / job
    folder.mkdir(parents=True, exist_ok=True)
    if Path(FILES).is_dir():
        shutil.copytree(FILES, folder, dirs_exist_ok=True)
    os.chdir(folder)
    return folder


def _fetch(source: str) -> None:
    from heliostat.data.fetch import fetch

    fetch(source)


def check_needs(requirements: Iterable[str]) -> None:
    """Raise ClusterError with every requirement that this Python does not meet, and what is there."""
    try:
        lacks = list(lacking(requirements))
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"{sys.executable} has no {error.name}: it is not the Python of Ray. Name that with --python."
        ) from None
    if lacks:
        raise ClusterError(
            f"the cluster does not fit this job ({sys.executable}): {' '.join(lacks)} Install these on every node, or "
            "in its image (pip install -c constraints.txt ...); or name another Python there with --python."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
