"""A cluster of two nodes for the whole ring, guarded by a token; a plugin that says where its workers were; schemas."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from heliostat.testing.distribution import on_path, write_dist_info

NODES = Path(__file__).with_name("two_nodes.py")
ROOT = Path(__file__).parents[2]
KINDS = ("RayCluster", "RayJob", "RayService", "RayCronJob")
SCHEMAS = "HELIOSTAT_KUBERAY_SCHEMAS"
METADATA = {"name", "namespace", "labels", "annotations"}
"""What our objects say of themselves."""

_WITNESS = '''
"""A head that writes down, on each worker, where that is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from heliostat.plugin import Classification, Registry


class Polarity(Classification):
    """A polarity, and the place of each worker."""

    class Config(Classification.Config):
        labels: tuple[str, ...] | None = ("negative", "neutral", "positive")

    def module(self, features: Any) -> Any:
        import heliostat
        import ray
        import torch.distributed as group

        if group.is_available() and group.is_initialized():
            found = {
                "rank": group.get_rank(),
                "node": ray.get_runtime_context().get_node_id(),
                "nodes": {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()},
                "master": os.environ["MASTER_ADDR"],
                "platform": heliostat.__file__,
                "plugin": __file__,
                "forked": "HELIOSTAT_FORK_SERVER" in os.environ,
            }
            path = Path(os.environ["HELIOSTAT_HOME"]) / f"witness-{group.get_rank()}.json"
            path.write_text(json.dumps(found), encoding="utf-8")
        return super().module(features)


def register(registry: Registry) -> None:
    registry.add("polarity", Polarity)
'''


@dataclass
class TwoNodes:
    """A cluster that stands, and what a user at his own machine types."""

    url: str
    address: str
    home: Path
    """HELIOSTAT_HOME of its nodes."""
    token: Path
    env: dict[str, str]
    """Of its nodes."""
    client: dict[str, str]
    """Of the user: a home of his own, and no Ray."""

    def heliostat(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A finished command on this cluster."""
        done = subprocess.run(self.command(*words), env=self.client, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        return done

    def third(self, apart: Sequence[str]) -> AbstractContextManager[Any]:
        """A third node for a while, 127.0.0.4, started by `apart` where the home of the others is another folder."""
        node = f'mount -t tmpfs none "$HELIOSTAT_HOME" && exec "{sys.executable}" "{NODES}" {self.address}'
        return started([*apart, "sh", "-c", node], self.env)

    def command(self, *words: str) -> list[str]:
        """The words of a command, with where the cluster is."""
        verb = 2 if words[0] == "jobs" else 1
        return [sys.executable, "-m", "heliostat", *words[:verb], "--address", self.url, *words[verb:]]


@pytest.fixture(scope="session")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The plugin `witness`, installed where the tests run and not on the nodes."""
    site = tmp_path_factory.mktemp("witness_site")
    (site / "heliostat_witness").mkdir()
    (site / "heliostat_witness" / "__init__.py").write_text(_WITNESS, encoding="utf-8")
    write_dist_info(site, "witness", "heliostat_witness:register")
    with on_path(site):
        yield "witness"


@pytest.fixture(scope="session")
def two_nodes(witness: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Two nodes of one CPU each, 127.0.0.2 and 127.0.0.3; what is installed for the tests is not installed there."""
    home, token = tmp_path_factory.mktemp("shared_home"), tmp_path_factory.mktemp("token") / "auth_token"
    token.write_text("a-token-of-the-tests-0123456789abcdef", encoding="utf-8")
    token.chmod(0o600)
    short = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))  # names of Ray's sockets must be short
    (short / "ray").mkdir()
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(short)}
    env = {**os.environ, **auth, "HELIOSTAT_HOME": str(home)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    for name in ("PYTHONPATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        env.pop(name, None)
    client = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(token), "HELIOSTAT_HOME": str(short / "home"), "COLUMNS": "200"}
    try:
        with started([sys.executable, str(NODES)], env) as told:
            yield TwoNodes(told["url"], told["address"], home, token, env, client)
    finally:
        shutil.rmtree(short, ignore_errors=True)


@contextmanager
def started(command: Sequence[str], env: dict[str, str]) -> Iterator[Any]:
    """What a process says of itself as JSON; in the end it is told to end, and no child of its stays."""
    process = subprocess.Popen(
        command, env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    family: list[psutil.Process] = []
    try:
        line = next((line for line in process.stdout if line.startswith("{")), None)
        assert line, "it said nothing"
        yield json.loads(line)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for child in psutil.wait_procs(family, timeout=10)[1]:
            child.kill()


class Manifests:
    """Objects of Kubernetes: ours, built and rendered."""

    base = ROOT / "cluster" / "kuberay" / "base"
    base_files = sorted(path for path in base.glob("*.yaml") if path.name != "kustomization.yaml")
    kinds = KINDS

    @staticmethod
    def objects_in(text: str) -> list[dict[str, Any]]:
        return [each for each in yaml.safe_load_all(text) if each]

    @staticmethod
    def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
        if shutil.which("kubectl") is None:
            pytest.skip("there is no kubectl here: install it (any version since 1.27) to build the overlays")
        return subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)

    @classmethod
    def rendered(cls, *words: str) -> list[dict[str, Any]]:
        """What `heliostat cluster render kuberay ...` prints."""
        from typer.testing import CliRunner

        from heliostat.cli import _build

        done = CliRunner().invoke(_build(), ["cluster", "render", "kuberay", *words])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return cls.objects_in(done.stdout) if "--out" not in words else []


@pytest.fixture(scope="session")
def manifests() -> Manifests:
    return Manifests()


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


@pytest.fixture(scope="session")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file of nobody's plugin."""
    text = (ROOT / "plugins/sentiment/heliostat_sentiment/runs/tiny.yaml").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("runs") / "mine.yaml"
    path.write_text(text.replace("name: sentiment-tiny", "name: mine.v2"), encoding="utf-8")
    return path
