"""Who may ask: addresses, token files, and the command line's refusals."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from heliostat.demo.launch import launch
from heliostat.errors import ServeError, StoreError
from heliostat.serve.address import free_port
from heliostat.serve.deployment import serve
from heliostat.serve.keys import KeyRing
from heliostat.serve.token import allowed_hosts, check_address, digest, is_loopback, own_token, read_token


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_only_this_machines_own_addresses_need_no_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"):
        assert is_loopback(host)
        check_address(host, has_token=False)
    for host in ("0.0.0.0", "::", "10.0.0.7", "example.org", ""):
        assert not is_loopback(host)
        check_address(host, has_token=True)
        with pytest.raises(ServeError, match="--token-file"):
            check_address(host, has_token=False)


def test_serving_widely_without_a_token_is_refused_before_anything_starts() -> None:
    with pytest.raises(ServeError, match=r"host 0\.0\.0\.0"):
        serve(["sentiment@champion"], host="0.0.0.0")


def test_a_taken_port_and_an_unknown_model_are_refused_before_anything_starts() -> None:
    with pytest.raises(StoreError, match="nosuch"):
        serve(["nosuch@champion"])
    with pytest.raises(ServeError, match="no model"):
        serve([])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ServeError, match="--port"):
            free_port("127.0.0.1", taken.getsockname()[1])
        assert free_port("127.0.0.1", 0) > 0


def test_an_own_token_is_made_once_and_for_its_owner_alone(home: Path) -> None:
    path = own_token()
    assert path == home / "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = read_token(path)
    assert len(token) >= 32
    assert read_token(own_token()) == token


@pytest.mark.parametrize("text", ["", "short", "two words that are long enough", "tökentökentökentöken"])
def test_a_weak_token_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(ServeError, match="token") as refused:
        read_token(tmp_path / "token")
    assert not text or text not in str(refused.value).replace(str(tmp_path), "")


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="FileNotFoundError"):
        read_token(tmp_path / "none")


def test_a_demo_takes_what_a_deployment_takes_for_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short", encoding="utf-8")
    for file in ("none", "token"):
        with pytest.raises(ServeError, match="token"):
            launch("mood", url="http://127.0.0.1:9", host="0.0.0.0", port=0, token_file=tmp_path / file)
    with pytest.raises(ServeError, match="--token-file"):
        launch("mood", url="http://127.0.0.1:9", host="0.0.0.0", port=0, token_file=None)


def test_a_token_is_known_by_its_hash() -> None:
    ring = KeyRing.of_token(digest("a-good-long-token"))
    assert ring.holder("a-good-long-token") is not None
    assert ring.holder("a-good-long-tokem") is None
    assert ring.holder("\udcff") is None


def test_names_that_a_host_header_may_hold() -> None:
    assert allowed_hosts("127.0.0.1") == {"localhost", "127.0.0.1", "[::1]"}
    assert "10.0.0.7" in (allowed_hosts("10.0.0.7") or ())
    assert "[fe80::1]" in (allowed_hosts("fe80::1") or ())
    assert allowed_hosts("0.0.0.0") is None
    assert allowed_hosts("0.0.0.0", ["Models.example.org"]) == {"localhost", "127.0.0.1", "[::1]", "models.example.org"}
