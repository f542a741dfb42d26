"""The built-in plugin `core`: encoders, heads, adapters and baselines that belong to no domain."""

from __future__ import annotations

from heliostat.adapters.columns import Columns
from heliostat.adapters.documents import Documents
from heliostat.adapters.histories import Histories
from heliostat.baselines.boosting import BoostingBaseline
from heliostat.baselines.copy import CopyBaseline
from heliostat.baselines.frequent_tags import FrequentTagsBaseline
from heliostat.baselines.items import EaseBaseline, ItemKnnBaseline, PopularBaseline
from heliostat.baselines.majority import MajorityBaseline
from heliostat.baselines.mean import MeanBaseline
from heliostat.baselines.nearest_text import NearestTextBaseline
from heliostat.baselines.ridge import RidgeBaseline
from heliostat.baselines.tfidf import TfidfBaseline
from heliostat.baselines.tfidf_labels import TfidfLabelsBaseline
from heliostat.baselines.tfidf_paths import TfidfPathsBaseline
from heliostat.baselines.tfidf_segments import TfidfSegmentsBaseline
from heliostat.baselines.word_table import WordTableBaseline
from heliostat.encoders.causal_text import CausalTextEncoder
from heliostat.encoders.items import ItemEncoder
from heliostat.encoders.segments import SegmentsEncoder
from heliostat.encoders.seq2seq_text import Seq2SeqTextEncoder
from heliostat.encoders.tabular import TabularEncoder
from heliostat.encoders.text import TextEncoder
from heliostat.encoders.words import WordsEncoder
from heliostat.heads.bert import Bert
from heliostat.heads.causal_lm import CausalLM
from heliostat.heads.classification import Classification
from heliostat.heads.denoising import Denoising
from heliostat.heads.hierarchy import Hierarchy
from heliostat.heads.masked_lm import MaskedLM
from heliostat.heads.multilabel import MultiLabel
from heliostat.heads.ranking import Ranking
from heliostat.heads.regression import Regression
from heliostat.heads.risk import Risk
from heliostat.heads.segments import SegmentLabels
from heliostat.heads.sentences import NextSentence, SentenceOrder
from heliostat.heads.seq2seq import Seq2Seq
from heliostat.heads.tagging import Tagging
from heliostat.plugin import Registry


def register(registry: Registry) -> None:
    """Register what comes with the platform, by the same door as any plugin."""
    registry.add("columns", Columns)
    registry.add("documents", Documents)
    registry.add("histories", Histories)
    registry.add("text", TextEncoder)
    registry.add("words", WordsEncoder)
    registry.add("causal_text", CausalTextEncoder)
    registry.add("seq2seq_text", Seq2SeqTextEncoder)
    registry.add("tabular", TabularEncoder)
    registry.add("items", ItemEncoder)
    registry.add("segments", SegmentsEncoder)
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
    registry.add("tagging", Tagging)
    registry.add("risk", Risk)
    registry.add("boosting", BoostingBaseline)
    registry.add("ranking", Ranking)
    registry.add("hierarchy", Hierarchy)
    registry.add("segment_labels", SegmentLabels)
    registry.add("tfidf", TfidfBaseline)
    registry.add("tfidf_labels", TfidfLabelsBaseline)
    registry.add("tfidf_paths", TfidfPathsBaseline)
    registry.add("tfidf_segments", TfidfSegmentsBaseline)
    registry.add("ridge", RidgeBaseline)
    registry.add("mean", MeanBaseline)
    registry.add("copy", CopyBaseline)
    registry.add("nearest_text", NearestTextBaseline)
    registry.add("word_table", WordTableBaseline)
    registry.add("majority", MajorityBaseline)
    registry.add("frequent_tags", FrequentTagsBaseline)
    registry.add("popular", PopularBaseline)
    registry.add("item_knn", ItemKnnBaseline)
    registry.add("ease", EaseBaseline)
