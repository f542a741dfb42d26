"""YAML + overrides -> one checked, frozen Run.

One vocabulary of dotted keys serves the file, the command line, the search space and every error message. Precedence:
the defaults of a class, then the file, then the command line. Everything is checked before torch or Ray start.
"""

from __future__ import annotations

from heliostat.run.cleaning import AugmentSettings, BalanceSettings, CleanSettings
from heliostat.run.components import AdapterSpec, BaselineSpec, ComponentSpec, EncoderSpec, HeadSpec
from heliostat.run.file import check, laid, load, locate, nested, place, read, runs
from heliostat.run.optimizers import AdamW, Muon, OptimizerSettings, RmsProp, Sgd
from heliostat.run.pinned import parent_address, pinned
from heliostat.run.settings import (
    DataSettings,
    EvaluateSettings,
    Parts,
    Run,
    ScalingSettings,
    TrainSettings,
    build,
)
from heliostat.run.splits import (
    ColumnSplit,
    DateSplit,
    HashSplit,
    LastSplit,
    SequenceSplit,
    SplitSettings,
    TimeSplit,
    protocol,
)
from heliostat.run.text import render
from heliostat.run.tuning import MEASURED, TuneSettings

__all__ = [
    "MEASURED",
    "AdamW",
    "AdapterSpec",
    "AugmentSettings",
    "BalanceSettings",
    "BaselineSpec",
    "CleanSettings",
    "ColumnSplit",
    "ComponentSpec",
    "DataSettings",
    "DateSplit",
    "EncoderSpec",
    "EvaluateSettings",
    "HashSplit",
    "HeadSpec",
    "LastSplit",
    "Muon",
    "OptimizerSettings",
    "Parts",
    "RmsProp",
    "Run",
    "ScalingSettings",
    "SequenceSplit",
    "Sgd",
    "SplitSettings",
    "TimeSplit",
    "TrainSettings",
    "TuneSettings",
    "build",
    "check",
    "laid",
    "load",
    "locate",
    "nested",
    "parent_address",
    "pinned",
    "place",
    "protocol",
    "read",
    "render",
    "runs",
]
