"""What can be rendered for a cluster; apart from what renders it, so that a command line is quick."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What is rendered from a run, or from models."""

    TRAIN = "train"
    TUNE = "tune"
    CRON = "cron"
    CLUSTER = "cluster"
    SERVICE = "service"
    ALL = "all"
