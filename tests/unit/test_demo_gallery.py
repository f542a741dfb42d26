"""The gallery without Ray: who is let in, that nothing else is open, whose key asks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from heliostat.component import Row
from heliostat.demo.door import SIGN_IN, SIGN_OUT
from heliostat.demo.routes import LOOK_EVERY_S, GalleryRoutes
from heliostat.plugin import Classification
from heliostat.serve.app import ModelRoutes
from heliostat.serve.guard import Access
from heliostat.serve.keys import new_key
from heliostat.serve.limits import Limits
from heliostat.serve.schema import Served
from heliostat.testing.serving import listening

HTML = {"Accept": "text/html"}


class Colour:
    """A model without weights: everything is green."""

    def __init__(self) -> None:
        self.head = Classification(Classification.Config(labels=("green", "red")))

    def predict(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        return [{"label": "green", "probabilities": {"green": 0.9, "red": 0.1}} for _ in examples]


class House:
    """A deployment of one model, and its gallery in front."""

    def __init__(self, access: Access) -> None:
        self.model = ModelRoutes(Colour(), Served("colour", 3), Limits(), access)
        self.access = access
        self.gallery: GalleryRoutes | None = None

    async def recently(self, name: str) -> list[dict[str, Any]]:
        return [self.model.recent()]

    def client(self, url: str) -> TestClient:
        self.gallery = GalleryRoutes(url, Limits(), self.access, self.recently)
        self.gallery.names = ("colour",)
        return TestClient(self.gallery.app(), base_url="http://127.0.0.1:80", follow_redirects=False)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(keys: Path) -> str:
    return new_key(keys, "web", per_minute=3)


@pytest.fixture(scope="module")
def house(keys: Path, key: str) -> House:
    return House(Access(keys_file=str(keys), hosts=frozenset({"127.0.0.1"})))


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[TestClient]:
    with listening(house.model.app()) as url, house.client(url) as client:
        yield client


@pytest.fixture(autouse=True)
def signed_out(client: TestClient) -> None:
    client.cookies.clear()


def sign_in(client: TestClient, key: str, **headers: str) -> httpx.Response:
    return client.post(SIGN_IN, data={"key": key}, headers=headers)


def page(client: TestClient) -> str:
    """The word of the edition in the page's own address."""
    answer = client.get("/gallery/", headers=HTML)
    assert answer.status_code == 200
    found = re.search(r'"root":"http://127.0.0.1[^"]*/gallery/([0-9a-f]{12})"', answer.text)
    assert found, answer.text[:2000]
    return found[1]


def asked(client: TestClient, mark: str, text: str) -> str:
    """What the page shows when its button is clicked, told as its own script asks."""
    base = f"/gallery/{mark}/gradio_api/queue"
    functions = client.get(f"/gallery/{mark}/config").json()["dependencies"]
    number = next(each["id"] for each in functions if each["api_name"] == "ask-colour")
    body = {"data": [text], "fn_index": number, "session_hash": "abc", "trigger_id": None}
    assert client.post(f"{base}/join", json=body).status_code == 200
    return client.get(f"{base}/data", params={"session_hash": "abc"}).text


def routes_in(app: Any) -> Iterator[APIRoute]:
    """Every route of an application, those of routers that it includes too."""
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from routes_in(route.original_router)


def test_nobody_comes_in_without_a_key(client: TestClient) -> None:
    sent = client.get("/gallery/", headers=HTML)
    assert (sent.status_code, sent.headers["location"]) == (303, SIGN_IN)
    form = client.get(SIGN_IN)
    assert form.status_code == 200
    assert 'type="password"' in form.text
    refused = sign_in(client, "a-wrong-key")
    assert refused.status_code == 401
    assert "This is no valid key of this deployment." in refused.text
    assert "a-wrong-key" not in refused.text
    assert "set-cookie" not in refused.headers
    assert client.post(SIGN_IN, json={"key": "x"}).status_code == 415
    assert sign_in(client, "x" * 5000).status_code == 413


def test_a_key_opens_it_and_is_in_no_cookie_and_no_address(client: TestClient, key: str) -> None:
    let_in = sign_in(client, key)
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/gallery/")
    cookie = let_in.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/gallery"} <= set(cookie.split("; "))
    assert key not in cookie
    page(client)
    assert key not in client.get("/gallery/", headers=HTML).text
    told = client.get("/gallery/status").json()
    assert told["key"] == "web"
    assert (told["models"][0]["name"], told["models"][0]["versions"]) == ("colour", [3])
    assert key not in json.dumps(told)
    assert client.post(SIGN_OUT).headers["location"] == SIGN_IN
    assert client.get("/gallery/status").status_code == 401
    behind_tls = sign_in(client, key, **{"X-Forwarded-Proto": "https"})
    assert behind_tls.headers["set-cookie"].endswith("; Secure")


def test_every_route_of_the_page_is_closed(client: TestClient, house: House, key: str) -> None:
    sign_in(client, key)
    mark = page(client)
    assert house.gallery is not None
    mounted: Any = house.gallery._editions.app(mark)
    inner = next(route.app for route in mounted.routes if hasattr(route, "app") and route.path.endswith(mark))
    found = sorted({(method, route.path) for route in routes_in(inner) for method in route.methods})
    assert len(found) > 40
    client.cookies.clear()
    for base in (f"/gallery/{mark}", "/gallery"):
        for method, path in found:
            whole = base + re.sub(r"{[^}]*}", "x", path)
            assert client.request(method, whole, content=b"{}").status_code == 401, (method, whole)
    sign_in(client, key)
    opened = set()
    for method, path in found:
        answer = client.request(method, f"/gallery/{mark}{re.sub('{[^}]*}', 'x', path)}", timeout=20)
        if answer.status_code != 404 or (answer.text and "unknown_route" not in answer.text):
            opened.add(path.rstrip("/"))
    unneeded = re.compile("upload|file|proxy|monitor|runs|history|call|vibe|/stream/|component")
    assert [path for path in opened if unneeded.search(path)] == []
    assert "/gradio_api/queue/join" in opened


def test_a_visitors_own_key_asks(client: TestClient, key: str) -> None:
    sign_in(client, key)
    mark = page(client)
    for _ in range(3):
        assert "answered by **colour** version **3**" in asked(client, mark, "a word")
    assert "This key may send 3 requests a minute." in asked(client, mark, "a word")
    time.sleep(LOOK_EVERY_S)  # what another test was told is not told again
    load = client.get("/gallery/status").json()["models"][0]
    assert load["requests"] >= 3
    assert load["p50_ms"] > 0


def test_other_sites_and_hosts_stay_out(client: TestClient, key: str) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        refused = sign_in(client, key, **headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_origin")
    assert sign_in(client, key, Origin="http://127.0.0.1", Host="127.0.0.1").status_code == 303
    answer = client.get("/gallery/", headers={"Host": "evil.example", "Origin": "http://evil.example", **HTML})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_host")
    ours = client.get("/gallery/", headers={"Origin": "http://localhost:9", **HTML})
    assert not [name for name in ours.headers if name.startswith("access-control")]
    assert "frame-ancestors 'none'" in ours.headers["content-security-policy"]
    assert ours.headers["cache-control"] == "no-store"


def test_other_models_are_another_edition_and_the_old_one_goes_on(client: TestClient, house: House, key: str) -> None:
    sign_in(client, key)
    old = page(client)
    assert page(client) == old
    assert house.gallery is not None
    house.gallery.names = ("colour", "shape")
    try:
        new = page(client)
        assert new != old
        assert "This model does not answer now" in client.get(f"/gallery/{new}/config").text
        assert client.get(f"/gallery/{old}/config").status_code == 200
        assert [each["name"] for each in client.get("/gallery/status").json()["models"]] == ["colour", "shape"]
    finally:
        house.gallery.names = ("colour",)


def test_models_that_change_while_they_are_asked_how_they_stand() -> None:
    async def recently(name: str) -> list[dict[str, Any]]:
        gallery.names = ("colour",)
        return []

    gallery = GalleryRoutes("http://127.0.0.1:80", Limits(), Access(), recently)
    gallery.names = ("colour", "shape")
    with TestClient(gallery.app(), base_url="http://127.0.0.1:80") as client:
        for names in (["colour", "shape"], ["colour"]):
            assert [each["name"] for each in client.get("/gallery/status").json()["models"]] == names


def test_without_keys_it_stands_open() -> None:
    house = House(Access(hosts=frozenset({"127.0.0.1"})))
    with listening(house.model.app()) as url, house.client(url) as client:
        assert client.get("/gallery").headers["location"] == "/gallery/"
        assert client.get(SIGN_IN).headers["location"] == "/gallery/"
        assert client.get("/gallery/status").json()["key"] == ""
        assert "version **3**" in asked(client, page(client), "a word")
