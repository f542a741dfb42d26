"""A run as a job of a real Slurm: one node, Debian's slurm-wlm, in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "train.sbatch"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "unshare", "ip")
NO_START = 75
"""What slurm_node.sh ends with where Slurm does not come up."""


@pytest.fixture(scope="module")
def isolated() -> list[str]:
    """The words before a command that give it processes, mounts and a network of its own."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm iproute2")
    words = ["timeout", "400", "unshare", "--pid", "--fork", "--mount-proc", "--mount", "--net", "--kill-child"]
    if os.geteuid() != 0 or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("namespaces of processes, mounts and networks need root: Slurm cannot be started here")
    return words


def test_the_script_refuses_to_start_without_a_shared_folder_or_a_run() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "HELIOSTAT_HOME"}
    done = subprocess.run(["bash", str(SCRIPT), "sentiment/tiny"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "HELIOSTAT_HOME: is not set: name a folder that all nodes see" in done.stderr
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=environment | {"HELIOSTAT_HOME": "/x"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "name a run" in done.stderr


@pytest.mark.sweep
def test_a_job_trains_on_the_ray_that_slurm_started(isolated: list[str], tmp_path: Path) -> None:
    home, binaries = tmp_path / "home", tmp_path / "bin"
    for folder in (home, binaries):
        folder.mkdir()
    _command(binaries / "heliostat", "-m heliostat")
    _command(binaries / "ray", "-c 'from ray.scripts.scripts import main; main()'")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))},
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")]),
        "HELIOSTAT_HOME": str(home),
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "HOME": str(tmp_path),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    (tmp_path / "token").write_text("a-token-of-this-test-alone-0123456789")
    submit = ["sbatch", "--wait", "--nodes=1", f"--output={tmp_path}/job.log", str(SCRIPT)]
    run = ["sentiment/tiny", "train.epochs=1", "data.limit=200", "scaling.num_workers=2", "--no-evaluate"]
    node = [*isolated, "bash", str(Path(__file__).with_name("slurm_node.sh")), str(tmp_path / "slurm")]
    done = subprocess.run([*node, *submit, *run], env=environment, capture_output=True, text=True, timeout=450)
    if done.returncode == NO_START:
        pytest.skip(f"Slurm did not come up here: {done.stderr[-500:]}")
    log = (tmp_path / "job.log").read_text(encoding="utf-8") if (tmp_path / "job.log").exists() else ""
    assert done.returncode == 0, f"{done.stderr}\n{log[-3000:]}"
    assert "Submitted batch job 1" in done.stdout
    assert "Running command on head node" in log
    outcome = json.loads((home / "runs" / "slurm-1" / "outcome.json").read_text(encoding="utf-8"))
    assert outcome["step"] >= 1
    effect = json.loads(next((home / "runs" / "slurm-1" / "checkpoints").glob("step-*/manifest.json")).read_text())
    assert effect["trainer"]["in_effect"]["world_size"] == 2, "two workers of the Ray that Slurm started"
    assert not [each for each in Path("/tmp/ray").glob("*") if str(tmp_path) in str(each.resolve())]


def _command(path: Path, words: str) -> None:
    """A command of this Python, for environments whose commands are not on the path."""
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
    path.chmod(0o755)
