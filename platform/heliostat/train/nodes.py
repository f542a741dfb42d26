"""What the nodes of a cluster must have in common before workers start on them: a folder, and one version of torch.

Each node answers a small task in seconds. Without it a training would end, after minutes, with a file that is missing
on a machine that nobody has looked at.
"""

from __future__ import annotations

import json
import secrets
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.errors import TrainError

_PATIENCE_S = 60.0
"""How long a node may take to start a process for the task."""
_VISIBLE_S = 5.0
"""How long what a node wrote may take to be seen by another: file systems of a network remember what was not there."""


class Node(NamedTuple):
    """A node that workers may come to."""

    id: str
    address: str


def check_nodes(folder: Path) -> None:
    """Let each node of the cluster read and write in `folder`; at once where there is one node.

    Ray must be connected. Raises TrainError naming the nodes that do not share the folder, or have another torch.
    """
    nodes = _nodes()
    if len(nodes) < 2:
        return
    probe, word = folder / f".probe-{secrets.token_hex(4)}", secrets.token_hex(8)
    probe.write_text(word, encoding="utf-8")
    try:
        answers = _asked(nodes, probe, word)
        strangers = [node.address for node in nodes if not _has_answered(probe, node, answers[node])]
    finally:
        for path in (probe, *(_answer(probe, node) for node in nodes)):
            path.unlink(missing_ok=True)
    if strangers:
        raise TrainError(_not_shared(folder, strangers))
    torch = metadata.version("torch")
    others = sorted(
        {f"{node.address} has {answers[node]['torch']}" for node in nodes if answers[node]["torch"] != torch}
    )
    if others:
        raise TrainError(
            f"the nodes have different versions of torch: here it is {torch}, {', '.join(others)}. Workers of one "
            "training must have the same: install it from constraints.txt on every node."
        )


def _nodes() -> list[Node]:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    return sorted(Node(str(node["NodeID"]), str(node["NodeManagerAddress"])) for node in alive)


def _asked(nodes: list[Node], probe: Path, word: str) -> dict[Node, dict[str, Any]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(look)
    tasks = {
        node: ask.options(
            num_cpus=0,
            max_retries=0,
            name="heliostat-look",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
        ).remote(str(probe), str(_answer(probe, node)), word)
        for node in nodes
    }
    answers: dict[Node, dict[str, Any]] = {}
    deadline = time.monotonic() + _PATIENCE_S
    for node, task in tasks.items():
        try:
            answers[node] = json.loads(ray.get(task, timeout=max(1.0, deadline - time.monotonic())))
        except Exception as error:  # a node that is gone, that is too slow, or where the platform cannot be imported
            why = " ".join(str(error).split())[-300:]
            raise TrainError(f"the node {node.address} cannot take a worker: {type(error).__name__}: {why}") from error
    return answers


def look(probe: str, answer: str, word: str) -> str:
    """What a node sees of the probe, and its version of torch; it writes the word into `answer` where it can."""
    found = {"torch": metadata.version("torch"), "saw": False}
    deadline = time.monotonic() + _VISIBLE_S
    while not found["saw"] and Path(probe).parent.is_dir():
        found["saw"] = Path(probe).is_file() and Path(probe).read_text(encoding="utf-8") == word
        if found["saw"] or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if found["saw"]:
        try:
            Path(answer).write_text(word, encoding="utf-8")
        except OSError as error:
            found["saw"] = f"it may not write there: {error.strerror}"
    return json.dumps(found)


def _answer(probe: Path, node: Node) -> Path:
    return probe.with_name(f"{probe.name}-{node.id[:16]}")


def _has_answered(probe: Path, node: Node, answer: dict[str, Any]) -> bool:
    deadline = time.monotonic() + _VISIBLE_S
    while answer["saw"] is True:
        if _answer(probe, node).is_file():
            return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return False


def _not_shared(folder: Path, strangers: list[str]) -> str:
    from heliostat.home import home

    verb = "does" if len(strangers) == 1 else "do"
    return (
        f"{', '.join(strangers)} {verb} not share {home()} with this node: workers there could neither read the data "
        "nor hand over checkpoints. Set HELIOSTAT_HOME on every node to a folder that all of them see and may write "
        "(NFS, EFS, Filestore, a volume of Kubernetes), or give it with `heliostat submit --home`; or train on one "
        "node: scaling.num_workers=1, with train.mirror=s3://... where checkpoints must outlive the node."
    )
