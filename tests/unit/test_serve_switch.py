"""A canary's share of the requests, a shadow's comparison, and that neither costs anybody an answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from heliostat.component import Row
from heliostat.serve.comparison import Tally
from heliostat.serve.refusal import Refusal
from heliostat.serve.schema import Served
from heliostat.serve.switch import Answered, CanaryRoute, Routes, Sender, ShadowRoute, Switch, place_of

CANARY = CanaryRoute(app="_canary.mood", version=4, percent=30)


def rows_of(text: str) -> list[Row]:
    return [{"text": text}]


async def own(rows: Sequence[Row], deadline: float) -> list[Row]:
    return [{"label": "plain", "score": 0.5} for _ in rows]


class Beside:
    """Another version, and what is told about it."""

    def __init__(self, error: Exception | None = None, label: str = "plain", seconds: float = 0.0) -> None:
        self.error, self.label, self.seconds = error, label, seconds
        self.told: dict[str, Tally] = {}

    async def answer(self, app: str, rows: Sequence[Row], seconds: float) -> Answered:
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        return Answered([{"label": self.label, "score": 0.75} for _ in rows], Served("mood", 4))

    def note(self, what: str, tally: Tally) -> None:
        self.told.setdefault(what, Tally()).add(tally)

    def switch(self, routes: Routes) -> Switch:
        switch = Switch(Served("mood", 3), own)
        switch.connect(self.answer, self.note)
        switch.turn(routes)
        return switch


def answers(switch: Switch, senders: Sequence[Sender], texts: Sequence[str], timeout_s: float = 20.0) -> list[Answered]:
    async def run() -> list[Answered]:
        deadline = time.monotonic() + timeout_s
        found = [
            await switch.answer(rows_of(text), sender, deadline=deadline)
            for sender, text in zip(senders, texts, strict=True)
        ]
        await asyncio.gather(*switch._shadowing)
        return found

    return asyncio.run(run())


def test_a_share_goes_to_the_canary_and_stays_there() -> None:
    beside = Beside()
    clients = [Sender(client=f"client-{place}") for place in range(400)]
    texts = [f"text {place}" for place in range(400)]
    first = answers(beside.switch(Routes(canary=CANARY)), clients, texts)
    again = answers(beside.switch(Routes(canary=CANARY)), clients, texts[::-1])
    versions = [each.by.version for each in first]
    assert versions == [each.by.version for each in again], "a client changes sides with what it asks"
    assert 80 < versions.count(4) < 160
    assert all(each.rows[0]["score"] == (0.75 if each.by.version == 4 else 0.5) for each in first)
    wider = answers(beside.switch(Routes(canary=CANARY.model_copy(update={"percent": 60.0}))), clients, texts)
    assert {place for place, version in enumerate(versions) if version == 4} <= {
        place for place, each in enumerate(wider) if each.by.version == 4
    }
    assert beside.told["canary"].answered == sum(each.by.version == 4 for each in [*first, *again, *wider])


def test_what_keeps_a_request_with_its_version() -> None:
    rows = rows_of("a")
    place = place_of("mood:4", Sender("web", "7"), "client", rows)
    assert place == place_of("mood:4", Sender("app", "7"), "client", rows_of("b"))
    assert place != place_of("mood:5", Sender("web", "7"), "client", rows)
    assert place_of("m", Sender("web"), "key", rows) == place_of("m", Sender("web", "7"), "key", rows_of("b"))
    assert place_of("m", Sender("web"), "client", rows) != place_of("m", Sender("web"), "client", rows_of("b"))
    assert place_of("m", Sender("web"), "content", rows) == place_of("m", Sender("app", "1"), "content", rows)
    counts = Counter(int(place_of("m", Sender(client=str(each)), "client", rows) // 10) for each in range(2000))
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 280


@pytest.mark.parametrize(
    "error",
    [RuntimeError("its replica died"), Refusal(503, "queue_full", "Full."), Refusal(422, "x", "Another record.")],
)
def test_a_canary_that_fails_costs_nobody_an_answer(error: Exception) -> None:
    beside = Beside(error)
    found = answers(
        beside.switch(Routes(canary=CANARY.model_copy(update={"percent": 100.0}))), [Sender()] * 5, ["a"] * 5
    )
    assert {each.by.version for each in found} == {3}
    assert (beside.told["canary"].failed, beside.told["canary"].answered) == (5, 0)


def test_a_canary_that_hangs_leaves_time_for_an_answer() -> None:
    switch = Beside(seconds=30).switch(Routes(canary=CANARY.model_copy(update={"percent": 100.0})))
    assert answers(switch, [Sender()], ["a"], timeout_s=0.2)[0].by.version == 3


@pytest.mark.parametrize(("label", "agreed"), [("plain", 6), ("glad", 0)])
def test_a_shadow_answers_nobody_and_is_compared(label: str, agreed: int) -> None:
    beside = Beside(label=label)
    routes = Routes(shadow=ShadowRoute(app="_shadow.mood", version=4, percent=100))
    found = answers(beside.switch(routes), [Sender()] * 6, [f"text {place}" for place in range(6)])
    assert {each.by.version for each in found} == {3}
    report = beside.told["shadow"].report()
    assert (report["records"], report["agreement"]) == (6, agreed / 6)
    assert report["differing_fields"] == ({} if agreed else {"label": 6})
    assert report["difference"]["max"] == 0.25  # whatever else differs
    assert set(report["latency_ms"]) == {"own", "other"}
    assert report["latency_ms"]["other"]["median"] >= 0


def test_a_shadow_that_is_behind_is_spared() -> None:
    beside = Beside(seconds=0.05)
    routes = Routes(shadow=ShadowRoute(app="_shadow.mood", version=4, percent=100))
    answers(beside.switch(routes), [Sender()] * 40, [f"text {place}" for place in range(40)])
    told = beside.told["shadow"]
    assert told.answered + told.left_out == 40
    assert told.left_out > 0


def test_tallies_of_replicas_add_up() -> None:
    one = Tally(answered=1).compared([{"a": [{"p": 1.0}], "b": "x"}], [{"a": [{"p": 1.5}], "b": "x"}])
    other = Tally(**Tally(failed=2).compared([{"b": "x", "c": None}], [{"b": "y", "c": None}]).dump())
    one.add(other)
    report: dict[str, Any] = one.report()
    assert (report["answered"], report["failed"], report["records"], report["agreement"]) == (1, 2, 2, 0.5)
    assert report["differing_fields"] == {"b": 1}
    assert report["difference"]["max"] == 0.5
