"""How often a served answer names the class that the fp32 evaluation names, over a whole test split.

    heliostat train sentiment/quickstart && heliostat train finance/quickstart && ...
    python tests/benchmarks/serve_agreement.py sentiment@champion loan-default@champion

Each model is served in bf16 over real HTTP, asked each record of its test split by a client that keeps eight requests
of different sizes under way, so that batches form as they come. Beside it stands `Predictor` in fp32, in this process:
what `heliostat evaluate` scores. Every class of an answer counts (a label, each label of a list, each level of a path
down a tree); the greatest difference of a probability stands beside. It fails below 99.5 %. It measures no time.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

FLOOR = 0.995
SIZES = (1, 7, 32, 3, 64, 1, 16)
"""Records a request, in turns."""
Row = dict[str, Any]


class Agreement(NamedTuple):
    """What was found for one model."""

    model: str
    records: int
    classes: int
    equal: int
    furthest: float
    """The greatest difference of a probability."""
    levels: dict[str, float]
    """The share of equal ones for each level of a path, where answers are paths."""

    @property
    def share(self) -> float:
        """Of the classes, those that are equal."""
        return self.equal / max(1, self.classes)


def classes_of(answer: Row) -> list[tuple[str, Any]]:
    """The classes in an answer: each label of a list, or level of a path, by itself."""
    found: list[tuple[str, Any]] = []
    for name, value in answer.items():
        if isinstance(value, (str, bool)):
            found.append((name, value))
        elif isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            found += [(f"{name}[{place}]", each) for place, each in enumerate(value)]
    return found


def furthest(one: Any, other: Any) -> float:
    """The greatest difference between the probabilities of two answers."""
    names = ("probabilities", "risk", "confidences")
    return max((_apart(one[name], other[name]) for name in names if name in one), default=0.0)


def _apart(one: Any, other: Any) -> float:
    if isinstance(one, dict):
        return max((_apart(value, other.get(name, value)) for name, value in one.items()), default=0.0)
    if isinstance(one, list):
        return max((_apart(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    return abs(float(one) - float(other))


@contextmanager
def served(predictor: Any, name: str) -> Iterator[str]:
    """The application of a model behind a real server."""
    import uvicorn

    from heliostat.serve.app import build_app
    from heliostat.serve.limits import Limits
    from heliostat.serve.schema import Served

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = build_app(predictor, Served(name, 1), Limits(timeout_s=300))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=30)


def requests(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The records in requests of the sizes above."""
    place = 0
    for turn in count():
        if place >= len(rows):
            return
        size = SIZES[turn % len(SIZES)]
        yield rows[place : place + size]
        place += size


def agreement(reference: str, most: int | None = None) -> Agreement:
    """Ask one model about its test split, both ways."""
    from heliostat.ingest import prepare
    from heliostat.predict import load
    from heliostat.serve.client import Client

    evaluated = load(reference)
    fields = set(type(evaluated.head).takes.model_fields)
    examples = list(prepare(evaluated.run).examples("test"))[:most]
    rows = [{name: value for name, value in example.items() if name in fields} for example in examples]
    expected = evaluated.predict(rows)
    name = evaluated.run.name
    with served(load(reference, precision="bf16"), name) as url, Client(url, timeout=300) as client:
        sent = [json.loads(json.dumps(part, default=str)) for part in requests(rows)]
        with ThreadPoolExecutor(8) as pool:
            answers = [row for part in pool.map(lambda part: client.predict(name, part), sent) for row in part]
    pairs = [(classes_of(one), classes_of(other)) for one, other in zip(expected, answers, strict=True)]
    equal = sum(sum(a == b for a, b in zip(one, other, strict=False)) for one, other in pairs)
    most_apart = max((furthest(one, other) for one, other in zip(expected, answers, strict=True)), default=0.0)
    total = sum(max(len(a), len(b)) for a, b in pairs)
    return Agreement(name, len(rows), total, equal, most_apart, _levels(pairs))


def _levels(pairs: Sequence[tuple[list[tuple[str, Any]], list[tuple[str, Any]]]]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for one, other in pairs:
        for a, b in zip(one, other, strict=False):
            if a[0].startswith("path["):
                found.setdefault(a[0], []).append(a == b)
    return {level: sum(equal) / len(equal) for level, equal in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Served bf16 answers beside the fp32 evaluation.")
    parser.add_argument("models", nargs="+", help="name@alias, name:3, a run id or a checkpoint's folder")
    parser.add_argument("--most", type=int, help="records of the test split; by default all")
    parser.add_argument("--out", type=Path, help="a JSON file for what was found")
    asked = parser.parse_args()
    found = []
    print(f"{'model':24} {'records':>8} {'classes':>8} {'equal':>8} {'share':>9}  greatest difference of a probability")
    for reference in asked.models:
        each = agreement(reference, asked.most)
        found.append(each)
        numbers = f"{each.records:8,} {each.classes:8,} {each.equal:8,} {each.share:9.3%}"
        levels = "".join(f"  {level} {share:.3%}" for level, share in each.levels.items())
        print(f"{each.model:24} {numbers}  {each.furthest:.4f}{levels}", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps([{**each._asdict(), "share": each.share} for each in found], indent=1) + "\n")
    return 0 if all(each.share >= FLOOR for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
