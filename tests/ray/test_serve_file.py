"""The sample deployment file as a user runs it: keys on every route, secrets nowhere, changed from another terminal."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from heliostat.models import ModelStore
from heliostat.serve.control import the_one
from heliostat.serve.deploy_file import load_deployment
from heliostat.serve.guard import OPEN_PATHS
from heliostat.testing.ray_state import session_of, stored_in_ray

SAMPLE = Path(__file__).parents[2] / "demos" / "deploy.yaml"
NAME = "sentiment"
TEXT = "Zq7-a-private-text"
GOOD = {"instances": [{"text": TEXT}]}


def heliostat(*words: str, exit_code: int = 0) -> str:
    """What the command printed."""
    done = subprocess.run([sys.executable, "-m", "heliostat", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + (done.stderr if exit_code else "")


@dataclass
class Served:
    """The sample file, served by the command."""

    url: str
    home: Path
    keys_file: Path
    file: Path
    key: str
    process: subprocess.Popen[str]
    said: list[str]

    def ask(self, path: str, method: str = "GET", key: str | None = None, **asked: Any) -> httpx.Response:
        headers = {**asked.pop("headers", {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=60, trust_env=False, **asked)

    def predict(self, key: str | None = None, **asked: Any) -> httpx.Response:
        return self.ask(f"/v1/models/{NAME}:predict", "POST", key or self.key, json=GOOD, **asked)

    def status(self) -> dict[str, Any]:
        told = json.loads(heliostat("serve", "status", "--json"))
        return {model["name"]: model for model in told["models"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, other_checkpoint: Path) -> Iterator[Path]:
    """A store with what the sample asks for: a tiny model under each name, and a second version of the first."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "200")
        for each in load_deployment(SAMPLE).models:
            name, _, alias = each.model.partition("@")
            ModelStore().add(name, tiny_checkpoint, run_id="r", data_key="k", scores={})
            ModelStore().promote(name, 1, alias)
        ModelStore().add(NAME, other_checkpoint, run_id="r", data_key="k", scores={})
        yield folder


@pytest.fixture(scope="module")
def served(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("deployment")
    file = folder / "deploy.yaml"
    file.write_text(SAMPLE.read_text(encoding="utf-8").replace("# keys:", "keys:"), encoding="utf-8")
    key = heliostat("serve", "key", "new", "web", "--keys", str(folder / "keys.json")).strip()
    command = [sys.executable, "-m", "heliostat", "serve", str(file), "port=0"]
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C ends it" in line:
            break
    assert process.poll() is None, (folder / "err").read_text(encoding="utf-8")
    url = next(word for line in said for word in line.split() if word.startswith("http://127.0.0.1:"))
    yield Served(url, home, folder / "keys.json", file, key, process, said)
    if process.poll() is None:
        process.terminate()
    process.stdout.close()
    process.wait(60)


def routes(served: Served) -> list[tuple[str, str]]:
    """Every route there is: those of the description, those beside it, those of Serve's proxy, and one that is none."""
    described = served.ask("/openapi.json", key=served.key).json()["paths"]
    found = [(method.upper(), path) for path, methods in described.items() for method in methods]
    found += [("GET", path) for path in ("/docs", "/openapi.json", "/metrics", "/v1/models", f"/v1/models/{NAME}")]
    found += [("POST", f"/v1/models/{NAME}:stream"), ("GET", "/nowhere"), ("GET", "/"), ("GET", "/-/routes")]
    found += [("GET", f"/gallery{path}") for path in ("", "/", "/status", "/assets/a.js", "/gradio_api/queue/data")]
    found += [("POST", "/gallery/gradio_api/queue/join")]
    found += [(method, f"/v1/models/{NAME}:predict") for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH")]
    return sorted({*found, *(("GET", path) for path in OPEN_PATHS)})


def refused(answer: httpx.Response, path: str) -> tuple[int, str]:
    """The status and the code of a refusal; the Open Inference Protocol has a text in place of the latter."""
    error = answer.json()["error"]
    if not path.startswith("/v2"):
        return answer.status_code, error["code"]
    assert isinstance(error, str)
    return answer.status_code, {400: "unknown_host", 401: "unauthorized"}[answer.status_code]


def test_every_route_but_health_asks_for_a_key(served: Served) -> None:
    walked = routes(served)
    assert len(walked) >= 18
    for method, path in walked:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {served.key}"}):
            answer = served.ask(path, method, headers=headers, content=b"{}")
            print(f"{method:8} {path:45} {answer.status_code}")
            if path in OPEN_PATHS:
                assert answer.status_code == 200
            elif path.startswith("/-/"):
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_route")
            else:
                assert refused(answer, path) == (401, "unauthorized"), (method, path)
            assert not [name for name in answer.headers if name.startswith("access-control")]
    assert served.ask("/-/healthz").text == "success"


def test_another_hosts_name_is_refused_on_every_route(served: Served) -> None:
    for method, path in routes(served):
        headers = {"Host": "evil.example", "Origin": "http://evil.example"}
        answer = served.ask(path, method, served.key, headers=headers, content=b"{}")
        if path.startswith("/-/"):
            assert answer.status_code == 404
        else:
            assert refused(answer, path) == (400, "unknown_host"), (method, path)
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_answer_names_the_version_that_gave_it(served: Served) -> None:
    answer = served.predict()
    assert answer.json()["model"] == {"name": NAME, "version": 1}
    assert answer.headers["x-model"] == f"{NAME}:1"


def test_keys_are_rotated_without_a_restart(served: Served) -> None:
    keys = ("--keys", str(served.keys_file))
    new = heliostat("serve", "key", "new", "web", *keys).strip()
    assert [line.split()[0] for line in heliostat("serve", "key", "list", *keys).splitlines()] == ["name", "web", "web"]
    time.sleep(1.1)  # a replica looks at the file once a second
    assert [served.predict(key).status_code for key in (served.key, new) for _ in range(4)] == [200] * 8
    heliostat("serve", "key", "drop", "web", *keys)
    time.sleep(1.1)
    assert {served.predict(served.key).status_code for _ in range(4)} == {401}
    served.key = new
    assert served.predict().status_code == 200


def test_a_keys_rate_counts_over_all_replicas(served: Served) -> None:
    slow = heliostat("serve", "key", "new", "slow", "--per-minute", "20", "--keys", str(served.keys_file)).strip()
    time.sleep(1.1)
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as client:
        headers = {"Authorization": f"Bearer {slow}", "Connection": "close"}
        answers = [client.post(f"/v1/models/{NAME}:predict", json=GOOD, headers=headers) for _ in range(40)]
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert 20 <= codes.count(200) <= 24  # one more each three seconds
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "too_many_requests"


def test_the_gallery_is_said_and_opened_by_a_key(served: Served) -> None:
    url = next(line.split()[1] for line in served.said if line.startswith("gallery"))
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60, follow_redirects=True) as browser:
        browser.headers["Accept"] = "text/html"
        assert 'type="password"' in browser.get(url).text
        assert "This is no valid key" in browser.post("/gallery/sign-in", data={"key": "wrong"}).text
        page = browser.post("/gallery/sign-in", data={"key": served.key}).text
        assert "medical-chapters" in page
        assert served.key not in page
        told = browser.get("/gallery/status").json()
    assert {each["name"]: each["replicas"] for each in told["models"]} == {NAME: 2, "medical-chapters": 1}


def test_secrets_and_texts_stand_nowhere(served: Served) -> None:
    """After all of the above, and after errors: not in logs, metrics, errors, command lines, or what Ray knows."""
    secrets = (served.key.encode(), TEXT.encode())
    wrong = served.ask(
        f"/v1/models/{NAME}:predict", "POST", served.key, json={"instances": [{"text": TEXT, "x": TEXT}]}
    )
    assert wrong.status_code == 422
    told = [wrong.content, served.ask("/metrics", key=served.key).content, "".join(served.said).encode()]
    told.append(json.dumps(served.status()).encode())
    family = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            told += [" ".join(process.cmdline()).encode(), json.dumps(process.environ()).encode()]
    session = session_of(family)
    files = [path for folder in (session, served.home / "logs") for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    told += [path.read_bytes() for path in files]
    stored = stored_in_ray(family)
    assert b"serve-app" in stored.lower() or b"deployment" in stored.lower()
    told.append(stored)
    for secret in secrets:
        assert [each[:200] for each in told if secret in each] == []


def test_another_terminal_changes_what_runs(served: Served) -> None:
    text = served.file.read_text(encoding="utf-8")
    canary = text.replace("# canary: {version: next, percent: 10}", "canary: {version: 2, percent: 100}")
    served.file.write_text(canary, encoding="utf-8")
    assert "the canary of sentiment: version 2 answers" in heliostat("serve", "update")
    assert served.predict().headers["x-model"] == f"{NAME}:2"
    time.sleep(1.0)
    state = served.status()[NAME]
    assert (state["version"], state["canary"]["version"], state["canary"]["failed"]) == (1, 2, 0)
    assert state["canary"]["answered"] >= 1
    assert "canary" in heliostat("serve", "status")
    assert "the canary of sentiment: ended" in heliostat("serve", "rollback", NAME)
    assert served.predict().headers["x-model"] == f"{NAME}:1"

    served.file.write_text(text, encoding="utf-8")
    ModelStore().promote(NAME, 2, "champion")
    assert "sentiment: version 1 -> 2" in heliostat("serve", "update")
    assert served.predict().headers["x-model"] == f"{NAME}:2"
    assert "nothing to change" in heliostat("serve", "update")
    assert "version 2 -> 1" in heliostat("serve", "rollback", NAME)
    assert served.predict().headers["x-model"] == f"{NAME}:1"

    served.file.write_text(text.replace("replicas: 2", "replcias: 2"), encoding="utf-8")
    assert "Did you mean 'replicas'?" in heliostat("serve", "update", exit_code=2)
    assert "no canary" in heliostat("serve", "rollback", "medical-chapters", exit_code=2)
    assert "no model 'nobody'" in heliostat("serve", "rollback", "nobody", exit_code=2)
    assert "cannot change" in heliostat("serve", "update", str(SAMPLE), "host=0.0.0.0", exit_code=2)
    assert "no deployment runs on port 1" in heliostat("serve", "status", "--port", "1", exit_code=2)
    assert served.predict().status_code == 200


def asking(served: Served, met: list[tuple[float, str]]) -> None:
    """Ask for much until nobody answers any more: when each request began, and what came of it."""
    many = {"instances": [{"text": "a long day " * 20}] * 64}
    headers = {"Authorization": f"Bearer {served.key}", "Connection": "close"}
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60, headers=headers) as client:
        while not met or met[-1][1] != "ConnectError":
            began = time.monotonic()
            try:
                outcome = str(client.post(f"/v1/models/{NAME}:predict", json=many).status_code)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            met.append((began, outcome))


def test_it_is_stopped_from_another_terminal(served: Served) -> None:
    family = psutil.Process(served.process.pid).children(recursive=True)
    socket = Path(json.loads(next((served.home / "serving").iterdir()).read_text(encoding="utf-8"))["socket"])
    met: list[tuple[float, str]] = []
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(asking, served, met) for _ in range(4)]
        while len(met) < 8:
            time.sleep(0.05)
        asked = time.monotonic()
        the_one().ask({"do": "stop"})
        for client in clients:
            client.result()
    print(f"\nstopped under load: {Counter(outcome for _, outcome in met)}")
    assert {outcome for began, outcome in met if began < asked} == {"200"}, "what it had at hand was not answered"
    assert served.process.wait(60) == 0
    deadline = time.monotonic() + 20
    while (left := [each for each in family if each.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert "no deployment runs" in heliostat("serve", "stop", exit_code=2)
    assert not list((served.home / "serving").iterdir())
    assert not socket.parent.exists()
