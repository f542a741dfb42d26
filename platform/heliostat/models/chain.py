"""The lineage of a model in words: a line an ancestor, the first one first."""

from __future__ import annotations

from collections.abc import Sequence

from heliostat.lineage import Entry


def told(lineage: Sequence[Entry], served_as: Sequence[str] = ()) -> list[str]:
    """One line a training, indented below the one that it goes on from; then `name@alias`, by which it is served."""
    lines = [_line(entry) for entry in lineage]
    lines += [f"served as {', '.join(served_as)}"] if served_as else []
    return [f"{'   ' * max(0, depth - 1)}{'└─ ' if depth else ''}{line}" for depth, line in enumerate(lines)]


def _line(entry: Entry) -> str:
    name = str(entry.get("address") or entry.get("name"))
    facts = [f"sha256 {str(entry['sha256'])[:12]}"] if entry.get("sha256") else []
    if "head" in entry:
        facts = [
            f"{entry['head']} over {entry['encoder']}",
            f"{entry['source']} (data {str(entry.get('data_key', '?'))[:8]})",
            f"{entry.get('steps', 0):,} steps, {entry.get('tokens', 0):,} tokens",
            f"run {entry.get('run_id', '?')}",
            *facts,
        ]
    return ": ".join([name, "; ".join(facts)]) if facts else name


def parent_of(lineage: Sequence[Entry]) -> str | None:
    """The address of what the last entry goes on from; None where it started from nothing."""
    return str(lineage[-2]["address"]) if len(lineage) > 1 else None
