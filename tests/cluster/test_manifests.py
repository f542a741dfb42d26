"""Every object that we ship or render is one that its kind's own schema takes, to the last key; a typo is found."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
OVERLAYS = sorted(path.parent for path in (CLUSTER / "kuberay" / "overlays").glob("*/kustomization.yaml"))
Objects = list[dict[str, Any]]
JOB_PODS = ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec")


def edited(value: Any, path: tuple[str | int, ...], old: str, new: str) -> Any:
    """A copy in which the key `old` below `path` is called `new`."""
    made = copy.deepcopy(value)
    node = made
    for step in path:
        node = node[step]
    node[new] = node.pop(old)
    return made


@pytest.fixture(scope="module", params=["base", *(path.name for path in OVERLAYS), "elastic", "gpus", "own", "models"])
def objects(manifests: Any, request: pytest.FixtureRequest, own_run: Path) -> Objects:
    """The objects of the base, of each overlay, and of renderings that differ from them."""
    made: Objects
    if request.param == "base":
        made = [
            each for path in manifests.base_files for each in manifests.objects_in(path.read_text(encoding="utf-8"))
        ]
    elif request.param == "elastic":
        made = manifests.rendered(
            "sentiment/default", "scaling.num_workers=[1,8]", "--kind", "cluster", "--namespace", "elsewhere"
        )
    elif request.param == "gpus":
        made = manifests.rendered("sentiment/default", "--gpus", "2", "--memory", "64", "--cpus", "8")
    elif request.param == "own":
        made = manifests.rendered(str(own_run), "--kind", "cron", "--schedule", "30 2 * * 1", "--workers", "3")
    elif request.param == "models":
        made = manifests.rendered("sentiment@champion", "medical-chapters:3", "--replicas", "3")
    else:
        built = manifests.kustomize(CLUSTER / "kuberay" / "overlays" / request.param)
        assert built.returncode == 0, built.stderr
        made = manifests.objects_in(built.stdout)
    return made


def test_rays_kinds_pass_kuberays_schemas(manifests: Any, objects: Objects, kuberay_schemas: dict[str, Any]) -> None:
    ours = [each for each in objects if each["kind"] in manifests.kinds]
    assert ours
    found = [
        (each["kind"], problem.json_path, problem.message)
        for each in ours
        for problem in kuberay_schemas[each["kind"]].iter_errors(each)
    ]
    assert found == []


def test_core_kinds_pass_kubernetes_own(manifests: Any, objects: Objects, core_schemas: Any) -> None:
    core = [each for each in objects if each["kind"] not in manifests.kinds]
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


def test_rays_pods_are_probed_share_memory_and_ask_for_a_token(manifests: Any, objects: Objects) -> None:
    for each in objects:
        if each["kind"] not in manifests.kinds:
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
    manifests: Any, kuberay_schemas: dict[str, Any], kind: str, path: tuple[str | int, ...], old: str, new: str
) -> None:
    texts = [
        file.read_text(encoding="utf-8") for file in manifests.base_files if file.name.startswith(f"{kind.lower()}-")
    ]
    whole = manifests.objects_in(texts[0])[0]
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
    manifests: Any, core_schemas: Any, kind: str, path: tuple[str | int, ...], old: str, new: str
) -> None:
    file = next(each for each in manifests.base_files if each.name.startswith(f"{kind.lower()}-"))
    whole = manifests.objects_in(file.read_text(encoding="utf-8"))[0]
    with pytest.raises(core_schemas.ValidationError):
        core_schemas.validate(edited(whole, path, old, new), core_schemas.latest_version(), strict=True)


def test_a_planted_typo_fails_in_an_overlay(manifests: Any, tmp_path: Path) -> None:
    shutil.copytree(CLUSTER / "kuberay", tmp_path / "kuberay")
    path = tmp_path / "kuberay" / "overlays" / "gpu" / "kustomization.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("resources/limits/nvidia", "resource/limits/nvidia", 1), encoding="utf-8")
    done = manifests.kustomize(path.parent)
    assert done.returncode != 0
    assert "resource/limits/nvidia" in done.stderr


def test_every_overlay_changes_the_workers(manifests: Any) -> None:
    assert [path.name for path in OVERLAYS] == ["cpu", "gpu", "spot"]
    workers = {}
    for path in (manifests.base, *OVERLAYS):
        built = manifests.kustomize(path)
        assert built.returncode == 0, built.stderr
        cluster = next(each for each in manifests.objects_in(built.stdout) if each["kind"] == "RayCluster")
        workers[path.name] = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert workers["cpu"]["containers"][0]["resources"]["limits"]["cpu"] == "16"
    assert workers["gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert workers["gpu"]["containers"][0]["image"].endswith("-cuda")
    assert "affinity" in workers["spot"]
    assert "affinity" not in workers["base"]
