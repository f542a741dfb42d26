"""Both engines prepare the same: equal keys, and folders that are equal to the last byte."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.prepared import MANIFEST, Prepared
from heliostat.errors import DataError
from heliostat.ingest import prepare
from heliostat.run import check
from heliostat.testing.distribution import on_path, write_dist_info

PLUGIN = '''
"""Words counted by letters; and the visits of a guest as one example."""
import json
import numpy as np
from heliostat.plugin import DataAdapter, DataError, Encoder, FeatureSpec, Record, RejectedRecord, TaskHead

class Words(DataAdapter):
    def examples(self, rows):
        for row in rows:
            if row["text"] == "refused":
                raise RejectedRecord("refused by name")
            for word in row["text"].split():
                yield {"text": word, "label": row["label"]}

class Visits(DataAdapter):
    group_by, order_by = "guest", "day"

    def examples(self, rows):
        rows = list(rows)
        yield {"text": " ".join(row["place"] for row in rows), "label": str(len(rows) % 2)}

class Text(Record):
    text: str

class Letters(Encoder):
    """Knows the letters of the train split; refuses a text with a digit."""
    def fit(self, examples):
        self.letters = sorted({letter for example in examples for letter in example["text"]})
    def save(self, folder):
        (folder / "letters.json").write_text(json.dumps(self.letters))
    def load(self, folder):
        self.letters = json.loads((folder / "letters.json").read_text())
    def encode(self, examples):
        for example in examples:
            if any(letter.isdigit() for letter in example["text"]):
                raise DataError("a digit")
        known = {letter: place for place, letter in enumerate(self.letters, 1)}
        return [{"letters": np.array([known.get(x, 0) for x in example["text"]], np.int32)} for example in examples]
    def spec(self):
        return FeatureSpec(dim=1)
    def module(self):
        raise NotImplementedError

class Label(TaskHead):
    takes = Text
    target_fields = ("label",)
    def fit(self, examples):
        self.labels = sorted({example["label"] for example in examples})
    def save(self, folder):
        (folder / "labels.json").write_text(json.dumps(self.labels))
    def load(self, folder):
        self.labels = json.loads((folder / "labels.json").read_text())
    def encode(self, examples, spec):
        return [{"target": self.labels.index(example["label"])} for example in examples]
    def module(self, spec):
        raise NotImplementedError

def register(registry):
    for name, component in (("words", Words), ("visits", Visits), ("letters", Letters), ("label", Label)):
        registry.add(name, component)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin, and a Ray that sees it."""
    import ray

    site = tmp_path_factory.mktemp("site")
    (site / "heliostat_letters.py").write_text(textwrap.dedent(PLUGIN))
    write_dist_info(site, "letters", "heliostat_letters:register")
    with on_path(site):
        started = not ray.is_initialized()
        if started:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            yield
        finally:
            if started:
                ray.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Records in three files, one of them empty; guests come back in another file, and some records cannot be used."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in (0, 2):
        lines = ["text,label,guest,day,place"]
        for row in range(1500):
            text = (
                "refused"
                if row == 700
                else f"w{row}x"
                if row == 900
                else f"{chr(97 + row % 26)}{chr(97 + row % 17)} same"
            )
            lines.append(
                f"{text},{'yes' if row % 3 else 'no'},{'' if row == 444 else f'g{row % 211}'},{(row * 7) % 100},"
                f"{chr(97 + row % 23)}{number}"
            )
        lines.insert(800, '"too few,\ncells"')
        (folder / f"part{number}.csv").write_text("\n".join(lines) + "\n")
    (folder / "part1.csv").write_text("text,label,guest,day,place\n")
    return folder


def prepared_by(engine: str, home: Path, monkeypatch: pytest.MonkeyPatch, source: Path, **data: Any) -> Prepared:
    monkeypatch.setenv("HELIOSTAT_HOME", str(home / engine))
    settings = {"adapter": "letters.words", "source": str(source), "engine": engine, **data}
    run = {"name": "letters", "data": settings, "encoder": "letters.letters", "head": "letters.label"}
    return prepare(check(run))


def contents(prepared: Prepared) -> dict[str, Any]:
    """The hash of each file; `run.json` names the engine."""
    files: dict[str, Any] = json.loads((prepared.folder / MANIFEST).read_text())["files"]
    assert any(name.startswith("train/") for name in files)
    return {name: file for name, file in files.items() if name != "run.json"}


@pytest.mark.parametrize(
    ("adapter", "more"),
    [
        ("letters.words", {"max_rejected": 0.5, "limit": 2000}),
        pytest.param(
            "letters.visits",
            {"max_rejected": 0.9, "split": {"by": "hash", "valid": 0.2, "test": 0.2}},
            marks=pytest.mark.sweep,
        ),
    ],
)
@pytest.mark.usefixtures("plugin")
def test_both_engines_write_the_same(
    adapter: str, more: dict[str, Any], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if adapter == "letters.visits":  # the encoder refuses digits
        for file in source.glob("*.csv"):
            file.write_text(
                "".join(
                    f"{line[:-1]}\n" if line[-1:].isdigit() else f"{line}\n" for line in file.read_text().splitlines()
                )
            )
    local, on_ray = (
        prepared_by(engine, tmp_path, monkeypatch, source, adapter=adapter, **more) for engine in ("local", "ray")
    )
    assert local.folder != on_ray.folder
    assert local.key == on_ray.key
    assert local.counts == on_ray.counts
    assert contents(local) == contents(on_ray)


@pytest.mark.usefixtures("plugin")
def test_both_engines_write_the_same_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents in parts, joined by a column that a setting names; pairs; and no test split."""
    source = tmp_path / "parts.jsonl"
    lines = [
        {"id": place % 40, "text": f"Part {place} says little. It is short. Nobody asked."} for place in range(200)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = []
    for engine in ("local", "ray"):
        monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / engine))
        adapter = {"type": "core.documents", "document": "id", "give": "pairs", "max_words": 16}
        data = {"adapter": adapter, "source": str(source), "engine": engine, "split": {"valid": 0.2, "test": 0}}
        encoder = {"type": "core.text", "preset": "tiny", "vocab_size": 300, "fields": ["text", "next"]}
        found.append(prepare(check({"name": "parts", "data": data, "encoder": encoder, "head": "core.bert"})))
    local, on_ray = found
    assert local.counts == on_ray.counts
    assert local.counts["test"] == 0
    assert contents(local) == contents(on_ray)
    documents = [{row["document"] for row in local.examples(split)} for split in ("train", "valid")]  # type: ignore[arg-type]
    assert not documents[0] & documents[1]


@pytest.mark.usefixtures("plugin")
def test_a_second_run_starts_no_task(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared_by("local", tmp_path, monkeypatch, source, max_rejected=0.5)
    monkeypatch.setattr("heliostat.ingest.RayData.make", None)
    assert prepare(check({**json.loads((first.folder / "run.json").read_text())})) == first


@pytest.mark.usefixtures("plugin")
def test_errors_of_tasks_are_those_of_this_process(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (source / "part2.csv").open("a") as file:
        file.write("a,b,c,d,e,f,g\n")
    (source / "part3.csv").write_text("words,label,guest,day,place\n" + "a,b,c,1,e\n" * 3)
    cases: list[dict[str, Any]] = [
        {"max_rejected": 0.0},
        {"source": source / "part3.csv"},
        {"source": source / "part1.csv"},
    ]
    for case in cases:
        messages = []
        for engine in ("local", "ray"):
            with pytest.raises(DataError) as caught:
                prepared_by(engine, tmp_path, monkeypatch, **{"source": source, **case})
            messages.append(str(caught.value).replace(f"/{engine}/", "/"))
        assert messages[0] == messages[1]
