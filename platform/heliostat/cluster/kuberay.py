"""Objects of KubeRay (`ray.io/v1`) and of Kubernetes that run our commands, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from heliostat.cluster.pods import CLAIM, LABELS, TOKENS, Object, Size, head_pod, submitter_pod, worker_pod

RAY = "2.60.0"
Mounts = Mapping[str, str]
"""Where a ConfigMap or Secret is mounted, and its name."""


class Job(NamedTuple):
    """What a cluster is made for."""

    entrypoint: str
    computes: bool = False
    """Whether the command itself trains, as a run of one worker does: then it belongs on a worker, not on the head."""


class Application(NamedTuple):
    """One application of Ray Serve behind a RayService."""

    name: str
    route_prefix: str
    args: Mapping[str, Any]
    """What its builder is given."""
    replicas: int = 2
    cpus: float = 2
    gpus: float = 0
    import_path: str = "heliostat.serve.application:application"
    deployment: str = "Replica"
    """The deployment in it that has the replicas."""


def ray_cluster(name: str, size: Size, *, mounts: Mounts | None = None) -> Object:
    """A cluster that stays: `heliostat submit` sends runs to it."""
    return _object("RayCluster", name, cluster_spec(size, mounts=mounts))


def ray_job(name: str, job: Job, size: Size, *, mounts: Mounts | None = None, retries: int = 3) -> Object:
    """A command on a cluster of its own, which goes when it is done."""
    return _object("RayJob", name, job_spec(job, size, mounts=mounts, retries=retries))


def ray_cron_job(name: str, schedule: str, job: Job, size: Size, *, mounts: Mounts | None = None) -> Object:
    """The same at the times of a schedule (`0 3 * * 0`, in UTC)."""
    template = job_spec(job, size, mounts=mounts, retries=0)
    return _object("RayCronJob", name, {"schedule": schedule, "timeZone": "Etc/UTC", "jobTemplate": template})


def ray_service(name: str, applications: Sequence[Application], size: Size, *, mounts: Mounts | None = None) -> Object:
    """Applications behind one address. A change comes up beside the old cluster and takes over when it answers."""
    cluster = cluster_spec(size, mounts=mounts, serves=True)
    spec = {
        "serveConfigV2": yaml.safe_dump(serve_config(applications), sort_keys=False, width=110),
        "excludeHeadPodFromServeSvc": True,
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterConfig": cluster,
    }
    return _object("RayService", name, spec)


def serve_config(applications: Sequence[Application]) -> Object:
    """What Ray Serve is told. Its host is written out: pods are reached from others, and the policy says which."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000, "request_timeout_s": 25},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": each.name,
                "route_prefix": each.route_prefix,
                "import_path": each.import_path,
                "args": dict(each.args),
                "deployments": [
                    {
                        "name": each.deployment,
                        "num_replicas": each.replicas,
                        "ray_actor_options": {"num_cpus": each.cpus, **({"num_gpus": each.gpus} if each.gpus else {})},
                    }
                ],
            }
            for each in applications
        ],
    }


def cluster_spec(size: Size, *, mounts: Mounts | None = None, serves: bool = False) -> Object:
    """Ray's head and workers, with a token on every port and the head's state on a disk that outlives its pod."""
    autoscaler = {"enableInTreeAutoscaling": True, "autoscalerOptions": _autoscaler()} if size.is_elastic else {}
    return {
        "rayVersion": RAY,
        "authOptions": {"mode": "token"},
        **autoscaler,
        "gcsFaultToleranceOptions": {
            "backend": "rocksdb",
            "storage": {"size": "2Gi", "deletionPolicy": "DeleteWithCluster"},
        },
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": head_pod(size, extra=mounts),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": size.least,
                "minReplicas": size.least,
                "maxReplicas": size.most,
                "rayStartParams": {},
                "template": worker_pod(size, extra=mounts, serves=serves),
            }
        ],
    }


def job_spec(job: Job, size: Size, *, mounts: Mounts | None, retries: int) -> Object:
    """A command, the cluster that it runs on, and what becomes of both."""
    place = {"entrypointNumCpus": size.cpus, **({"entrypointNumGpus": size.gpus} if size.gpus else {})}
    return {
        "entrypoint": job.entrypoint,
        **(place if job.computes else {}),
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": submitter_pod(size),
        "backoffLimit": retries,
        "preRunningDeadlineSeconds": 1800,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": cluster_spec(size, mounts=mounts),
    }


def namespace(name: str) -> Object:
    """A namespace that admits no pod which asks for more than ours do."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**LABELS, **labels}}}


def claim(size_gib: int = 200) -> Object:
    """The volume of HELIOSTAT_HOME: prepared data, checkpoints, the store. Its class must allow many writers (NFS)."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": f"{size_gib}Gi"}}}
    return _core("v1", "PersistentVolumeClaim", CLAIM, spec)


def network_policy() -> Object:
    """Who may reach our pods: each other, KubeRay's operator, and for answers whoever is labelled a client of them."""
    ours = {"podSelector": {"matchLabels": dict(LABELS)}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    client = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"heliostat/client": "true"}}}
    spec = {
        "podSelector": {"matchLabels": dict(LABELS)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [ours]},
            {"from": [operator], "ports": [{"protocol": "TCP", "port": port} for port in (8265, 8000, 52365)]},
            {"from": [client], "ports": [{"protocol": "TCP", "port": 8000}]},
        ],
    }
    return _core("networking.k8s.io/v1", "NetworkPolicy", "heliostat", spec)


def config_map(name: str, files: Mapping[str, str]) -> Object:
    """Files that pods read."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": dict(LABELS)},
        "data": dict(files),
    }


def token_mount() -> Mounts:
    """Where a deployment finds the token that requests need: `kubectl create secret generic heliostat-token`."""
    return {TOKENS: "heliostat-token"}


def _autoscaler() -> Object:
    return {
        "idleTimeoutSeconds": 120,
        "resources": {kind: {"cpu": "500m", "memory": "1Gi"} for kind in ("requests", "limits")},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name, "labels": dict(LABELS)}, "spec": spec}


def _core(version: str, kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": dict(LABELS)}, "spec": spec}
