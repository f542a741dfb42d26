"""Sequence to sequence: a text in, another text out, by an encoder that owns a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from heliostat.batch import Batch, Draws
from heliostat.component import LATER, Row, Settings
from heliostat.errors import DataError, Problem, RunError
from heliostat.features import Features, FeatureSpec, Seq2SeqFeatures, Vocabulary
from heliostat.heads.masked_lm import perplexity
from heliostat.heads.seq2seq_metrics import BLEU_SUMS, bleu_of_sums, text_metrics
from heliostat.heads.subwords import Ids, taken_apart
from heliostat.plugin import Encoded, Metric, Record, Tally, TaskHead

if TYPE_CHECKING:
    from torch import nn

TARGETS = "answer"
"""The column of a batch that holds the tokens of each text to be written, without start and end."""

_SOURCE_NOISE, _TARGET_NOISE = 41, 51  # streams of random draws; each round of taking apart has one of its own


class Text(Record):
    """A text to answer."""

    text: str = Field(min_length=1, max_length=4_000, pattern=r"\S", description="The text that is read.")


class Beam(Record):
    """One of the texts that the search found."""

    answer: str = Field(description="The text.")
    score: float = Field(description="Its log probability, divided by its length to the power of the length penalty.")


class Written(Record):
    """The text that is written for another one."""

    answer: str = Field(description="The best text that the search found.")
    score: float = Field(description="Its log probability, divided by its length to the power of the length penalty.")
    beams: list[Beam] = Field(description="The texts that the search found, best first.")


class Seq2Seq(TaskHead):
    """A text in, another text out: teacher forcing with smoothed targets in training, beam search in answers.

    An example is a `text` with its `answer`; the encoder reads the one and its decoder writes the other.
    """

    class Config(Settings):
        """How the targets are smoothed, and how an answer is searched for."""

        label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0), LATER] = 0.1
        """Probability that is spread over the whole vocabulary (Szegedy et al. 2016)."""
        subword_noise: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
        """How often a token of a training text is taken apart, anew in each epoch (after Provilkov et al. 2020)."""
        beams: Annotated[int, Field(ge=1, le=16)] = 4
        """Texts that are written side by side; 1 takes the most probable token at each step."""
        length_penalty: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
        """Power of the length by which log probabilities are divided; more of it favours longer answers."""
        max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
        """The most tokens of an answer."""
        tokenize: Literal["13a", "zh", "intl", "char", "none"] = "13a"
        """How sacreBLEU cuts words: `zh` for Chinese."""
        written_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
        """Share of the valid split that is answered greedily in each validation during training, for its BLEU."""

    needs: ClassVar[type[Features]] = Seq2SeqFeatures
    takes: ClassVar[type[Record]] = Text
    errors: ClassVar[tuple[str, ...]] = ("perplexity",)
    gives: ClassVar[type[Record]] = Written
    target_fields: ClassVar[tuple[str, ...]] = ("answer",)
    baselines: ClassVar[tuple[str, ...]] = ("core.word_table", "core.nearest_text", "core.copy")
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "Click the button to open the window."},
        {"text": "The file was saved."},
    )
    # No label_smoothing: trials are compared by the loss, which it changes.
    searched: ClassVar[Mapping[str, Any]] = {
        "train.lr": "log(3e-4,6e-3)",
        "train.tokens_per_batch": "choice(1500,3000,6000,12000)",
        "train.warmup": "uniform(0,0.2)",
        "train.weight_decay": "log(1e-3,0.3)",
    }
    streams: ClassVar[bool] = True

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self._halves: tuple[Vocabulary, Ids] | None = None

    def encode(self, examples: Sequence[Row], spec: FeatureSpec) -> list[Encoded]:
        """The tokens of each answer. Raises DataError for one that is missing, empty or too long."""
        vocabulary = _vocabulary(spec)
        rows: list[Encoded] = []
        for example in examples:
            text = example.get("answer")
            ids = vocabulary.ids(text) if isinstance(text, str) else ()
            if not ids:
                raise DataError("answer: must be a text of one token or more.")
            if spec.max_tokens is not None and len(ids) > spec.max_tokens - 2:
                raise DataError(
                    f"answer: has more than the {spec.max_tokens - 2} tokens that encoder.max_tokens allows."
                )
            rows.append({TARGETS: np.array(ids, dtype=np.int32)})
        return rows

    def prepare(self, batch: Batch, draws: Draws, spec: FeatureSpec) -> Batch:
        """Take some tokens of a training batch apart. Raises RunError for a vocabulary that cannot say into what."""
        rate = self.config.subword_noise
        if rate == 0.0 or not draws.is_training:
            return batch
        halves, most = self._parts(_vocabulary(spec)), (spec.max_tokens or 2**31) - 2
        columns = {TARGETS: _TARGET_NOISE, spec.token_column or "": _SOURCE_NOISE}
        noised = {
            name: taken_apart(batch, name, halves, rate, draws, stream=stream, max_tokens=most)
            for name, stream in columns.items()
        }
        return batch.with_columns(**noised)

    def _parts(self, vocabulary: Vocabulary) -> Ids:
        if self._halves is None or self._halves[0] is not vocabulary:
            told = getattr(vocabulary, "halves", None)
            if told is None:
                rule = "has no effect: the encoder's vocabulary does not say what its tokens are made of. Leave it out."
                raise RunError([Problem("head.subword_noise", rule)])
            self._halves = (vocabulary, np.array(told(), dtype=np.int64))
        return self._halves[1]

    def counts(self, batch: Batch) -> dict[str, float]:
        """The tokens that are written, the end of each text among them."""
        lengths = batch.ragged(TARGETS).lengths
        return {"loss": float(sum(lengths) + len(lengths))}

    def module(self, spec: FeatureSpec) -> nn.Module:
        """It has no weights: the encoder owns the decoder."""
        from heliostat.heads.seq2seq_module import Seq2SeqModule

        return Seq2SeqModule(_vocabulary(spec), self.config, spec.max_tokens, self.answer)

    def answer(self, text: str, beams: list[Row]) -> Row:
        """The row that answers `text` from the texts that were found, best first.

        A domain overrides it to put another one first, or to say more.
        """
        return {**beams[0], "beams": beams}

    def scores(self, tally: Tally) -> dict[str, float]:
        """Perplexity and accuracy of the next token, and BLEU of the answers that were written greedily."""
        count = max(1.0, float(tally["count"]))
        scores = {
            "perplexity": perplexity(float(tally["likelihood"]), count),
            "accuracy": float(tally["hits"]) / count,
        }
        return scores | ({"bleu": bleu_of_sums(tally[BLEU_SUMS])} if tally[BLEU_SUMS].any() else {})

    def metrics(self) -> dict[str, Metric]:
        """BLEU and chrF of sacreBLEU; each metric knows its `signature`."""
        return text_metrics(self.config.tokenize)


def _vocabulary(spec: FeatureSpec) -> Vocabulary:
    if spec.target_vocabulary is None:
        rule = "has no decoder to write with, and core.seq2seq writes. Take core.seq2seq_text."
        raise RunError([Problem("encoder", rule)])
    return spec.target_vocabulary
