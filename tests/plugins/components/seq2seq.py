"""Sequence to sequence with teacher forcing: the encoder owns the decoder, the head the loss and the search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.plugin import (
    Batch,
    DataAdapter,
    DataError,
    Encoded,
    Encoder,
    FeatureSpec,
    Field,
    Ragged,
    Record,
    Registry,
    Row,
    Seq2SeqFeatures,
    Settings,
    TaskHead,
)

if TYPE_CHECKING:
    from torch import nn

START, END, UNKNOWN = SPECIAL = (0, 1, 2)


class Pairs(DataAdapter):
    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            yield {"source": row["from"], "target": row["to"]}


class Source(Record):
    source: str = Field(min_length=1, max_length=100)


class Target(Record):
    target: str


class Letters:
    mask_id = None
    special_ids = SPECIAL

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self.size = len(letters) + len(SPECIAL)

    def ids(self, text: str) -> list[int]:
        return [self.letters.find(letter) + len(SPECIAL) if letter in self.letters else UNKNOWN for letter in text]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(self.letters[place - len(SPECIAL)] for place in ids if place >= len(SPECIAL))

    def starts_word(self) -> list[bool]:
        return [True] * self.size


class LetterSeq2Seq(Encoder):
    """The source's mean vector, read by a decoder of one recurrent layer."""

    class Config(Settings):
        dim: int = 32

    gives = Seq2SeqFeatures
    sources = targets = Letters("")

    def fit(self, examples: Iterable[Row]) -> None:
        rows = list(examples)
        self.sources = Letters("".join(sorted({letter for row in rows for letter in row["source"]})))
        self.targets = Letters("".join(sorted({letter for row in rows for letter in row["target"]})))

    def save(self, folder: Path) -> None:
        (folder / "sources.txt").write_text(self.sources.letters, encoding="utf-8")
        (folder / "targets.txt").write_text(self.targets.letters, encoding="utf-8")

    def load(self, folder: Path) -> None:
        self.sources = Letters((folder / "sources.txt").read_text(encoding="utf-8"))
        self.targets = Letters((folder / "targets.txt").read_text(encoding="utf-8"))

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        return [{"source": np.array(self.sources.ids(example["source"]), dtype=np.int32)} for example in examples]

    def spec(self) -> FeatureSpec:
        return FeatureSpec(self.config.dim, self.sources, "source", self.targets)

    def module(self) -> nn.Module:
        import torch

        dim, source_size, target_size = self.config.dim, self.sources.size, self.targets.size

        @dataclass(frozen=True)
        class Reader:
            """The decoder over one batch of sources."""

            layers: Any
            context: Any  # [examples, dim]
            start_id: int = START
            end_id: int = END

            def logits(self, targets: Ragged) -> Any:
                embedded = torch.nn.utils.rnn.pad_sequence(
                    self.layers.target(targets.values).split(targets.lengths), True
                )
                states, _ = self.layers.recurrent(embedded, self.context.unsqueeze(0).contiguous())
                kept = [row[:length] for row, length in zip(states, targets.lengths, strict=True)]
                return self.layers.project(torch.cat(kept))

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.source = torch.nn.Embedding(source_size, dim)
                self.place = torch.nn.Embedding(100, dim)
                self.target = torch.nn.Embedding(target_size, dim)
                self.recurrent = torch.nn.GRU(dim, dim, batch_first=True)
                self.project = torch.nn.Linear(dim, target_size)

            def forward(self, batch: Batch) -> Seq2SeqFeatures:
                tokens = batch.ragged("source")
                places = torch.cat([torch.arange(length) for length in tokens.lengths]).to(tokens.values.device)
                states = self.source(tokens.values) * (1 + self.place(places))
                pooled = torch.stack([piece.mean(0) for piece in states.split(list(tokens.lengths))])
                return Seq2SeqFeatures(pooled, states, tokens, self.source.weight, Reader(self, pooled))

        return Module()


class Translate(TaskHead):
    class Config(Settings):
        max_letters: int = 12

    needs = Seq2SeqFeatures
    takes = Source
    gives = Target
    target_fields = ("target",)
    samples = ({"source": "abc"},)

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        vocabulary = spec.target_vocabulary
        assert vocabulary
        if not all(example["target"] for example in examples):
            raise DataError("target: is empty")
        return [{"target": np.array(vocabulary.ids(example["target"]), dtype=np.int32)} for example in examples]

    def counts(self, batch: Batch) -> dict[str, float]:
        lengths = batch.ragged("target").lengths
        return {"loss": float(sum(lengths) + len(lengths))}  # the end is a target too

    def module(self, spec: FeatureSpec) -> nn.Module:
        import torch
        import torch.nn.functional as F

        vocabulary, max_letters = spec.target_vocabulary, self.config.max_letters
        assert vocabulary

        class Module(torch.nn.Module):
            def loss(self, features: Seq2SeqFeatures, batch: Batch) -> dict[str, Any]:
                decoder = features.decoder
                assert decoder
                pieces = batch.ragged("target").split()
                given = Ragged.of([F.pad(piece, (1, 0), value=decoder.start_id) for piece in pieces])
                asked = torch.cat([F.pad(piece, (0, 1), value=decoder.end_id) for piece in pieces])
                return {"loss": F.cross_entropy(decoder.logits(given).float(), asked, reduction="sum")}

            def predict(self, features: Seq2SeqFeatures, batch: Batch) -> list[Row]:
                decoder = features.decoder
                assert decoder
                written = torch.full((len(batch), 1), decoder.start_id, device=features.pooled.device)
                for _ in range(max_letters):
                    logits = decoder.logits(Ragged.of(list(written)))
                    last = logits.view(len(batch), written.shape[1], -1)[:, -1].argmax(-1, keepdim=True)
                    ended = written[:, -1:] == decoder.end_id
                    written = torch.cat([written, last.masked_fill(ended, decoder.end_id)], 1)
                return [{"target": vocabulary.text(ids)} for ids in written.tolist()]

        return Module()


def register(registry: Registry) -> None:
    registry.add("pairs", Pairs)
    registry.add("letters", LetterSeq2Seq)
    registry.add("translate", Translate)
