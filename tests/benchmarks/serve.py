"""Requests a second of a served classifier, and what serving costs beside calling the predictor: ours and others.

`16` and `64` connections, each asking again once it is answered (`serve_load.py`), with real reviews, one a request,
of a MiniLM that was fine-tuned on others; the same weights everywhere. Each server has the same two cores, which the
load generator shares; its CPU seconds are told apart. Every side has a process a core with one thread in it, or one
process with two threads, whichever it answered more with (`serve_sides.py`). Answers are held against those of the fp32
predictor first.
`overhead`: one connection, one thread; the median time and CPU of a request less those of the same prediction in
process, and less the CPU that the server spends when nobody asks, beside Ray Serve around the same predictor.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Facts, cores, faster, median_of, middle
from rounds import CACHE, HERE, Benchmark, Case, Row, Settings, run
from serve_sides import BENTOML, HAPROXY, LITSERVE, ONNX, OURS, PATHS, PIPELINE, RAY, ask, body_of, family_cpu, served

GOALS = {PIPELINE: "5× (3×)", LITSERVE: "5× (2.5×)", BENTOML: "3× (2×)", ONNX: "1×"}
NAMES = {
    PIPELINE: "FastAPI + transformers pipeline",
    LITSERVE: "LitServe, batches",
    BENTOML: "BentoML, adaptive batching",
    ONNX: "FastAPI + ONNX Runtime, int8",
    RAY: "Ray Serve with FastAPI, its defaults",
    HAPROXY: "Ray Serve with FastAPI, HAProxy, throughput mode",
}
IDLE_S = 4.0
FULL = {"warm_s": 5, "seconds": 15, "texts": 2000, "checked": 200, "steps": 60}
TRIAL = {"warm_s": 1, "seconds": 2, "checked": 40, "steps": 4}
LOADS = (OURS, PIPELINE, LITSERVE, BENTOML, ONNX)
CASES = {
    **{str(count): Case(LOADS, {**FULL, "connections": count}, TRIAL) for count in (16, 64)},
    "overhead": Case((OURS, RAY, HAPROXY), {**FULL, "connections": 1, "texts": 200}, TRIAL),
}


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    checkpoint = checkpoint_of(settings)
    texts = texts_of(settings)
    expected = expected_of(checkpoint, texts[: settings["checked"]])
    alone = in_process(checkpoint, texts, settings) if case == "overhead" else {}
    replicas = 1 if case == "overhead" else cores()
    with served(side, checkpoint, replicas, settings["connections"]) as (port, process):
        equal = compared(side, port, texts[: settings["checked"]], expected)
        load(side, port, texts, settings["connections"], settings["warm_s"])
        before = family_cpu(process.pid)
        time.sleep(IDLE_S)
        idle = family_cpu(process.pid) - before
        found = load(side, port, texts, settings["connections"], settings["seconds"])
        cpu_s = family_cpu(process.pid) - before - idle
    if set(found["statuses"]) != {"200"}:
        raise RuntimeError(f"{side} answered {found['statuses']}")
    taken = sorted(found["milliseconds"])
    facts = {
        "wall_s": 1000 * found["seconds"] / len(taken),
        "cpu_s": 1000 * cpu_s / len(taken),
        "client_cpu_s": 1000 * found["cpu_s"] / len(taken),
        "per_s": len(taken) / found["seconds"],
        "p50_ms": taken[len(taken) // 2],
        "p99_ms": taken[len(taken) * 99 // 100],
        "idle_cores": idle / IDLE_S,
        **equal,
        **alone,
    }
    if alone:
        facts["overhead_ms"] = facts["p50_ms"] - alone["alone_ms"]
        busy_ms = facts["cpu_s"] - 1000 * facts["idle_cores"] * found["seconds"] / len(taken)
        facts["overhead_cpu_ms"] = busy_ms - alone["alone_cpu_ms"]
    return facts


def checkpoint_of(settings: Settings) -> Path:
    """A MiniLM with a head, fine-tuned for some steps on the reviews, and beside it the texts to ask; made once."""
    place = CACHE / "serve" / f"{settings['steps']}-steps"
    if not (place / "texts.json").exists():
        from heliostat.ingest import prepare
        from heliostat.run import load as load_run
        from heliostat.train.launch import train

        fixed = ["train.trackers=[]", "train.ema=null", "head.decide=most_probable", "data.limit=6000"]
        result = train(load_run("sentiment/pretrained", [*fixed, f"train.max_steps={settings['steps']}"]))
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(result.checkpoint, place / "checkpoint")
        shutil.rmtree(result.folder)
        texts = [row["text"] for row in prepare(load_run("sentiment/pretrained")).examples("test")]
        (place / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return place / "checkpoint"


def texts_of(settings: Settings) -> list[str]:
    """Reviews that the model has not seen, of all lengths."""
    kept = (checkpoint_of(settings).parent / "texts.json").read_text(encoding="utf-8")
    texts: list[str] = json.loads(kept)[: settings["texts"]]
    return texts


def expected_of(checkpoint: Path, texts: Sequence[str]) -> list[dict[str, float]]:
    """What the fp32 predictor says."""
    from heliostat.predict import Predictor

    rows = Predictor.load(checkpoint, threads=cores()).predict([{"text": text} for text in texts])
    return [row["probabilities"] for row in rows]


def in_process(checkpoint: Path, texts: Sequence[str], settings: Settings) -> dict[str, float]:
    """The median milliseconds and the mean CPU of a prediction without any serving."""
    from heliostat.predict import Predictor

    predictor = Predictor.load(checkpoint, threads=1, precision="bf16")
    taken: list[float] = []
    cpu, place, began = 0.0, 0, time.perf_counter()
    warm, end = began + settings["warm_s"], began + settings["warm_s"] + settings["seconds"]
    while (now := time.perf_counter()) < end:
        if now < warm:
            taken, cpu = [], time.process_time()
        began = time.perf_counter()
        predictor.predict([{"text": texts[place % len(texts)]}])
        taken.append((time.perf_counter() - began) * 1000)
        place += 1
    return {"alone_ms": median_of(taken, 1).value, "alone_cpu_ms": 1000 * (time.process_time() - cpu) / len(taken)}


def compared(side: str, port: int, texts: Sequence[str], expected: Sequence[dict[str, float]]) -> dict[str, float]:
    """The share of texts with the label of the fp32 predictor, and the greatest difference of a probability."""
    answers = [ask(side, port, text) for text in texts]
    pairs = list(zip(answers, expected, strict=True))
    equal = sum(max(one, key=one.__getitem__) == max(other, key=other.__getitem__) for one, other in pairs)
    apart = max(abs(one[label] - other[label]) for one, other in pairs for label in other)
    if equal < 0.95 * len(texts):
        raise RuntimeError(f"{side} names another label for {len(texts) - equal} of {len(texts)} texts")
    return {"labels_equal": equal / len(texts), "furthest": apart}


def load(side: str, port: int, texts: Sequence[str], connections: int, seconds: float) -> dict[str, Any]:
    """What the load generator found."""
    bodies = CACHE / "serve" / f"bodies-{os.getpid()}.jsonl"
    bodies.write_text("".join(json.dumps(body_of(side, text)) + "\n" for text in texts), encoding="utf-8")
    told = [str(port), PATHS.get(side, "/predict"), str(bodies), str(connections), str(seconds)]
    try:
        out = subprocess.run([sys.executable, str(HERE / "serve_load.py"), *told], check=True, capture_output=True)
    finally:
        bodies.unlink()
    found: dict[str, Any] = json.loads(out.stdout)
    return found


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    return _overheads(rounds) if case == "overhead" else [_row(case, rounds, peer) for peer in LOADS[1:]]


def _row(case: str, rounds: Sequence[Facts], peer: str) -> Row:
    def told(side: str) -> str:
        p50, p99 = (middle(rounds, side, key) for key in ("p50_ms", "p99_ms"))
        return f"{middle(rounds, side, 'per_s'):.0f} requests/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms"

    labels = {side: f"{middle(rounds, side, 'labels_equal'):.1%}" for side in (OURS, peer)}
    return Row(
        what=f"a served MiniLM classifier, {case} connections",
        beside=NAMES[peer],
        ours=told(OURS),
        theirs=told(peer),
        faster=faster(rounds, OURS, peer).times(),
        cpu=faster(rounds, OURS, peer, "cpu_s").times(),
        equal=f"labels as in fp32: {labels[OURS]} and {labels[peer]}",
        goal=GOALS[peer],
    )


def _overheads(rounds: Sequence[Facts]) -> list[Row]:
    def told(side: str) -> str:
        p50, cpu = (middle(rounds, side, key) for key in ("overhead_ms", "overhead_cpu_ms"))
        return f"{p50:.2f} ms, {cpu:.2f} ms of CPU"

    return [
        Row(
            what="serving beside predicting in process, one connection, p50",
            beside=NAMES[peer],
            ours=told(OURS),
            theirs=told(peer),
            faster=faster(rounds, OURS, peer, "overhead_ms").times(),
            cpu=faster(rounds, OURS, peer, "overhead_cpu_ms").times(),
            equal=f"one predictor; idle, all processes take {middle(rounds, OURS, 'idle_cores'):.0%} and "
            f"{middle(rounds, peer, 'idle_cores'):.0%} of a core",
            goal="≤ 1.5 ms, 1 ms of CPU (3, 2)",
        )
        for peer in (RAY, HAPROXY)
    ]


if __name__ == "__main__":
    run(Benchmark("serve", __file__, CASES, turn, rows, rooms=("cli", "serve")))
