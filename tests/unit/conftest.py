"""Plugins that are real for as long as a test lasts, and runs of pretraining."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from heliostat.testing.distribution import on_path, write_dist_info

if TYPE_CHECKING:
    from heliostat.data.prepared import Prepared
    from heliostat.run import Run

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """install("wine", code, runs={"tiny": "..."}) makes an importable, declared plugin; returns its package."""
    site = tmp_path / "site"
    with ExitStack() as stack:

        def install(plugin: str, code: str, runs: dict[str, str] | None = None, register: str | None = None) -> Path:
            package = site / f"heliostat_{plugin}"
            (package / "runs").mkdir(parents=True, exist_ok=True)
            (package / "__init__.py").write_text(textwrap.dedent(code), encoding="utf-8")
            for name, text in (runs or {}).items():
                (package / "runs" / f"{name}.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
            write_dist_info(site, plugin, register or f"heliostat_{plugin}:register")
            stack.enter_context(on_path(site))
            return package

        yield install


_WINE = """
from heliostat.plugin import Column, DataAdapter, Encoder, FeatureSpec, Field, PooledFeatures, Settings, TaskHead
from heliostat.plugin import TokenFeatures
from typing import Annotated, Literal

class Rows(DataAdapter):
    \"\"\"Rows as they are.\"\"\"
    class Config(Settings):
        text: Column = "text"
        best: int = 4
    def examples(self, rows):
        yield from rows

class Pooled(Encoder):
    \"\"\"One vector an example.\"\"\"
    gives = PooledFeatures
    class Config(Settings):
        dim: int = 8
    def encode(self, examples): return []
    def spec(self): return FeatureSpec(dim=8)
    def module(self): raise NotImplementedError

class Scores(TaskHead):
    class Config(Settings):
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
        loss: Literal["mse", "mae"] = "mse"
        note: str = ""
        weights: tuple[float, ...] = ()
    def module(self, spec): raise NotImplementedError

class Tokens(Scores):
    needs = TokenFeatures

def register(registry):
    registry.add("rows", Rows)
    registry.add("pooled", Pooled)
    registry.add("scores", Scores)
    registry.add("tokens", Tokens)
"""

_WINE_RUN = """
name: wine
data:
  adapter: wine.rows
  source: reviews.csv
encoder: {type: wine.pooled}
head: {type: wine.scores, dropout: 2e-1}
train:
  lr: 1e-3
  # epochs: 3
scaling:
"""


@pytest.fixture
def wine(install: Install) -> Path:
    """The plugin `wine` with its runs wine/default and wine/empty_section; the folder of its package."""
    return install("wine", _WINE, {"default": _WINE_RUN.replace("scaling:\n", ""), "empty_section": _WINE_RUN})


_OBJECTIVES: dict[str, dict[str, Any]] = {
    "masked_lm": {"head": {"type": "core.masked_lm", "rate": 0.3}},
    "next_sentence": {"head": "core.next_sentence", "give": "pairs"},
    "sentence_order": {"head": "core.sentence_order", "give": "pairs"},
    "bert": {"head": {"type": "core.bert", "rate": 0.2}, "give": "pairs"},
    "causal_lm": {"head": "core.causal_lm", "encoder": "core.causal_text"},
    "denoising": {"head": "core.denoising", "encoder": "core.seq2seq_text"},
}
_SUBJECTS = (["waves", "salt", "boats", "gulls", "sand"], ["pines", "moss", "deer", "roots", "owls"])
_ORDER = ["First", "Then", "Later", "Afterwards", "Next", "Soon", "Finally", "Last"]


def _write_corpus(folder: Path) -> None:
    """40 documents of eight sentences, each document about one subject, its sentences in an order that words tell."""
    dice = random.Random(5)
    for number in range(40):
        things = _SUBJECTS[number % 2]
        sentences = [f"{word} unbelievably {dice.choice(things)} follow the {dice.choice(things)}." for word in _ORDER]
        (folder / f"{number}.txt").write_text(" ".join(sentences))


@pytest.fixture(scope="module")
def objective_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Run, Prepared]]:
    """objective_run("bert", epochs=2, ...) is a run with this objective of pretraining and its prepared data."""
    from heliostat.data.prepare import prepare
    from heliostat.run import check
    from heliostat.train.worker import set_threads

    home, corpus = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("corpus")
    _write_corpus(corpus)
    set_threads(1)

    def make(objective: str, dropout: float = 0.1, **train: Any) -> tuple[Run, Prepared]:
        chosen = _OBJECTIVES[objective]
        give = chosen.get("give", "chunks")
        encoder = {
            "type": chosen.get("encoder", "core.text"),
            "preset": "tiny",
            "vocab_size": 330,
            "max_tokens": 48,
            "dropout": dropout,
        }
        fields = ["text", "next"] if give == "pairs" else ["text"]
        run = check(
            {
                "name": objective,
                "data": {
                    "adapter": {"type": "core.documents", "give": give, "max_words": 20},
                    "source": str(corpus),
                    "split": {"valid": 0.2, "test": 0},
                },
                "encoder": {**encoder, "fields": fields},
                "head": chosen["head"],
                "train": {
                    "epochs": 2, "lr": 3e-3, "tokens_per_batch": 500, "log_every": 1, "precision": "fp32", **train
                },
            }
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(home))
            return run, prepare(run)

    return make


@pytest.fixture(scope="session")
def evaluated_run() -> Callable[[Path], Iterator[tuple[Run, Prepared]]]:
    """evaluated_run(reviews) is a run on a file of reviews with labels, a third of them to test on, and its data."""
    from heliostat.data.prepare import prepare
    from heliostat.run import check

    def made(source: Path) -> Iterator[tuple[Run, Prepared]]:
        run = check(
            {
                "name": "sentiment",
                "data": {
                    "adapter": {"type": "core.columns", "text": "review", "label": "label"},
                    "source": str(source),
                    "split": {"by": "hash", "valid": 0.05, "test": 0.35},
                },
                "encoder": {"type": "core.text", "preset": "tiny"},
                "head": {"type": "core.classification"},
                "evaluate": {"slices": ["department", "age", "recommended"], "resamples": 200},
            }
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HELIOSTAT_HOME", str(source.parent / "home"))
            yield run, prepare(run)

    return made
