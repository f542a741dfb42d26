"""A run as a job of a real Slurm: one node, Debian's slurm-wlm, in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """job(verb, ray) is job 7 on one node without Slurm: `srun` runs what follows, `ray` is this shell script."""
    words = '#!/bin/sh\necho "$@ within $RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT s"\nexit 3\n'
    made = {"srun": '#!/bin/sh\nexec "$@"\n', "scontrol": "#!/bin/sh\necho node-1\n", "heliostat": words}
    (tmp_path / "token").write_text("a-token-of-this-test-alone-0123456789")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))},
        **{"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-1", "SLURM_JOB_NUM_NODES": "1"},
        **{"HELIOSTAT_HOME": str(tmp_path / "home"), "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }

    def job(verb: str, ray: str) -> subprocess.CompletedProcess[str]:
        for name, text in {**made, "ray": f"#!/bin/sh\n{ray}\n"}.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        command = ["bash", str(SCRIPT), "sentiment/tiny"]
        env = environment | {"HELIOSTAT_VERB": verb}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)

    return job


STARTS = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
"""As `ray symmetric-run` on the head, with what is behind the --."""


def test_a_job_whose_ray_does_not_start_has_failed(job: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = job("train", "exit 0")
    assert done.returncode == 1
    assert "Ray did not start, so nothing ran" in done.stderr


@pytest.mark.parametrize(
    ("verb", "there", "said"),
    [
        ("train", "", "train sentiment/tiny --run-id slurm-7 within 600 s"),
        ("train", "runs/slurm-7/run.json", "train --resume slurm-7 within"),
        ("tune", "", "tune sentiment/tiny --sweep-id slurm-7 within"),
        ("tune", "sweeps/slurm-7/sweep.json", "tune --resume slurm-7 within"),
    ],
)
def test_a_job_that_is_queued_again_goes_on(
    job: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, verb: str, there: str, said: str
) -> None:
    if there:
        (tmp_path / "home" / there).parent.mkdir(parents=True)
        (tmp_path / "home" / there).touch()
    done = job(verb, STARTS)
    assert said in done.stdout, done.stderr
    assert done.returncode == 3, "that of the command"
    assert not list((tmp_path / "home").glob(".slurm-*"))


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
