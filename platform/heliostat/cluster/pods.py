"""Pods of a Ray cluster on Kubernetes: not root, memory that is reserved, probes, room for shared memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from heliostat import __version__

HOME = "/mnt/heliostat"
"""Where every pod sees HELIOSTAT_HOME, on a volume that all of them share."""
CLAIM = "heliostat-home"
RUN_FILES = "/etc/heliostat"
"""Where a run file lies that is no plugin's."""
TOKENS = "/etc/heliostat-token"
"""Where the token of a deployment lies, from the secret `heliostat-token`."""
LABELS = {"app.kubernetes.io/part-of": "heliostat"}
UID = 1000
"""Of the user in our images."""
Object = dict[str, Any]


class Size(NamedTuple):
    """Pods of the workers: how many, and what each has."""

    image: str
    least: int = 1
    most: int = 1
    """More than `least`: Ray's autoscaler adds and removes pods between the two."""
    cpus: int = 4
    memory_gib: int = 16
    gpus: int = 0

    @property
    def is_elastic(self) -> bool:
        """Whether an autoscaler is needed."""
        return self.most > self.least


def default_image(gpus: int = 0) -> str:
    """The image that `cluster/docker` builds: of this version, for CPUs or CUDA."""
    registry = os.environ.get("HELIOSTAT_REGISTRY", "registry.example.com")
    return f"{registry}/heliostat:{__version__}-{'cuda' if gpus else 'cpu'}"


def head_pod(size: Size, *, extra: Mapping[str, str] | None = None) -> Object:
    """The pod of Ray's head: it drives, prepares data and holds the state of the cluster, and trains nothing."""
    ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080}
    container = {
        **_container("ray-head", size.image, cpus=2, memory_gib=8, gpus=0, mounts=extra),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "readinessProbe": probe("/api/gcs_healthz", 8265, failures=6),
    }
    return _pod(container, shm_gib=2, mounts=extra, needs_api=size.is_elastic)


def worker_pod(size: Size, *, extra: Mapping[str, str] | None = None, serves: bool = False) -> Object:
    """The pod of a worker. One that serves is ready when Serve's proxy on it is."""
    ready = probe("/-/healthz", 8000, failures=3) if serves else probe("/api/local_raylet_healthz", 52365, failures=6)
    container = {
        **_container("ray-worker", size.image, size.cpus, size.memory_gib, size.gpus, extra),
        "ports": [{"name": "metrics", "containerPort": 8080}]
        + ([{"name": "serve", "containerPort": 8000}] if serves else []),
        "readinessProbe": ready,
    }
    return _pod(container, shm_gib=max(1, round(0.3 * size.memory_gib)), mounts=extra, needs_api=False)


def submitter_pod(size: Size) -> Object:
    """The pod that hands a job to Ray and follows its log."""
    container = {
        "name": "ray-job-submitter",
        "image": size.image,
        "securityContext": _locked(),
        "resources": _reserved(cpus="500m", memory="1Gi"),
    }
    return {
        "metadata": {"labels": dict(LABELS)},
        "spec": {**_not_root(), "restartPolicy": "Never", "containers": [container]},
    }


def probe(path: str, port: int, *, failures: int) -> Object:
    """A GET that must answer 200; Ray's health routes ask for no token."""
    return {
        "httpGet": {"path": path, "port": port},
        "initialDelaySeconds": 10,
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _container(
    name: str, image: str, cpus: int, memory_gib: int, gpus: int, mounts: Mapping[str, str] | None
) -> Object:
    reserved = _reserved(cpus=str(cpus), memory=f"{memory_gib}Gi")
    if gpus:
        reserved = {kind: {**each, "nvidia.com/gpu": str(gpus)} for kind, each in reserved.items()}
    extra = {each: path for path, each in (mounts or {}).items()}
    places = {"shm": "/dev/shm", "tmp": "/tmp", "home": HOME, **extra}
    return {
        "name": name,
        "image": image,
        "securityContext": _locked(),
        "env": [
            {"name": "HELIOSTAT_HOME", "value": HOME},
            {"name": "HOME", "value": "/tmp/home"},
            {"name": "HF_HUB_OFFLINE", "value": "1"},
        ],
        "resources": reserved,
        "volumeMounts": [
            {"name": each, "mountPath": path, **({"readOnly": True} if each in extra else {})}
            for each, path in places.items()
        ],
        "livenessProbe": probe("/api/local_raylet_healthz", 52365, failures=12),
    }


def _pod(container: Object, *, shm_gib: int, mounts: Mapping[str, str] | None, needs_api: bool) -> Object:
    volumes: list[Object] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm_gib}Gi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "50Gi"}},
        {"name": "home", "persistentVolumeClaim": {"claimName": CLAIM}},
    ]
    volumes += [_mounted(path, name) for path, name in (mounts or {}).items()]
    spec = {
        **({} if needs_api else {"automountServiceAccountToken": False}),
        **_not_root(),
        "terminationGracePeriodSeconds": 120,  # a training saves when it is asked to stop
        "containers": [container],
        "volumes": volumes,
    }
    return {"metadata": {"labels": dict(LABELS)}, "spec": spec}


def _mounted(path: str, name: str) -> Object:
    if path == TOKENS:
        return {"name": name, "secret": {"secretName": name, "defaultMode": 0o440}}
    return {"name": name, "configMap": {"name": name}}


def _reserved(*, cpus: str, memory: str) -> Object:
    """Equal requests and limits: no pod is thrown out because another takes what it was promised."""
    return {kind: {"cpu": cpus, "memory": memory} for kind in ("requests", "limits")}


def _not_root() -> Object:
    context = {"runAsNonRoot": True, "runAsUser": UID, "runAsGroup": UID, "fsGroup": UID}
    return {"securityContext": {**context, "seccompProfile": {"type": "RuntimeDefault"}}}


def _locked() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
