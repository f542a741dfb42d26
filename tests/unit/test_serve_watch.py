"""What is noted of requests: metrics that dashboard and alerts read, lines without text, records kept without names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from heliostat.component import Row
from heliostat.errors import ServeError
from heliostat.evaluate.drift import drift
from heliostat.plugin import Classification, Field, Record, TaskHead
from heliostat.serve import request_log
from heliostat.serve.app import build_app
from heliostat.serve.guard import Access
from heliostat.serve.request_log import KeptRequests, RequestLog, kept_requests
from heliostat.serve.schema import Served
from heliostat.serve.token import digest
from heliostat.testing.bad_requests import MARKER

GRAFANA = Path(__file__).parents[2] / "cluster" / "grafana"
KEY = "a-token-of-some-length"


class Ticket(Record):
    text: str = Field(min_length=1)
    urgency: float = 0.0
    tags: list[str] = Field(default_factory=list)


class Sorted(Classification):
    takes = Ticket


class Private(Sorted):
    private = True


class Urgent:
    """A model without weights: what is urgent is red."""

    def __init__(self, head: type[Sorted] = Sorted) -> None:
        self.head: TaskHead = head(head.Config(labels=("green", "red")))

    def predict(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        return [
            {"label": "red" if each["urgency"] > 0.5 else "green", "probabilities": {"green": 0.5, "red": 0.5}}
            for each in examples
        ]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    return tmp_path


def client_of(log: RequestLog | None = None, head: type[Sorted] = Sorted, access: Access | None = None) -> TestClient:
    app = build_app(Urgent(head), Served("tickets", 3), None, access, log)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def ask(client: TestClient, *rows: Row, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/models/tickets:predict", json={"instances": list(rows)}, headers=named).status_code


def families(client: TestClient) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}


def test_requests_are_counted_by_route_code_and_kind() -> None:
    tensors = {
        "inputs": [
            {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
            {"name": "urgency", "shape": [2], "datatype": "FP32", "data": [0.1, 0.9]},
        ]
    }
    with client_of() as client:
        ask(client, {"text": "a" * 4000}, {"text": "b"})
        ask(client, {"text": " "})
        client.post("/v2/models/tickets/infer", json=tensors)
        client.get(f"/{MARKER}")
        found = families(client)
    requests = {
        (s.labels["route"], s.labels["code"]): s.value
        for s in found["heliostat_requests"].samples
        if s.name.endswith("_total")
    }
    assert requests == {("predict", "200"): 1, ("predict", "422"): 1, ("infer", "200"): 1, ("other", "404"): 1}
    errors = {
        (s.labels["route"], s.labels["kind"]): s.value
        for s in found["heliostat_errors"].samples
        if s.name.endswith("_total")
    }
    assert errors == {("predict", "empty_text"): 1, ("other", "unknown_route"): 1}
    fill = {s.name.rpartition("_")[2]: s.value for s in found["heliostat_batch_fill"].samples if "bucket" not in s.name}
    assert fill["count"] == 2
    assert 1000 / 8192 < fill["sum"] < 1100 / 8192
    assert found["heliostat_ready"].samples[0].value == 1.0
    assert found["heliostat_model_version"].samples[0].value == 3.0
    assert {s.labels["route"] for s in found["heliostat_request_seconds"].samples} == {"predict", "infer"}
    assert found["heliostat_queue_length"].samples[0].labels.keys() == {"model", "version", "replica"}


def test_labels_take_few_values_whatever_is_sent() -> None:
    with client_of() as client:
        for place in range(30):
            client.get(f"/v1/models/{MARKER}{place}")
            client.post(f"/v2/models/tickets/versions/{place}/infer", json={})
            client.request(f"M{place}", "/v1/models/tickets:predict")
            ask(client, {"text": "a", f"{MARKER}{place}": 1}, X_Request_ID=f"{MARKER}.{place}")
        text = client.get("/metrics").text
    assert MARKER not in text
    series = [
        line for line in text.splitlines() if line.startswith(("heliostat_requests_total", "heliostat_errors_total"))
    ]
    assert len(series) < 14, series


def test_dashboard_and_alerts_read_what_is_exported() -> None:
    with client_of() as client:
        ask(client, {"text": "a"})
        exported = {sample.name for family in families(client).values() for sample in family.samples}
        exported |= {
            f"{name}_total" for name in ("heliostat_errors", "heliostat_requests_kept", "heliostat_requests_left_out")
        }
        known = client.get("/metrics").text
    assert all(name.removesuffix("_total") in known for name in exported)
    dashboard = json.loads((GRAFANA / "heliostat.json").read_text(encoding="utf-8"))
    alerts = yaml.safe_load((GRAFANA / "alerts.yaml").read_text(encoding="utf-8"))
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    watched = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    for expression in (*shown, *watched):
        named = set(re.findall(r"heliostat_\w+", expression))
        assert named, expression
        assert named <= exported, (expression, named - exported)
    everything = " ".join((*shown, *watched))
    for what in (
        "requests_total",
        "request_seconds_bucket",
        "batch_fill",
        "tokens",
        "queue",
        "model_version",
        "errors",
    ):
        assert f"heliostat_{what}" in everything or what in everything
    kinds = set(re.findall(r'kind="(\w+)"', everything))
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(request_log.__file__).parent.glob("*.py"))
    assert all(f'"{kind}"' in sources for kind in kinds)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 10


def test_promtool_accepts_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install --no-install-recommends prometheus has it")
    done = subprocess.run([promtool, "check", "rules", str(GRAFANA / "alerts.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 rules found" in done.stdout


def lines(home: Path) -> list[dict[str, Any]]:
    files = (home / "logs" / "requests").glob("tickets-*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_line_a_request_and_no_word_of_it(own_home: Path) -> None:
    with client_of(RequestLog(), access=Access(token_hash=digest(KEY))) as client:
        bearer = {"Authorization": f"Bearer {KEY}"}
        ask(client, {"text": MARKER}, X_Request_ID="r1", **bearer)
        ask(client, {"text": " ", "tags": [MARKER]}, X_Request_ID="r2", **bearer)
        ask(client, {"text": MARKER}, X_Request_ID="r3")
        client.get(f"/{MARKER}?q={MARKER}", headers={"X-Request-ID": "<b>", **bearer})
        client.get("/healthz")
    found = lines(own_home)
    assert [(each["id"], each["route"], each["status"], each.get("error")) for each in found[:3]] == [
        ("r1", "predict", 200, None), ("r2", "predict", 422, "empty_text"), ("r3", "predict", 401, "unauthorized"),
    ]  # fmt: skip
    assert (found[3]["route"], found[3]["status"]) == ("other", 404)
    assert len(found) == 4, "a probe leaves no line"
    for each in found:
        assert {"at", "id", "route", "status", "ms", "name", "version"} <= set(each)
        assert (each["name"], each["version"]) == ("tickets", 3)
    whole = json.dumps(found)
    assert MARKER not in whole
    assert KEY not in whole
    file = next((own_home / "logs" / "requests").iterdir())
    assert file.stat().st_mode & 0o777 == 0o600


def test_lines_are_bounded(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "LINES_BYTES", 2000)
    with client_of(RequestLog()) as client:
        for _ in range(60):
            ask(client, {"text": "a"})
    sizes = {file.name[-2:]: file.stat().st_size for file in (own_home / "logs" / "requests").iterdir()}
    assert set(sizes) == {"nl", ".1"}
    assert max(sizes.values()) < 2400


def test_a_model_drops_old_lines_of_its_own_alone(own_home: Path) -> None:
    folder = own_home / "logs" / "requests"
    folder.mkdir(parents=True)
    for name in ("tickets-tiny-1.jsonl", *(f"tickets-{number}.jsonl" for number in range(33))):
        (folder / name).touch()
        os.utime(folder / name, (1, 1))
    with client_of(RequestLog()) as client:
        ask(client, {"text": "a"})
    assert (folder / "tickets-tiny-1.jsonl").exists()
    assert len(list(folder.iterdir())) == 33


def test_nothing_is_written_down_unless_asked(own_home: Path) -> None:
    with client_of() as client:
        ask(client, {"text": "a"})
    assert list(own_home.iterdir()) == []


def test_records_are_kept_without_personal_data(own_home: Path) -> None:
    with client_of(RequestLog(keep=1.0)) as client:
        mail = "write to jane.doe@example.org or +49 30 1234567"
        ask(client, {"text": mail, "urgency": 0.9, "tags": ["jane.doe@example.org", "b"]}, X_Request_ID="r1")
        ask(client, {"text": "plain"}, {"text": "twice", "urgency": 1.0}, X_Request_ID="r2")
        ask(client, {"text": " "}, X_Request_ID="r3")
        kept = {s.name: s.value for s in families(client)["heliostat_requests_kept"].samples}
    assert kept["heliostat_requests_kept_total"] == 2
    folder = own_home / "requests" / "tickets"
    assert folder.stat().st_mode & 0o777 == 0o700
    table = pd.read_parquet(next(folder.glob("*.parquet")))
    assert table["request_id"].tolist() == ["r1", "r2", "r2"]
    assert table["text"].tolist() == ["write to [EMAIL] or [PHONE]", "plain", "twice"]
    assert json.loads(table["tags"][0]) == ["[EMAIL]", "b"]
    assert table["urgency"].tolist() == [0.9, 0.0, 1.0]
    assert table["predicted_label"].tolist() == ["red", "green", "red"]
    assert table["version"].tolist() == [3, 3, 3]
    rows = kept_requests("tickets")
    assert [row["label"] for row in rows] == ["red", "green", "red"]
    assert kept_requests("nobody") == []


def test_kept_records_show_drift() -> None:
    """As platform/README.md says it: what was asked beside what was trained on."""
    with client_of(RequestLog(keep=1.0)) as client:
        for _ in range(40):
            ask(client, {"text": "a b", "urgency": 0.95}, {"text": "a b", "urgency": 0.9})
    head = Urgent().head
    train = [
        {"text": "a b", "urgency": place / 100, "tags": [], "label": "red" if place > 50 else "green"}
        for place in range(100)
    ]
    moved = {each.field: each.psi for each in drift(train, kept_requests("tickets"), head)}
    assert moved["urgency"] > 1.0
    assert moved["label"] > 0.25
    assert moved.get("text", 0.0) < 0.01


def test_of_private_models_no_text_is_kept(own_home: Path) -> None:
    with client_of(RequestLog(keep=1.0), Private) as client:
        ask(client, {"text": MARKER, "urgency": 0.9, "tags": [MARKER]})
    part = next((own_home / "requests" / "tickets").glob("*.parquet"))
    assert {"text", "tags"} & set(pd.read_parquet(part).columns) == set()
    assert pd.read_parquet(part)["urgency"].tolist() == [0.9]
    assert MARKER.encode() not in part.read_bytes()


def test_a_share_is_kept_and_the_oldest_go(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, head = Served("tickets", 3), Urgent().head
    kept = KeptRequests(served, head, RequestLog(keep=0.25, redact=()))
    taken = [kept.add(f"request-{place}", [], [], 3) for place in range(400)]
    assert 60 < taken.count(True) < 140
    assert set(taken) == {True, None}
    monkeypatch.setattr(request_log, "_MOST_WAITING", 3)
    behind = KeptRequests(served, head, RequestLog(keep=1.0, redact=()))  # its writer has not started
    assert [behind.add(str(place), [], [], 3) for place in range(5)] == [True, True, True, False, False]
    folder = own_home / "requests" / "tickets"
    folder.mkdir(parents=True)
    for place in range(5):
        (folder / f"2026-{place}.parquet").write_bytes(b"x" * 1000)
    request_log._drop_beyond(folder, 2500)
    assert sorted(file.name for file in folder.iterdir()) == ["2026-3.parquet", "2026-4.parquet"]


def test_without_what_finds_personal_data_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stdnum.iban", None)
    with pytest.raises(ServeError, match=r"heliostat\[clean\]"):
        client_of(RequestLog(keep=1.0))
