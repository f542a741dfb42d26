"""How another terminal reaches a deployment, and what the command line makes of its words; without Ray."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from heliostat.cli.serve import app
from heliostat.cli.serving import _Order
from heliostat.errors import HeliostatError, RunError, ServeError
from heliostat.serve.control import desk, running, the_one


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(
        "HELIOSTAT_HOME", str(tmp_path / "a home with a name that is far too long for a socket" / ("x" * 99))
    )
    return Path(os.environ["HELIOSTAT_HOME"])


def test_a_deployment_is_found_and_told_what_to_do(home: Path) -> None:
    done: list[dict[str, Any]] = []
    with desk("http://127.0.0.1:8000", lambda: {"models": ["mood"]}) as errands:

        def work() -> None:
            for _ in range(2):
                errand = errands.next(20.0)
                assert errand is not None
                done.append(errand.order)
                if errand.order["do"] == "update":
                    errand.say("loading")
                    errand.say("swapped")
                    errand.done("fine")
                else:
                    errand.failed(ServeError("there is nothing to go back to."))

        worker = threading.Thread(target=work)
        worker.start()
        found = the_one()
        assert (found.url, found.pid) == ("http://127.0.0.1:8000", os.getpid())
        assert found.ask({"do": "status"}) == {"models": ["mood"]}
        said: list[str] = []
        assert found.ask({"do": "update", "file": "x"}, said.append) == "fine"
        assert said == ["loading", "swapped"]
        with pytest.raises(ServeError, match="nothing to go back to"):
            found.ask({"do": "rollback", "name": "mood"})
        worker.join(20)
        assert [order["do"] for order in done] == ["update", "rollback"]
        assert errands.next(0.01) is None
        note = next((home / "serving").iterdir())
        assert stat.S_IMODE(note.stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(found.socket).parent.stat().st_mode) == 0o700
        with pytest.raises(ServeError, match="no deployment runs on port 8001"):
            the_one(8001)
    assert running() == []
    assert not Path(found.socket).exists()
    with pytest.raises(ServeError, match="heliostat serve NAME@champion"):
        the_one()
    with pytest.raises(ServeError, match="does not answer"):
        found.ask({"do": "status"})


def test_a_deployment_that_cannot_tell_says_so(home: Path) -> None:
    def status() -> dict[str, Any]:
        raise RuntimeError("Ray is ending")

    with desk("http://127.0.0.1:1", status), pytest.raises(ServeError, match="cannot tell now"):
        the_one().ask({"do": "status"})


def test_a_note_of_a_dead_process_is_removed_and_two_deployments_are_told_apart(home: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    folder = home / "serving"
    folder.mkdir(parents=True)
    (tmp_path / "socket").touch()
    for pid, port in ((int(ended.stdout), 1), (os.getpid(), 2), (os.getppid(), 3)):
        note = {"url": f"http://127.0.0.1:{port}", "socket": str(tmp_path / "socket"), "pid": pid, "since": ""}
        (folder / f"{pid}.json").write_text(json.dumps(note))
    (folder / "broken.json").write_text("{")
    assert sorted(each.url[-1] for each in running()) == ["2", "3"]
    with pytest.raises(ServeError, match="Say which: --port"):
        the_one()
    assert the_one(3).pid == os.getppid()


def order(*words: str, **options: Any) -> _Order:
    given = {"host": None, "port": None, "replicas": None, "threads": None, "precision": None, "keys": None, **options}
    return _Order(list(words), **given)


def test_models_and_a_file_are_told_apart(tmp_path: Path) -> None:
    settings = order("mood", "temper:1", replicas=2, port=0).settings()
    assert [(each.model, each.replicas.max) for each in settings.models] == [("mood", 2), ("temper:1", 2)]
    file = tmp_path / "deploy.yaml"
    file.write_text("models: [mood]\nport: 1234\n", encoding="utf-8")
    assert order(str(file)).settings().port == 1234
    assert order(str(file), "port=4321").settings().port == 4321
    assert order(str(file), "port=4321", port=5).settings().port == 5
    assert order("mood", port=5).instead([str(file)]).settings().port == 5
    file.write_text("models: [mood]\nper_minute: 60\n", encoding="utf-8")
    assert order(str(file), keys=tmp_path / "keys.json").settings().keys == tmp_path / "keys.json"


@pytest.mark.parametrize(
    ("words", "options", "error", "said"),
    [
        (("mood", "deploy.yaml"), {}, ServeError, "'deploy.yaml' stands among models"),
        (("mood", "port=0"), {}, ServeError, "'port=0' stands among models"),
        (("deploy.yaml", "mood"), {}, ServeError, "'mood' stands after deploy.yaml"),
        (("deploy.yaml",), {"replicas": 2}, ServeError, "--replicas is for models"),
        (("nosuch.yaml",), {}, RunError, "nosuch.yaml"),
    ],
)
def test_words_that_do_not_go_together(
    words: tuple[str, ...], options: dict[str, Any], error: type[HeliostatError], said: str
) -> None:
    with pytest.raises(error, match=said):
        order(*words, **options).settings()


def test_the_verbs_of_the_command(home: Path) -> None:
    run = CliRunner().invoke
    helped = run(app, ["--help"]).output
    for verb in ("start", "status", "update", "rollback", "stop", "key"):
        assert verb in helped
    assert "--token-file" in run(app, ["start", "--help"], env={"COLUMNS": "200"}).output
    assert isinstance(run(app, ["status"]).exception, ServeError)
    assert isinstance(run(app, ["nosuch.yaml"]).exception, RunError)  # `start` may be left out
    key = run(app, ["key", "new", "web"])
    assert key.exit_code == 0
    assert "web" in run(app, ["key", "list"]).output
    assert "0 keys left" in run(app, ["key", "drop", "web"]).output
