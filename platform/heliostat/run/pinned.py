"""A run whose addresses of other models never move: what an alias stands for today is written down."""

from __future__ import annotations

from heliostat.lineage import fixed
from heliostat.run.settings import Run


def parent_address(run: Run) -> str | None:
    """The model that the run's encoder goes on from: its setting `pretrained`, where it has one."""
    address: str | None = getattr(run.encoder.settings, "pretrained", None)
    return address


def pinned(run: Run) -> Run:
    """The run with `encoder.pretrained` as `name:3` for an alias and `run:<id>/step-...` for the id of a run.

    Raises RunError when there is no such model.
    """
    address = parent_address(run)
    if address is None or (now := fixed(address)) == address:
        return run
    settings = run.encoder.settings.model_copy(update={"pretrained": now})
    return run.model_copy(update={"encoder": run.encoder.model_copy(update={"settings": settings})})
