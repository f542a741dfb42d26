"""What stands above the tabs: each model's version, how fast it answers, and how much it has to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple


class Load(NamedTuple):
    """How a model stands, over all its replicas."""

    name: str
    versions: tuple[int, ...] = ()
    """Which answer; two while one takes over from the other, none when no replica does."""
    replicas: int = 0
    beside: tuple[str, ...] = ()
    """What stands beside it, as `canary 4`."""
    requests: int = 0
    """Answered in the last minute."""
    failed: int = 0
    """Of those with a status of 500 or above."""
    waiting: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


def load_of(name: str, told: Sequence[Mapping[str, Any]]) -> Load:
    """What the replicas of a model tell (`Replica.recent`), put together."""
    ready = [each for each in told if each["ready"]]
    seconds = sorted(second for each in told for second in each["seconds"])
    beside = {f"{kind} {each[kind]}" for each in told for kind in ("canary", "shadow") if kind in each}
    return Load(
        name,
        tuple(sorted({each["version"] for each in ready})),
        len(ready),
        tuple(sorted(beside)),
        sum(each["requests"] for each in told),
        sum(each["failed"] for each in told),
        sum(each["waiting"] for each in told),
        _percentile(seconds, 0.5),
        _percentile(seconds, 0.95),
    )


def _percentile(seconds: Sequence[float], share: float) -> float | None:
    """In milliseconds, the smallest time that so many of the answers kept (the nearest rank)."""
    if not seconds:
        return None
    rank = -int(-share * len(seconds) // 1)
    return 1000 * seconds[max(0, rank - 1)]


def draw_strip(loads: Sequence[Load]) -> str:
    """The strip as HTML: a card a model."""
    return "".join(map(_card, loads))


def _card(load: Load) -> str:
    name = escape(load.name)
    state = "down" if not load.versions else "failing" if load.failed else "ready"
    version = " and ".join(map(str, load.versions))
    about = [f"version {version}" if load.versions else "does not answer now", *load.beside]
    if load.replicas > 1:
        about.append(f"{load.replicas} replicas")
    figures = [
        ("p50", _ms(load.p50_ms)),
        ("p95", _ms(load.p95_ms)),
        ("a minute", f"{load.requests:,}"),
        ("waiting", f"{load.waiting:,}"),
    ]
    if load.failed:
        figures.append(("failed", f"{load.failed:,}"))
    drawn = "".join(f"<span><b>{value}</b> {word}</span>" for word, value in figures)
    return (
        f'<button type="button" class="card {state}" data-tab="{name}" aria-label="{name}, {escape(", ".join(about))}">'
        f'<span class="name"><i></i>{name}</span><span class="about">{escape(" · ".join(about))}</span>'
        f'<span class="figures">{drawn}</span></button>'
    )


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"
