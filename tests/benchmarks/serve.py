"""Requests a second of a served classifier, and what serving costs beside calling the predictor: ours and others.

`16` and `64` connections, each asking again once it is answered (`serve_load.py`), with real reviews, one a request,
of a MiniLM that was fine-tuned on others; the same weights everywhere. Each server has the same two cores, which the
load generator shares; its CPU seconds are told apart. Every side has a process a core with one thread
in it, which is what each was fastest with. Answers are held against those of the fp32 predictor first.
`overhead`: one connection; the median time and CPU of a request less those of the same prediction in process, beside
a plain deployment of Ray Serve around the same predictor.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environments import python_of
from measure import Facts, cores, faster, median_of, middle
from rounds import CACHE, HERE, Benchmark, Case, Row, Settings, run

OURS, RAY, HAPROXY = "heliostat", "ray serve", "ray serve, haproxy"
PIPELINE, LITSERVE, BENTOML, ONNX = "pipeline", "litserve", "bentoml", "onnx"
GOALS = {PIPELINE: "5× (3×)", LITSERVE: "5× (2.5×)", BENTOML: "3× (2×)", ONNX: "1×"}
NAMES = {
    PIPELINE: "FastAPI + transformers pipeline",
    LITSERVE: "LitServe, batches",
    BENTOML: "BentoML, adaptive batching",
    ONNX: "FastAPI + ONNX Runtime, int8",
    RAY: "Ray Serve with FastAPI, its defaults",
    HAPROXY: "Ray Serve with FastAPI, HAProxy, throughput mode",
}
FULL = {"warm_s": 5, "seconds": 15, "texts": 2000, "checked": 200, "steps": 60}
TRIAL = {"warm_s": 1, "seconds": 2, "checked": 40, "steps": 4}
LOADS = (OURS, PIPELINE, LITSERVE, BENTOML, ONNX)
CASES = {
    **{str(count): Case(LOADS, {**FULL, "connections": count}, TRIAL) for count in (16, 64)},
    "overhead": Case((OURS, RAY, HAPROXY), {**FULL, "connections": 1, "texts": 200}, TRIAL),
}
FLAGS: dict[str, dict[str, str]] = {
    PIPELINE: {"WORKERS": "2", "OMP_NUM_THREADS": "1"},
    LITSERVE: {"WORKERS": "2", "OMP_NUM_THREADS": "1", "BATCH": "16", "WAIT_S": "0.005"},
    BENTOML: {"WORKERS": "2", "OMP_NUM_THREADS": "1", "BATCH": "16"},
    ONNX: {"WORKERS": "2", "OMP_NUM_THREADS": "1"},
    HAPROXY: {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
"""What each peer was fastest with here, of what its documentation names."""


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    checkpoint = checkpoint_of(settings)
    texts = texts_of(settings)
    expected = expected_of(checkpoint, texts[: settings["checked"]])
    alone = in_process(checkpoint, texts, settings) if case == "overhead" else {}
    with served(side, checkpoint, a_core_each=case != "overhead") as (port, process):
        equal = compared(side, port, texts[: settings["checked"]], expected)
        load(side, port, texts, settings["connections"], settings["warm_s"])
        before = family_cpu(process.pid)
        found = load(side, port, texts, settings["connections"], settings["seconds"])
        cpu_s = family_cpu(process.pid) - before
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
        "requests": len(taken),
        **equal,
        **alone,
    }
    if alone:
        facts["overhead_ms"] = facts["p50_ms"] - alone["alone_ms"]
        facts["overhead_cpu_ms"] = facts["cpu_s"] - alone["alone_cpu_ms"]
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

    predictor = Predictor.load(checkpoint, threads=cores(), precision="bf16")
    taken: list[float] = []
    until = {"warm": time.perf_counter() + settings["warm_s"]}
    until["end"] = until["warm"] + settings["seconds"]
    cpu, place = 0.0, 0
    while (now := time.perf_counter()) < until["end"]:
        if now < until["warm"]:
            taken, cpu = [], time.process_time()
        began = time.perf_counter()
        predictor.predict([{"text": texts[place % len(texts)]}])
        taken.append((time.perf_counter() - began) * 1000)
        place += 1
    return {"alone_ms": median_of(taken, 1).value, "alone_cpu_ms": 1000 * (time.process_time() - cpu) / len(taken)}


@contextmanager
def served(side: str, checkpoint: Path, *, a_core_each: bool) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The server of a side, once it answers; none of its processes is left behind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {**os.environ, "CHECKPOINT": str(checkpoint), **FLAGS.get(side, {})}
    command = command_of(side, port, checkpoint)
    if side == OURS and a_core_each:
        command += ["--replicas", str(cores()), "--threads", "1"]
    process = subprocess.Popen(command, env=environment, cwd=HERE, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                ask(side, port, "Lovely.")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{side} does not answer") from None
                time.sleep(0.2)
        yield port, process
    finally:
        _end(process)


def command_of(side: str, port: int, checkpoint: Path) -> list[str]:
    """How a side's server is started."""
    if side == OURS:
        return [sys.executable, "-m", "heliostat", "serve", str(checkpoint), "--port", str(port)]
    if side in (RAY, HAPROXY):
        return [sys.executable, str(HERE / "serve_plain.py"), str(port), str(checkpoint)]
    python = python_of(HERE / "serve_peers.txt")
    if side == BENTOML:
        return [
            python,
            "-m",
            "bentoml",
            "serve",
            "serve_peer_bento:Reviews",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
    return [python, str(HERE / "serve_peer.py"), side, str(port), str(checkpoint)]


def _end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
    _, left = psutil.wait_procs(family, timeout=5)
    for each in left:
        each.kill()


def family_cpu(pid: int) -> float:
    """CPU seconds that a process and its living descendants have spent."""
    import psutil

    total, here = 0.0, psutil.Process(pid)
    for each in (here, *here.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def path_of(side: str) -> str:
    return {OURS: "/v1/models/sentiment:predict"}.get(side, "/predict")


def body_of(side: str, text: str) -> dict[str, Any]:
    """A request as a side takes it."""
    if side == OURS:
        return {"instances": [{"text": text}]}
    return {"texts": [text]} if side == BENTOML else {"text": text}


def ask(side: str, port: int, text: str) -> dict[str, float]:
    """The probability of each label."""
    body = json.dumps(body_of(side, text)).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path_of(side)}", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.loads(answer.read())
    found: dict[str, float] = told["predictions"][0]["probabilities"] if side == OURS else told
    return found[0] if side == BENTOML else found  # type: ignore[index, return-value]


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
    told = [str(port), path_of(side), str(bodies), str(connections), str(seconds)]
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
            equal="the same predictor",
            goal="≤ 1.5 ms, 1 ms of CPU (3, 2)",
        )
        for peer in (RAY, HAPROXY)
    ]


if __name__ == "__main__":
    run(Benchmark("serve", __file__, CASES, turn, rows))
