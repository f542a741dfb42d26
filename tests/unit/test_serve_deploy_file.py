"""The deployment file: strict, with every mistake at once; and which applications come of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat.errors import RunError, ServeError, StoreError
from heliostat.models import ModelStore
from heliostat.serve.deploy_file import DeploySettings, check_deployment, load_deployment
from heliostat.serve.guard import Access
from heliostat.serve.plans import find, units_of
from heliostat.serve.releases import check_places
from heliostat.serve.request_log import RequestLog
from heliostat.yaml12 import parse

FILE = """
host: 127.0.0.1
port: 0
hosts: [models.example.org]
keys: keys.json
per_minute: 600
limits: {max_waiting: 64, max_wait_ms: 2}
models:
  - mood@champion
  - model: temper:1
    replicas: {min: 1, max: 3}
    threads: 2
    precision: bf16
    limits: {max_instances: 8}
    canary: {version: 2, percent: 10, by: key}
    shadow: {version: next}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "deploy.yaml").write_text(FILE, encoding="utf-8")
    return tmp_path / "deploy.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> Path:
    """A store with mood:1 and 2, and temper:1 to 3."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    for name, count in (("mood", 2), ("temper", 3)):
        for _ in range(count):
            ModelStore().add(name, tiny_checkpoint, run_id="r", data_key="k", scores={})
    ModelStore().promote("mood", 1, "champion")
    ModelStore().promote("temper", 3, "next")
    return tmp_path / "home"


def test_what_a_file_says(path: Path) -> None:
    settings = load_deployment(path)
    mood, temper = settings.models
    assert (mood.model, mood.replicas.min, mood.replicas.max) == ("mood@champion", 1, 1)
    assert (temper.replicas.min, temper.replicas.max, temper.threads, temper.precision) == (1, 3, 2, "bf16")
    assert temper.canary is not None
    assert (temper.canary.version, temper.canary.percent, temper.canary.by) == ("2", 10.0, "key")
    assert settings.keys == path.parent / "keys.json"
    assert (settings.limits_of(temper).max_waiting, settings.limits_of(temper).max_instances) == (64, 8)
    assert settings.limits_of(mood).max_instances == 256


def test_overrides_lie_over_a_file(path: Path) -> None:
    settings = load_deployment(path, ["limits.max_waiting=7", "per_minute=9"], {"port": 1234})
    assert (settings.limits.max_waiting, settings.limits.max_wait_ms) == (7, 2)
    assert (settings.per_minute, settings.port) == (9, 1234)


def test_what_is_noted_of_requests_goes_to_the_replicas(home: Path) -> None:
    said = {"models": [{"model": "mood@champion", "canary": {"version": 2, "percent": 5}}], "requests": {"keep": 0.5}}
    settings = check_deployment(said)
    units = units_of(settings, find(settings), Access(), 2.0, {})
    noted = RequestLog.model_validate(units["mood"].plan.requests)
    assert (noted.lines, noted.keep) == (True, 0.5)
    beside = RequestLog.model_validate(units["_canary.mood"].plan.requests)
    assert (beside.lines, beside.keep) == (False, 0.0), "the version in use notes what its canary answers"
    for wrong in ({"kep": 0.5}, {"keep": 2}, {"redact": ["names"]}):
        with pytest.raises(RunError, match="requests"):
            check_deployment({**said, "requests": wrong})


def test_every_mistake_is_named_at_once(path: Path) -> None:
    path.write_text(
        """
prot: 80
host: 5
per_minute: 60
models:
  - {model: mood, replcias: 2}
  - {model: mood, replicas: 0}
  - {model: mood, replicas: {min: 3, max: 2}}
  - {model: mood, canary: {version: 4}}
  - {model: mood, shadow: {version: 4, percent: 200}, precision: fp8}
  - 7
limits: {max_waiting: "many"}
""",
        encoding="utf-8",
    )
    with pytest.raises(RunError) as refused:
        load_deployment(path)
    said = str(refused.value)
    print(said)
    assert said.startswith(f"{path}: ")
    assert "prot: no such setting. Did you mean 'port'?" in said
    assert "models.0.replcias: no such setting. Did you mean 'replicas'?" in said
    assert "models.2.replicas: needs min <= max; found 3 and 2." in said
    assert "models.3.canary.percent: is required and has no default. It holds: How many of a hundred" in said
    keys = {problem.key for problem in refused.value.problems}
    assert {"host", "models.4.shadow.percent", "models.4.precision", "models.5", "limits.max_waiting"} <= keys
    assert any(key.startswith("models.1.replicas") for key in keys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: []", "models"),
        ("[]", "a mapping with the key models"),
        ("port: 8000", "models: is required"),
        ("models: [mood]\nper_minute: 60", "per_minute has no effect without keys"),
        ("models: [mood]\nmodels: [mood]", "stands twice"),
        ("models: [mood", "is no YAML"),
    ],
)
def test_what_is_no_deployment(path: Path, text: str, said: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=said):
        load_deployment(path)


def planned(text: str, before: DeploySettings | None = None) -> dict[str, tuple[int, str | None]]:
    settings = check_deployment(parse(text, ""))
    units = units_of(settings, find(settings), Access(), 2.0, {})
    assert all(unit.cpus * unit.replicas.max <= 1 for unit in units.values())
    return {app: (unit.plan.served.version, unit.prefix) for app, unit in units.items()}


def test_the_applications_of_a_deployment(home: Path) -> None:
    assert planned("models: [mood@champion]") == {"mood": (1, "/")}
    two = "models: [mood@champion, {model: 'temper:1', canary: {version: 2, percent: 5}, shadow: {version: '@next'}}]"
    assert planned(two) == {
        "mood": (1, "/v1/models/mood:predict"),
        "temper": (1, "/v1/models/temper:predict"),
        "_canary.temper": (2, None),
        "_shadow.temper": (3, None),
    }
    settings = check_deployment(parse(two, ""))
    routes = units_of(settings, find(settings), Access(), 2.0, {})["temper"].routes
    assert routes.canary is not None
    assert (routes.canary.app, routes.canary.version, routes.canary.percent) == ("_canary.temper", 2, 5.0)


SHARED = "{models: [mood@champion, {model: temper, limits: {max_instances: 8}}], shared: [mood, temper]}"


def test_models_that_share_an_encoder_stand_in_one_application(home: Path) -> None:
    settings = check_deployment(parse(SHARED, ""))
    assert settings.shared is not None
    assert (settings.shared.models, settings.shared.replicas.max) == (("mood", "temper"), 1)
    units = units_of(settings, find(settings), Access(), 2.0, {})
    assert {name: (unit.application, unit.plan.threads) for name, unit in units.items()} == {
        "mood": ("_shared", 2),
        "temper": ("_shared", 2),
    }
    assert units["temper"].plan.limits["max_instances"] == 8
    both = "shared: {models: [mood, temper], replicas: 2, threads: 3, precision: bf16}"
    settings = check_deployment(parse(f"models: [mood@champion, temper]\n{both}", ""))
    found = units_of(settings, find(settings), Access(), 2.0, units)
    assert [(unit.plan.threads, unit.plan.precision, unit.replicas.max) for unit in found.values()] == [
        (3, "bf16", 2),
        (3, "bf16", 2),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{models: [mood, temper], shared: [mood, moody]}", "shared: there is no model 'moody' here"),
        ("{models: [{model: mood, replicas: 2}, temper], shared: [mood, temper]}", "mood: replicas has no effect"),
        ("{models: [{model: mood, precision: bf16}, temper], shared: [mood, temper]}", "mood: precision has no effect"),
        (
            "{models: [mood, {model: temper, limits: {max_wait_ms: 2}}], shared: [mood, temper]}",
            "temper: limits.max_wait_ms has no effect, as it shares a queue",
        ),
    ],
)
def test_what_has_no_place_beside_shared(home: Path, text: str, said: str) -> None:
    with pytest.raises(ServeError, match=said):
        find(check_deployment(parse(text, "")))


@pytest.mark.parametrize(
    ("shared", "said"), [("[mood]", "at least 2"), ("[mood, mood]", "twice"), ("all", "takes the names of two models")]
)
def test_shared_names_two_models_or_more(shared: str, said: str) -> None:
    with pytest.raises(RunError, match=said):
        check_deployment(parse(f"{{models: [mood, temper], shared: {shared}}}", ""))


def test_adapters_on_different_bases_do_not_share(
    home: Path, on_tiny: Callable[..., Path], other_checkpoint: Path
) -> None:
    pytest.importorskip("peft", reason="peft is an extra: pip install 'heliostat[peft]'")
    labels, elsewhere = ("a", "b"), str(other_checkpoint / "encoder")
    made = {
        "here": on_tiny("here", labels, 1, adapter={"type": "lora"}),
        "there": on_tiny("there", labels, 1, adapter={"type": "lora"}, pretrained=elsewhere),
        "whole": on_tiny("whole", labels, 1, adapter={"type": "lora", "merge": True}),
    }
    for name, folder in made.items():
        ModelStore().add(name, folder, run_id="r", data_key="k", scores={})
    for other, said in (("there", "there .version 1. stands on another base than here"), ("whole", "whole .* merged")):
        with pytest.raises(ServeError, match=said):
            find(check_deployment(parse(f"{{models: [here, {other}], shared: [here, {other}]}}", "")))
    find(check_deployment(parse("{models: [here, mood, there], shared: [here, mood]}", "")))


def test_who_shares_cannot_change_while_it_runs() -> None:
    old, fewer, none, moved = (
        check_deployment(parse(text, ""))
        for text in (
            "{models: [a, b, c, d], shared: [a, b]}",
            "{models: [a, c], shared: [a, e]}",
            "models: [a, b]",
            "{models: [a, b, c, d], shared: [a, b, c]}",
        )
    )
    check_places(old, fewer)
    with pytest.raises(ServeError, match="shared cannot begin or end"):
        check_places(old, none)
    with pytest.raises(ServeError, match="shared: c cannot move into it"):
        check_places(old, moved)


def test_only_what_needs_a_new_process_gets_one(home: Path) -> None:
    def units(text: str, before: dict[str, object] | None = None) -> dict[str, object]:
        settings = check_deployment(parse(text, ""))
        return units_of(settings, find(settings), Access(), 2.0, before or {})  # type: ignore[arg-type, return-value]

    old = units("models: [mood@champion]")
    code = old["mood"].code  # type: ignore[attr-defined]
    for same in (
        "models: [mood@champion, temper]",
        "models: [{model: mood@champion, replicas: 2}]",
        "models: [{model: mood@champion, canary: {version: 2, percent: 5}}]",
    ):
        assert units(same, old)["mood"].code == code, same  # type: ignore[attr-defined]
    for other in (
        "models: ['mood:2']",
        "models: [{model: mood@champion, threads: 7}]",
        "{models: [mood@champion], limits: {max_waiting: 3}}",
    ):
        assert units(other, old)["mood"].code != code, other  # type: ignore[attr-defined]
    shared = units("models: [mood@champion, temper]", old)
    assert units("models: [mood@champion]", shared)["mood"].prefix == "/v1/models/mood:predict"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("{model: mood@champion, canary: {version: 1, percent: 5}}", ServeError, "version 1, which answers already"),
        ("{model: mood@champion, canary: {version: 'temper:1', percent: 5}}", ServeError, "another model"),
        ("{model: mood@champion, shadow: {version: nxet}}", StoreError, "alias 'nxet'"),
        ("{model: mood@champion, shadow: {version: 9}}", StoreError, "no version 9"),
        ("nosuch", StoreError, "nosuch"),
    ],
)
def test_versions_that_cannot_stand_beside(home: Path, model: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        find(check_deployment(parse(f"models: [{model}]", "")))
    with pytest.raises(ServeError, match="asked for twice"):
        find(check_deployment(parse("models: [mood, mood@champion]", "")))


def test_the_schema_for_editors_knows_every_setting(tmp_path: Path) -> None:
    out = tmp_path / "deploy.schema.json"
    command = [sys.executable, "-m", "heliostat", "config-schema", "--deploy", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "First line for a deployment file" in done.stdout
    schema = json.loads(out.read_text(encoding="utf-8"))
    assert set(schema["properties"]) == set(DeploySettings.model_fields)
    assert schema["additionalProperties"] is False
    assert '"canary"' in out.read_text(encoding="utf-8")
