"""Keys: stored as hashes, two at a time, read anew when the file changes; and how many requests each may send."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from heliostat.errors import RunError, ServeError
from heliostat.serve import keys
from heliostat.serve.guard import Access, Guard
from heliostat.serve.keys import KeyRing, drop_key, new_key, read_keys
from heliostat.serve.limits import Limits
from heliostat.serve.rates import Allowance, Buckets, Grant
from heliostat.serve.token import digest


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def test_a_key_is_shown_once_and_stored_as_a_hash_for_its_owner_alone(path: Path) -> None:
    key = new_key(path, "web")
    text = path.read_text(encoding="utf-8")
    assert key not in text
    assert digest(key) in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) > 40
    assert new_key(path, "app") != key
    assert [each.name for each in read_keys(path)] == ["web", "app"]


def test_two_keys_of_a_name_are_valid_while_one_takes_over(path: Path) -> None:
    old, new = new_key(path, "web"), new_key(path, "web")
    ring = KeyRing.at(path)
    assert [ring.holder(key).name for key in (old, new)] == ["web", "web"]  # type: ignore[union-attr]
    with pytest.raises(ServeError, match="heliostat serve key drop web"):
        new_key(path, "web")
    assert drop_key(path, "web") == 1
    ring = KeyRing.at(path)
    assert ring.holder(old) is None
    assert ring.holder(new) is not None
    with pytest.raises(ServeError, match="keys of: web"):
        drop_key(path, "wbe")


def test_an_expired_key_is_refused_and_makes_room(path: Path) -> None:
    new_key(path, "web")
    new_key(path, "web", days=1)
    values = json.loads(path.read_text(encoding="utf-8"))
    values["keys"][0]["expires"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    path.write_text(json.dumps(values), encoding="utf-8")
    third = new_key(path, "web")
    ring = KeyRing.at(path)
    assert ring.holder(third) is not None
    assert sum(key.is_live(datetime.now(UTC)) for key in read_keys(path)) == 2


def test_a_ring_reads_its_file_anew_and_keeps_its_keys_when_that_breaks(path: Path) -> None:
    clock, first = Clock(), new_key(path, "web")
    ring = KeyRing(read_keys(path), path, clock)
    second = new_key(path, "app")
    assert ring.holder(second) is None  # not looked at yet
    clock.now += 2
    assert ring.holder(second) is not None
    path.write_text("{", encoding="utf-8")
    clock.now += 2
    assert ring.holder(first) is not None
    path.unlink()
    clock.now += 2
    assert ring.holder(first) is not None
    new_key(path, "web")
    clock.now += 2
    assert ring.holder(first) is None


def test_a_key_dropped_while_a_ring_is_made_is_dropped_from_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = new_key(path, "web")

    def read(path: Path) -> Any:
        found = read_keys(path)
        monkeypatch.undo()
        drop_key(path, "web")
        return found

    monkeypatch.setattr(keys, "read_keys", read)
    ring = KeyRing.at(path)
    ring._looked = -10.0
    assert ring.holder(dropped) is None


def test_every_mistake_in_a_file_of_keys_is_named_at_once(path: Path) -> None:
    path.parent.mkdir()
    key = {"name": "web", "sha256": "0" * 64, "created": "2026-11-23"}
    wrong = [{**key, "sha256": "short"}, {**key, "nmae": "x"}, {**key, "per_minute": 0}, {**key, "name": "A B"}]
    path.write_text(json.dumps({"keys": wrong}), encoding="utf-8")
    with pytest.raises(RunError) as refused:
        read_keys(path)
    said = str(refused.value)
    assert "4 mistakes" in said
    assert "keys.1.nmae: no such setting. Did you mean 'name'?" in said
    assert {problem.key for problem in refused.value.problems} >= {"keys.0.sha256", "keys.2.per_minute", "keys.3.name"}
    path.write_text(json.dumps({"keys": [key, key, key]}), encoding="utf-8")
    with pytest.raises(RunError, match="3 valid keys"):
        read_keys(path)
    with pytest.raises(ServeError, match="heliostat serve key new NAME"):
        read_keys(path.parent / "none.json")
    with pytest.raises(RunError, match="name"):
        new_key(path.parent / "other.json", "Not A Name")


def test_a_bucket_lets_through_what_a_minute_holds() -> None:
    clock = Clock()
    buckets = Buckets(clock)
    assert [buckets.take("web", 60, 1).given for _ in range(61)] == [1] * 60 + [0]
    assert buckets.take("web", 60, 1).wait_s == pytest.approx(1.0)
    assert buckets.take("app", 60, 5).given == 5  # each key has its own
    clock.now += 10
    assert buckets.take("web", 60, 64) == Grant(10)
    clock.now += 3600
    assert buckets.take("web", 60, 64).given == 60


def test_replicas_together_let_through_what_one_bucket_holds() -> None:
    clock, asked = Clock(), 0
    buckets = Buckets(clock)

    async def take(name: str, per_minute: int, wanted: int) -> Grant:
        nonlocal asked
        asked += 1
        return buckets.take(name, per_minute, wanted)

    async def spend() -> list[int]:
        replicas = [Allowance(take, clock) for _ in range(3)]
        return [await replicas[place % 3].spend("web", 6000) for place in range(9000)]

    waits = asyncio.run(spend())
    assert waits.count(0) == 6000
    assert set(waits[6000:]) == {1}
    assert asked <= 600 + 3  # one question for ten requests, and one refusal a replica


@pytest.mark.parametrize(("per_minute", "asked"), [(60, 100), (6000, 50)])
def test_requests_that_come_at_once_share_what_is_fetched(per_minute: int, asked: int) -> None:
    clock = Clock()
    buckets, taken = Buckets(clock), 0

    async def take(name: str, per_minute: int, wanted: int) -> Grant:
        nonlocal taken
        await asyncio.sleep(0.001)
        grant = buckets.take(name, per_minute, wanted)
        taken += grant.given
        return grant

    async def spend() -> list[Any]:
        allowance = Allowance(take, clock)
        requests = [asyncio.create_task(allowance.spend("web", per_minute)) for _ in range(asked + 1)]
        await asyncio.sleep(0)
        requests.pop(0).cancel()  # who leaves takes no answer from the others
        return await asyncio.gather(*requests)

    waits = asyncio.run(asyncio.wait_for(spend(), 10))
    assert waits.count(0) == min(per_minute, asked)
    assert set(waits) <= {0, 1}
    assert taken <= min(per_minute, asked + 1)


def test_whoever_asks_again_too_soon_is_told_the_same() -> None:
    clock = Clock()
    buckets = Buckets(clock)

    async def take(name: str, per_minute: int, wanted: int) -> Grant:
        return buckets.take(name, per_minute, wanted)

    async def spend() -> list[int]:
        allowance = Allowance(take, clock)
        return [await allowance.spend("web", 2) for _ in range(4)]

    assert asyncio.run(spend()) == [0, 0, 30, 30]


def test_a_rate_that_cannot_be_counted_refuses_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def take(name: str, per_minute: int, wanted: int) -> Grant:
        raise TimeoutError

    assert asyncio.run(Allowance(take).spend("web", 1)) == 0
    assert "web" in caplog.text


def ask(app: Any, send: Callable[[httpx.AsyncClient], Any]) -> Any:
    async def run() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            return await send(client)

    return asyncio.run(run())


def test_a_key_past_its_rate_is_told_when_to_try_again(path: Path) -> None:
    slow, fast = new_key(path, "slow", per_minute=3), new_key(path, "fast")
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["heliostat.key"])
        await JSONResponse({})(scope, receive, send)

    guard = Guard(app, limits=Limits(), access=Access(keys_file=str(path), per_minute=600), answered=lambda *_: None)

    async def send(client: httpx.AsyncClient) -> list[httpx.Response]:
        answers = [await client.post("/x", headers={"Authorization": f"Bearer {slow}"}) for _ in range(5)]
        answers += [await client.post("/x", headers={"Authorization": f"Bearer {fast}"}) for _ in range(5)]
        return [*answers, await client.get("/x", headers={"Authorization": f"Bearer {slow}"}), await client.post("/x")]

    answers = ask(guard, send)
    assert [each.status_code for each in answers] == [200] * 3 + [429] * 2 + [200] * 5 + [200, 401]
    assert answers[3].json()["error"]["code"] == "too_many_requests"
    assert int(answers[3].headers["retry-after"]) >= 1
    assert seen == ["slow"] * 3 + ["fast"] * 5 + ["slow"]
    for answer in answers:
        assert slow not in str(answer.headers) + answer.text
