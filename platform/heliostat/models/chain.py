"""The lineage of a model in words: a line an ancestor, the first one first."""

from __future__ import annotations

from collections.abc import Sequence

from heliostat.lineage import Entry


def told(lineage: Sequence[Entry]) -> list[str]:
    """One line a training, indented below the one that it goes on from."""
    return [f"{'   ' * max(0, depth - 1)}{'└─ ' if depth else ''}{_line(entry)}" for depth, entry in enumerate(lineage)]


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
