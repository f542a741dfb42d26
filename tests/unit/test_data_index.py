"""Archives of a package index, by pip's own settings: pages as they come, keys that are asked for, and no code run."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from heliostat.data.archives import fetch
from heliostat.data.package_index import Link, links
from heliostat.data.sources import open_source
from heliostat.errors import DataError

KEY = "Basic " + b64encode(b"me:se cret").decode()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def sdist(mark: Path) -> bytes:
    """A source archive with a table, whose build leaves a mark."""
    content = io.BytesIO()
    entries = {"setup.py": f"open({str(mark)!r}, 'w')".encode(), "data/a.csv": b"text\nx\n"}
    with tarfile.open(fileobj=content, mode="w:gz") as tape:
        for name, body in entries.items():
            entry = tarfile.TarInfo(f"toy-1.0/{name}")
            entry.size = len(body)
            tape.addfile(entry, io.BytesIO(body))
    return content.getvalue()


@contextmanager
def serving(pages: dict[str, tuple[str, bytes]], *, key: str | None = None) -> Iterator[str]:
    """The address (without http://) of a server of these pages: path -> (type, content)."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = pages.get(self.path, ("", b""))
            self.send_response(401 if key and self.headers["Authorization"] != key else 200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_source_archive_is_fetched_and_none_of_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, mark = tmp_path / "shelf", tmp_path / "mark"
    shelf.mkdir()
    (shelf / "toy-1.0.tar.gz").write_bytes(sdist(mark))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    digest = hashlib.sha256(sdist(mark)).hexdigest()
    fetch("s", "toy==1.0/data/a.csv", digest)
    assert [row for _, row in open_source(f"pypi:toy==1.0/data/a.csv#sha256={digest}").rows()] == [{"text": "x"}]
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["application/vnd.pypi.simple.v1+json", "text/html"])
def test_an_index_that_pip_is_set_to_is_asked_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content = sdist(tmp_path / "mark")
    digest = hashlib.sha256(content).hexdigest()
    file = {"filename": "toy-1.0.tar.gz", "url": "../../files/toy-1.0.tar.gz", "hashes": {"sha256": digest}}
    html = (
        f'<a href="../../files/no-1.0.zip#sha256=00">no</a><a href="../../files/toy-1.0.tar.gz#sha256={digest}">it</a>'
    )
    page = json.dumps({"files": [file]}) if kind.endswith("json") else html
    pages = {"/simple/toy/": (kind, page.encode()), "/files/toy-1.0.tar.gz": ("application/x-tar", content)}
    with serving(pages, key=KEY) as place:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://me:se%20cret@{place}/simple")
        path = fetch("s", "Toy==1.0/data/a.csv", digest)
        assert path.read_bytes() == content


def test_what_an_index_refuses_or_lacks_is_told_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"/simple/toy/": ("text/html", b'<a href="toy-1.0.zip#sha256=00">it</a>')}, key=KEY) as place:
        for password, sentence in (("se%20cret", "no archive of it has the hash 0000"), ("wrong", "toy/ answers 401")):
            monkeypatch.setenv("PIP_INDEX_URL", f"http://me:{password}@{place}/simple")
            with pytest.raises(DataError, match=f"toy==1.0 cannot be fetched: .*{sentence}") as caught:
                fetch("s", "toy==1.0/data/a.csv", "0" * 64)
            assert password not in str(caught.value)


def test_places_are_asked_one_after_the_other_and_one_that_is_away_is_told_last(tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "toy-1.0.zip").touch()
    index = tmp_path / "simple" / "toy"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="../../files/toy-1.0.whl#sha256=ab">toy</a>')
    with serving({}) as place:  # knows no package
        settings = {"find-links": str(folder), "index-url": f"http://{place}/simple"}
        settings["extra-index-url"] = f"http://127.0.0.1:9/simple\n{(tmp_path / 'simple').as_uri()}"
        found: list[Link] = []
        with pytest.raises(DataError, match=r"127\.0\.0\.1:9"):
            found.extend(links("toy", settings))
        asked = links("toy", settings)
        assert next(asked) == Link((folder / "toy-1.0.zip").as_uri(), None)
        assert next(asked) == Link((tmp_path / "files" / "toy-1.0.whl").as_uri(), "ab")
