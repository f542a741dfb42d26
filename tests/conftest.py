"""What several rings share: a checkpoint of a tiny model, made once a session; faults, and what they must not leave."""

from __future__ import annotations

import csv
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from heliostat.testing import leftovers
from heliostat.testing.distribution import on_path, write_dist_info

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Rings share the cores with Ray's processes; threads that wait must not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_worker_niceness", "0")

_PLUGIN = '''
"""A plugin of two components, for tests: a line of text in, a mood out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from heliostat.plugin import Classification, DataAdapter, Registry, Row


class Lines(DataAdapter):
    """Records that are examples already."""

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        yield from rows


class Mood(Classification):
    """Whether a line is glad, sad or neither."""

    class Config(Classification.Config):
        labels: tuple[str, ...] | None = ("glad", "plain", "sad")

    samples = ({"text": "what a lovely morning"}, {"text": "nothing works and it rains"}, {"text": "the bus is green"})
    notice = "Made for tests."


def register(registry: Registry) -> None:
    registry.add("lines", Lines)
    registry.add("mood", Mood)
'''

LINES = [
    ("a lovely day and a warm sun", "glad"),
    ("we laughed until the evening", "glad"),
    ("the table has four legs", "plain"),
    ("the train leaves at nine", "plain"),
    ("he lost his keys and his mind", "sad"),
    ("rain again and nobody called", "sad"),
]


@pytest.fixture(scope="session")
def toy_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short texts whose label is one of their words, now and then: learned within seconds, and never quite."""
    path, dice = tmp_path_factory.mktemp("toy") / "rows.csv", random.Random(3)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(120):
            label = dice.choice(["good", "bad"])
            words = [label if dice.random() < 0.3 else dice.choice("abcdefgh") for _ in range(dice.randint(3, 20))]
            writer.writerow([f"{' '.join(words)} {number}", label])
    return path


@pytest.fixture(scope="session")
def tiny_plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The plugin `tiny` (tiny.lines, tiny.mood), installed for the session, for child processes too."""
    site = tmp_path_factory.mktemp("tiny_site")
    package = site / "heliostat_tiny"
    package.mkdir()
    (package / "__init__.py").write_text(_PLUGIN, encoding="utf-8")
    write_dist_info(site, "tiny", "heliostat_tiny:register")
    with on_path(site):
        yield "tiny"


_WEAR = Path(__file__).parent / "plugins" / "components" / "wear.py"
_WEAR_TINY = """
name: wear
data:
  adapter: {type: wear.log}
  source: package:heliostat_wear/log.csv
  split: {by: hash, key: [machine], valid: 0.2, test: 0.2}
encoder: {type: wear.waves, dim: 8}
head: {type: wear.grade}
train: {epochs: 20, lr: 2e-2, tokens_per_batch: 400, precision: fp32}
evaluate: {resamples: 50}
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package `wear` of a stranger in a folder of its own: one module, a run, a log of 160 machines."""
    site = tmp_path_factory.mktemp("stranger")
    folder = site / "heliostat_wear"
    (folder / "runs").mkdir(parents=True)
    (folder / "__init__.py").write_text(_WEAR.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "runs" / "tiny.yaml").write_text(_WEAR_TINY, encoding="utf-8")
    dice = random.Random(5)
    lines = ["machine,readings,grade"]
    for machine in range(160):  # they shake more as they wear
        grade = machine % 4
        readings = [dice.gauss(0.0, 0.3 + 0.5 * grade) for _ in range(dice.randint(4, 30))]
        lines.append(f"m{machine},{' '.join(f'{each:.2f}' for each in readings)},{grade}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_dist_info(site, "wear", "heliostat_wear:register")
    with on_path(site):
        yield folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_plugin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of tiny.mood over core.text (32 wide, untrained weights), with golden answers and a state."""
    return _tiny(tiny_plugin, 7, tmp_path_factory)


@pytest.fixture(scope="session")
def other_checkpoint(tiny_plugin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one of the same run, which answers otherwise."""
    return _tiny(tiny_plugin, 8, tmp_path_factory)


def _tiny(plugin: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from heliostat.run import check

    torch.manual_seed(seed)
    run = check(
        {
            "name": "mood",
            "data": {"adapter": f"{plugin}.lines", "source": "lines.csv"},
            "encoder": {"type": "core.text", "preset": "tiny", "max_tokens": 64},
            "head": f"{plugin}.mood",
        }
    )
    return _written(
        run, [{"text": text, "label": label} for text, label in LINES], ("linear.weight", 1.0), tmp_path_factory
    )


@pytest.fixture(scope="session")
def on_tiny(tiny_plugin: str, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """on_tiny("tone", labels, seed, adapter={"type": "lora"}): a checkpoint that stands on tiny_checkpoint's encoder.

    Other keywords are settings of the encoder; the weights of the adapter and the head are drawn.
    """
    import torch

    from heliostat.run import check

    def made(name: str, labels: Sequence[str], seed: int, **encoder: Any) -> Path:
        torch.manual_seed(seed)
        base = {"pretrained": str(tiny_checkpoint / "encoder"), "max_tokens": 64}
        run = check(
            {
                "name": name,
                "data": {"adapter": f"{tiny_plugin}.lines", "source": "lines.csv"},
                "encoder": {"type": "core.text", **base, **encoder},
                "head": {"type": f"{tiny_plugin}.mood", "labels": list(labels)},
            }
        )
        rows = [{"text": text, "label": labels[place % len(labels)]} for place, (text, _) in enumerate(LINES)]
        return _written(run, rows, ("linear.weight", 1.0), tmp_path_factory)

    return made


@pytest.fixture(scope="session")
def tiny_writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of core.seq2seq that writes one beam of 24 tokens, which make no sense and many characters."""
    import torch

    from heliostat.run import check

    torch.manual_seed(2)
    encoder = {"type": "core.seq2seq_text", "preset": "tiny", "target": "answer", "vocab_size": 330, "max_tokens": 64}
    run = check(
        {
            "name": "writer",
            "data": {"adapter": "core.columns", "source": "lines.csv"},
            "encoder": encoder,
            "head": {"type": "core.seq2seq", "beams": 1, "max_new_tokens": 24},
        }
    )
    words = "größer 漢字 été 🙂"
    return _written(
        run, [{"text": text, "answer": f"{text} {words}"} for text, _ in LINES], ("fc2.weight", 3.0), tmp_path_factory
    )


def _written(
    run: Any, examples: list[dict[str, str]], wild: tuple[str, float], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of untrained weights, those named `wild` so large that answers differ from each other."""
    import torch

    from heliostat import checkpoint
    from heliostat.model import build_model
    from heliostat.run import build
    from heliostat.train.golden import Golden

    parts = build(run)
    parts.encoder.fit(examples)
    parts.head.fit(examples)
    model = build_model(parts.encoder, parts.head).eval()
    for name, weight in model.named_parameters():
        if name.endswith(wild[0]):
            torch.nn.init.normal_(weight, std=wild[1])
        elif ".lora_B." in name or ".lora_E." in name:  # nothing, in an adapter that has not been trained
            torch.nn.init.normal_(weight, std=0.1)
    golden = Golden.of(parts).answers(model)
    state = checkpoint.TrainingState({"position": [6, 1, 0]}, {"step": torch.ones(3)}, None)
    folder = tmp_path_factory.mktemp("checkpoints") / "step-00000006"
    checkpoint.save(folder, checkpoint.Snapshot(run, parts, model, model.state_dict(), lambda: golden, state))
    return folder


@pytest.fixture(scope="session", autouse=True)
def ring() -> Iterator[str]:
    """A word that every process carries which the tests of this session start; after them, none is left that does."""
    with leftovers.marked() as word:
        yield word
        assert leftovers.settled(lambda: leftovers.strays(word)) == []


@pytest.fixture(scope="session")
def own_tmp() -> Path | None:
    """The folder for temporary files, where it is that of the tests alone."""
    return None


@pytest.fixture(autouse=True)
def _nothing_left(
    request: pytest.FixtureRequest, ring: str, own_tmp: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """After each fault: no training that runs on, no folder of the dead. Orphans are looked for in the end (`ring`)."""
    if request.node.get_closest_marker("fault") is None:
        yield
        return

    def left() -> set[str]:
        homes = {path.parent for path in tmp_path_factory.getbasetemp().rglob("runs") if path.is_dir()}
        folders = [f"{home}/{name}" for home in homes for name in leftovers.folders(home)]
        return {*leftovers.trainings(ring), *(leftovers.scratch(own_tmp) if own_tmp else ()), *folders}

    before = left()
    yield
    assert leftovers.settled(lambda: sorted(left() - before)) == []


@pytest.fixture
def is_seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """is_seen(text): what the test's row says that the user sees, between backquotes, is there; … is anything."""
    quoted = re.findall(r"`([^`]+)`", request.node.get_closest_marker("fault").kwargs["seen"])

    def check(text: str) -> None:
        for words in quoted:
            assert re.search(".+?".join(map(re.escape, words.split("…"))), text), f"{words} is not in: {text[-3000:]}"

    return check


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if marker := item.get_closest_marker("fault"):
            item.user_properties += [("fault", marker.args[0]), ("lost", marker.kwargs["lost"])]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The rows of the table of faults that were tried, and how each ended."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            told = dict(getattr(report, "user_properties", ()))
            if "fault" in told:
                found[told["fault"], told["lost"]].add(outcome)
    if found:
        terminalreporter.section("faults, and what is lost")
    for (fault, lost), outcomes in found.items():
        worst = next(each for each in ("error", "failed", "passed", "skipped") if each in outcomes)
        terminalreporter.write_line(f"{worst:8}{fault}: {lost}")
