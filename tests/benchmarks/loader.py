"""Shuffled batches from prepared data: `python tests/benchmarks/loader.py`, and `... loader.py gigabyte`.

`batches` reads the same Arrow file with the same tokens a batch on one core, without a model: ours unpadded from the
memory map; `datasets` with a DataLoader and DataCollatorWithPadding; and the same without padding and in numpy, with
DataCollatorWithFlattening. Tokens are real ones, padding counts none. `gigabyte` (minutes; not by default) writes
corpora of repeated real reviews, prepares them in one process and reads shuffled batches: it shows how fast that is and
how much memory it takes, which must not grow with the corpus.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import Facts, clocked, faster, fix_threads, middle
from rounds import CACHE, Benchmark, Case, Row, Settings, run

FULL = {"limit": None, "tokens": 8192, "seconds": 10.0}
CORPUS = {"mb": {"small corpus": 128, "large corpus": 1024}, "tokens": 8192, "batches": 2000, "engine": "local"}
"""`engine: ray` takes Ray's tasks in its place, which is what `data.engine: auto` does from 512 MB on."""
CASES = {
    "batches": Case(("heliostat", "datasets", "datasets, flat"), FULL, {"limit": 1000, "seconds": 2.0}, rounds=5),
    "gigabyte": Case(
        ("small corpus", "large corpus"),
        CORPUS,
        {"mb": {"small corpus": 4, "large corpus": 16}, "batches": 100},
        rounds=1,
        by_default=False,
    ),
}


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    fix_threads(1)
    return corpus_turn(side, settings) if case == "gigabyte" else batches_turn(side, settings)


def batches_turn(side: str, settings: Settings) -> dict[str, Any]:
    """Read batches for some seconds, after one pass over the data that warms every cache."""
    import ours

    limit = f"data.limit={settings['limit']}" if settings["limit"] else "data.limit=null"
    our_run = ours.loaded("sentiment/pretrained", [limit, f"train.tokens_per_batch={settings['tokens']}"])
    prepared = ours.prepared_of(our_run)
    make = {"heliostat": our_batches, "datasets": padded_batches, "datasets, flat": flat_batches}[side]
    passes = make(our_run, prepared)
    for _ in itertools.islice(passes(0), 200):
        pass
    tokens, epoch, deadline = 0, 1, time.perf_counter() + settings["seconds"]
    with clocked() as clock:
        while time.perf_counter() < deadline:
            for count in passes(epoch):
                tokens += count
                if time.perf_counter() > deadline:
                    break
            epoch += 1
    wall, cpu = clock.wall_s / tokens, clock.cpu_s / tokens
    return {"wall_s": wall, "cpu_s": cpu, "tokens": tokens, "tokens_per_cpu_s": 1 / cpu}


Passes = Callable[[int], Iterator[int]]
"""passes(epoch): the tokens of each batch, when it is there."""


def our_batches(our_run: Any, prepared: Any) -> Passes:
    """What a training of ours reads, one worker alone."""
    import ours

    shards, plan = prepared.shards("train"), ours.plan_of(our_run, prepared)

    def passes(epoch: int) -> Iterator[int]:
        for rows in plan.batches(epoch):
            yield len(shards.batch(rows).ragged("input_ids").values)

    return passes


def arrow_of(prepared: Any) -> Any:
    """The same shards, opened by `datasets`, with the columns that collators know."""
    from datasets import Dataset, concatenate_datasets

    paths = sorted((prepared.folder / "train").glob("*.arrow"))
    whole = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
    return whole.select_columns(["input_ids", "target"]).rename_column("target", "labels")


def padded_batches(our_run: Any, prepared: Any) -> Passes:
    """`datasets` as its documentation shows it: a DataLoader that shuffles, a collator that pads."""
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, DataCollatorWithPadding

    with tempfile.TemporaryDirectory() as folder:
        prepared.parts(our_run).encoder.save(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = arrow_of(prepared)
    size = round(our_run.train.tokens_per_batch / float(prepared.shards("train").lengths.mean()))
    loader = DataLoader(examples, batch_size=size, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    return lambda epoch: (int(batch["attention_mask"].sum()) for batch in loader)


def flat_batches(our_run: Any, prepared: Any) -> Passes:
    """The fastest that `datasets` and transformers have: numpy arrays, and a collator that joins them."""
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithFlattening

    examples = arrow_of(prepared).with_format("numpy")
    size = round(our_run.train.tokens_per_batch / float(prepared.shards("train").lengths.mean()))
    collator = DataCollatorWithFlattening(return_tensors="pt")

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(collator([{"input_ids": row["input_ids"].tolist()} for row in rows]))

    loader = DataLoader(examples, batch_size=size, shuffle=True, collate_fn=collate)
    return lambda epoch: (batch["input_ids"].numel() for batch in loader)


class Memory(threading.Thread):
    """The most memory that this process and its descendants held at once, in MB: of their own, mapped files aside."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most_mb = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        import psutil

        here = psutil.Process()
        while not self.ended.wait(0.5):
            total = 0
            for each in (here, *here.children(recursive=True)):
                try:
                    total += anonymous_kb(each.pid)
                except OSError:
                    continue
            self.most_mb = max(self.most_mb, total / 1e3)


def anonymous_kb(pid: int) -> int:
    """Resident memory of a process that is no mapped file; shared memory (Ray's object store) counts where it is."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    kept = (line.split() for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))
    return sum(int(words[1]) for words in kept)


def corpus_turn(side: str, settings: Settings) -> dict[str, Any]:
    """Prepare a corpus of this size and read shuffled batches of it."""
    import psutil

    import ours

    place = CACHE / "corpora" / side.replace(" ", "-")
    os.environ["HELIOSTAT_HOME"] = str(place / "home")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    size = write_corpus(place / "reviews.jsonl", settings["mb"][side])
    our_run = ours.loaded(
        "sentiment/pretrain",
        [f"data.source={place / 'reviews.jsonl'}", "data.adapter={type: core.documents, min_words: 1}"],
        **{"data.split": "{by: hash, key: [document], valid: 0.002, test: 0}"},
        **{"encoder": "{type: core.text, preset: mini, max_tokens: 192}", "data.engine": settings["engine"]},
    )
    memory = Memory()
    memory.start()
    with clocked() as clock:
        prepared = ours.prepared_of(our_run)
    memory.ended.set()
    memory.join()
    before = anonymous_kb(os.getpid())
    most = before
    for _, count in zip(range(settings["batches"]), our_batches(our_run, prepared)(0), strict=False):
        assert count
        most = max(most, anonymous_kb(os.getpid()))
    facts = {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "corpus_mb": size,
        "examples": prepared.counts["train"],
        "tokens": int(prepared.shards("train").lengths.sum()),
        "preparing_mb": memory.most_mb,
        "reading_mb": (most - before) / 1e3,
        "resident_mb": psutil.Process().memory_info().rss / 1e6,
    }
    shutil.rmtree(place)
    return facts


def write_corpus(path: Path, mb: float) -> float:
    """Real reviews, three a document, over and over with another number in front, up to `mb`. Returns the size."""
    import pandas as pd

    import heliostat_sentiment

    folder = Path(str(heliostat_sentiment.__file__)).parent
    texts = [text for text in pd.read_parquet(folder / "data" / "reviews.parquet")["review"] if text]
    with path.open("w", encoding="utf-8") as file:
        for number in itertools.count():
            for place in range(0, len(texts), 3):
                file.write(json.dumps({"text": f"{number}. {' '.join(texts[place : place + 3])}"}) + "\n")
                if file.tell() > mb * 1e6:
                    return file.tell() / 1e6
    raise AssertionError("a corpus has an end")


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    if case == "gigabyte":
        return [memory_row(rounds)]
    speed = {side: f"{middle(rounds, side, 'tokens_per_cpu_s'):,.0f} tokens/CPU-s" for side in CASES[case].sides}
    beside = {"datasets": "datasets + DataLoader + padding", "datasets, flat": "the same in numpy, without padding"}
    return [
        Row(
            what="shuffled batches on one core",
            beside=words,
            ours=speed["heliostat"],
            theirs=speed[side],
            faster=faster(rounds, "heliostat", side).times(),
            cpu=faster(rounds, "heliostat", side, "cpu_s").times(),
            equal=f"same Arrow file, {settings['tokens']} tokens a batch",
            goal="informational" if side == "datasets" else "",
        )
        for side, words in beside.items()
    ]


def memory_row(rounds: Sequence[Facts]) -> Row:
    small, large = (rounds[-1][side] for side in CASES["gigabyte"].sides)

    def told(found: Any) -> str:
        return f"preparing {found['preparing_mb']:,.0f} MB, reading {found['reading_mb']:,.0f} MB"

    return Row(
        what=f"memory over {large['corpus_mb']:,.0f} MB of text ({large['tokens'] / 1e6:,.0f} M tokens)",
        beside=f"our own over {small['corpus_mb']:,.0f} MB",
        ours=told(large),
        theirs=told(small),
        faster=f"prepared in {large['wall_s']:,.0f} s and {small['wall_s']:,.0f} s",
        cpu=f"prepared in {large['cpu_s']:,.0f} s and {small['cpu_s']:,.0f} s",
        equal="memory of all processes, mapped files aside",
        goal="constant",
    )


if __name__ == "__main__":
    if "--gigabyte" in sys.argv:
        sys.argv[sys.argv.index("--gigabyte")] = "gigabyte"
    run(Benchmark("loader", __file__, CASES, turn, rows))
