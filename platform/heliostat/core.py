"""The built-in plugin `core`: encoders, heads, adapters and baselines that belong to no domain."""

from __future__ import annotations

from heliostat.adapters.columns import Columns
from heliostat.adapters.documents import Documents
from heliostat.baselines.copy import CopyBaseline
from heliostat.baselines.majority import MajorityBaseline
from heliostat.baselines.mean import MeanBaseline
from heliostat.baselines.nearest_text import NearestTextBaseline
from heliostat.baselines.ridge import RidgeBaseline
from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.baselines.tfidf_labels import TfidfLabelsBaseline
from heliostat.baselines.word_table import WordTableBaseline
from heliostat.encoders.causal_text import CausalTextEncoder
from heliostat.encoders.seq2seq_text import Seq2SeqTextEncoder
from heliostat.encoders.text import TextEncoder
from heliostat.heads.bert import Bert
from heliostat.heads.causal_lm import CausalLM
from heliostat.heads.classification import Classification
from heliostat.heads.denoising import Denoising
from heliostat.heads.masked_lm import MaskedLM
from heliostat.heads.multilabel import MultiLabel
from heliostat.heads.regression import Regression
from heliostat.heads.sentences import NextSentence, SentenceOrder
from heliostat.heads.seq2seq import Seq2Seq
from heliostat.plugin import Registry


def register(registry: Registry) -> None:
    """Register what comes with the platform, by the same door as any plugin."""
    registry.add("columns", Columns)
    registry.add("documents", Documents)
    registry.add("text", TextEncoder)
    registry.add("causal_text", CausalTextEncoder)
    registry.add("seq2seq_text", Seq2SeqTextEncoder)
    registry.add("classification", Classification)
    registry.add("masked_lm", MaskedLM)
    registry.add("next_sentence", NextSentence)
    registry.add("sentence_order", SentenceOrder)
    registry.add("bert", Bert)
    registry.add("causal_lm", CausalLM)
    registry.add("denoising", Denoising)
    registry.add("seq2seq", Seq2Seq)
    registry.add("multilabel", MultiLabel)
    registry.add("regression", Regression)
    registry.add("tfidf", TfidfBaseline)
    registry.add("tfidf_labels", TfidfLabelsBaseline)
    registry.add("ridge", RidgeBaseline)
    registry.add("mean", MeanBaseline)
    registry.add("copy", CopyBaseline)
    registry.add("nearest_text", NearestTextBaseline)
    registry.add("word_table", WordTableBaseline)
    registry.add("majority", MajorityBaseline)
