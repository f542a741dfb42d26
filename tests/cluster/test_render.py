"""What `heliostat cluster render kuberay` writes says what the run, the deployment file and the store say."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def test_the_base_is_what_the_command_in_its_head_writes(manifests: Any) -> None:
    head = manifests.base_files[0].read_text(encoding="utf-8").partition("\n")[0]
    words = shlex.split(head.partition("`")[2].partition("`")[0])
    assert words[:4] == ["heliostat", "cluster", "render", "kuberay"]
    made = {(each["kind"], each["metadata"]["name"]): each for each in manifests.rendered(*words[4:])}
    kept = [each for path in manifests.base_files for each in manifests.objects_in(path.read_text(encoding="utf-8"))]
    assert {(each["kind"], each["metadata"]["name"]): each for each in kept} == made


def test_a_rendering_says_what_the_run_says(manifests: Any, own_run: Path) -> None:
    made = {
        each["kind"]: each for each in manifests.rendered(str(own_run), "train.epochs=2", "scaling.num_workers=[2,6]")
    }
    job = made["RayJob"]["spec"]
    group = job["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (2, 2, 6)
    assert job["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert "heliostat train /etc/heliostat/run.yaml train.epochs=2 'scaling.num_workers=[2,6]'" in job[
        "entrypoint"
    ].replace("'\"'\"'", "'")
    assert made["ConfigMap"]["data"] == {"run.yaml": own_run.read_text(encoding="utf-8")}
    mounted = [each["mountPath"] for each in group["template"]["spec"]["containers"][0]["volumeMounts"]]
    assert "/etc/heliostat" in mounted


def test_a_run_of_one_worker_trains_on_a_worker_and_not_on_the_head(manifests: Any) -> None:
    alone = manifests.rendered("sentiment/pretrained", "scaling.num_workers=1", "--gpus", "1", "--cpus", "6")
    several = manifests.rendered("sentiment/pretrained", "scaling.num_workers=2")
    assert alone[-1]["spec"]["entrypointNumCpus"] == 6
    assert alone[-1]["spec"]["entrypointNumGpus"] == 1
    assert "entrypointNumCpus" not in several[-1]["spec"], "Ray Train's workers need them"


def test_runs_of_one_name_are_told_apart(manifests: Any, own_run: Path) -> None:
    """The second finds the first finished: going on with that, it would store and promote another run's model."""

    def run_id(*words: str) -> str:
        entrypoint: str = manifests.rendered(*words)[-1]["spec"]["entrypoint"]
        return entrypoint.partition("--run-id ")[2].partition(";")[0]

    first, second = run_id("sentiment/pretrained"), run_id("sentiment/pretrained", "train.epochs=1")
    assert first.startswith("sentiment-")
    assert first == run_id("sentiment/pretrained") != second
    entrypoint = manifests.rendered("sentiment/pretrained")[-1]["spec"]["entrypoint"]
    assert entrypoint.count(first) == 3


def test_names_are_those_that_kubernetes_takes(manifests: Any, own_run: Path) -> None:
    made = manifests.rendered(str(own_run), "name=mine_v2.1")
    pod = made[-1]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    names = [each["metadata"]["name"] for each in made] + [each["name"] for each in pod["volumes"]]
    assert "run-mine-v2-1" in names
    assert [name for name in names if not re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)] == []


def test_data_that_are_elsewhere_are_fetched_first(manifests: Any) -> None:
    for kind in ("train", "tune", "cron"):
        job = manifests.rendered("medical/mesh", "train.epochs=1", "--kind", kind)[-1]["spec"]
        command = shlex.split(job.get("jobTemplate", job)["entrypoint"])
        assert command[:2] == ["sh", "-c"], "the shell of KubeRay's submitter would take the && for its own"
        assert command[2].startswith("env HF_HUB_OFFLINE=0 heliostat data fetch medical/mesh train.epochs=1 && ")
    assert "fetch" not in manifests.rendered("sentiment/tiny")[-1]["spec"]["entrypoint"]


@pytest.mark.parametrize(
    ("models", "options", "pods", "cpus"),
    [
        ("[{model: a@champion, threads: 4}]", [], 1, 4),
        ("[{model: a@champion, threads: 3, replicas: 4}]", ["--cpus", "4"], 4, 4),
        ("[{model: a@champion, threads: 1, replicas: 2}]", ["--gpus", "1", "--cpus", "2"], 2, 2),
        ("[{model: a@champion, threads: 2, replicas: 5}]", ["--cpus", "4"], 3, 4),
        ("[{model: a@champion, threads: 1}, {model: b@champion, threads: 1}]", [], 1, 2),
        ("[{model: a@champion, threads: 4}, {model: b@champion, threads: 1, replicas: 2}]", [], 3, 4),
    ],
)
def test_every_replica_finds_room(
    models: str, options: list[str], pods: int, cpus: int, manifests: Any, tmp_path: Path
) -> None:
    path = tmp_path / "deploy.yaml"
    path.write_text(f"models: {models}\n")
    group = manifests.rendered(str(path), *options)[-1]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert group["replicas"] == group["maxReplicas"] == pods
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == str(cpus)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FILE", "port=1"], "port=1: has no effect beside a deployment file"),
        (["FILE", "--replicas", "3"], "--replicas: has no effect beside a deployment file: write `replicas` into it"),
        (["FILE", "--workers", "3"], "--workers: has no effect on a service"),
        (["a@champion", "--workers", "3"], "--workers: has no effect on a service"),
        (["a@champion", "train.lr=1"], "train.lr=1: has no effect beside models"),
        (["sentiment/tiny", "--replicas", "3"], "--replicas: has no effect on --kind train"),
        (["sentiment/tiny", "--schedule", "0 3 * * 0"], "--schedule: has no effect on --kind train"),
    ],
)
def test_options_without_effect_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from heliostat.cli import _build

    path = tmp_path / "deploy.yaml"
    path.write_text("models: [a@champion]\n")
    words = [str(path) if word == "FILE" else word for word in words]
    done = CliRunner().invoke(_build(), ["cluster", "render", "kuberay", *words])
    assert said in str(done.exception)


def test_a_deployment_file_becomes_a_service(manifests: Any, tmp_path: Path, kuberay_schemas: dict[str, Any]) -> None:
    from heliostat.cluster.kinds import Kind
    from heliostat.cluster.pods import Size
    from heliostat.cluster.render import Wish, render_deployment
    from heliostat.errors import RunError

    path = tmp_path / "deploy.yaml"
    path.write_text("models:\n- {model: a@champion, replicas: 3, threads: 2, precision: bf16}\n- b:2\n")
    service = manifests.rendered(str(path))[-1]
    assert list(kuberay_schemas["RayService"].iter_errors(service)) == []
    told = {each["name"]: each for each in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]}
    assert told["a"]["args"]["precision"] == "bf16"
    assert told["a"]["deployments"][0]["num_replicas"] == 3
    assert told["b"]["args"]["model"] == "b:2"
    path.write_text("models:\n- {model: a@champion, canary: {version: 4, percent: 10}}\n")
    with pytest.raises(RunError, match=r"models\.0\.canary: is not carried to Kubernetes yet"):
        render_deployment(path, Wish(Kind.SERVICE, Size("image")))


def test_what_cannot_be_rendered_is_refused_with_the_way_out() -> None:
    from heliostat.cluster.kinds import Kind
    from heliostat.cluster.pods import Size
    from heliostat.cluster.render import Wish, render_service, size_of
    from heliostat.errors import RunError
    from heliostat.run import load

    with pytest.raises(RunError, match="is 2 and --workers says 3"):
        size_of(load("sentiment/default"), Kind.TRAIN, "image", cpus=None, memory_gib=8, gpus=0, workers=3)
    wish = Wish(Kind.SERVICE, Size("image"))
    with pytest.raises(RunError, match=r"no model of the store.*leave out --kind service"):
        render_service(["sentiment/default"], wish)
    with pytest.raises(RunError, match="has 40 characters; KubeRay leaves room for 39"):
        render_service([f"{'a' * 40}@champion"], wish)
    with pytest.raises(RunError, match="asked for twice"):
        render_service(["a:1", "a@champion"], wish)


def test_the_readmes_renderings_are_what_they_say(
    manifests: Any, own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (CLUSTER / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("heliostat cluster render kuberay ")]
    (tmp_path.parent / "deploy.yaml").write_text("models: [sentiment@champion]\n", encoding="utf-8")
    assert len(lines) >= 5
    files = {"my-run.yaml": str(own_run), "deploy.yaml": str(tmp_path.parent / "deploy.yaml")}
    kinds = []
    for line in lines:
        words = shlex.split(line.partition(" | ")[0], comments=True)
        made = manifests.rendered(*(files.get(word, word) for word in words[4:]))
        written = [manifests.objects_in(path.read_text(encoding="utf-8"))[0] for path in tmp_path.glob("*/*.yaml")]
        kinds += [each["kind"] for each in (*made, *written) if each["kind"] in manifests.kinds]
        shutil.rmtree(tmp_path, ignore_errors=True)
        tmp_path.mkdir()
        monkeypatch.chdir(tmp_path)
    assert {*kinds} == set(manifests.kinds)
